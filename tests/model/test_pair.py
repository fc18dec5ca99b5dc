"""An event and the one before it: which that is, by hand."""

import numpy as np
import torch
from torch.nn import functional

from caspr_spark.model.batch import batch_of
from caspr_spark.model.causal import Pair
from caspr_spark.model.packing import Packing
from tests.pretrain.planted import AS_OF_US, DAY_US, layout_of, planted_rows

LAYOUT = layout_of()


def test_the_event_before_is_the_last_one_of_a_strictly_earlier_time() -> None:
    """The shorter customer's padding is nobody's event before."""
    rows = planted_rows(2)
    rows["num_events"] = np.array([4, 1])
    rows["event_times"][0, :4] = AS_OF_US - np.array([3, 2, 2, 1]) * DAY_US
    rows["event_times"][1, 0] = AS_OF_US - DAY_US
    pair = Pair(2)
    with torch.no_grad():
        pair.both.weight.copy_(torch.cat([torch.zeros(2, 2), torch.eye(2)], dim=1))
        pair.output.weight.copy_(torch.eye(2))
        for bias in (pair.both.bias, pair.output.bias):
            bias.zero_()
    events_BTD = torch.arange(1.0, 17.0).view(2, 4, 2)

    packing = Packing(batch_of(rows, LAYOUT, AS_OF_US))
    paired_BTD = packing.unpack(pair(packing.pack(events_BTD), packing))

    nothing = torch.zeros(2)
    first, third = functional.gelu(events_BTD[0, 0]), functional.gelu(events_BTD[0, 2])
    torch.testing.assert_close(paired_BTD[0], torch.stack([nothing, first, first, third]))
    assert torch.equal(paired_BTD[1, 0], nothing)
