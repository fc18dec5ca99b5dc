"""Our own GELU is torch's, and so is its gradient."""

import pytest
import torch
from torch.nn import functional

from caspr_spark.model import kernels
from caspr_spark.model.gelu import GELU


@pytest.mark.parametrize("num_values", [0, 1, 7, 16, 17, 1001])
def test_numbers_and_gradients_are_those_of_torch(num_values: int) -> None:
    assert kernels.are_there(), "no C compiler: nothing would be tested"
    values = torch.linspace(-12, 12, num_values).requires_grad_()
    exact = values.detach().double().requires_grad_()
    ours, theirs = GELU()(values), functional.gelu(exact)
    torch.testing.assert_close(ours.double(), theirs, rtol=1e-6, atol=1e-6)
    weights = torch.randn(num_values)
    (gradient,) = torch.autograd.grad((ours * weights).sum(), values)
    (expected,) = torch.autograd.grad((theirs * weights).sum(), exact)
    torch.testing.assert_close(gradient.double(), expected, rtol=1e-6, atol=2e-6)


def test_numbers_that_do_not_lie_side_by_side() -> None:
    values = torch.randn(5, 6).t().requires_grad_()
    torch.testing.assert_close(GELU()(values), functional.gelu(values))
    (gradient,) = torch.autograd.grad(GELU()(values)[:, ::2].sum(), values)
    (expected,) = torch.autograd.grad(functional.gelu(values)[:, ::2].sum(), values)
    torch.testing.assert_close(gradient, expected, rtol=1e-6, atol=2e-6)


def test_extremes() -> None:
    values = torch.tensor([torch.inf, -1e30, 1e30, torch.nan])
    found = GELU()(values)
    assert found[:3].tolist() == [torch.inf, 0.0, pytest.approx(1e30)]
    assert found[3].isnan()
    far = torch.tensor([-1e30, -200.0, 200.0, 1e30], requires_grad=True)
    (slopes,) = torch.autograd.grad(GELU()(far).sum(), far)
    assert slopes.tolist() == [0.0, 0.0, 1.0, 1.0]
