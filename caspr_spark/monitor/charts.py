"""Control charts: is what a run shows within what runs of its kind have shown? Numbers only, no Spark.

Each chart follows one mean of `means.py`. Its effect is the difference from the baseline runs. Runs differ by more
than the luck of the draw (weekday, pay-day, who came), so the spread has two parts, as in Laney's chart: 1 / customers,
and a variance between runs that is estimated from the baseline runs. The score is the effect over this spread. An alert
needs all of

    effect  at least the smallest that is worth a look, however sure it is
    score   beyond Student's t at the rate of false alarms allowed to a run, divided among its charts (Bonferroni)
    score   beyond the largest of any baseline run, by a margin: what has happened before, say on a Sunday evening, is
            no alert when it happens again
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import lru_cache
from statistics import NormalDist
from typing import Literal, NamedTuple

import numpy as np

from caspr_spark.monitor.means import SHARES, TAIL, Means, all_means
from caspr_spark.monitor.sketch import Sketch

Baseline = Literal["rolling", "fixed"]
_FAMILIES = {
    "distance": "distances",
    "coordinate": "coordinates",
    "known": "unknown and missing values",
    "present": "unknown and missing values",
    "value": "values and numbers",
    "number": "values and numbers",
}
MIN_RUNS = 8
"""Baseline runs without which there is no verdict."""
_MIN_ALIKE = 16
"""Baseline runs of the run's time of day from which on those of other times do not count."""
_MARGIN = 1.2
_NORMAL = NormalDist()


class Chart(NamedTuple):
    """One judged number of a run. `expected` and `found` are shares, means or normal scores, for people to read."""

    measure: str
    """distance, coordinate, known, present, value or number; see `means.py`."""
    name: str
    baseline: Baseline
    expected: float
    found: float
    effect: float
    score: float
    limit: float
    is_alert: bool


def baselines(
    run: Sketch, earlier: Sequence[Sketch], *, num_runs: int, min_customers: int
) -> dict[Baseline, list[Sketch]]:
    """The last `num_runs` runs before a run, and the first ones where these are others; too short ones are left out.

    `earlier` are runs of the same model; those of another kind or of too few customers are no baseline. A run that
    raised an alert is none either, unless more than half of the window did: then this is the new normal. The fixed
    baseline has no new normal, so that what creeps in is not forgotten.
    """
    alike = [other for other in earlier if other.kind == run.kind and other.as_of < run.as_of]
    enough = sorted((o for o in alike if o.num_customers >= min_customers), key=lambda o: (o.as_of, o.run_id))
    window = enough[-num_runs:]
    calm = [other for other in window if "rolling" not in other.alerts]
    found: dict[Baseline, list[Sketch]] = {"rolling": calm if len(calm) >= len(window) / 2 else window}
    if len(enough) > num_runs:
        found["fixed"] = [other for other in enough if "rolling" not in other.alerts][:num_runs]
    return {name: runs for name, runs in found.items() if len(runs) >= MIN_RUNS}


def charts(
    run: Sketch,
    by_baseline: Mapping[Baseline, Sequence[Sketch]],
    *,
    false_alarm_rate: float,
    min_effect: float,
    min_share_effect: float,
    min_customers: int,
) -> list[Chart]:
    """Every chart of a run, those furthest beyond their limits first.

    `false_alarm_rate` is that of the whole run. It is divided among baselines, then families, then charts, so that the
    two charts of the distances do not pay for the hundred of the values.
    """
    found: list[Chart] = []
    for baseline, runs in by_baseline.items():
        means = [part for part in all_means(run, runs, min_customers=min_customers) if len(part.runs) >= MIN_RUNS]
        num_charts: Counter[str] = Counter()
        for part in means:
            num_charts[_FAMILIES[part.measure]] += len(part.names)
        for part in means:
            rate = false_alarm_rate / (len(by_baseline) * len(num_charts) * num_charts[_FAMILIES[part.measure]])
            least = min_share_effect if part.measure in SHARES else min_effect
            found += _judged(part, run, baseline, rate=rate, min_effect=least)
    return sorted(found, key=lambda chart: (-abs(chart.score) / chart.limit, chart[:3]))


def _judged(part: Means, run: Sketch, baseline: Baseline, *, rate: float, min_effect: float) -> list[Chart]:
    is_alike_J = np.array([other.time_of_day == run.time_of_day for other in part.runs])
    if is_alike_J.sum() < _MIN_ALIKE:
        is_alike_J[:] = True
    baseline_JC, size_JC = part.baseline_JC[is_alike_J], part.size_JC[is_alike_J]
    num_runs = len(baseline_JC)
    centre_C, variance_C = baseline_JC.mean(axis=0), baseline_JC.var(axis=0, ddof=1)
    between_C = np.maximum(variance_C - (1 / size_JC).mean(axis=0), 0)
    largest_C = np.max(np.abs(baseline_JC - centre_C) / np.sqrt(between_C + 1 / size_JC), axis=0)
    effect_C = part.run_C - centre_C
    score_C = effect_C / np.sqrt(between_C + 1 / part.size_C + variance_C / num_runs)
    limit_C = np.maximum(_t_quantile(rate / 2, num_runs - 1), _MARGIN * largest_C)
    away_C = np.abs(score_C)
    if part.measure == "distance":  # a thinner tail is no alert: nobody moved far
        away_C[part.names.index(TAIL)] = score_C[part.names.index(TAIL)]
    is_alert_C = (away_C > limit_C) & (np.abs(effect_C) >= min_effect)
    rows = np.stack([part.expected_C, part.found_C, effect_C, score_C, limit_C], axis=1)
    return [
        Chart(part.measure, name, baseline, expected, found, effect, score, limit, bool(is_alert))
        for name, is_alert, (expected, found, effect, score, limit) in zip(
            part.names, is_alert_C, rows.tolist(), strict=True
        )
    ]


@lru_cache(maxsize=4096)
def _t_quantile(tail: float, degrees: int) -> float:
    """Student's t that is exceeded with probability `tail`, a little above the truth for few degrees of freedom.

    Gaver and Kafadar, "A retrievable recipe for inverse t", The American Statistician 38 (1984).
    """
    normal = _NORMAL.inv_cdf(1 - max(tail, 1e-15))
    squared = (normal / (degrees - 2 / 3 + 0.1 / degrees)) ** 2 * (degrees - 5 / 6)
    return math.sqrt(degrees * math.expm1(squared))
