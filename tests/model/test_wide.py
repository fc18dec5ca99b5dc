"""Attributes of very many values: a guess is weighed against a sample, and costs what it would cost among all."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from caspr_spark.model import chance
from caspr_spark.model.wide import NUM_DRAWN, NUM_FREQUENT, WideHead

NUM_IDS, WIDTH, NUM_GUESSES = 25_000, 8, 60
NUM_NEW = 10
STEPS = 40


@pytest.fixture
def head() -> WideHead:
    torch.manual_seed(1)
    head = WideHead(WIDTH, NUM_IDS)
    head.rows_VX.data.mul_(2.0)
    head.fit(counts())
    return head


def counts() -> Tensor:
    """As often as 1, 1/2, 1/3, ..., but for values that came later: the largest ids are frequent ones."""
    counts_V = 1e9 / torch.arange(1, NUM_IDS + 1, dtype=torch.float64)
    counts_V[-NUM_NEW:] = 1e8
    counts_V[0] = 1e10  # padding
    return counts_V.floor()


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
    frequent = head.frequent
    torch.testing.assert_close(mean_VX[frequent], expected_VX[frequent], rtol=0.05, atol=0.05)
    is_rare_V = torch.ones(NUM_IDS, dtype=torch.bool)
    is_rare_V[frequent] = False
    rare, expected = mean_VX[is_rare_V].sum(dim=0), expected_VX[is_rare_V].sum(dim=0)
    torch.testing.assert_close(rare, expected, rtol=0.1, atol=0.05 * expected.abs().max().item())


@pytest.mark.parametrize("confidence", [5.0, 20.0])
@pytest.mark.parametrize("what", ["value", "set"])
def test_what_came_costs_what_it_costs_however_sure_the_model_is(what: str, confidence: float) -> None:
    """Every value is as unlikely as at first, but for one or two rare ones, of which it is sure, rightly or not."""
    head = WideHead(WIDTH, NUM_IDS, bias=-math.log(NUM_IDS))
    head.fit(counts())
    head.rows_VX.data[:, :-1] = 0.0
    head.rows_VX.data[24_000 : 24_001 + (what == "set"), -1] = confidence
    read_MX = torch.zeros(4, WIDTH)
    for own in (24_000, 24_002):  # right, and wrong
        ids_M, ids_MS = torch.full((4,), own), torch.tensor([[own, own + 1, 0]] * 4)
        logits_MV = exact(head, read_MX)
        if what == "value":
            of_all = functional.cross_entropy(logits_MV, ids_M, reduction="sum")
        else:
            is_in_MV = torch.zeros(4, NUM_IDS).scatter_(1, ids_MS, 1.0)
            losses_MV = functional.binary_cross_entropy_with_logits(logits_MV, is_in_MV, reduction="none")
            of_all = losses_MV[:, 1:].sum()
        found = []
        for step in range(STEPS):
            with chance.seeded(chunk_seed=0, step_seed=step):
                loss = (
                    head.cross_entropy(read_MX, ids_M)
                    if what == "value"
                    else head.binary_cross_entropy(read_MX, ids_MS)
                )
            found.append(loss.item())
        assert min(found) >= 0
        if own == 24_000:
            np.testing.assert_allclose(found, of_all.item(), rtol=0.01, atol=0.1)
        else:  # those of which it is wrongly sure are seen when they are drawn
            assert min(found) > 4.0


def test_frequent_are_the_values_that_the_data_has_most_whatever_their_id(head: WideHead) -> None:
    expected = [*range(1, NUM_FREQUENT - NUM_NEW + 1), *range(NUM_IDS - NUM_NEW, NUM_IDS)]
    assert head.frequent.tolist() == expected


def test_what_is_drawn_stands_for_all_that_is_not_frequent(head: WideHead) -> None:
    rare = torch.ones(NUM_IDS, dtype=torch.bool)
    rare[head.frequent] = False
    rare[0] = False
    found = []
    for step in range(STEPS):
        with chance.seeded(chunk_seed=0, step_seed=step):
            ids_C, log_weight_C = head._compared()
        assert ids_C[:NUM_FREQUENT].tolist() == head.frequent.tolist()
        assert not log_weight_C[:NUM_FREQUENT].any()
        drawn, weights = ids_C[NUM_FREQUENT:], log_weight_C[NUM_FREQUENT:].double().exp()
        assert rare[drawn].all()
        found.append([weights.sum().item(), (weights * drawn).sum().item(), weights[drawn >= 20_000].sum().item()])

    all_ids = rare.nonzero()[:, 0].numpy()
    np.testing.assert_allclose(
        np.mean(found, axis=0), [len(all_ids), all_ids.sum(), (all_ids >= 20_000).sum()], rtol=0.02
    )


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
