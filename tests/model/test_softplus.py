"""Softplus is torch's own, only faster."""

import pytest
import torch
from torch.nn import functional

from caspr_spark.model import kernels
from caspr_spark.model.softplus import softplus


@pytest.mark.parametrize("shape", [(0,), (1,), (7,), (3, 8), (5, 13, 3)])
@pytest.mark.parametrize("times", [0.1, 3.0, 40.0])
def test_outputs_and_gradients_are_those_of_torch(shape: tuple[int, ...], times: float) -> None:
    assert kernels.are_there(), "no C compiler: nothing would be tested"
    torch.manual_seed(1)
    values, gradient = (torch.randn(shape) * times).requires_grad_(), torch.randn(shape)
    for ours, theirs in zip(
        *((one := way(values), *torch.autograd.grad(one, values, gradient)) for way in (softplus, functional.softplus)),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)


def test_what_is_no_number_or_infinite_stays_so() -> None:
    other_nan = torch.tensor(0x7FC00081, dtype=torch.int32).view(torch.float32).item()
    values = torch.tensor([torch.nan, other_nan, torch.inf, -torch.inf, 1e30, -1e30])
    torch.testing.assert_close(softplus(values), functional.softplus(values), equal_nan=True)


def test_what_does_not_lie_side_by_side_in_memory_is_read_right() -> None:
    values = torch.randn(4, 6)
    assert torch.equal(softplus(values.t()), softplus(values).t())
