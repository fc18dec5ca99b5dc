"""Attributes of very many values: a guess is weighed against a sample, and costs what it would cost among all."""

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from caspr_spark.model import chance
from caspr_spark.model.wide import NUM_DRAWN, NUM_FREQUENT, WideHead

NUM_IDS, WIDTH, NUM_GUESSES = 25_000, 8, 60
STEPS = 40


@pytest.fixture
def head() -> WideHead:
    torch.manual_seed(1)
    head = WideHead(WIDTH, NUM_IDS)
    head.rows_VX.data.mul_(2.0)
    return head


def guesses() -> tuple[Tensor, Tensor]:
    """read_MX, and ids_M: padding, frequent and rare ones."""
    random = torch.Generator().manual_seed(2)
    ids_M = torch.cat([torch.zeros(10), torch.arange(1, 26), torch.arange(24_975, 25_000)]).long()
    return torch.randn(NUM_GUESSES, WIDTH, generator=random), ids_M


def sets() -> Tensor:
    """ids_MS: the first ten sets are empty."""
    _, ids_M = guesses()
    return torch.stack([ids_M, torch.where(ids_M > 0, 3000 + ids_M.flip(0) % 9, 0), torch.zeros_like(ids_M)], dim=-1)


def exact(head: WideHead, read_MX: Tensor) -> Tensor:
    """logits_MV, with nothing at padding."""
    logits_MV = functional.linear(read_MX, head.rows_VX[:, :-1], head.rows_VX[:, -1])
    return torch.cat([torch.full_like(logits_MV[:, :1], -torch.inf), logits_MV[:, 1:]], dim=1)


def exact_loss(head: WideHead, what: str) -> Tensor:
    read_MX, ids_M = guesses()
    if what == "value":
        return functional.cross_entropy(exact(head, read_MX), ids_M, ignore_index=0, reduction="sum")
    is_in_MV = torch.zeros(NUM_GUESSES, NUM_IDS).scatter_(1, sets(), 1.0)
    logits_MV = exact(head, read_MX)
    losses_MV = functional.binary_cross_entropy_with_logits(logits_MV[:, 1:], is_in_MV[:, 1:], reduction="none")
    return losses_MV[10:].sum()


def sampled_loss(head: WideHead, what: str) -> Tensor:
    read_MX, ids_M = guesses()
    return head.cross_entropy(read_MX, ids_M) if what == "value" else head.binary_cross_entropy(read_MX, sets())


@pytest.mark.parametrize(("what", "once", "on_average"), [("value", 0.02, 0.002), ("set", 0.06, 0.01)])
def test_loss_and_gradient_are_those_among_all_values(
    head: WideHead, what: str, once: float, on_average: float
) -> None:
    of_all = exact_loss(head, what)
    (expected_VX,) = torch.autograd.grad(of_all, [head.rows_VX])
    losses, mean_VX = [], torch.zeros_like(head.rows_VX)
    for step in range(STEPS):
        with chance.seeded(chunk_seed=0, step_seed=step):
            loss = sampled_loss(head, what)
        (gradient,) = torch.autograd.grad(loss, [head.rows_VX])
        assert gradient.is_sparse
        assert len(gradient._indices().unique()) <= NUM_FREQUENT + NUM_DRAWN + 3 * NUM_GUESSES
        mean_VX += gradient.to_dense() / STEPS
        losses.append(loss.item())

    np.testing.assert_allclose(losses, of_all.item(), rtol=once)
    np.testing.assert_allclose(np.mean(losses), of_all.item(), rtol=on_average)
    exactly = torch.arange(1, 200)
    if what == "value":  # its own value, too
        exactly = torch.cat([exactly, torch.arange(24_975, NUM_IDS)])
    torch.testing.assert_close(mean_VX[exactly], expected_VX[exactly], rtol=0.05, atol=0.05)
    rare, expected = mean_VX[NUM_FREQUENT:].sum(dim=0), expected_VX[NUM_FREQUENT:].sum(dim=0)
    torch.testing.assert_close(rare, expected, rtol=0.05, atol=0.001 * of_all.item())


def test_what_is_drawn_stands_for_all_that_is_not_frequent(head: WideHead) -> None:
    found = []
    for step in range(STEPS):
        with chance.seeded(chunk_seed=0, step_seed=step):
            ids_S, log_weight_S = head._compared()
        assert ids_S[: NUM_FREQUENT - 1].tolist() == list(range(1, NUM_FREQUENT))
        drawn = ids_S[NUM_FREQUENT - 1 :]
        assert drawn.min() >= NUM_FREQUENT
        assert drawn.max() < NUM_IDS
        weights = log_weight_S[NUM_FREQUENT - 1 :].double().exp()
        found.append([weights.sum().item(), (weights * drawn).sum().item(), weights[drawn >= 20_000].sum().item()])

    all_ids = np.arange(NUM_FREQUENT, NUM_IDS)
    np.testing.assert_allclose(np.mean(found, axis=0), [len(all_ids), all_ids.sum(), 5_000], rtol=0.02)


def test_the_chunks_of_a_step_draw_alike_and_steps_do_not(head: WideHead) -> None:
    def drawn(chunk: int, step: int) -> list[int]:
        with chance.seeded(chunk_seed=chunk, step_seed=step):
            return head._compared()[0].tolist()

    assert drawn(1, 7) == drawn(2, 7)
    assert drawn(1, 7) != drawn(1, 8)


def test_a_set_head_starts_at_one_of_all_values() -> None:
    head = WideHead(WIDTH, NUM_IDS, bias=-5.0)
    assert (head.rows_VX[:, -1] == -5.0).all()


def test_without_anything_to_guess_the_loss_is_nothing(head: WideHead) -> None:
    nothing = torch.zeros(3, dtype=torch.int64)
    assert head.cross_entropy(torch.randn(3, WIDTH), nothing).item() == 0
    assert head.binary_cross_entropy(torch.randn(3, WIDTH), nothing[:, None]).item() == 0
