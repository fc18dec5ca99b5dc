"""The charts, against values worked out by hand and against simulated months in which nothing, or one thing, is wrong.

The numbers of docs/monitoring.md come from `false_alarms` and `alerts_from` below.
"""

from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from caspr_spark.config_file import load_config
from caspr_spark.monitor.charts import Chart, baselines, charts
from caspr_spark.monitor.sketch import DISTANCE_EDGES, NUM_DISTANCE_BINS, Counts, Sketch
from caspr_spark.monitor.verdict import Limits, Verdict, verdict
from tests.monitor.refreshing_bank import RUNS_A_DAY, Fault, refreshes

EXAMPLE = Path(__file__).parents[2] / "conf" / "complete_journey.yaml"
MONITOR = load_config([EXAMPLE]).monitor
"""The default setting."""
LIMITS = Limits(*(getattr(MONITOR, name) for name in Limits._fields))
START = datetime(2024, 1, 1, tzinfo=UTC)


def judged(runs: Iterable[Sketch], *, calm: int = 0) -> list[tuple[Sketch, Verdict]]:
    """Each run after the first `calm`, which nobody judges, with the verdict on it; alerts are remembered."""
    earlier: list[Sketch] = []
    found = []
    for number, run in enumerate(runs):
        if number >= calm:
            told = verdict(run, earlier, median_distance=None, limits=LIMITS)
            run = replace(run, alerts=frozenset(chart.baseline for chart in told.alerts))
            found.append((run, told))
        earlier.append(run)
    return found


def false_alarms(*, num_runs: int, num_customers: int, seed: int) -> tuple[int, int]:
    """Of quiet refreshes: those with an alert, and those with a verdict."""
    told = [found for _, found in judged(refreshes(num_runs=num_runs, num_customers=num_customers, seed=seed))]
    return sum(found.is_drift is True for found in told), sum(found.is_drift is not None for found in told)


def alerts_from(fault: Fault, *, num_customers: int, seed: int, num_runs: int = 1) -> list[list[Chart]]:
    """The alerts of each of the first runs of a fault; nothing was wrong before."""
    runs = refreshes(num_runs=fault.begins + num_runs, num_customers=num_customers, seed=seed, fault=fault)
    return [found.alerts for _, found in judged(runs, calm=fault.begins)]


def test_f80_at_most_1_in_100_of_1000_quiet_refreshes_raises_an_alert() -> None:
    num_alarms, num_judged = false_alarms(num_runs=1000, num_customers=1500, seed=1)
    assert num_judged > 900
    assert num_alarms <= 10


@pytest.mark.slow
@pytest.mark.parametrize("num_customers", [400, 2000, 10_000])
def test_f80_at_most_1_in_100_quiet_refreshes_of_any_size_raises_an_alert(num_customers: int) -> None:
    found = [false_alarms(num_runs=1000, num_customers=num_customers, seed=seed) for seed in (2, 3)]
    print(num_customers, "customers: alarms and verdicts in 1,000 refreshes each:", found)
    assert all(num_alarms <= 10 for num_alarms, _ in found)


BEGINS = 31 * RUNS_A_DAY + 1
"""A morning after a month."""
FAULTS = {
    "a page of 8 % renamed": (Fault(BEGINS, renamed_page=6), {"known:page=unknown", "value:page=v6"}),
    "a category of 9 % dropped": (Fault(BEGINS, dropped_category=5), {"value:category=v5"}),
    "the category column emptied": (Fault(BEGINS, no_categories=True), {"present:category=missing"}),
    "amounts in cents": (Fault(BEGINS, amount_factor=100.0), {"number:amount"}),
}


@pytest.mark.parametrize("name", FAULTS)
def test_f81_what_breaks_the_data_is_seen_within_one_refresh(name: str) -> None:
    fault, expected = FAULTS[name]
    (alerts,) = alerts_from(fault, num_customers=3000, seed=4)
    assert expected & {f"{chart.measure}:{chart.name}" for chart in alerts}


def test_f85_slow_drift_is_caught_by_the_fixed_baseline_alone() -> None:
    alerts = alerts_from(Fault(2 * BEGINS, turn=0.01), num_customers=2000, seed=5, num_runs=60)
    num_alerts = {
        name: sum(any(c.baseline == name for c in found) for found in alerts) for name in ("rolling", "fixed")
    }
    assert num_alerts["rolling"] == 0
    assert num_alerts["fixed"] >= 10


def run(number: int, *, share: float = 0.05, hours: float = 24, **changed: object) -> Sketch:
    """400 customers with one value each, `share` of them unknown."""
    bins = {"unknown": 400 * share, "known": 400 * (1 - share)}
    squares = dict.fromkeys(bins, 400 * share * (1 - share))
    sketch = Sketch(
        run_id=f"r{number:03}",
        as_of=START + timedelta(hours=hours * number),
        kind="refresh",
        num_customers=400,
        shares={("known", "page"): Counts(bins, 400, squares)},
    )
    return replace(sketch, **changed)  # type: ignore[arg-type]


def chart_of(newest: Sketch, earlier: list[Sketch]) -> Chart:
    (chart,) = charts(
        newest,
        {"rolling": earlier},
        false_alarm_rate=0.01,
        min_effect=0.5,
        min_share_effect=0.2,
        min_customers=30,
    )
    return chart


def test_effect_is_cohens_h_and_the_score_counts_customers() -> None:
    chart = chart_of(run(10, share=0.10), [run(number) for number in range(10)])
    assert (chart.expected, chart.found) == (pytest.approx(0.05), pytest.approx(0.10))
    assert chart.effect == pytest.approx(0.1925, abs=1e-4)  # 2 asin √0.10 - 2 asin √0.05
    assert chart.score == pytest.approx(0.1925 * 400**0.5, abs=1e-2)  # equal runs: nothing but the draw
    assert chart.limit == pytest.approx(3.25, abs=0.01)  # Student's t, 9 degrees of freedom, 0.005 on a side
    assert not chart.is_alert  # sure, but too small
    assert chart_of(run(10, share=0.11), [run(number) for number in range(10)]).is_alert


def test_runs_that_differ_widen_the_limits() -> None:
    restless = [run(number, share=(0.01, 0.10)[number % 2]) for number in range(10)]
    assert not chart_of(run(10, share=0.15), restless).is_alert
    assert chart_of(run(10, share=0.15), [run(number, share=0.05) for number in range(10)]).is_alert


def test_what_happened_once_is_no_alert_when_it_happens_again() -> None:
    calm = [run(number) for number in range(40)]
    assert chart_of(run(40, share=0.13), calm).is_alert
    assert not chart_of(run(40, share=0.13), [*calm[:20], run(20, share=0.13), *calm[21:]]).is_alert


def test_a_run_is_compared_with_those_of_its_time_of_day() -> None:
    nights = [run(number, share=(0.3, 0.05)[number % 2], hours=12) for number in range(40)]
    assert chart_of(run(40, share=0.3, hours=12), nights).effect == pytest.approx(0, abs=1e-9)
    assert chart_of(run(41, share=0.3, hours=12), nights).is_alert


def clustered(number: int, share: float, own_values: int) -> Sketch:
    """400 customers with 10 values each, of which each keeps `own_values` to be all known or all unknown."""
    bins = {"unknown": 4000 * share, "known": 4000 * (1 - share)}
    squares = 4000 * own_values * share * (1 - share)
    return run(number, shares={("known", "page"): Counts(bins, 400, dict.fromkeys(bins, squares))})


def test_customers_who_keep_to_a_value_make_it_less_certain() -> None:
    mixed, kept = (
        chart_of(clustered(10, 0.12, own_values), [clustered(number, 0.05, own_values) for number in range(10)])
        for own_values in (1, 10)
    )
    assert mixed.effect == pytest.approx(kept.effect)
    assert mixed.score / kept.score == pytest.approx(10**0.5, rel=0.01)


def test_what_was_never_seen_is_certain_only_if_many_customers_have_it() -> None:
    never = [clustered(number, 0.0, 1) for number in range(10)]
    assert chart_of(clustered(10, 0.02, 1), never).is_alert
    assert not chart_of(clustered(10, 0.02, 40), never).is_alert  # two customers alone, forty values each


def test_distances_are_compared_within_their_gap_in_time() -> None:
    def moved(number: int, num_long: int, factor: float = 1.0) -> Sketch:
        spread = np.geomspace(0.5, 2, 100)
        strata = {"short": np.repeat(0.01 * spread, 4 - num_long), "long": np.repeat(0.3 * spread, num_long)}
        counts = {
            name: np.bincount(
                np.searchsorted(DISTANCE_EDGES, factor * values, side="right"), minlength=NUM_DISTANCE_BINS
            ).astype(float)
            for name, values in strata.items()
        }
        return run(number, shares={}, distances=counts)

    earlier = [moved(number, 1) for number in range(20)]
    found = verdict(moved(20, 3), earlier, median_distance=0.3, limits=LIMITS)
    assert found.is_drift is False
    further = verdict(moved(20, 1, factor=1.6), earlier, median_distance=0.01, limits=LIMITS)
    assert further.is_drift
    assert "customers moved further than usual" in further.text


def test_f82_few_customers_get_no_verdict() -> None:
    found = verdict(run(20, num_customers=5), [run(n) for n in range(20)], median_distance=2.0, limits=LIMITS)
    assert found.is_drift is None
    assert found.text == "too few customers to judge (5 of at least 30), no verdict on drift"


def test_until_there_are_8_runs_the_median_decides() -> None:
    distances = {"all": np.full(NUM_DISTANCE_BINS, 10.0)}
    first = run(7, distances=distances)
    earlier = [run(number) for number in range(7)]
    above = verdict(first, earlier, median_distance=0.2501, limits=LIMITS)
    assert above.is_drift
    assert "above the limit of 0.25" in above.text
    assert verdict(first, earlier, median_distance=0.25, limits=LIMITS).is_drift is False
    assert verdict(run(7), earlier, median_distance=None, limits=LIMITS).is_drift is None


def chosen(earlier: list[Sketch], newest: int, *, num_runs: int = 10) -> dict[str, list[str]]:
    found = baselines(run(newest), earlier, num_runs=num_runs, min_customers=30)
    return {name: [sketch.run_id for sketch in runs] for name, runs in found.items()}


def test_baselines_are_the_last_and_the_first_runs_of_the_kind() -> None:
    earlier = [run(number) for number in range(25)]
    earlier += [run(30, kind="full"), run(31, num_customers=29), run(99)]
    expected = {"rolling": [f"r{n:03}" for n in range(15, 25)], "fixed": [f"r{n:03}" for n in range(10)]}
    assert chosen(earlier, 40) == expected
    assert chosen(earlier[:10], 40) == {"rolling": expected["fixed"]}
    assert chosen(earlier[:7], 40) == {}


def test_runs_that_alerted_are_no_baseline_until_they_are_most_of_it() -> None:
    alerted = frozenset({"rolling"})
    one = [run(number, alerts=alerted if number == 12 else frozenset()) for number in range(20)]
    assert "r012" not in chosen(one, 20)["rolling"]
    lasting = [run(number, alerts=alerted if number >= 20 else frozenset()) for number in range(26)]
    assert chosen(lasting, 26)["rolling"] == [f"r{n:03}" for n in range(16, 26)]
    assert chosen(lasting, 26)["fixed"] == [f"r{n:03}" for n in range(10)]
