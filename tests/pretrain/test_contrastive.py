"""Contrastive: slices and losses against a slow count; a slice is encoded as if there were nothing else."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from caspr_spark.model.batch import Batch, batch_of
from caspr_spark.model.network import Network
from caspr_spark.pretrain.contrastive import SHORTEST_SLICE, TEMPERATURE, Contrastive, Slices
from tests.pretrain.planted import (
    AS_OF_US,
    CONTRASTIVE,
    DAY_US,
    Rows,
    layout_of,
    model_section,
    planted_rows,
    planted_scaling,
)

LAYOUT = layout_of()
ROWS = planted_rows(40, seed=6)
SCALING = planted_scaling(ROWS, LAYOUT)


def batch(rows: Rows = ROWS) -> Batch:
    return batch_of(rows, LAYOUT, AS_OF_US)


def chosen(rows: Rows, which: slice) -> Rows:
    return {name: values[which] for name, values in rows.items()}


def network_of(**changes: Any) -> Network:
    torch.manual_seed(3)
    network = Network(model_section(**(CONTRASTIVE | changes)), LAYOUT, SCALING).eval()
    torch.nn.init.ones_(network.encoder.gate_D)  # type: ignore[union-attr, arg-type]
    return network


def loss_of(network: Network, one: Batch, *, epoch: int) -> float:
    objective = Contrastive(seed=7)
    drawn = objective.draw(one, epoch=epoch)
    with torch.inference_mode():
        return objective.by_name(objective.sums(network, one, drawn), objective.counts(one, drawn))["contrastive"]


def test_slices_lie_within_the_history_and_are_at_most_half_of_it() -> None:
    drawn = Contrastive(seed=7).draw(batch(), epoch=1)

    assert drawn.is_used_B.tolist() == [number >= 8 for number in ROWS["num_events"]]
    for customer in drawn.is_used_B.nonzero().flatten().tolist():
        num_events = ROWS["num_events"][customer]
        for start, length in zip(drawn.start_B2[customer].tolist(), drawn.length_B2[customer].tolist(), strict=True):
            assert SHORTEST_SLICE <= length <= num_events / 2
            assert 0 <= start <= num_events - length
    assert 10 < drawn.is_used_B.sum() < 40


def test_slices_are_drawn_evenly_and_one_by_one() -> None:
    rows = {name: np.repeat(values[:1], 6000, axis=0) for name, values in ROWS.items()}
    rows |= {"num_events": np.full(6000, 11), "customer_key": np.arange(6000)}
    drawn = Contrastive(seed=7).draw(batch(rows), epoch=1)

    for number in (0, 1):
        lengths, starts = drawn.length_B2[:, number].numpy(), drawn.start_B2[:, number].numpy()
        np.testing.assert_allclose(np.bincount(lengths) / 6000, [0, 0, 0, 0, 0.5, 0.5], atol=0.026)  # 4 errors
        np.testing.assert_allclose(np.bincount(starts[lengths == 5]) / sum(lengths == 5), [1 / 7] * 7, atol=0.026)
    for both in (drawn.length_B2, drawn.start_B2):
        assert abs(np.corrcoef(both.T.numpy())[0, 1]) < 0.055  # 4 errors


def test_a_draw_depends_on_seed_epoch_and_customer_alone() -> None:
    whole = Contrastive(seed=7).draw(batch(), epoch=2)

    for customer in (0, 17, 39):
        alone = Contrastive(seed=7).draw(batch(chosen(ROWS, slice(customer, customer + 1))), epoch=2)
        for of_one, of_all in zip(alone, whole, strict=True):
            assert torch.equal(of_one[0], of_all[customer])
    assert not torch.equal(Contrastive(seed=7).draw(batch(), epoch=3).start_B2, whole.start_B2)
    assert not torch.equal(Contrastive(seed=8).draw(batch(), epoch=2).start_B2, whole.start_B2)


def slow_vector(network: Network, drawn: Slices, customer: int, number: int) -> Tensor:
    """Of a file of one customer who has the slice's events, no others, and no profile."""
    start, length = int(drawn.start_B2[customer, number]), int(drawn.length_B2[customer, number])
    T = LAYOUT.max_events
    cut: Rows = {"customer_key": np.array([5]), "num_events": np.array([length])}
    cut["event_times"] = ROWS["event_times"][customer : customer + 1, start : start + length]
    for name in ("categorical", "sets", "numerical"):
        cut[name] = ROWS[name][customer].reshape(1, T, -1)[:, start : start + length]
    cut["profile_categorical"], cut["profile_numerical"] = np.array([[0]]), np.array([[np.nan]])
    vector = network.encoder(batch_of(cut, LAYOUT, int(cut["event_times"].max()) + 1)).embedding_BE[0]
    assert network.contrast is not None
    projected: Tensor = network.contrast(vector.sign() * vector.abs().log1p())
    return projected / projected.norm()


@pytest.mark.parametrize(
    ("encoder", "pooling"),
    [("transformer", "decayed"), ("gru", "attention"), ("none", "mean"), ("transformer", "last")],
)
def test_the_loss_is_that_of_slices_encoded_one_by_one(encoder: str, pooling: str) -> None:
    network, objective = network_of(encoder=encoder, pooling=pooling), Contrastive(seed=7)
    drawn = objective.draw(batch(), epoch=1)
    customers = drawn.is_used_B.nonzero().flatten().tolist()
    with torch.inference_mode():
        sums_A, counts_A = objective.sums(network, batch(), drawn), objective.counts(batch(), drawn)
        vectors = {(one, number): slow_vector(network, drawn, one, number) for one in customers for number in (0, 1)}
    losses = []
    for (customer, number), vector in vectors.items():
        cosines = {key: float(vector @ other) for key, other in vectors.items() if key != (customer, number)}
        every = sum(math.exp(cosine / TEMPERATURE) for cosine in cosines.values())
        losses.append(math.log(every) - cosines[(customer, 1 - number)] / TEMPERATURE)

    assert counts_A.tolist() == [2 * len(customers)]
    assert sums_A.item() == pytest.approx(sum(losses) / math.log(2 * len(customers) - 1), rel=1e-4)
    assert objective.by_name(sums_A, counts_A) == {"contrastive": pytest.approx(sums_A.item() / len(losses))}


def test_vectors_that_are_all_alike_cost_one() -> None:
    network = network_of(pooling="attention")
    torch.nn.init.zeros_(network.encoder.embed.weight)  # type: ignore[union-attr, arg-type]

    assert loss_of(network, batch(), epoch=1) == pytest.approx(1.0, rel=1e-6)
    assert loss_of(network, batch(chosen(ROWS, slice(0, 10))), epoch=1) == pytest.approx(1.0, rel=1e-6)


def test_the_loss_of_two_workers_is_the_mean_over_the_slices_of_both() -> None:
    network, objective = network_of(), Contrastive(seed=7)
    sums_A, counts_A, losses = torch.zeros(1), torch.zeros(1, dtype=torch.float64), []
    for rows in (chosen(ROWS, slice(0, 10)), chosen(ROWS, slice(10, 40))):
        drawn = objective.draw(batch(rows), epoch=1)
        with torch.inference_mode():
            sums_A += objective.sums(network, batch(rows), drawn)
        counts_A += objective.counts(batch(rows), drawn)
        losses += [loss_of(network, batch(rows), epoch=1)] * int(2 * drawn.is_used_B.sum())

    assert len(set(losses)) == 2
    assert (objective.weights(counts_A) * sums_A).sum().item() == pytest.approx(np.mean(losses), rel=1e-5)


@pytest.mark.parametrize("num_events", [[16], [16, 7], [7, 3]])
def test_who_has_too_few_events_or_nobody_to_be_told_from_takes_no_part(num_events: list[int]) -> None:
    rows = chosen(planted_rows(len(num_events), seed=2), slice(None)) | {"num_events": np.array(num_events)}
    rows["event_times"][:] = AS_OF_US - np.arange(16, 0, -1)
    objective, network = Contrastive(seed=7), network_of()
    drawn = objective.draw(batch(rows), epoch=1)

    assert objective.counts(batch(rows), drawn).tolist() == [0]
    assert objective.sums(network, batch(rows), drawn).tolist() == [0]
    assert objective.by_name(torch.zeros(1), torch.zeros(1)) == {}


@pytest.mark.parametrize("pooling", ["decayed", "attention"])
def test_customers_are_told_apart_by_what_they_do(pooling: str) -> None:
    """Held-out customers of six kinds, by the shop that they go to; amounts, labels and gaps are chance."""

    def customers(seed: int) -> Batch:
        random, rows = np.random.default_rng(seed), planted_rows(24, seed=seed)
        ages = np.sort(random.integers(1, 100 * DAY_US, (24, 16)))[:, ::-1]
        rows |= {"num_events": np.full(24, 16), "event_times": AS_OF_US - ages}
        ids = np.stack([np.repeat(3 + np.arange(24) % 6, 16), np.repeat(3 + np.arange(24) % 2, 16)], axis=-1)
        rows |= {"categorical": ids.reshape(24, -1), "sets": random.integers(3, 10, (24, 48))}
        return batch(rows | {"numerical": random.lognormal(size=(24, 32)).astype(np.float32)})

    training, held_out = customers(1), customers(2)
    network, objective = network_of(pooling=pooling), Contrastive(seed=7)
    before = loss_of(network, held_out, epoch=0)
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.003)
    for epoch in range(80):
        drawn = objective.draw(training, epoch=epoch)
        weights_A = objective.weights(objective.counts(training, drawn)).float()
        optimizer.zero_grad()
        (weights_A * objective.sums(network, training, drawn)).sum().backward()
        optimizer.step()
    after = loss_of(network, held_out, epoch=0)

    assert after < 0.55 < 0.75 < before, (before, after)
