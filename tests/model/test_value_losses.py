"""The cross entropy of many values is torch's own, only faster."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from caspr_spark.model import kernels
from caspr_spark.model.value_losses import value_losses


def parts(num_rows: int, num_values: int, *, times: float = 4.0) -> tuple[Tensor, Tensor, Tensor]:
    """Logits that are a part of larger rows, what is so, and what counts."""
    torch.manual_seed(1)
    logits = (torch.randn(num_rows, 3 * num_values) * times).requires_grad_()
    is_so, counts = torch.rand(2, num_rows, num_values) < torch.tensor([0.2, 0.7])[:, None, None]
    return logits, is_so, counts


def check_same(logits: Tensor, is_so: Tensor, counts: Tensor, view: Tensor) -> None:
    losses = functional.binary_cross_entropy_with_logits(view, is_so.float(), reduction="none")
    theirs = (losses * counts).sum(dim=0)
    ours = value_losses(view, is_so, counts)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    weights = torch.rand(len(theirs), generator=torch.Generator().manual_seed(2))
    gradients = [torch.autograd.grad((found * weights).sum(), logits)[0] for found in (ours, theirs)]
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-6)


@pytest.fixture(params=[True, False], ids=["compiled", "torch"])
def _way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    assert kernels.are_there(), "no C compiler: nothing would be tested"
    monkeypatch.setattr(kernels, "are_there", lambda: request.param)


@pytest.mark.usefixtures("_way")
@pytest.mark.parametrize("num_values", [0, 1, 7, 8, 9, 50])
@pytest.mark.parametrize("num_rows", [0, 1, 5])
def test_losses_and_gradients_are_those_of_torch(num_rows: int, num_values: int) -> None:
    logits, is_so, counts = parts(num_rows, num_values)
    check_same(logits, is_so, counts, logits[:, num_values : 2 * num_values])
    check_same(logits, is_so, counts, logits[:, : 2 * num_values : 2])  # numbers that do not lie side by side
    check_same(logits, is_so, counts[:, :1].expand_as(is_so), logits[:, 2 * num_values :])


@pytest.mark.usefixtures("_way")
def test_logits_beyond_what_an_exponential_can_hold_stay_finite() -> None:
    logits, is_so, counts = parts(40, 9, times=200.0)
    check_same(logits, is_so, counts, logits[:, :9])


@pytest.mark.usefixtures("_way")
def test_no_gradient_is_made_where_none_is_wanted() -> None:
    logits, is_so, counts = parts(5, 9)
    with torch.inference_mode():
        losses = value_losses(logits[:, :9], is_so, counts)
    assert not losses.requires_grad
    torch.testing.assert_close(losses, value_losses(logits[:, :9], is_so, counts).detach())
