"""The report: everything that the tables say about one published run, as one HTML page."""

import json
import os
from dataclasses import asdict
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from caspr_spark import __version__
from caspr_spark.aliases import champion_of
from caspr_spark.config import Config
from caspr_spark.evaluate.significance import score_table
from caspr_spark.lineage import fingerprint
from caspr_spark.manifest import sequences_folder
from caspr_spark.monitor import pictures, samples
from caspr_spark.monitor.drift import QUANTILES
from caspr_spark.monitor.report import Account, Neighbour, Page, Shown, made_from, nearest, page_html, places
from caspr_spark.registry import CURVE, checkpoint_folder
from caspr_spark.sequences.files import has_manifest
from caspr_spark.session import local_frame
from caspr_spark.tables import last_commit_notes, read_table, table_exists
from pipelines.contracts import event_contract
from pipelines.drift_section import drift_section
from pipelines.evaluate_embeddings import evaluation_file, read_evaluation, task_score_table
from pipelines.measured_run import PublishedRun, run_with_sequences
from pipelines.model_section import model_section
from pipelines.monitor_embeddings import published_run
from pipelines.summary import Summary
from schemas.embeddings import CUSTOMER_EMBEDDING_HISTORY
from schemas.run_metrics import RUN_METRICS
from schemas.vocabulary import VOCABULARY

INDEX_FILE = "index.html"
_NUM_CHOSEN, _NUM_NEIGHBOURS, _NUM_VALUES = 3, 3, 5
_CHOSEN_AT = (0.3, 0.6, 0.9)
"""The customers whose neighbours are shown stand here in the order of money."""


def write_report(spark: SparkSession, config: Config, as_of: datetime) -> Summary:
    """Write `report/<as_of>.html` below the root, unless it was made from the same inputs.

    `report/index.html` is the same page where no report is of a later time.

    Raises:
        CasprError: no run was published for this as_of.
    """
    model_version = champion_of(config.root)
    run_id = published_run(spark, config.root, as_of, model_version)
    metrics = _metrics(spark, config.root, as_of, run_id)
    scores = task_score_table(spark, config, as_of)
    curve = checkpoint_folder(config.root, model_version) / CURVE
    evaluations = {
        name: found
        for name in config.evaluate.tasks
        if (found := read_evaluation(evaluation_file(config.root, name, as_of, model_version)))
    }
    models = model_section(spark, config, as_of)
    drift = drift_section(spark, config, run_id=run_id, as_of=as_of)
    inputs = fingerprint(
        version=__version__,
        run=run_id,
        events=last_commit_notes(spark, event_contract(config), config.root).get("made_from"),
        metrics=metrics.values.tolist(),
        scores=sorted(map(str, scores.values.tolist())),
        curve=curve.read_text() if curve.exists() else "",
        evaluations=evaluations,
        drift=asdict(drift),
        models=models,
        settings=[config.dataset, config.report.model_dump(), config.monitor.model_dump(), config.seed],
    )
    place = report_file(config.root, as_of)
    if place.exists() and made_from(place.read_text(encoding="utf-8")) == inputs:
        return Summary("report", 1, 1, changed=False)

    history = read_table(spark, CUSTOMER_EMBEDDING_HISTORY, config.root)
    run = history.where(F.col("run_id") == run_id)
    seen = _seen(spark, config, as_of, run_id=run_id, model_version=model_version)
    lengths = run.select("num_events").toPandas()["num_events"]
    customers = _customers(run, seen, config, as_of)
    is_refresh = seen is not None and seen.kind == "refresh"
    shown = {
        "events": _events_picture(spark, config, as_of, is_refresh=is_refresh),
        "lengths": Shown(pictures.sequence_lengths(lengths, max_events=config.sequences.max_events)),
        "curve": _curve_picture(curve),
        "map": _map_picture(customers, config),
        "drift": drift.distances,
        "drift_runs": drift.scores,
        **_roc_pictures(evaluations, scores),
    }
    page = Page(
        facts={
            "data set": config.dataset,
            "as of (UTC, exclusive)": f"{as_of:%Y-%m-%d %H:%M}",
            "customers embedded": f"{len(lengths):,}",
            "run": run_id,
            "model": model_version,
        },
        models=models,
        made_from=inputs,
        events_note=f"Shown are the last {config.report.refresh_days} days." if is_refresh else "",
        max_events=config.sequences.max_events,
        accounts=_accounts(metrics),
        pictures=shown,
        drift_text=drift.text,
        drift_quantiles=_drift_quantiles(metrics),
        drift_charts=drift.charts,
        drift_segments=drift.segments,
        neighbours=_neighbours(spark, customers, seen, config),
        money_name=config.report.money or "money",
        scores=score_table(scores).to_dict("records") if len(scores) else [],
        unknown_shares=_of_metric(metrics, "unknown_share"),
        missing={
            "accounts": "No row account: build_events has not run with this table of metrics.",
            "neighbours": "No neighbours: fewer than two customers have a vector, or the run's sequences were removed.",
            "scores": "No scores: no task is configured, or its labels were not known yet, or evaluate has not run.",
            "unknown_shares": "No shares: no categorical attribute has a value, or monitor has not run.",
        },
    )
    html = page_html(page)
    _write_text(place, html)
    if place == max(place.parent.glob("[0-9]*.html")):
        _write_text(place.parent / INDEX_FILE, html)
    return Summary("report", len(lengths), 1, changed=True)


def report_file(root: str, as_of: datetime) -> Path:
    """Where the report of a time lies."""
    return Path(root) / "report" / f"{as_of:%Y%m%dT%H%M%SZ}.html"


def _metrics(spark: SparkSession, root: str, as_of: datetime, run_id: str) -> pd.DataFrame:
    """stage, metric, key, value of the run, and of the events stage at the newest as_of that has them."""
    if not table_exists(spark, RUN_METRICS, root):
        return pd.DataFrame(columns=["stage", "metric", "key", "value"])
    metrics = read_table(spark, RUN_METRICS, root)
    of_events = metrics.where((F.col("stage") == "events") & (F.col("as_of") <= F.lit(as_of)))
    newest = of_events.join(of_events.agg(F.max("as_of").alias("as_of")), on="as_of", how="left_semi")
    of_run = metrics.where((F.col("as_of") == F.lit(as_of)) & (F.col("run_id") == run_id))
    columns = ["stage", "metric", "key", "value"]
    return newest.unionByName(of_run).select(*columns).toPandas().sort_values(columns, ignore_index=True)


def _of_metric(metrics: pd.DataFrame, name: str) -> dict[str, float]:
    found = metrics[metrics["metric"] == name]
    return dict(zip(found["key"], found["value"], strict=True))


def _accounts(metrics: pd.DataFrame) -> list[Account]:
    counts = {ending: _of_metric(metrics, f"rows_{ending}") for ending in ("read", "taken", "duplicate", "rejected")}
    rejected, erased = _of_metric(metrics, "rows_rejected_by_reason"), _of_metric(metrics, "rows_erased")
    accounts = []
    for source in sorted(counts["read"], key=lambda name: -counts["read"][name]):
        numbers = {ending: int(of_source.get(source, 0)) for ending, of_source in counts.items()}
        prefix = f"{source}: "
        reasons = {key.removeprefix(prefix): int(num) for key, num in rejected.items() if key.startswith(prefix)}
        if source in erased:  # neither taken nor rejected
            reasons["of erased customers, beside these"] = int(erased[source])
        text = ", ".join(f"{reason} {num:,}" for reason, num in reasons.items())
        accounts.append(Account(source=source, reasons=text, **numbers))
    return accounts


def _seen(
    spark: SparkSession, config: Config, as_of: datetime, *, run_id: str, model_version: str
) -> PublishedRun | None:
    """The run with what the model saw of its customers; None where `maintain` has removed that."""
    if not has_manifest(sequences_folder(config.root, as_of)):
        return None
    return run_with_sequences(spark, config.root, as_of, run_id=run_id, model_version=model_version)


def _events_picture(spark: SparkSession, config: Config, as_of: datetime, *, is_refresh: bool) -> Shown:
    """Of all time, or of the last days where a refresh is reported: what it costs must not grow with the history."""
    events = read_table(spark, event_contract(config), config.root)
    if is_refresh:
        events = events.where(F.col("event_time") >= F.lit(as_of - timedelta(days=config.report.refresh_days)))
    daily = samples.daily_events(events).toPandas()
    if daily.empty:
        return Shown(missing="No picture: there are no events.")
    return Shown(pictures.events_over_time(daily, as_of=as_of))


def _curve_picture(curve: Path) -> Shown:
    if not curve.exists() or not (lines := curve.read_text().splitlines()):
        return Shown(missing="No picture: the checkpoint has no training curve.")
    return Shown(pictures.training_curve(pd.DataFrame([json.loads(line) for line in lines])))


def _customers(run: DataFrame, seen: PublishedRun | None, config: Config, as_of: datetime) -> pd.DataFrame:
    """The sample that is drawn, ordered by customer; vectors that are not finite are left out."""
    if seen is None or seen.sequences is None:
        return pd.DataFrame(columns=["customer_id", "embedding", "num_events", "money", "recency_days"])
    sample = samples.sampled_customers(
        run, seen.sequences, seen.layout, money=config.report.money, as_of=as_of, size=config.report.max_points
    )
    customers = sample.toPandas().sort_values("customer_id", ignore_index=True)
    is_finite = [bool(np.isfinite(vector).all()) for vector in customers["embedding"]]
    return customers[is_finite].reset_index(drop=True)


def _vectors(customers: pd.DataFrame) -> Any:
    return np.vstack(customers["embedding"].to_list()).astype(float)


def _map_picture(customers: pd.DataFrame, config: Config) -> Shown:
    if len(customers) < 3:
        return Shown(
            missing="No picture: fewer than three customers have a vector, or the run's sequences were removed."
        )
    column, name = ("money", config.report.money) if config.report.money else ("num_events", "number of events")
    return Shown(
        pictures.customer_map(
            places(_vectors(customers), seed=config.seed),
            money=customers[column].to_numpy(dtype=float),
            money_name=name,
            recency_days=customers["recency_days"].to_numpy(dtype=float),
        )
    )


def _neighbours(
    spark: SparkSession, customers: pd.DataFrame, seen: PublishedRun | None, config: Config
) -> list[list[Neighbour]]:
    """The chosen customers, each followed by its nearest in the sample."""
    if len(customers) < 2 or seen is None or seen.sequences is None:
        return []
    vectors, by_money = _vectors(customers), customers.sort_values(["money", "customer_id"]).index
    chosen = list(dict.fromkeys(int(by_money[int(share * (len(by_money) - 1))]) for share in _CHOSEN_AT))
    groups = [[(position, 1.0), *nearest(vectors, position, num=_NUM_NEIGHBOURS)] for position in chosen]
    values: dict[str, list[tuple[str, int]]] = {}
    if config.report.describe_by:
        shown = customers.loc[sorted({position for group in groups for position, _ in group}), ["customer_id"]]
        typical = samples.typical_values(
            seen.sequences,
            seen.layout,
            read_table(spark, VOCABULARY, config.root),
            local_frame(spark, [(customer,) for customer in shown["customer_id"]], "customer_id string"),
            attribute=config.report.describe_by,
            num_values=_NUM_VALUES,
        )
        for row in typical.orderBy("customer_id", "rank").collect():
            values.setdefault(row["customer_id"], []).append((row["value"], int(row["times"])))
    return [
        [_neighbour(customers.loc[position], similarity, values) for position, similarity in group] for group in groups
    ]


def _neighbour(customer: Any, similarity: float, values: dict[str, list[tuple[str, int]]]) -> Neighbour:
    return Neighbour(
        customer_id=customer["customer_id"],
        similarity=similarity,
        money=float(customer["money"]),
        num_events=int(customer["num_events"]),
        recency_days=float(customer["recency_days"]),
        values=tuple(values.get(customer["customer_id"], [])),
    )


def _roc_pictures(evaluations: dict[str, dict[str, Any]], scores: pd.DataFrame) -> dict[str, Shown]:
    best = scores[(scores["head"] == "best") & (scores["metric"] == "auroc")]
    means = best.groupby(["task", "arm"])["value"].mean()
    return {
        f"roc: {task}": Shown(pictures.roc_curves(found["curves"], auroc=means[task].to_dict()))
        for task, found in evaluations.items()
        if task in means
    }


def _drift_quantiles(metrics: pd.DataFrame) -> dict[str, float]:
    of_distance = _of_metric(metrics, "distance")
    return {f"{share:.0%}": of_distance[name] for name, share in QUANTILES.items() if name in of_distance}


def _write_text(place: Path, text: str) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    part = place.with_suffix(".part")
    part.write_text(text, encoding="utf-8")
    os.replace(part, place)
