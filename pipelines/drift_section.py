"""The part of the report on drift, from the tables that the monitor wrote: nothing is counted again."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pandas as pd
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from caspr_spark.config import Config
from caspr_spark.monitor import pictures
from caspr_spark.monitor.alignment import Alignment, alignment_text
from caspr_spark.monitor.charts import baselines
from caspr_spark.monitor.means import stratum_scores
from caspr_spark.monitor.records import DriftNumber, charts_of, earlier_sketches, sketch_of
from caspr_spark.monitor.report import Shown
from caspr_spark.monitor.sketch import NUM_DISTANCE_BINS, Floats, Sketch
from caspr_spark.monitor.verdict import chart_text
from caspr_spark.tables import read_table, table_exists
from schemas.drift_metrics import DRIFT_METRICS
from schemas.profile_metrics import PROFILE_METRICS

_RUNS_SHOWN, _CHARTS_SHOWN, _SEGMENTS_SHOWN = 200, 12, 10


@dataclass(frozen=True)
class DriftSection:
    """Two pictures, a sentence, and tables: charts and segments that moved most."""

    text: str
    distances: Shown
    scores: Shown
    charts: list[dict[str, Any]]
    segments: list[dict[str, Any]]


def drift_section(spark: SparkSession, config: Config, *, run_id: str, as_of: datetime) -> DriftSection:
    """What the monitor wrote of a run and of those before it."""
    if not table_exists(spark, DRIFT_METRICS, config.root):
        nothing = Shown(missing="No picture: monitor has not run.")
        return DriftSection("Monitor has not run.", nothing, nothing, [], [])
    drift = read_table(spark, DRIFT_METRICS, config.root)
    own = drift.where((F.col("run_id") == run_id) & (F.col("as_of") == F.lit(as_of))).collect()
    numbers = [DriftNumber(*(row[name] for name in DriftNumber._fields)) for row in own]
    kind, model_version = (own[0]["kind"], own[0]["model_version"]) if own else ("", "")
    run = sketch_of(run_id, as_of, kind, profile=[], drift=numbers)
    alike = drift.where((F.col("kind") == kind) & (F.col("model_version") == model_version))
    runs = _rolling(spark, config, alike, run)
    charts = charts_of(numbers)
    shown = [
        {
            "what": chart_text(chart),
            "baseline": chart.baseline,
            "effect": chart.effect,
            "score": chart.score,
            "limit": chart.limit,
            "is_alert": chart.is_alert,
        }
        for chart in charts[: max(_CHARTS_SHOWN, sum(chart.is_alert for chart in charts))]
    ]
    return DriftSection(
        text=_text(numbers, run, runs),
        distances=_distances(run, runs),
        scores=_scores(alike, as_of),
        charts=shown,
        segments=_segments(numbers),
    )


def _rolling(spark: SparkSession, config: Config, drift: DataFrame, run: Sketch) -> list[Sketch]:
    limits = config.monitor
    if limits.baseline_since is not None:
        drift = drift.where(F.col("as_of") >= F.lit(limits.baseline_since))
    settings = {"num_runs": limits.baseline_runs, "min_customers": limits.min_customers}
    nothing = read_table(spark, PROFILE_METRICS, config.root).limit(0)
    return baselines(run, earlier_sketches(nothing, drift, run, **settings), **settings).get("rolling", [])


def _text(numbers: list[DriftNumber], run: Sketch, runs: list[Sketch]) -> str:
    customers = {number.bin: int(number.value) for number in numbers if number.measure == "customers"}
    compared = customers.get("compared", 0)
    if not compared:
        return (
            "No customer of this run has an older vector of its model. Vectors of different models are never compared. "
            + _alignment_text(numbers)
        )
    beside = f"beside {len(runs)} earlier runs of its kind" if runs else "with too few earlier runs to judge it by"
    text = f"How far {compared:,} customers moved since their last vector of the same model, {beside}; "
    text += f"{customers.get('with new events', 0):,} of them have new events."
    left_out = customers.get("zero", 0) + customers.get("not finite", 0)
    return f"{text} {left_out:,} vectors that are zero or not finite were left out." if left_out else text


def _alignment_text(numbers: list[DriftNumber]) -> str:
    found: dict[str, Any] = {number.bin: number.value for number in numbers if number.measure == "alignment"}
    if not found:
        return ""
    return f"Turned onto this model's vectors, {alignment_text(Alignment(**found))}."


def _distances(run: Sketch, runs: list[Sketch]) -> Shown:
    if not run.distances:
        return Shown(missing="No picture: there is no earlier run of this model to compare with.")
    usual_B, found_B = np.zeros(NUM_DISTANCE_BINS), np.zeros(NUM_DISTANCE_BINS)
    known = stratum_scores(runs)
    for stratum, counts_B in run.distances.items():
        if stratum in known or not known:
            found_B += counts_B
        if stratum in known:
            usual_B += counts_B.sum() * _share(runs, stratum)
    return Shown(pictures.drift_histogram(found_B, usual_B if known else None))


def _share(runs: list[Sketch], stratum: str) -> Floats:
    counts_B = np.sum([sketch.distances[stratum] for sketch in runs if stratum in sketch.distances], axis=0)
    return np.asarray(counts_B / counts_B.sum())


def _scores(drift: DataFrame, as_of: datetime) -> Shown:
    """The scores of the distances over the runs, in units of their limits."""
    until = drift.where(F.col("as_of") <= F.lit(as_of))
    told = until.where(F.col("measure").isin("score", "limit") & F.col("name").startswith("distance:"))
    alerts = until.where(F.col("measure") == "alert").select("run_id").distinct().withColumn("is_alert", F.lit(True))
    wide = told.groupBy("as_of", "run_id", "name", "bin").pivot("measure", ["score", "limit"]).agg(F.first("value"))
    rows = wide.join(alerts, on="run_id", how="left").withColumn("as_of", F.unix_micros("as_of")).collect()
    if not rows:
        return Shown(missing="No picture: there is no run with a baseline yet.")
    scores = pd.DataFrame(
        {
            "as_of": [datetime.fromtimestamp(row["as_of"] / 1_000_000, tz=UTC) for row in rows],
            "name": [f"{row['name'].removeprefix('distance:')}, {row['bin']} baseline" for row in rows],
            "ratio": [row["score"] / row["limit"] for row in rows],
            "is_alert": [bool(row["is_alert"]) for row in rows],
        }
    ).sort_values(["as_of", "name"], ignore_index=True)
    newest = scores["as_of"].drop_duplicates().nlargest(_RUNS_SHOWN)
    return Shown(pictures.drift_scores(scores[scores["as_of"].isin(newest)]))


def _segments(numbers: list[DriftNumber]) -> list[dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for number in numbers:
        if number.measure == "segment":
            found.setdefault(number.name, {"segment": number.name})[number.bin] = number.value
    return sorted(found.values(), key=lambda row: (-abs(row["score"]), row["segment"]))[:_SEGMENTS_SHOWN]
