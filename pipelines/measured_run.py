"""What the monitor counts of a published run: Spark reduces it to bins, so that no customer reaches the driver."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import numpy as np
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from caspr_spark.config import Config
from caspr_spark.disk import Keep
from caspr_spark.manifest import Layout, SequenceManifest, read_manifest, sequences_folder
from caspr_spark.metrics import Metrics
from caspr_spark.monitor.alignment import Alignment, alignment, vectors_of_both
from caspr_spark.monitor.drift import (
    coordinate_numbers,
    cosine_distances,
    distance_counts,
    distance_numbers,
    older_vectors,
    segment_counts,
)
from caspr_spark.monitor.profile import clustered_counts, named_values, new_values, segments
from caspr_spark.monitor.records import ProfileNumber, distances_by_stratum, profile_numbers, sketch_of
from caspr_spark.monitor.sketch import Floats, Sketch
from caspr_spark.monitor.volume import known_customers, run_numbers, unknown_counts
from caspr_spark.registry import checkpoint_folder, read_model
from caspr_spark.sequences.known import known_sequences
from caspr_spark.tables import is_missing_file, read_table, replaced_rows, table_exists
from pipelines.contracts import event_contract
from pipelines.latest_vectors import latest_table
from schemas.embeddings import CUSTOMER_EMBEDDING_HISTORY
from schemas.runs import RUNS
from schemas.vocabulary import VOCABULARY

_MAX_SEGMENTS = 50


@dataclass(frozen=True)
class PublishedRun:
    """The published run: its rows in the history, and the sequences that they were made of."""

    run_id: str
    model_version: str
    as_of: datetime
    rows: DataFrame
    history: DataFrame
    sequences: DataFrame | None
    """As the model reads them. None for a refresh that only took customers out."""
    manifest: SequenceManifest
    layout: Layout
    """Of `sequences`."""

    @property
    def kind(self) -> str:
        return self.manifest.kind

    @property
    def group(self) -> dict[str, str | datetime]:
        """What identifies the run's rows in a table."""
        return {"as_of": self.as_of, "run_id": self.run_id}


@dataclass(frozen=True)
class Measured:
    """What Spark counted."""

    metrics: dict[tuple[str, str], float]
    profile: list[ProfileNumber]
    sketch: Sketch
    segments: dict[str, dict[str, Floats]]
    alignment: Alignment | None

    @property
    def median_distance(self) -> float | None:
        return self.metrics.get(("distance", "p50"))


def run_with_sequences(
    spark: SparkSession, root: str, as_of: datetime, *, run_id: str, model_version: str
) -> PublishedRun:
    """A published run. Raises CasprError where its sequences are gone."""
    history = read_table(spark, CUSTOMER_EMBEDDING_HISTORY, root)
    folder = sequences_folder(root, as_of)
    manifest = read_manifest(folder)
    layout = read_model(checkpoint_folder(root, model_version)).layout
    return PublishedRun(
        run_id,
        model_version,
        as_of,
        rows=history.where(F.col("run_id") == run_id),
        history=history,
        sequences=known_sequences(spark, folder, manifest, layout) if manifest.files else None,
        manifest=manifest,
        layout=layout,
    )


def measured_run(
    spark: SparkSession, config: Config, run: PublishedRun, keep: Keep, *, with_segments: bool
) -> Measured:
    """Everything that the monitor counts of a run, but for what earlier runs say about it."""
    metrics = _volume(spark, config, run)
    distances = keep(cosine_distances(run.rows, _vectors_before(spark, config, run, keep)))
    numbers = _one_row(distance_numbers(distances))
    has_older = any(numbers[name] for name in ("num_compared", "num_zero", "num_not_finite"))
    if has_older:
        metrics |= _distance_metrics(numbers)
    profile: list[ProfileNumber] = []
    by_segment: dict[str, dict[str, Floats]] = {}
    since = _micros_of_run_before(spark, config, run)
    # Without a run before there is no distance either.
    interval_days = 0.0 if since is None else (run.as_of.timestamp() * 1e6 - since) / 86_400e6
    if since is not None and run.sequences is not None:
        values = keep(new_values(run.sequences, run.layout, since_micros=since, left_out=config.sequences.time_parts))
        vocabulary = read_table(spark, VOCABULARY, config.root)
        profile = profile_numbers(named_values(clustered_counts(values), vocabulary).collect())
        told_by = [attribute.name for attribute in run.layout.profile_categorical]
        told_by += [config.report.describe_by] if config.report.describe_by else []
        if with_segments and told_by:
            own = segments(values, vocabulary, attributes=told_by)
            counted = segment_counts(distances, own, interval_days=interval_days, max_segments=_MAX_SEGMENTS)
            for segment, rows in _by(counted.collect(), "segment"):
                by_segment[segment] = distances_by_stratum(rows)
    coordinates = sorted(coordinate_numbers(run.rows).collect(), key=lambda row: row["coordinate"])
    of_profile = sketch_of(run.run_id, run.as_of, run.kind, profile=profile, drift=[])
    sketch = replace(
        of_profile,
        num_customers=int(
            metrics["customers_embedded", ""] - metrics["zero_vectors", ""] - metrics["not_finite_vectors", ""]
        ),
        distances=distances_by_stratum(distance_counts(distances, interval_days=interval_days).collect()),
        means=np.array([row["mean"] for row in coordinates]),
        variances=np.array([row["variance"] for row in coordinates]),
    )
    return Measured(metrics, profile, sketch, by_segment, None if has_older else _aligned(run))


def _vectors_before(spark: SparkSession, config: Config, run: PublishedRun, keep: Keep) -> DataFrame:
    """Of each customer of the run, the newest vector by the same model as of an earlier time, where there is one.

    Those are what the newest refresh replaced in the model's latest table; for any other run they are looked for in the
    whole history.
    """
    own = _runs(spark, config, run).where(
        (F.col("model_version") == run.model_version) & (F.col("run_id") != run.run_id)
    )
    table = latest_table(config.root, run.model_version)
    is_newest = run.kind == "refresh" and own.where(F.col("as_of") >= F.lit(run.as_of)).isEmpty()
    if is_newest and table_exists(spark, table, config.root):
        replaced = replaced_rows(spark, table, config.root, made_from=run.run_id)
        if replaced is not None:
            replaced = keep(replaced)
            try:
                replaced.count()
                return replaced
            except Exception as error:
                if not is_missing_file(error):
                    raise
    return older_vectors(run.history, run.rows)


def _micros_of_run_before(spark: SparkSession, config: Config, run: PublishedRun) -> int | None:
    """as_of (microseconds since 1970-01-01 UTC) of the model's run before, or any model's where this is its first; None
    where there is none."""
    own = F.when(F.col("model_version") == run.model_version, F.col("as_of"))
    earlier = _runs(spark, config, run).where(F.col("as_of") < F.lit(run.as_of))
    before = earlier.agg(F.unix_micros(F.coalesce(F.max(own), F.max("as_of")))).first()
    return None if before is None else before[0]


def _runs(spark: SparkSession, config: Config, run: PublishedRun) -> DataFrame:
    """run_id, model_version and as_of of the runs that published vectors; from the history itself where whoever
    published the first was killed before it was recorded."""
    if not table_exists(spark, RUNS, config.root):
        return run.history
    return read_table(spark, RUNS, config.root).where(F.col("num_customers") > 0)


def _by(rows: Sequence[Any], name: str) -> list[tuple[str, list[Any]]]:
    """Rows by the value of a column."""
    return [(value, [row for row in rows if row[name] == value]) for value in sorted({row[name] for row in rows})]


def _aligned(run: PublishedRun) -> Alignment | None:
    """With the newest earlier vectors of the model in use before, where this one is new."""
    is_of_model = F.col("model_version") == run.model_version
    if not run.history.where(is_of_model & (F.col("as_of") < F.lit(run.as_of))).isEmpty():
        return None
    others = run.history.where(~is_of_model & (F.col("as_of") <= F.lit(run.as_of)))
    newest = others.orderBy(F.desc("as_of"), F.desc("run_id")).select("model_version").first()
    first = run.rows.select(F.size("embedding")).first()
    if newest is None or first is None:
        return None
    of_other = others.where(F.col("model_version") == newest["model_version"])
    latest = of_other.groupBy("customer_id").agg(F.max_by("embedding", F.struct("as_of", "run_id")).alias("embedding"))
    pairs = vectors_of_both(run.rows, latest, size=first[0]).toPandas()
    if pairs.empty or pairs["older"].map(len).nunique() > 1:
        return None
    return alignment(*(np.stack(pairs[name].to_list()).astype(float) for name in ("older", "newer")))


def _volume(spark: SparkSession, config: Config, run: PublishedRun) -> dict[tuple[str, str], float]:
    metrics: dict[tuple[str, str], float] = {}
    for name, value in _one_row(run_numbers(run.rows)).items():
        metric, _, key = name.partition(":")
        if value is not None:
            metrics[metric, key] = value
    if run.kind == "full":  # the events are not read for the few customers of a refresh
        events = read_table(spark, event_contract(config), config.root)
        num_known = known_customers(events, as_of=run.as_of).count()
        metrics["customers_with_events", ""] = num_known
        if num_known:
            metrics["coverage", ""] = metrics["customers_embedded", ""] / num_known
    for row in [] if run.sequences is None else unknown_counts(run.sequences, run.layout).collect():
        metrics["unknown_share", row["attribute"]] = row["num_unknown"] / row["num_values"]
    return metrics


def _distance_metrics(numbers: dict[str, float]) -> Metrics:
    counts = {"num_compared", "num_with_new_events", "num_zero", "num_not_finite"}
    metrics = {("distance", name): value for name, value in numbers.items() if name not in counts and value is not None}
    return metrics | {("drift_" + name.removeprefix("num_"), ""): numbers[name] for name in counts}


def _one_row(aggregate: DataFrame) -> dict[str, float]:
    row = aggregate.first()
    assert row is not None  # an aggregate without groups has one row
    return row.asDict()
