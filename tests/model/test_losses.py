"""The cross entropies of many values are torch's own, only faster."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from caspr_spark.model import kernels, losses
from caspr_spark.model.losses import class_loss, value_losses

WIDTH = 8


def parts(num_rows: int, num_values: int, *, times: float = 4.0) -> tuple[Tensor, Tensor, Tensor]:
    """Logits that are a part of larger rows, what is so, and what counts."""
    torch.manual_seed(1)
    logits = (torch.randn(num_rows, 3 * num_values) * times).requires_grad_()
    is_so, counts = torch.rand(2, num_rows, num_values) < torch.tensor([0.2, 0.7])[:, None, None]
    return logits, is_so, counts


def check_same(logits: Tensor, is_so: Tensor, counts: Tensor, view: Tensor) -> None:
    of_all = functional.binary_cross_entropy_with_logits(view, is_so.float(), reduction="none")
    theirs = (of_all * counts).sum(dim=0)
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


@pytest.mark.parametrize("is_so", [False, True])
def test_values_that_are_hardly_or_nearly_sure_keep_their_digits(is_so: bool) -> None:
    logits = torch.linspace(-20, 20, 41)[None].requires_grad_()
    exact = logits.detach().double().requires_grad_()
    so, counts = torch.full(logits.shape, is_so), torch.ones(logits.shape, dtype=torch.bool)
    expected = functional.softplus(-exact if is_so else exact)[0]
    found = value_losses(logits, so, counts)
    torch.testing.assert_close(found.double(), expected, rtol=3e-6, atol=1e-12)
    slope, exact_slope = (
        torch.autograd.grad(one.sum(), given)[0] for one, given in ((found, logits), (expected, exact))
    )
    torch.testing.assert_close(slope.double(), exact_slope, rtol=3e-6, atol=1e-7 if is_so else 1e-12)


@pytest.mark.usefixtures("_way")
def test_what_is_no_number_is_not_hidden() -> None:
    logits, is_so, counts = parts(5, 9)
    with torch.no_grad():
        logits[2, 4] = torch.nan
        assert value_losses(logits[:, :9], is_so, torch.ones_like(counts)).isnan().nonzero().tolist() == [[4]]
        head = nn.Linear(WIDTH, 20)
        head.bias[7] = torch.nan
        assert class_loss(head, torch.randn(3, WIDTH), torch.tensor([1, 2, 3])).isnan()


@pytest.mark.usefixtures("_way")
def test_no_gradient_is_made_where_none_is_wanted() -> None:
    logits, is_so, counts = parts(5, 9)
    with torch.inference_mode():
        found = value_losses(logits[:, :9], is_so, counts)
    assert not found.requires_grad
    torch.testing.assert_close(found, value_losses(logits[:, :9], is_so, counts).detach())


@pytest.mark.usefixtures("_way")
@pytest.mark.parametrize("num_ids", [3, 8, 50])
@pytest.mark.parametrize("num_events", [0, 3, 300])
@pytest.mark.parametrize("cached_logits", [1, 7 * 50, losses.CACHED_LOGITS])
def test_the_loss_of_one_value_is_that_of_torch(
    num_ids: int, num_events: int, cached_logits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(losses, "CACHED_LOGITS", cached_logits)
    torch.manual_seed(1)
    head, read_MX = nn.Linear(WIDTH, num_ids), (torch.randn(num_events, WIDTH) * 20).requires_grad_()
    ids_M = torch.randint(0, num_ids, (num_events, 2))[:, 0]
    ids_M[: num_events // 3] = 0  # without a value

    def with_gradients(loss: Tensor) -> list[Tensor]:
        return [loss.detach(), *torch.autograd.grad(3 * loss, [read_MX, head.weight, head.bias])]

    expected = functional.cross_entropy(head(read_MX), ids_M, ignore_index=0, reduction="sum")
    for ours, plain in zip(with_gradients(class_loss(head, read_MX, ids_M)), with_gradients(expected), strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-5, atol=1e-4)


@pytest.mark.usefixtures("_way")
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_a_loss_is_judged_without_a_gradient(mode: type, monkeypatch: pytest.MonkeyPatch) -> None:
    head, read_MX, ids_M = nn.Linear(WIDTH, 50), torch.randn(9, WIDTH), torch.arange(9)
    learned = class_loss(head, read_MX, ids_M).detach()
    monkeypatch.setattr(torch, "mm", lambda *given, **named: pytest.fail("called"))
    with mode():
        found = class_loss(head, read_MX, ids_M)
    torch.testing.assert_close(found, learned)


@pytest.mark.usefixtures("_way")
@pytest.mark.parametrize("wrong", [-1, 50, 2**40])
def test_an_id_that_no_value_has_is_refused(wrong: int) -> None:
    with pytest.raises(IndexError):
        class_loss(nn.Linear(WIDTH, 50), torch.randn(2, WIDTH), torch.tensor([3, wrong]))
