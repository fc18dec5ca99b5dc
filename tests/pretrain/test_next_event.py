"""Next event: draws, targets and losses against a slow count; the vector knows nothing of later events."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from caspr_spark.model.batch import Batch, batch_of
from caspr_spark.model.network import Network
from caspr_spark.pretrain.next_event import NextEvent
from caspr_spark.pretrain.ranks import SingleRank
from caspr_spark.pretrain.units import FIT_EPOCH
from tests.pretrain.planted import (
    AS_OF_US,
    DAY_US,
    NEXT_EVENT,
    Rows,
    layout_of,
    model_section,
    planted_rows,
    planted_scaling,
)

LAYOUT = layout_of()
ATTRIBUTES = ("shop", "colour", "labels", "amount", "refund")
NAMES = [f"next_event.{name}" for name in (*ATTRIBUTES, "gap_days")]


def with_equal_times(num_customers: int, *, seed: int) -> Rows:
    """Planted customers; some of their events have the time of the event before. The first has one time only."""
    rows = planted_rows(num_customers, seed=seed)
    times, grid = rows["event_times"], 4 * DAY_US
    rows["event_times"] = np.where(times > 0, times // grid * grid + DAY_US // 2, 0)
    rows["event_times"][0, : rows["num_events"][0]] = rows["event_times"][0, 0]
    return rows


ROWS = with_equal_times(50, seed=6)
SCALING = planted_scaling(ROWS, LAYOUT)


def batch(rows: Rows = ROWS) -> Batch:
    return batch_of(rows, LAYOUT, AS_OF_US)


def network_of(rows: Rows = ROWS, **changes: Any) -> Network:
    torch.manual_seed(3)
    network = Network(model_section(**(NEXT_EVENT | changes)), LAYOUT, planted_scaling(rows, LAYOUT)).eval()
    torch.nn.init.ones_(network.encoder.gate_D)  # type: ignore[union-attr, arg-type]
    return network


def objective_of(network: Network, rows: Rows = ROWS, *, seed: int = 7, num_times: int = 3) -> NextEvent:
    objective = NextEvent(LAYOUT, planted_scaling(rows, LAYOUT), seed=seed, num_times=num_times)
    objective.fit(network, lambda: iter([batch(rows)]), SingleRank())
    return objective


def times_of(rows: Rows, customer: int) -> list[int]:
    return [int(time) for time in rows["event_times"][customer, : rows["num_events"][customer]]]


def test_the_target_is_the_next_event_of_a_later_time() -> None:
    drawn = objective_of(network_of()).draw(batch(), epoch=1)

    num_equal = 0
    for customer in range(50):
        times = times_of(ROWS, customer)
        assert drawn.is_used_BK[customer].tolist() == [len(set(times)) > 1] * 3
        if len(set(times)) == 1:
            continue
        for as_of, target in zip(drawn.as_of_BK[customer].tolist(), drawn.target_BK[customer].tolist(), strict=True):
            assert as_of - 1 in times
            assert target == min(place for place, time in enumerate(times) if time > as_of - 1)
            num_equal += times.count(as_of - 1) > 1
    assert not drawn.is_used_BK[0].any()
    assert num_equal > 10


def test_every_event_that_a_later_one_follows_is_drawn_as_often() -> None:
    """Six events at four times; the two newest have no later event after them."""
    rows = {name: np.repeat(values[1:2], 4000, axis=0) for name, values in ROWS.items()}
    rows |= {"num_events": np.full(4000, 6), "customer_key": np.arange(4000)}
    days = [9, 7, 7, 4, 2, 2]
    rows["event_times"][:, :6] = [AS_OF_US - day * DAY_US for day in days]
    as_of = objective_of(network_of(), num_times=1).draw(batch(rows), epoch=1).as_of_BK[:, 0]

    drawn, counted = np.unique((AS_OF_US + 1 - as_of.numpy()) // DAY_US, return_counts=True)
    assert drawn.tolist() == [4, 7, 9]
    np.testing.assert_allclose(counted / 4000, [1 / 4, 2 / 4, 1 / 4], atol=0.03)  # 4 standard errors


def test_a_draw_depends_on_seed_epoch_and_customer_alone() -> None:
    objective = objective_of(network_of())
    whole = objective.draw(batch(), epoch=2).as_of_BK

    for customer in (1, 17, 49):
        alone = batch({name: values[customer : customer + 1] for name, values in ROWS.items()})
        assert torch.equal(objective.draw(alone, epoch=2).as_of_BK[0], whole[customer])
    assert not torch.equal(objective.draw(batch(), epoch=3).as_of_BK, whole)
    assert not torch.equal(objective_of(network_of(), seed=8).draw(batch(), epoch=2).as_of_BK, whole)


def entropy(log_odds: Tensor, happens: bool) -> float:
    against = -log_odds.item() if happens else log_odds.item()
    return max(against, 0.0) + math.log1p(math.exp(-abs(against)))


def losses_of(network: Network, vector: Tensor, one: Batch, customer: int, event: int, gap_us: int) -> dict[str, float]:
    """Name -> loss of what the vector says of one event, for the attributes that it has."""
    assert network.next_event is not None
    heads = network.next_event.attributes
    assert heads.numerical is not None
    losses = {"gap_days": (network.next_event.gap(vector).item() - math.log1p(gap_us / DAY_US)) ** 2}
    for position, name in enumerate(("shop", "colour")):
        if value := one.categorical_BTC[customer, event, position].item():
            losses[name] = -heads.categorical[position](vector).log_softmax(dim=0)[value].item()
    if members := set(one.sets_BTS[customer, event].tolist()) - {0}:
        odds = enumerate(heads.sets[0](vector))
        losses["labels"] = sum(entropy(odd, value in members) for value, odd in odds if value > 0)
    for position, name in enumerate(("amount", "refund")):
        raw = one.numerical_BTN[customer, event, position].item()
        if not math.isnan(raw):
            scaled = math.copysign(math.log1p(abs(raw)), raw) - (SCALING[name].mean or 0)
            target = max(-5.0, min(5.0, scaled / (SCALING[name].standard_deviation or 0)))
            losses[name] = (heads.numerical(vector)[position].item() - target) ** 2
    return {f"next_event.{name}": loss for name, loss in losses.items()}


@pytest.mark.parametrize(
    ("encoder", "pooling"),
    [("transformer", "decayed"), ("gru", "attention"), ("none", "mean"), ("transformer", "last")],
)
def test_losses_are_those_of_vectors_of_a_history_that_ends_with_the_drawn_event(encoder: str, pooling: str) -> None:
    """The oracle encodes customer by customer, from files that hold nothing after the drawn event's time."""
    network, one = network_of(encoder=encoder, pooling=pooling), batch()
    objective = objective_of(network)
    drawn = objective.draw(one, epoch=1)
    losses: dict[str, list[float]] = {name: [] for name in NAMES}
    with torch.inference_mode():
        sums_A, counts_A = objective.sums(network, one, drawn), objective.counts(one, drawn)
        for customer, k in drawn.is_used_BK.nonzero().tolist():
            as_of, times = int(drawn.as_of_BK[customer, k]), times_of(ROWS, customer)
            cut = {name: values[customer : customer + 1].copy() for name, values in ROWS.items()}
            cut["num_events"][:] = sum(time < as_of for time in times)
            vector = network.encoder(batch_of(cut, LAYOUT, as_of)).embedding_BE[0]
            target = int(cut["num_events"][0])
            for name, loss in losses_of(network, vector, one, customer, target, times[target] - as_of + 1).items():
                losses[name].append(loss)

    assert counts_A.tolist() == [len(losses[name]) for name in NAMES]
    assert sums_A.tolist() == pytest.approx([sum(losses[name]) for name in NAMES], rel=1e-3)
    constants = [SCALING[name].constant_loss for name in ATTRIBUTES]
    fit = objective.draw(one, epoch=FIT_EPOCH)
    gaps = [
        math.log1p((times_of(ROWS, customer)[fit.target_BK[customer, k]] - int(fit.as_of_BK[customer, k]) + 1) / DAY_US)
        for customer, k in fit.is_used_BK.nonzero().tolist()
    ]
    expected = {
        name: np.mean(losses[name]) / constant for name, constant in zip(NAMES, [*constants, np.var(gaps)], strict=True)
    }
    assert objective.by_name(sums_A, counts_A) == pytest.approx(expected, rel=1e-3)
    loss = (objective.weights(counts_A) * sums_A).sum().item()
    assert loss == pytest.approx(np.mean(list(expected.values())), rel=1e-3)


def test_sums_and_counts_of_two_halves_add_up_to_those_of_the_whole() -> None:
    network = network_of()
    objective = objective_of(network)

    def sums(rows: Rows) -> tuple[Tensor, Tensor]:
        drawn = objective.draw(batch(rows), epoch=2)
        with torch.inference_mode():
            return objective.sums(network, batch(rows), drawn), objective.counts(batch(rows), drawn)

    parts = [sums({name: values[chosen] for name, values in ROWS.items()}) for chosen in (slice(0, 9), slice(9, 50))]
    whole = sums(ROWS)

    torch.testing.assert_close(parts[0][0] + parts[1][0], whole[0], rtol=1e-4, atol=1e-3)
    assert torch.equal(parts[0][1] + parts[1][1], whole[1])


def test_a_constant_guess_costs_about_one() -> None:
    """Heads that read nothing and say the training data's shares; the gap's first guess is its own constant."""
    rows = planted_rows(400, seed=1)
    network = network_of(rows)
    objective = objective_of(network, rows, num_times=8)
    assert network.next_event is not None
    ids = rows["categorical"].reshape(-1, 2)
    members = rows["sets"].reshape(-1, 3)[ids[:, 0] > 0]
    for weights in network.next_event.parameters():
        if weights.ndim > 1:
            torch.nn.init.zeros_(weights)
    heads = network.next_event.attributes
    assert heads.numerical is not None
    torch.nn.init.zeros_(heads.numerical.bias)
    with torch.no_grad():
        for position, head in enumerate(heads.categorical):
            counted = np.bincount(ids[ids[:, position] > 0, position], minlength=head.out_features)
            head.bias.copy_(torch.from_numpy(counted + 1e-6).log())
        shares = [(members == value).any(axis=1).mean() for value in range(heads.sets[0].out_features)]
        heads.sets[0].bias.copy_(torch.logit(torch.tensor(shares).clamp(1e-6, 1 - 1e-6)))
    drawn = objective.draw(batch(rows), epoch=FIT_EPOCH)
    with torch.inference_mode():
        found = objective.by_name(objective.sums(network, batch(rows), drawn), objective.counts(batch(rows), drawn))

    assert found == pytest.approx(dict.fromkeys(NAMES, 1.0), abs=0.1)
    assert found["next_event.gap_days"] == pytest.approx(1.0, rel=1e-5)


def test_what_and_when_is_foretold_better_than_by_a_constant() -> None:
    """Each customer comes at an interval of their own, of 1, 4 or 16 days; what comes follows from phase and period."""

    def regular(seed: int) -> Rows:
        rows = planted_rows(120, seed=seed)
        days = np.array([1, 4, 16])[np.arange(120) % 3, None] * np.arange(16, 0, -1)
        rows["event_times"] = np.where(rows["event_times"] > 0, AS_OF_US - days * DAY_US, 0)
        return rows

    training, held_out = batch(regular(1)), batch(regular(2))
    network = network_of(regular(1))
    objective = objective_of(network, regular(1))
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.005)
    for epoch in range(120):
        drawn = objective.draw(training, epoch=epoch)
        weights_A = objective.weights(objective.counts(training, drawn)).float()
        optimizer.zero_grad()
        (weights_A * objective.sums(network, training, drawn)).sum().backward()
        optimizer.step()
    drawn = objective.draw(held_out, epoch=0)
    with torch.inference_mode():
        found = objective.by_name(objective.sums(network, held_out, drawn), objective.counts(held_out, drawn))

    assert list(found) == NAMES
    assert all(loss < 0.7 for loss in found.values()), found


def test_customers_whose_events_are_all_of_one_time_teach_nothing() -> None:
    network = network_of()
    objective, alone = objective_of(network), batch({name: values[:1] for name, values in ROWS.items()})
    drawn = objective.draw(alone, epoch=1)

    assert objective.counts(alone, drawn).tolist() == [0] * 6
    assert objective.sums(network, alone, drawn).tolist() == [0] * 6
    assert objective.by_name(torch.zeros(6), torch.zeros(6)) == {}
