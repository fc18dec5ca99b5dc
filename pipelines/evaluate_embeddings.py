"""Step 7: published vectors and what happened next -> task_scores, against hand-made features."""

import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from caspr_spark.aliases import champion_of
from caspr_spark.config import Config, Task
from caspr_spark.evaluate.experiment import EMBEDDING, RFM, Outcome, paired_scores, too_few
from caspr_spark.evaluate.heads import Array
from caspr_spark.evaluate.leaks import refuse_leaks
from caspr_spark.evaluate.next_values import histories, ranking_scores, value_counts
from caspr_spark.evaluate.questions import HOW_MUCH, YES_OR_NO
from caspr_spark.evaluate.rfm import rfm_features
from caspr_spark.evaluate.significance import score_table
from caspr_spark.evaluate.tasks import newest_event_time, task_labels
from caspr_spark.lineage import fingerprint
from caspr_spark.manifest import read_manifest, sequences_folder
from caspr_spark.metrics import replace_rows
from caspr_spark.model.checkpoint import load_checkpoint
from caspr_spark.registry import checkpoint_folder, read_card, read_model, write_card
from caspr_spark.tables import create_table, last_commit_notes, read_table
from pipelines.ablated_vectors import ablated_vectors
from pipelines.contracts import event_contract
from pipelines.monitor_embeddings import published_run
from pipelines.recipe_vectors import recipe_vectors
from pipelines.stored_sequences import stored_sequences
from pipelines.summary import Summary
from schemas.embeddings import CUSTOMER_EMBEDDING_HISTORY
from schemas.task_scores import TASK_SCORES

_NEXT_VALUES = "next_values"
_QUESTIONS = {"churn": YES_OR_NO, "value": HOW_MUCH, "event": YES_OR_NO}


def evaluate_embeddings(
    spark: SparkSession, config: Config, as_of: datetime, *, model_version: str | None = None
) -> Summary:
    """Score every task of `evaluate.tasks` at the cut `as_of`, unless the same was scored before.

    The scores stand in TASK_SCORES and on the model's card. `model_version`: of the vectors; None for the champion's.

    Raises:
        UnsafeError: the vectors, or the model that made them, could have seen the future.
        CasprError: no run was published for this as_of.
    """
    model_version = model_version or champion_of(config.root)
    run_id = published_run(spark, config.root, as_of, model_version)
    history = read_table(spark, CUSTOMER_EMBEDDING_HISTORY, config.root)
    run = history.where(F.col("run_id") == run_id).select("customer_id", "embedding", "as_of")
    _refuse_leaks(config.root, run, model_version=model_version, cut=as_of)
    events = read_table(spark, event_contract(config), config.root)
    events_made_from = last_commit_notes(spark, event_contract(config), config.root).get("made_from")

    num_scored = task_score_table(spark, config, as_of, model_version)["task"].value_counts().to_dict()
    notes, changed, num_customers, num_scores = [], False, 0, 0
    for name, task in config.evaluate.tasks.items():
        end = as_of + timedelta(days=task.horizon_days)
        newest = newest_event_time(events, source=task.source).first()
        if newest is None or newest["microseconds"] is None or _utc(newest["microseconds"]) < end:
            notes.append(f"{name}: skipped, the labels up to {end:%Y-%m-%d} are not known yet")
            continue
        made_from = fingerprint(
            run=run_id,
            events=events_made_from,
            task=task.model_dump(),
            evaluate=config.evaluate.model_dump(exclude={"tasks"}),
            seed=config.seed,
        )
        place = evaluation_file(config.root, name, as_of, model_version)
        known = read_evaluation(place)
        if known.get("made_from") == made_from and num_scored.get(name) == known["num_scores"]:
            num_customers, num_scores = num_customers + known["num_customers"], num_scores + known["num_scores"]
            continue
        num_labelled, outcome = _outcome(spark, events, run, config, task, cut=as_of, model_version=model_version)
        if isinstance(outcome, str):
            notes.append(f"{name}: skipped, {outcome}")
            continue
        scores = _score_rows(spark, outcome.scores, task=name, as_of=as_of, model_version=model_version)
        replace_rows(scores, TASK_SCORES, config.root, {"task": name, "as_of": as_of, "model_version": model_version})
        about = {"num_customers": num_labelled, "num_scores": len(outcome.scores)}
        _write_json(place, {"made_from": made_from, **about, "curves": outcome.curves})
        changed, num_customers = True, num_customers + num_labelled
        num_scores += len(outcome.scores)
    if changed:
        _note_on_card(config.root, model_version, task_score_table(spark, config, as_of, model_version), as_of)
    return Summary("evaluate", num_customers, num_scores, tuple(notes), changed=changed)


def labelled_customers(events: DataFrame, run: DataFrame, *, task: Task, cut: datetime) -> DataFrame:
    """The population of a task that has a vector: customer_id, label, rule, embedding and the RFM features.

    Of next_values: label is whether any value comes within the horizon, rule is 0.
    """
    if task.kind == _NEXT_VALUES:
        counted = value_counts(events, **_what_comes(task), cut=cut)
        labels = counted.groupBy("customer_id").agg((F.sum("num_after") > 0).cast("double").alias("label"))
        labels = labels.withColumn("rule", F.lit(0.0))
    else:
        labels = task_labels(events, cut=cut, **task.model_dump(exclude={"attribute"}))
    vectors = run.select("customer_id", "embedding")
    others = [name for name in dict.fromkeys((task.event, task.after)) if name and name != task.source]
    features = rfm_features(events, source=task.source, money=task.money, cut=cut, others=others)
    return labels.join(vectors, on="customer_id", how="inner").join(features, on="customer_id", how="inner")


def task_score_table(
    spark: SparkSession, config: Config, as_of: datetime, model_version: str | None = None
) -> pd.DataFrame:
    """TASK_SCORES of a model's vectors (None: the champion's) as of a time; empty where nothing was scored."""
    model_version = model_version or champion_of(config.root)
    create_table(spark, TASK_SCORES, config.root)
    scores = read_table(spark, TASK_SCORES, config.root)
    return scores.where((F.col("as_of") == F.lit(as_of)) & (F.col("model_version") == model_version)).toPandas()


def evaluation_file(root: str, task: str, as_of: datetime, model_version: str) -> Path:
    """Where a task's ROC curves lie, for the report, with the fingerprint of what they were made from."""
    return Path(root) / "report" / f"roc_{task}_{as_of:%Y%m%dT%H%M%SZ}_{model_version}.json"


def read_evaluation(place: Path) -> dict[str, Any]:
    """made_from, num_customers, num_scores and curves; empty where there are none."""
    return dict(json.loads(place.read_text())) if place.exists() else {}


def _refuse_leaks(root: str, run: DataFrame, *, model_version: str, cut: datetime) -> None:
    newest = run.agg(F.unix_micros(F.max("as_of")).alias("microseconds")).first()
    assert newest is not None  # an aggregate without groups has one row
    refuse_leaks(
        cut=cut,
        model=read_model(checkpoint_folder(root, model_version)).as_of,
        sequences=read_manifest(sequences_folder(root, cut)).as_of,
        embedding=_utc(newest["microseconds"]),
    )


def _outcome(
    spark: SparkSession,
    events: DataFrame,
    run: DataFrame,
    config: Config,
    task: Task,
    *,
    cut: datetime,
    model_version: str,
) -> tuple[int, Outcome | str]:
    """Number of customers asked about, and their scores; in place of these, why there are none."""
    customers = labelled_customers(events, run, task=task, cut=cut).toPandas().sort_values("customer_id")
    labels = customers["label"].to_numpy()
    question = _QUESTIONS.get(task.kind, HOW_MUCH)  # of next_values, enough customers to whom any value comes
    if too_few(labels, question):
        found = f"{int((labels > 0).sum())} of {len(customers)} customers"
        return len(customers), f"{found} have the label, too few to split"
    hand_made = customers.drop(columns=["customer_id", "label", "rule", "embedding"]).to_numpy(dtype=float)
    vectors = np.vstack(customers["embedding"].to_list()).astype(float)
    features: dict[str, Array] = {RFM: hand_made, EMBEDDING: vectors}
    if config.evaluate.ablations or config.evaluate.recipes:
        checkpoint = load_checkpoint(checkpoint_folder(config.root, model_version))
        asked = customers["customer_id"].to_list()
        stored = stored_sequences(config, cut, customers=asked, layout=checkpoint.model.layout)
        features |= ablated_vectors(spark, config, checkpoint, stored) if config.evaluate.ablations else {}
        features |= recipe_vectors(config, cut, stored)
    how: dict[str, Any] = config.evaluate.model_dump(include={"num_splits", "test_share", "validation_share"})
    how["seed"] = config.seed
    if task.kind == _NEXT_VALUES:
        counted = value_counts(events, **_what_comes(task), cut=cut).toPandas()
        return len(customers), ranking_scores(features, histories(counted, customers["customer_id"].to_list()), **how)
    rule = customers["rule"].to_numpy()
    how["label_counts"] = config.evaluate.label_counts
    return len(customers), paired_scores(features, labels, rule=rule, question=question, **how)


def _what_comes(task: Task) -> dict[str, Any]:
    return task.model_dump(include={"source", "attribute", "active_days", "horizon_days"})


def _score_rows(
    spark: SparkSession, scores: pd.DataFrame, *, task: str, as_of: datetime, model_version: str
) -> DataFrame:
    """Scores as TASK_SCORES."""
    columns = "arm string, head string, split int, metric string, value double"
    return spark.createDataFrame(list(scores.itertuples(index=False, name=None)), columns).select(
        F.lit(task).alias("task"), F.lit(as_of).alias("as_of"), F.lit(model_version).alias("model_version"), "*"
    )


def _note_on_card(root: str, model_version: str, scores: pd.DataFrame, as_of: datetime) -> None:
    """The scores by the head that was chosen on validation."""
    card = read_card(root, model_version)
    if card is None:
        return
    table = score_table(scores)
    columns = ["task", "metric", "arm", "mean", "standard_error"]
    best = table[table["head"] == "best"][columns].itertuples(index=False, name=None)
    found = [{"as_of": as_of.isoformat(), **dict(zip(columns, row, strict=True))} for row in best]
    others = [row for row in card.scores if row["as_of"] != as_of.isoformat()]
    in_order = sorted([*others, *found], key=lambda row: (row["as_of"], row["task"], row["metric"], row["arm"]))
    write_card(root, card.model_copy(update={"scores": tuple(in_order)}))


def _write_json(place: Path, content: dict[str, Any]) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    part = place.with_suffix(".part")
    part.write_text(json.dumps(content))
    os.replace(part, place)


def _utc(microseconds: int) -> datetime:
    return datetime.fromtimestamp(0, UTC) + timedelta(microseconds=microseconds)
