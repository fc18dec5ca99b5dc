"""What the training data say of time and sizes before training starts, in units of which vectors are made.

They are measured whatever the objective: the decayed pooling needs them as much as `future` does.
"""

from collections.abc import Callable, Iterator
from itertools import islice
from typing import NamedTuple

import torch
from torch import Tensor

from caspr_spark.model.batch import Batch
from caspr_spark.model.features import MICROSECONDS_A_DAY, Scale
from caspr_spark.pretrain.ranks import Ranks

LONGEST_DAYS = 91.0
SHARE_OF_HISTORY = 1 / 3
FIT_EPOCH = -1
"""What is drawn to measure constants is that of this epoch."""
FIT_CHUNKS = 512
"""Chunks of training customers that each worker measures constants on."""


class Units(NamedTuple):
    """Of all workers' training customers."""

    earliest_us: int
    """Time of the earliest event, microseconds since 1970-01-01 UTC."""
    history_days: float
    """From it to the end of the training data."""
    longest_days: float
    """The longest horizon."""
    mean_rate: float
    """Events a day and customer."""
    mean_absolute_N: Tensor
    """Mean size of the numericals, in the raw unit; 1 where that is 0."""


def units_of(
    chunks: Callable[[], Iterator[Batch]], ranks: Ranks, *, end_us: int, longest_days: float | None, scale: Scale
) -> Units:
    """Measured on the chunks of all ranks. `end_us`: the end of the training data, microseconds since 1970-01-01 UTC.

    `longest_days`: the longest horizon; None is a third of the history, at most 91 days.
    """
    earliest_us = end_us
    sums: Tensor | None = None
    for batch in islice(chunks(), FIT_CHUNKS):
        first_B = batch.event_times_BT[:, 0]
        earliest_us = min(earliest_us, int(first_B.min()))
        tenure_B = ((end_us - first_B).double() / MICROSECONDS_A_DAY).clamp(min=1)
        is_present_BTN = batch.is_real_BT[:, :, None] & ~batch.numerical_BTN.isnan()
        sizes_BTN = torch.where(is_present_BTN, scale.cut(batch.numerical_BTN).abs(), 0.0).double()
        rates = torch.stack([(batch.num_events_B / tenure_B).sum(), torch.tensor(float(len(first_B)))]).double()
        of_chunk = torch.cat([rates, sizes_BTN.sum(dim=(0, 1)), is_present_BTN.sum(dim=(0, 1)).double()])
        sums = of_chunk if sums is None else sums + of_chunk
    by_rank = torch.zeros(ranks.size, dtype=torch.int64)
    by_rank[ranks.rank] = earliest_us
    ranks.sum_(by_rank)
    assert sums is not None  # every rank has training customers
    ranks.sum_(sums)
    total_N, present_N = sums[2:].chunk(2)
    mean_N = (total_N / present_N.clamp(min=1)).float()
    history_days = (end_us - int(by_rank.min())) / MICROSECONDS_A_DAY
    return Units(
        earliest_us=int(by_rank.min()),
        history_days=history_days,
        longest_days=longest_days or min(LONGEST_DAYS, history_days * SHARE_OF_HISTORY),
        mean_rate=float(sums[0] / sums[1]),
        mean_absolute_N=torch.where(mean_N > 0, mean_N, 1.0),
    )
