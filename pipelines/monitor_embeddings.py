"""Step 6: the published run's numbers -> run_metrics; a drift alert where its vectors moved too far."""

from datetime import datetime

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from caspr_spark.config import Config
from caspr_spark.errors import CasprError, DriftAlert
from caspr_spark.manifest import read_manifest, sequences_folder
from caspr_spark.metrics import write_metrics
from caspr_spark.monitor.drift import cosine_distances, distance_numbers, drift_verdict, previous_run, run_at
from caspr_spark.monitor.volume import known_customers, run_numbers, unknown_counts
from caspr_spark.tables import read_table, table_path
from pipelines.build_events import event_contract
from pipelines.summary import Summary
from schemas.embeddings import CUSTOMER_EMBEDDING_HISTORY, EMBEDDINGS

Metrics = dict[tuple[str, str], float]


def monitor_embeddings(spark: SparkSession, config: Config, as_of: datetime) -> Summary:
    """Measure the published run at `as_of`, and its distance from the newest earlier run of the same model.

    Raises:
        DriftAlert: the vectors moved further than `monitor.max_median_distance` and `monitor.on_drift` is stop;
            the numbers are written.
        CasprError: no run was published for this as_of.
    """
    run_id, model_version = published_run(spark, config.root, as_of)
    history = read_table(spark, CUSTOMER_EMBEDDING_HISTORY, config.root)
    run = history.where(F.col("run_id") == run_id)
    metrics = _volume(spark, config, run, as_of)
    notes = [_coverage_note(metrics)]

    older = previous_run(history, as_of=as_of, model_version=model_version)
    is_drift = None
    if older.isEmpty():
        notes.append("first run of this model, nothing to compare its vectors with")
    else:
        numbers = _one_row(distance_numbers(cosine_distances(run, older)))
        metrics |= _distance_metrics(numbers)
        limits = config.monitor
        is_drift, text = drift_verdict(
            numbers, min_customers=limits.min_customers, max_median_distance=limits.max_median_distance
        )
        notes.append(f"drift: {text}" if is_drift else text)

    changed = write_metrics(spark, metrics, config.root, as_of=as_of, run_id=run_id, stage="monitor")
    if is_drift and config.monitor.on_drift == "stop":
        raise DriftAlert(
            f"run {run_id}: {notes[-1]}. It is published. Look at the report and at what changed in the raw tables; "
            "raise monitor.max_median_distance if such a change is meant, or roll back."
        )
    return Summary("monitor", int(metrics["customers_embedded", ""]), len(metrics), tuple(notes), changed=changed)


def published_run(spark: SparkSession, root: str, as_of: datetime) -> tuple[str, str]:
    """run_id and model_version of the published run at `as_of`: the one in `embeddings`, or another of its model.

    Raises:
        CasprError: there is none.
    """
    at = F.col("as_of") == F.lit(as_of)
    newest = read_table(spark, EMBEDDINGS, root).select("run_id", "model_version", at.alias("is_here")).first()
    history = read_table(spark, CUSTOMER_EMBEDDING_HISTORY, root)
    run = None
    if newest is not None and newest["is_here"]:
        run = history.where(F.col("run_id") == newest["run_id"]).first()
    elif newest is not None:
        run = run_at(history, as_of=as_of, model_version=newest["model_version"]).first()
    if run is None:
        raise CasprError(
            f"{table_path(CUSTOMER_EMBEDDING_HISTORY, root)}: no run of the present model as of {as_of.isoformat()}; "
            "run embed_customers and publish_embeddings for this as_of first"
        )
    return run["run_id"], run["model_version"]


def _volume(spark: SparkSession, config: Config, run: DataFrame, as_of: datetime) -> Metrics:
    metrics: Metrics = {}
    for name, value in _one_row(run_numbers(run)).items():
        metric, _, key = name.partition(":")
        if value is not None:
            metrics[metric, key] = value
    events = read_table(spark, event_contract(config), config.root)
    num_known = known_customers(events, as_of=as_of).count()
    metrics["customers_with_events", ""] = num_known
    if num_known:
        metrics["coverage", ""] = metrics["customers_embedded", ""] / num_known

    folder = sequences_folder(config.root, as_of)
    manifest = read_manifest(folder)
    sequences = spark.read.parquet(*(str(folder / file.path) for file in manifest.files))
    for row in unknown_counts(sequences, manifest.layout).collect():
        metrics["unknown_share", row["attribute"]] = row["num_unknown"] / row["num_values"]
    return metrics


def _distance_metrics(numbers: dict[str, float]) -> Metrics:
    counts = {"num_compared", "num_zero", "num_not_finite"}
    metrics: Metrics = {
        ("distance", name): value for name, value in numbers.items() if name not in counts and value is not None
    }
    return metrics | {("drift_" + name.removeprefix("num_"), ""): numbers[name] for name in counts}


def _coverage_note(metrics: Metrics) -> str:
    embedded, known = int(metrics["customers_embedded", ""]), int(metrics["customers_with_events", ""])
    unsound = int(metrics["zero_vectors", ""] + metrics["not_finite_vectors", ""])
    note = f"{embedded:,} of {known:,} customers with events have a vector"
    return f"{note}; {unsound:,} vectors are zero or not finite" if unsound else note


def _one_row(aggregate: DataFrame) -> dict[str, float]:
    row = aggregate.first()
    assert row is not None  # an aggregate without groups has one row
    return row.asDict()
