"""What a run's sketch means beside those of earlier runs: drift or not, in words, and what may have caused it."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from caspr_spark.monitor.charts import MIN_RUNS, Baseline, Chart, baselines, charts
from caspr_spark.monitor.means import SHIFT, TAIL, mean_score, stratum_scores
from caspr_spark.monitor.sketch import Floats, Sketch

_MOST_MOVED = 10


class Limits(NamedTuple):
    """The settings of the section `monitor` of these names."""

    min_customers: int
    baseline_runs: int
    false_alarm_rate: float
    min_effect: float
    min_share_effect: float
    max_median_distance: float


class Verdict(NamedTuple):
    """`is_drift` is None where no verdict is possible; `text` says what was found. `charts`: what alerts first."""

    is_drift: bool | None
    text: str
    charts: list[Chart]
    runs: Mapping[Baseline, Sequence[Sketch]]

    @property
    def alerts(self) -> list[Chart]:
        return [chart for chart in self.charts if chart.is_alert]


def verdict(run: Sketch, earlier: Sequence[Sketch], *, median_distance: float | None, limits: Limits) -> Verdict:
    """Judge a run by earlier ones of its model; by the median of its distances while these are too few.

    `median_distance`: of the run's customers to their older vectors; None where there are none.
    """
    if run.num_customers < limits.min_customers:
        found = f"{run.num_customers:,} of at least {limits.min_customers:,}"
        return Verdict(None, f"too few customers to judge ({found}), no verdict on drift", [], {})
    runs = baselines(run, earlier, num_runs=limits.baseline_runs, min_customers=limits.min_customers)
    if not runs:
        return _by_median(run, median_distance, limits)
    found_charts = charts(
        run,
        runs,
        false_alarm_rate=limits.false_alarm_rate,
        min_effect=limits.min_effect,
        min_share_effect=limits.min_share_effect,
        min_customers=limits.min_customers,
    )
    # A chart may alert against both baselines; it is named once.
    named = list(dict.fromkeys(chart_text(chart) for chart in found_charts if chart.is_alert))
    if named:
        more = f"; and {len(named) - 3} more" if len(named) > 3 else ""
        return Verdict(True, "; ".join(named[:3]) + more, found_charts, runs)
    if not found_charts:
        return Verdict(None, "too few customers in common with the runs before, no verdict on drift", [], runs)
    num_runs = max(len(of_baseline) for of_baseline in runs.values())
    return Verdict(False, f"nothing beyond what {num_runs} runs of its kind have shown", found_charts, runs)


def _by_median(run: Sketch, median: float | None, limits: Limits) -> Verdict:
    compared = int(sum(counts_B.sum() for counts_B in run.distances.values()))
    if not compared:
        return Verdict(None, "no customer has an older vector of this model, nothing to compare with", [], {})
    if median is None or compared < limits.min_customers:
        found = f"{compared:,} of at least {limits.min_customers:,}"
        return Verdict(None, f"too few customers to compare ({found}), no verdict on drift", [], {})
    text = f"median cosine distance {median:.4f} of {compared:,} customers to their previous vector"
    if median > limits.max_median_distance:
        return Verdict(True, f"{text}, above the limit of {limits.max_median_distance:g}", [], {})
    return Verdict(False, f"{text}; there are not yet {MIN_RUNS} runs of its kind to judge it by", [], {})


def segment_scores(
    segments: Mapping[str, Mapping[str, Floats]], runs: Mapping[Baseline, Sequence[Sketch]], *, min_customers: int
) -> dict[str, tuple[int, float]]:
    """Segment -> distances by stratum, to segment -> customers and their mean normal score: 0 is as in the baseline."""
    scores = stratum_scores(runs.get("rolling", ()))
    found = {segment: mean_score(distances, scores)[:2] for segment, distances in segments.items()}
    return {segment: (int(number), mean) for segment, (number, mean) in found.items() if number >= min_customers}


def causes(run: Sketch, found: Verdict, segments: Mapping[str, tuple[int, float]]) -> dict[str, Any]:
    """What lies beside an alert, for people: new events by source, unknown shares, attributes and segments that moved
    most. The usual numbers are those of the rolling baseline."""
    before = found.runs.get("rolling", ())
    usual: dict[str, float] = {}
    for sketch in before:
        if ("value", "source") in sketch.shares:
            for source, number in sketch.shares["value", "source"].bins.items():
                usual[source] = usual.get(source, 0) + number / len(before)
    now = run.shares["value", "source"].bins if ("value", "source") in run.shares else {}
    unknown = {
        name: counts.bins.get("unknown", 0) / counts.total
        for (measure, name), counts in run.shares.items()
        if measure == "known"
    }
    moved = sorted(
        (c for c in found.charts if c.measure not in ("distance", "coordinate")), key=lambda c: -abs(c.effect)
    )
    most = sorted(segments.items(), key=lambda item: (-abs(item[1][1]), item[0]))
    return {
        "new_events_by_source": {
            source: {"found": now.get(source, 0), "usual": round(usual.get(source, 0), 1)}
            for source in sorted({*now, *usual})
        },
        "unknown_shares": {name: round(share, 4) for name, share in sorted(unknown.items())},
        "attributes_moved_most": list(dict.fromkeys(chart_text(chart) for chart in moved))[:_MOST_MOVED],
        "segments_moved_most": {
            segment: {"customers": number, "effect": round(effect, 2)}
            for segment, (number, effect) in most[:_MOST_MOVED]
        },
    }


def chart_text(chart: Chart) -> str:
    """What a chart shows, for people."""
    attribute, _, value = chart.name.partition("=")
    before_and_now = f"{chart.expected:.1%} → {chart.found:.1%}"
    if chart.measure == "known":
        return f"unknown values of {attribute} {before_and_now}"
    if chart.measure == "present":
        return f"missing {attribute} {before_and_now}"
    if chart.measure == "value":
        return f"{attribute} '{value}' {before_and_now}"
    if chart.measure == "number":
        return f"{attribute} {_side(chart.effect, 'larger', 'smaller')} by {_deviations(chart)}"
    if chart.name == SHIFT:
        return f"customers moved {_side(chart.effect, 'further', 'less')} than usual by {_deviations(chart)}"
    if chart.name == TAIL:
        return f"{chart.found:.1%} of the customers moved as far as {chart.expected:.1%} usually do"
    against = " since the first runs" if chart.baseline == "fixed" else ""
    return f"coordinate {chart.name} of the vectors shifted by {_deviations(chart)}{against}"


def _side(effect: float, more: str, less: str) -> str:
    return more if effect > 0 else less


def _deviations(chart: Chart) -> str:
    return f"{abs(chart.effect):.2f} standard deviations"
