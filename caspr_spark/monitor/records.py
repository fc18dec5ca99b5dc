"""Sketches as rows of PROFILE_METRICS and DRIFT_METRICS, and back."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

import numpy as np
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from caspr_spark.monitor.charts import Baseline, Chart, baselines
from caspr_spark.monitor.sketch import NUM_DISTANCE_BINS, Counts, Floats, Sketch


class ProfileNumber(NamedTuple):
    """A row of PROFILE_METRICS, without its run."""

    measure: str
    name: str
    bin: str
    value: float
    squares: float
    customers: float


class DriftNumber(NamedTuple):
    """A row of DRIFT_METRICS, without its run."""

    measure: str
    name: str
    bin: str
    value: float


def profile_numbers(rows: Iterable[Any]) -> list[ProfileNumber]:
    """Rows with these columns, rounded so that the order of a sum over customers does not show."""
    return [
        ProfileNumber(*(row[name] for name in ("measure", "name", "bin")), *(_rounded(row[n]) for n in _NUMBERS))
        for row in rows
    ]


_NUMBERS = ("value", "squares", "customers")


def distances_by_stratum(rows: Iterable[Any]) -> dict[str, Floats]:
    """Rows of stratum, bin, num_customers -> stratum -> customers by bin."""
    found: dict[str, Floats] = defaultdict(lambda: np.zeros(NUM_DISTANCE_BINS))
    for row in rows:
        found[row["stratum"]][int(row["bin"])] += row["num_customers"]
    return dict(found)


def sketch_numbers(sketch: Sketch) -> list[DriftNumber]:
    """What `sketch_of` needs of DRIFT_METRICS."""
    counts = [DriftNumber("customers", "", "sound", float(sketch.num_customers))]
    for stratum, counts_B in sorted(sketch.distances.items()):
        counts += [DriftNumber("distance", stratum, str(b), float(counts_B[b])) for b in np.flatnonzero(counts_B)]
    for number, (mean, variance) in enumerate(zip(sketch.means, sketch.variances, strict=True)):
        counts.append(DriftNumber("coordinate", str(number), "mean", _rounded(mean)))
        counts.append(DriftNumber("coordinate", str(number), "variance", _rounded(variance)))
    return counts


def sketch_of(
    run_id: str,
    as_of: datetime,
    kind: str,
    *,
    profile: Iterable[ProfileNumber],
    drift: Iterable[DriftNumber],
) -> Sketch:
    """The sketch of a run from its rows; from part of them, a sketch of that part."""
    by_measure: dict[str, list[DriftNumber]] = defaultdict(list)
    for number in drift:
        by_measure[number.measure].append(number)
    coordinates = {(int(one.name), one.bin): one.value for one in by_measure["coordinate"]}
    size = len(coordinates) // 2
    counts = _counts(profile)
    return Sketch(
        run_id=run_id,
        as_of=as_of,
        kind=kind,
        num_customers=int(sum(one.value for one in by_measure["customers"] if one.bin == "sound")),
        distances=distances_by_stratum(
            {"stratum": one.name, "bin": one.bin, "num_customers": one.value} for one in by_measure["distance"]
        ),
        means=np.array([coordinates[number, "mean"] for number in range(size)]),
        variances=np.array([coordinates[number, "variance"] for number in range(size)]),
        shares={key: one for key, one in counts.items() if key[0] != "number"},
        numbers={name: one for (measure, name), one in counts.items() if measure == "number"},
        alerts=frozenset(one.bin for one in by_measure["alert"]),
    )


def earlier_sketches(
    profile: DataFrame, drift: DataFrame, run: Sketch, *, num_runs: int, min_customers: int
) -> list[Sketch]:
    """PROFILE_METRICS and DRIFT_METRICS of one model and kind -> its runs before `run`. Whole are those that are a
    baseline of it; of the others, only what tells that they are none is read."""
    before = F.col("as_of") < F.lit(run.as_of)
    profile, drift = profile.where(before), drift.where(before)
    heads = _sketches([], drift.where(F.col("measure").isin("customers", "alert")), run.kind)
    chosen = baselines(run, heads, num_runs=num_runs, min_customers=min_customers)
    if not chosen:
        return heads
    needed = sorted({sketch.run_id for of_baseline in chosen.values() for sketch in of_baseline})
    is_needed = F.col("run_id").isin(needed)
    told = drift.where(is_needed & F.col("measure").isin("customers", "alert", "distance", "coordinate"))
    whole = {sketch.run_id: sketch for sketch in _sketches(profile.where(is_needed).collect(), told, run.kind)}
    return [whole.get(head.run_id, head) for head in heads]


def _sketches(profile: Iterable[Any], drift: DataFrame, kind: str) -> list[Sketch]:
    drift_of: dict[tuple[str, int], list[DriftNumber]] = defaultdict(list)
    profile_of: dict[str, list[ProfileNumber]] = defaultdict(list)
    for row in profile:
        profile_of[row["run_id"]].append(ProfileNumber(*(row[name] for name in ProfileNumber._fields)))
    for row in drift.withColumn("as_of", F.unix_micros("as_of")).collect():
        drift_of[row["run_id"], row["as_of"]].append(DriftNumber(*(row[name] for name in DriftNumber._fields)))
    return [
        sketch_of(
            run_id, datetime.fromtimestamp(as_of / 1_000_000, tz=UTC), kind, profile=profile_of[run_id], drift=numbers
        )
        for (run_id, as_of), numbers in drift_of.items()
    ]


_TOLD = ("expected", "found", "effect", "score", "limit")


def chart_numbers(charts: Sequence[Chart], *, kept: int) -> list[DriftNumber]:
    """The charts that alert, those of the distances, and the `kept` nearest to their limits."""
    ranked = sorted(charts, key=lambda chart: -abs(chart.score) / chart.limit)
    found = []
    for place, chart in enumerate(ranked):
        label = f"{chart.measure}:{chart.name}"
        if place < kept or chart.is_alert or chart.measure == "distance":
            found += [DriftNumber(n, label, chart.baseline, _rounded(getattr(chart, n))) for n in _TOLD]
        if chart.is_alert:
            found.append(DriftNumber("alert", label, chart.baseline, 1.0))
    return found


def charts_of(drift: Iterable[DriftNumber]) -> list[Chart]:
    """The charts of `chart_numbers`, those furthest beyond their limits first."""
    told: dict[tuple[str, str], dict[str, float]] = defaultdict(dict)
    for number in drift:
        if number.measure in (*_TOLD, "alert"):
            told[number.name, number.bin][number.measure] = number.value
    charts = []
    for (label, baseline), numbers in told.items():
        measure, _, name = label.partition(":")
        values = {key: numbers[key] for key in _TOLD}
        against: Baseline = "fixed" if baseline == "fixed" else "rolling"
        charts.append(Chart(measure, name, against, is_alert="alert" in numbers, **values))
    return sorted(charts, key=lambda chart: (not chart.is_alert, -abs(chart.score) / chart.limit, chart[:3]))


def _counts(profile: Iterable[ProfileNumber]) -> Mapping[tuple[str, str], Counts]:
    found: dict[tuple[str, str], list[ProfileNumber]] = defaultdict(list)
    for number in profile:
        found[number.measure, number.name].append(number)
    return {
        key: Counts(
            bins={one.bin: one.value for one in numbers},
            customers=numbers[0].customers,
            squares={one.bin: one.squares for one in numbers},
        )
        for key, numbers in found.items()
    }


def _rounded(value: float) -> float:
    return float(f"{value:.9g}")
