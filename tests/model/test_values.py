"""Sums over the events that hold a value, and whether one does: by hand, by our own C and by torch."""

from typing import Any

import numpy as np
import pytest
import torch

from caspr_spark.model import kernels
from caspr_spark.model.batch import Batch, batch_of
from caspr_spark.model.values import Values
from tests.pretrain.planted import AS_OF_US, layout_of, planted_rows

LAYOUT = layout_of()
ROWS = planted_rows(20, seed=3)


@pytest.fixture(params=[True, False], ids=["compiled", "torch"])
def one(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Batch:
    assert kernels.are_there(), "no C compiler: nothing would be tested"
    if not request.param:
        monkeypatch.setattr(kernels, "are_there", lambda: False)
    return batch_of(ROWS, LAYOUT, AS_OF_US)


def weights_of(one: Batch, num_weightings: int) -> torch.Tensor:
    torch.manual_seed(1)
    return torch.rand(len(one.num_events_B), num_weightings, one.is_real_BT.shape[1]) * one.is_real_BT[:, None]


def expected_of(one: Batch, values: Values, weights_BJT: torch.Tensor) -> Any:
    """[B, J, V]: the summed weights of the events that hold the value."""
    expected = np.zeros((*weights_BJT.shape[:2], values.size))
    columns = [one.categorical_BTC[:, :, position, None] for position in values.positions]
    columns += list(torch.split(one.sets_BTS, [attribute.max_values for attribute in LAYOUT.sets], dim=-1))
    start = 0
    for ids_BTX, size in zip(columns, values.sizes, strict=True):
        for customer, event, column in np.argwhere(ids_BTX.numpy() > 0):
            place = int(ids_BTX[customer, event, column])
            if place < size:
                expected[customer, :, start + place] += weights_BJT[customer, :, event].numpy()
        start += size
    return expected


@pytest.mark.parametrize("num_weightings", [1, 3, 24])
def test_sums_are_those_of_a_loop(one: Batch, num_weightings: int) -> None:
    values, weights_BJT = Values(LAYOUT), weights_of(one, num_weightings)
    expected = expected_of(one, values, weights_BJT)
    torch.testing.assert_close(values.log_sums(one, weights_BJT), torch.from_numpy(np.log1p(expected)).float())

    is_asked_BJT = torch.rand(weights_BJT.shape) < 0.3
    held_BJV = torch.from_numpy(expected_of(one, values, is_asked_BJT.float())) > 0
    assert held_BJV.any()
    assert not held_BJV.all()
    assert torch.equal(values.held(one, is_asked_BJT), held_BJV)


def test_a_value_beyond_the_places_of_its_attribute_is_in_no_sum(one: Batch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("caspr_spark.model.values.MOST_VALUES", 3)
    values, weights_BJT = Values(LAYOUT), weights_of(one, 2)
    assert values.sizes == [3, 3, 3]
    held_BTX = torch.cat([one.categorical_BTC[:, :, values.positions], one.sets_BTS], dim=-1)
    has_place_BTX = (held_BTX > 0) & (held_BTX < 3)
    expected_BJ = torch.einsum("bjt,bt->bj", weights_BJT, has_place_BTX.sum(dim=-1).float())
    torch.testing.assert_close(values.log_sums(one, weights_BJT).expm1().sum(dim=-1), expected_BJ)
    is_held_BJV = values.held(one, weights_BJT > 0)
    assert torch.equal(is_held_BJV, values.log_sums(one, (weights_BJT > 0).float()) > 0)
