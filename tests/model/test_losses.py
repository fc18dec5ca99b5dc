"""The cross entropies of many values are torch's own, only faster."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from caspr_spark.model import kernels, losses
from caspr_spark.model.losses import Asked, class_loss, head_losses

WIDTH = 8
NUM_GUESSES = 5


def head_of(num_outputs: int, *, times: float = 4.0) -> nn.Linear:
    torch.manual_seed(1)
    head = nn.Linear(WIDTH, num_outputs)
    nn.init.normal_(head.weight, std=times)
    return head


def asked_of(num_rows: int, num_values: int) -> list[Asked]:
    """Two guesses: of the first all values count, of the second some are left out; rows of both do not count."""
    is_so, is_left_out = torch.rand(2, num_rows, num_values) < torch.tensor([0.2, 0.3])[:, None, None]
    return [Asked(is_so, torch.rand(num_rows) < 0.8), Asked(~is_so, torch.rand(num_rows) < 0.5, is_left_out)]


def plain_losses(head: nn.Linear, read_RX: Tensor, asked: list[Asked]) -> tuple[Tensor, Tensor]:
    outputs, losses, start = head(read_RX), [], NUM_GUESSES
    for is_so_RV, is_used_R, left_out_RV in asked:
        logits_RV = outputs[:, start : start + is_so_RV.shape[1]]
        start += is_so_RV.shape[1]
        losses_RV = functional.binary_cross_entropy_with_logits(logits_RV, is_so_RV.float(), reduction="none")
        counts_RV = is_used_R[:, None].expand_as(is_so_RV)
        losses.append((losses_RV * (counts_RV if left_out_RV is None else counts_RV & ~left_out_RV)).sum(dim=0))
    return outputs[:, :NUM_GUESSES], torch.cat(losses)


def check_same(head: nn.Linear, read_RX: Tensor, asked: list[Asked]) -> None:
    found = [function(head, read_RX, asked) for function in (head_losses, plain_losses)]
    check_close(*found)
    torch.manual_seed(2)
    weights = [torch.rand_like(part) for part in found[0]]
    gradients = []
    for parts in found:
        loss = torch.stack([(part * weight).sum() for part, weight in zip(parts, weights, strict=True)]).sum()
        for _ in range(2):  # what is kept for the gradient is not used up
            gradients.append(torch.autograd.grad(loss, [read_RX, head.weight, head.bias], retain_graph=True))
    for ours in gradients[:2]:
        check_close(ours, gradients[2])


def check_close(ours: tuple[Tensor, ...], theirs: tuple[Tensor, ...]) -> None:
    """To the digits of the largest number: products of matrices round as the processor and their sizes have it."""
    for one, other in zip(ours, theirs, strict=True):
        largest = max([1.0, *other.detach().abs().flatten().tolist()])
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5 * largest)


@pytest.fixture(params=[True, False], ids=["compiled", "torch"])
def _way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    assert kernels.are_there(), "no C compiler: nothing would be tested"
    monkeypatch.setattr(kernels, "are_there", lambda: request.param)


@pytest.mark.usefixtures("_way")
@pytest.mark.parametrize("least_values", [4, losses.LEAST_VALUES])
@pytest.mark.parametrize("num_values", [0, 1, 7, 8, 9, 16, 50])
@pytest.mark.parametrize("num_rows", [0, 1, 5])
def test_losses_and_gradients_are_those_of_torch(
    num_rows: int, num_values: int, least_values: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(losses, "LEAST_VALUES", least_values)
    monkeypatch.setattr(losses, "CACHED_LOGITS", 20)
    head = head_of(NUM_GUESSES + 2 * num_values)
    check_same(head, torch.randn(num_rows, WIDTH).requires_grad_(), asked_of(num_rows, num_values))
    turned = torch.randn(WIDTH, num_rows).requires_grad_().t()  # numbers that do not lie side by side
    check_same(
        head,
        turned,
        [one._replace(is_so_RV=one.is_so_RV.t().contiguous().t()) for one in asked_of(num_rows, num_values)],
    )


@pytest.mark.usefixtures("_way")
def test_logits_beyond_what_an_exponential_can_hold_stay_finite() -> None:
    check_same(head_of(NUM_GUESSES + 18, times=200.0), torch.randn(40, WIDTH).requires_grad_(), asked_of(40, 9))


@pytest.mark.parametrize("is_so", [False, True])
def test_values_that_are_hardly_or_nearly_sure_keep_their_digits(is_so: bool) -> None:
    head = nn.Linear(1, 41, bias=True)
    logits = torch.linspace(-20, 20, 41)
    head.weight.data.zero_()
    head.bias.data.copy_(logits)
    exact = logits.double().requires_grad_()
    so = torch.full((1, 41), is_so)
    expected = functional.softplus(-exact if is_so else exact)
    found = head_losses(head, torch.zeros(1, 1), [Asked(so, torch.ones(1, dtype=torch.bool))])[1]
    torch.testing.assert_close(found.double(), expected, rtol=3e-6, atol=1e-12)
    slope, exact_slope = (
        torch.autograd.grad(one.sum(), given)[0] for one, given in ((found, head.bias), (expected, exact))
    )
    torch.testing.assert_close(slope.double(), exact_slope, rtol=3e-6, atol=1e-7 if is_so else 1e-12)


@pytest.mark.usefixtures("_way")
def test_what_is_no_number_is_not_hidden() -> None:
    head, asked = head_of(20), asked_of(5, 20)[:1]
    with torch.no_grad():
        head.bias[7] = torch.nan
        assert head_losses(head, torch.randn(5, WIDTH), asked)[1].isnan().nonzero().tolist() == [[7]]
        assert class_loss(head, torch.randn(3, WIDTH), torch.tensor([1, 2, 3])).isnan()


@pytest.mark.usefixtures("_way")
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_no_gradient_is_made_where_none_is_wanted(mode: type) -> None:
    head, read_RX, asked = head_of(NUM_GUESSES + 18), torch.randn(5, WIDTH), asked_of(5, 9)
    with mode():
        found = head_losses(head, read_RX, asked)
    assert not any(part.requires_grad for part in found)
    torch.testing.assert_close(found, tuple(part.detach() for part in plain_losses(head, read_RX, asked)))


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
