"""Dense future: targets and losses against slow oracles in plain Python; no vector sees its own future."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from caspr_spark.errors import CasprError
from caspr_spark.model.batch import Batch, batch_of
from caspr_spark.model.causal import CausalEncoder
from caspr_spark.model.future import HORIZONS, MIDDLE
from caspr_spark.model.network import Network
from caspr_spark.pretrain.future import PART_WEIGHTS, PARTS, DenseFuture
from caspr_spark.pretrain.ranks import SingleRank
from caspr_spark.pretrain.units import FIT_EPOCH, units_of
from tests.pretrain.planted import (
    AS_OF,
    AS_OF_US,
    DAY_US,
    FUTURE,
    Rows,
    layout_of,
    model_section,
    planted_rows,
    planted_scaling,
)

LAYOUT = layout_of()
ROWS = planted_rows(50, seed=6)
LONGEST_DAYS = 26.0
HORIZON_DAYS = [2.0, 4.0, 8.0, 16.0, 26.0]
SHOP_PLACES, COLOUR_PLACES, LABEL_PLACES = range(0, 9), range(9, 14), range(14, 24)
"""Ids 0 to 8 of `shop`, 0 to 4 of `colour`, 0 to 9 of `labels`, side by side."""


def batch(rows: Rows = ROWS) -> Batch:
    return batch_of(rows, LAYOUT, AS_OF_US)


def network_of(**changes: Any) -> Network:
    torch.manual_seed(3)
    network = Network(model_section(**(FUTURE | changes)), LAYOUT, planted_scaling(ROWS, LAYOUT)).eval()
    assert isinstance(network.encoder, CausalEncoder)
    torch.nn.init.ones_(network.encoder.gate_D)
    return network


def objective_of(
    network: Network, rows: Rows = ROWS, *, longest_days: float | None = LONGEST_DAYS, **changes: Any
) -> DenseFuture:
    settings = {"as_of": AS_OF, "seed": 7, "num_times": 3} | changes
    model = settings.pop("model", model_section(**FUTURE))
    objective, data = DenseFuture(model, LAYOUT, planted_scaling(ROWS, LAYOUT), **settings), lambda: iter([batch(rows)])
    units = units_of(data, SingleRank(), end_us=AS_OF_US, longest_days=longest_days, scale=objective.scale)
    objective.fit(network, data, SingleRank(), units)
    return objective


def events_of(rows: Rows, customer: int) -> list[dict[str, Any]]:
    """The customer's events, plainly."""
    T = LAYOUT.max_events
    found = []
    for event in range(rows["num_events"][customer]):
        shop, colour = rows["categorical"].reshape(-1, T, 2)[customer, event]
        amounts = rows["numerical"].reshape(-1, T, 2)[customer, event]
        labels = rows["sets"].reshape(-1, T, 3)[customer, event]
        places = [SHOP_PLACES[shop]] if shop else []
        places += [COLOUR_PLACES[colour]] if colour else []
        places += [LABEL_PLACES[label] for label in labels if label]
        time = rows["event_times"][customer, event]
        found.append({"time": time, "amounts": np.nan_to_num(amounts), "places": set(places)})
    return found


def test_targets_are_what_happens_from_the_as_of_time_on() -> None:
    objective = objective_of(network_of())
    one = batch()
    drawn = objective.draw(one, epoch=1)
    future = objective.future(one, drawn)

    assert [horizon * LONGEST_DAYS for horizon in HORIZONS] == pytest.approx(HORIZON_DAYS)
    for customer in range(50):
        events = events_of(ROWS, customer)
        for k in range(3):
            as_of = int(drawn.as_of_BK[customer, k])
            past = [event for event in events if event["time"] < as_of]
            assert drawn.is_used_BK[customer, k] == bool(past)
            for h, days in enumerate(HORIZON_DAYS):
                end = as_of + round(days * DAY_US)
                within = [event for event in events if as_of <= event["time"] < end]
                assert drawn.is_known_BKH[customer, k, h] == (bool(past) and end <= AS_OF_US)
                assert future.counts_BKSH[customer, k, 0, h] == len(within)
                amounts = sum((event["amounts"] for event in within), np.zeros(2))
                np.testing.assert_allclose(future.amounts_BKNH[customer, k, :, h], amounts, rtol=1e-5)
                if h == MIDDLE:
                    nexts = set().union(*(event["places"] for event in within))
                    assert set(future.has_next_BKV[customer, k].nonzero().flatten().tolist()) == nexts
                    began = as_of - round(days * DAY_US)
                    last = set().union(*(event["places"] for event in past if event["time"] >= began))
                    assert set(future.was_recent_BKV[customer, k].nonzero().flatten().tolist()) == last
            known = set().union(*(event["places"] for event in past))
            never = {*SHOP_PLACES, *COLOUR_PLACES, *LABEL_PLACES} - known - {0, 2, 9, 11, 14, 16}
            assert set((~future.is_old_BKV[customer, k]).nonzero().flatten().tolist()) == never
    assert drawn.is_used_BK.any()
    assert not drawn.is_used_BK.all()
    assert not drawn.is_known_BKH.all()


def test_as_of_times_lie_between_the_beginning_and_the_last_middle_horizon() -> None:
    rows = {name: np.repeat(values, 20, axis=0) for name, values in ROWS.items()}
    rows["customer_key"] = np.arange(1000)
    objective = objective_of(network_of())
    times = objective.draw(batch(rows), epoch=4).as_of_BK
    first = ROWS["event_times"][:, 0].min()

    low, high = first + 6 * DAY_US, AS_OF_US - 8 * DAY_US
    assert times.min() >= low
    assert times.max() < high
    assert abs(times.double().mean() - (low + high) / 2) < 0.03 * (high - low)


def test_a_draw_depends_on_seed_epoch_and_customer_alone() -> None:
    objective = objective_of(network_of())
    whole = objective.draw(batch(), epoch=2).as_of_BK

    for customer in (0, 17, 49):
        alone = batch({name: values[customer : customer + 1] for name, values in ROWS.items()})
        assert torch.equal(objective.draw(alone, epoch=2).as_of_BK[0], whole[customer])
    assert not torch.equal(objective.draw(batch(), epoch=3).as_of_BK, whole)
    assert not torch.equal(objective_of(network_of(), seed=8).draw(batch(), epoch=2).as_of_BK, whole)


@pytest.mark.parametrize("pooling", ["decayed", "attention", "mean", "last"])
@pytest.mark.parametrize("encoder", ["transformer", "gru", "none"])
def test_f58_a_vector_at_a_time_is_that_of_a_customer_whose_later_events_are_not_there(
    encoder: str, pooling: str
) -> None:
    """All as-of times of a pass at once, against one pass a time over a history that ends before it."""
    network = network_of(encoder=encoder, pooling=pooling)
    objective = objective_of(network)
    drawn = objective.draw(batch(), epoch=1)
    with torch.inference_mode():
        found = network.encoder.at(batch(), drawn.as_of_BK)  # type: ignore[union-attr]
    num_compared = 0
    for customer, k in drawn.is_used_BK.nonzero().tolist():
        as_of = int(drawn.as_of_BK[customer, k])
        cut = {name: values[customer : customer + 1].copy() for name, values in ROWS.items()}
        cut["num_events"][:] = (cut["event_times"][0, : cut["num_events"][0]] < as_of).sum()
        with torch.inference_mode():
            expected = network.encoder(batch_of(cut, LAYOUT, as_of)).embedding_BE[0]
        torch.testing.assert_close(found[customer, k], expected, rtol=1e-4, atol=1e-5)
        num_compared += 1
    assert num_compared > 50


def slow_losses(guesses: Any, of_values: Any, objective: DenseFuture, drawn: Any) -> dict[str, float]:
    """Part -> mean over its terms of (mean loss / mean loss of the first guesses), one number at a time."""
    future = objective.future(batch(), drawn)
    terms: dict[tuple[str, int, int], list[float]] = {}

    def entropy(log_odds: Tensor, happens: bool) -> float:
        share = 1 / (1 + math.exp(-log_odds.item()))
        return -math.log(share if happens else 1 - share)

    def huber(error: float) -> float:
        return error**2 if abs(error) <= 1 else 2 * abs(error) - 1

    for customer, k in drawn.is_used_BK.nonzero().tolist():
        for h in drawn.is_known_BKH[customer, k].nonzero().flatten().tolist():
            count = future.counts_BKSH[customer, k, 0, h].item()
            any_loss = entropy(guesses.any_BKSH[customer, k, 0, h], count > 0)
            terms.setdefault(("any", 0, h), []).append(any_loss)
            count_loss = (guesses.count_BKSH[customer, k, 0, h].item() - math.log1p(count)) ** 2
            terms.setdefault(("count", 0, h), []).append(count_loss)
            for n in range(2):
                amount = future.amounts_BKNH[customer, k, n, h].item()
                log = math.copysign(math.log1p(abs(amount)), amount)
                terms.setdefault(("amounts_log", n, h), []).append(
                    (guesses.log_BKNH[customer, k, n, h].item() - log) ** 2
                )
                error = guesses.linear_BKNH[customer, k, n, h].item() - amount / objective.deviation_NH[n, h].item()
                terms.setdefault(("amounts_linear", n, h), []).append(huber(error))
        happens, recent = future.has_next_BKV[customer, k], future.was_recent_BKV[customer, k]
        is_new = ~future.is_old_BKV[customer, k]
        for attribute, places in enumerate((SHOP_PLACES, COLOUR_PLACES, LABEL_PLACES)):
            of_parts = {
                "next_values": [(of_values.next_BKV, happens, v) for v in places],
                "new_values": [(of_values.new_BKV, happens, v) for v in places if is_new[v]],
                "recent_values": [(of_values.recent_BKV, recent, v) for v in places],
            }
            for part, guessed in of_parts.items():
                loss = sum(entropy(odds_BKV[customer, k, v], bool(truth_V[v])) for odds_BKV, truth_V, v in guessed)
                terms.setdefault((part, attribute, 0), []).append(loss)
    return {str(key): float(np.mean(values)) for key, values in terms.items()}


def test_losses_are_those_of_a_slow_count() -> None:
    network = network_of()
    objective = objective_of(network)
    one, drawn = batch(), objective.draw(batch(), epoch=1)
    assert network.future is not None
    with torch.inference_mode():
        sums_A, counts_A = objective.sums(network, one, drawn).double(), objective.counts(one, drawn)
        guesses, of_values = network.future(network.encoder.at(one, drawn.as_of_BK))  # type: ignore[union-attr]
    expected = slow_losses(guesses, of_values, objective, drawn)
    names = [str((part, 0, h)) for part in PARTS[:2] for h in range(5)]
    names += [str((part, n, h)) for part in PARTS[2:4] for n in range(2) for h in range(5)]
    names += [str((part, attribute, 0)) for part in PARTS[4:] for attribute in range(3)]

    mean_A = sums_A / counts_A.clamp(min=1)
    assert mean_A.tolist() == pytest.approx([expected.get(name, 0.0) for name in names], rel=1e-4)
    by_name = objective.by_name(sums_A, counts_A)
    assert list(by_name) == list(PARTS)
    for number, part in enumerate(PARTS[4:]):
        start = 30 + 3 * number  # behind 10 terms of the source and 20 of two amounts
        constants = objective.constant_A[start : start + 3].tolist()
        ratios = [expected[str((part, a, 0))] / constant for a, constant in enumerate(constants)]
        assert by_name[part] == pytest.approx(np.average(ratios, weights=np.sqrt(constants)), rel=1e-4)
    loss = (objective.weights(counts_A) * sums_A).sum().item()
    assert loss == pytest.approx(np.average(list(by_name.values()), weights=PART_WEIGHTS), rel=1e-6)


def test_the_first_guesses_are_as_good_as_a_constant() -> None:
    """With heads that read nothing, every part costs 1 on the data that the constants were measured on."""
    network = network_of()
    objective = objective_of(network)
    assert network.future is not None
    torch.nn.init.zeros_(network.future.linear.weight)
    drawn = objective.draw(batch(), epoch=FIT_EPOCH)
    with torch.inference_mode():
        by_name = objective.by_name(objective.sums(network, batch(), drawn), objective.counts(batch(), drawn))

    assert by_name == pytest.approx(dict.fromkeys(PARTS, 1.0), rel=1e-5)
    shares = torch.sigmoid(network.future.linear.bias[:5])
    happens = (objective.future(batch(), drawn).counts_BKSH[:, :, 0] > 0) & drawn.is_known_BKH
    expected = happens.sum(dim=(0, 1)) / drawn.is_known_BKH.sum(dim=(0, 1))
    torch.testing.assert_close(shares, expected.clamp(1e-4, 1 - 1e-4), rtol=1e-4, atol=1e-4)


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


def test_the_longest_horizon_is_a_third_of_the_history() -> None:
    network = network_of()
    objective = objective_of(network, longest_days=None)
    days = (AS_OF_US - ROWS["event_times"][:, 0].min()) / DAY_US

    assert network.future is not None
    assert network.future.longest_days.item() == pytest.approx(days / 3)
    assert int(objective.horizons_us_H[-1]) == pytest.approx(days / 3 * DAY_US)


def test_a_history_too_short_to_look_ahead_is_said() -> None:
    with pytest.raises(CasprError, match=r"spans \d+\.\d days, too few to look 365\.0 days ahead"):
        objective_of(network_of(), longest_days=365.0)


@pytest.mark.parametrize("amounts", [None, ["refund", "amount"], ["refund"]])
def test_amounts_stand_in_the_vector_as_plain_rates(amounts: list[str] | None) -> None:
    """One customer, two events of 10 and 20, 5 and 1 days before as_of; a tenure of 5 days counts as a month of 8."""
    network = network_of(amounts=amounts)
    assert isinstance(network.encoder, CausalEncoder)
    decayed = network.encoder.decayed
    assert decayed is not None
    decayed.fit(longest_days=26.0, mean_rate=0.5, mean_absolute_N=torch.tensor([4.0, 1.0]))
    one = {name: values[:1].copy() for name, values in ROWS.items()}
    one["num_events"][:] = 2
    one["event_times"][0, :2] = [AS_OF_US - 5 * DAY_US, AS_OF_US - DAY_US]
    one["numerical"].reshape(1, -1, 2)[0, :2] = [[10.0, np.nan], [20.0, -3.0]]
    with torch.inference_mode():
        vector = network.encoder(batch_of(one, LAYOUT, AS_OF_US)).embedding_BE[0]
    plain = vector[decayed.mixed[-1].out_features :][: decayed.num_plain]

    def rates(constant: float) -> dict[str, float]:
        amount = 10 * math.exp(-5 / constant) + 20 * math.exp(-1 / constant)
        covered = min(8, constant) * 0.5
        return {"amount": amount / covered / 4, "refund": -3 * math.exp(-1 / constant) / covered}

    constants = (120 / 91 * 26, 1e9, 8, 16, 4, 2, 6 / 7)
    expected = [rates(constant)[name] for constant in constants for name in amounts or ("amount", "refund")]
    assert len(plain) == 6  # a quarter of 24
    assert plain.tolist() == pytest.approx(expected[:6], rel=1e-5)


def test_an_amount_that_is_none_is_named() -> None:
    with pytest.raises(CasprError, match="no numerical attribute of an activity is called price"):
        network_of(amounts=["amount", "price"])


def test_what_is_foretold_are_the_amounts_that_are_named() -> None:
    network = network_of(amounts=["refund"])
    objective = objective_of(network, model=model_section(**FUTURE, amounts=["refund"]))
    drawn = objective.draw(batch(), epoch=1)
    both = objective_of(network_of()).future(batch(), drawn).amounts_BKNH
    assert torch.equal(objective.future(batch(), drawn).amounts_BKNH, both[:, :, 1:])
    assert network.future is not None
    assert network.future.deviation_NH.shape == (1, 5)
    assert len(objective.by_name(objective.sums(network, batch(), drawn), objective.counts(batch(), drawn))) == 7
