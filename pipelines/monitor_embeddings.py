"""Step 6: the published run's numbers -> run_metrics, profile and drift metrics; an alert where its vectors drift."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from caspr_spark.aliases import champion_of
from caspr_spark.config import Config
from caspr_spark.delivery import undelivered
from caspr_spark.disk import kept_on_disk
from caspr_spark.errors import CasprError, DriftAlert
from caspr_spark.metrics import Metrics, replace_rows, write_metrics
from caspr_spark.monitor.alignment import alignment_text
from caspr_spark.monitor.charts import MIN_RUNS
from caspr_spark.monitor.drift import run_at
from caspr_spark.monitor.records import DriftNumber, ProfileNumber, chart_numbers, earlier_sketches, sketch_numbers
from caspr_spark.monitor.sketch import Sketch
from caspr_spark.monitor.verdict import Limits, Verdict, causes, chart_text, segment_scores, verdict
from caspr_spark.session import local_frame
from caspr_spark.tables import read_table, table_exists, table_path
from pipelines.measured_run import Measured, PublishedRun, measured_run, run_with_sequences
from pipelines.summary import Summary
from schemas.contract import Contract
from schemas.drift_metrics import DRIFT_METRICS
from schemas.embeddings import CUSTOMER_EMBEDDING_HISTORY, EMBEDDINGS
from schemas.profile_metrics import PROFILE_METRICS
from schemas.runs import RUNS

_SENT = DriftNumber("alert_sent", "", "", 1.0)
_CHARTS_KEPT = 20
"""Of the charts that raise no alert, those nearest to their limits are written; those of the distances always."""


def monitor_embeddings(
    spark: SparkSession, config: Config, as_of: datetime, *, model_version: str | None = None
) -> Summary:
    """Measure the published run at `as_of`, and judge it by earlier runs of its model and kind.

    `model_version`: whose run; None for the champion's.

    Raises:
        DriftAlert: the run drifts and `monitor.on_drift` is stop; everything is written and alerts are delivered.
        CasprError: no run was published for this as_of.
    """
    model_version = model_version or champion_of(config.root)
    run_id = published_run(spark, config.root, as_of, model_version)
    run = run_with_sequences(spark, config.root, as_of, run_id=run_id, model_version=model_version)
    earlier = _earlier(spark, config, run)
    with kept_on_disk() as keep:
        measured = measured_run(spark, config, run, keep, with_segments=len(earlier) >= MIN_RUNS)
    found = verdict(measured.sketch, earlier, median_distance=measured.median_distance, limits=_limits(config))
    scored = segment_scores(measured.segments, found.runs, min_customers=config.monitor.min_customers)
    why = causes(measured.sketch, found, scored)
    notes = [_coverage_note(measured.metrics), *_model_notes(run, measured)]
    notes.append(f"drift: {found.text}" if found.is_drift else found.text)
    if found.is_drift:
        notes += _cause_notes(measured, why)

    changed = write_metrics(spark, measured.metrics, config.root, as_of=as_of, run_id=run.run_id, stage="monitor")
    changed |= _replace(spark, run, PROFILE_METRICS, measured.profile, config.root)
    numbers = _drift_numbers(measured, found, scored)
    was_sent = [_SENT] if found.is_drift and _was_sent(spark, run, config.root) else []
    changed |= _replace(spark, run, DRIFT_METRICS, [*numbers, *was_sent], config.root)
    sinks = config.monitor
    if found.is_drift and not was_sent and (sinks.alert_command or sinks.alert_file):
        alert = _alert(config, run, measured, found, why)
        failed = undelivered(alert, command=sinks.alert_command, file=sinks.alert_file, setting="monitor.alert")
        if failed:
            notes += [f"the alert was not delivered: {problem}; monitor again to retry" for problem in failed]
        else:
            _replace(spark, run, DRIFT_METRICS, [*numbers, _SENT], config.root)
    if found.is_drift and config.monitor.on_drift == "stop":
        raise DriftAlert(
            f"run {run.run_id} is published, and {'; '.join(notes[1:])}. Look at the report and at what changed in the "
            "raw tables; if the change is meant, set monitor.baseline_since to this run's as_of, or raise "
            "monitor.max_median_distance where there is no baseline yet."
        )
    num_embedded, num_metrics = int(measured.metrics["customers_embedded", ""]), len(measured.metrics)
    return Summary("monitor", num_embedded, num_metrics, tuple(notes), changed=changed)


def published_run(spark: SparkSession, root: str, as_of: datetime, model_version: str) -> str:
    """run_id of the model's published run at `as_of`; of several, the one in `embeddings`.

    Raises:
        CasprError: there is none.
    """
    at = (F.col("as_of") == F.lit(as_of)) & (F.col("model_version") == model_version)
    history = read_table(spark, CUSTOMER_EMBEDDING_HISTORY, root)
    newest = read_table(spark, EMBEDDINGS, root).where(at).select("run_id").first()
    run = history.where(F.col("run_id") == newest["run_id"]).first() if newest is not None else None
    if run is None:
        run = run_at(history, as_of=as_of, model_version=model_version).first()
    if run is None and table_exists(spark, RUNS, root):  # a refresh that only took customers out has no rows
        run = read_table(spark, RUNS, root).where(at).orderBy(F.desc("run_id")).first()
    if run is None:
        raise CasprError(
            f"{table_path(CUSTOMER_EMBEDDING_HISTORY, root)}: no run of model {model_version} as of "
            f"{as_of.isoformat()}; run embed_customers and publish_embeddings for this as_of first"
        )
    return str(run["run_id"])


def _earlier(spark: SparkSession, config: Config, run: PublishedRun) -> list[Sketch]:
    """Sketches of earlier runs of the model and kind, since `monitor.baseline_since`."""
    if not all(table_exists(spark, contract, config.root) for contract in (PROFILE_METRICS, DRIFT_METRICS)):
        return []
    alike = (F.col("model_version") == run.model_version) & (F.col("kind") == run.kind)
    if config.monitor.baseline_since is not None:
        alike &= F.col("as_of") >= F.lit(config.monitor.baseline_since)
    return earlier_sketches(
        read_table(spark, PROFILE_METRICS, config.root).where(alike),
        read_table(spark, DRIFT_METRICS, config.root).where(alike),
        Sketch(run.run_id, run.as_of, run.kind, num_customers=0),
        num_runs=config.monitor.baseline_runs,
        min_customers=config.monitor.min_customers,
    )


def _drift_numbers(measured: Measured, found: Verdict, segments_: dict[str, tuple[int, float]]) -> list[DriftNumber]:
    """All rows of DRIFT_METRICS of the run."""
    numbers = sketch_numbers(measured.sketch)
    names = {"compared": "drift_compared", "with new events": "drift_with_new_events", "zero": "zero_vectors"}
    for name, metric in (names | {"not finite": "not_finite_vectors"}).items():
        if (metric, "") in measured.metrics:
            numbers.append(DriftNumber("customers", "", name, float(measured.metrics[metric, ""])))
    numbers += chart_numbers(found.charts, kept=_CHARTS_KEPT)
    for segment, (customers, score) in segments_.items():
        numbers.append(DriftNumber("segment", segment, "customers", float(customers)))
        numbers.append(DriftNumber("segment", segment, "score", score))
    if measured.alignment is not None:
        numbers += [
            DriftNumber("alignment", "", name, float(value)) for name, value in measured.alignment._asdict().items()
        ]
    return numbers


def _replace(
    spark: SparkSession,
    run: PublishedRun,
    contract: Contract,
    numbers: Sequence[DriftNumber | ProfileNumber],
    root: str,
) -> bool:
    """The rows of the run in one of its tables; True where something changed."""
    own = ("as_of", "run_id", "model_version", "kind")
    types = ", ".join(f"{c.name} {c.type}" for c in contract.columns if c.name not in own)
    told = local_frame(spark, numbers, types)
    about = {"model_version": run.model_version, "kind": run.kind} | run.group
    rows = told.select(*(F.lit(about[name]).alias(name) for name in own), "*")
    return replace_rows(rows, contract, root, run.group)


def _was_sent(spark: SparkSession, run: PublishedRun, root: str) -> bool:
    if not table_exists(spark, DRIFT_METRICS, root):
        return False
    of_run = read_table(spark, DRIFT_METRICS, root).where(
        (F.col("as_of") == F.lit(run.as_of)) & (F.col("run_id") == run.run_id)
    )
    return not of_run.where(F.col("measure") == _SENT.measure).isEmpty()


def _alert(
    config: Config, run: PublishedRun, measured: Measured, found: Verdict, why: dict[str, Any]
) -> dict[str, Any]:
    """What the sinks get. It names no customer."""
    return {
        "alert": "drift",
        "dataset": config.dataset,
        "as_of": run.as_of.isoformat(),
        "run_id": run.run_id,
        "model_version": run.model_version,
        "kind": run.kind,
        "text": found.text,
        "customers": {
            "embedded": int(measured.metrics["customers_embedded", ""]),
            "compared": int(measured.metrics.get(("drift_compared", ""), 0)),
            "with_new_events": int(measured.metrics.get(("drift_with_new_events", ""), 0)),
        },
        "beyond_limits": [
            {
                "what": chart_text(chart),
                "baseline": chart.baseline,
                "effect": round(chart.effect, 3),
                "score": round(chart.score, 2),
                "limit": round(chart.limit, 2),
            }
            for chart in found.alerts
        ],
        "causes": why,
    }


def _cause_notes(measured: Measured, why: dict[str, Any]) -> list[str]:
    compared, with_new = (int(measured.metrics.get((f"drift_{n}", ""), 0)) for n in ("compared", "with_new_events"))
    notes = [f"of {compared:,} customers with an older vector, {with_new:,} have new events"]
    for name, title in (("new_events_by_source", "new events by source"), ("segments_moved_most", "segments")):
        if why[name]:
            notes.append(
                f"{title}: " + "; ".join(_cause_text(key, found) for key, found in list(why[name].items())[:5])
            )
    if why["attributes_moved_most"]:
        notes.append("moved most: " + "; ".join(why["attributes_moved_most"][:5]))
    return notes


def _cause_text(name: str, found: dict[str, float]) -> str:
    if "usual" in found:
        return f"{name} {found['found']:,.0f}, usually {found['usual']:,.0f}"
    return f"{name} {found['effect']:+.2f} ({found['customers']:,} customers)"


def _coverage_note(metrics: Metrics) -> str:
    embedded = int(metrics["customers_embedded", ""])
    unsound = int(metrics["zero_vectors", ""] + metrics["not_finite_vectors", ""])
    known = metrics.get(("customers_with_events", ""))
    of = f"{embedded:,} customers" if known is None else f"{embedded:,} of {int(known):,} customers with events"
    note = f"{of} have a {'new ' if known is None else ''}vector"
    return f"{note}; {unsound:,} vectors are zero or not finite" if unsound else note


def _model_notes(run: PublishedRun, measured: Measured) -> list[str]:
    """Where the run is the first of its model."""
    quality = measured.alignment
    if quality is None:
        return []
    return [f"model {run.model_version} begins a new baseline; turned onto its vectors, {alignment_text(quality)}"]


def _limits(config: Config) -> Limits:
    return Limits(*(getattr(config.monitor, name) for name in Limits._fields))
