"""Step 7: published vectors and what happened next -> task_scores, against hand-made features."""

import json
import os
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from caspr_spark.aliases import champion_of
from caspr_spark.config import Config, Task
from caspr_spark.evaluate.experiment import EMBEDDING, RFM, Outcome, Vectors, paired_scores, too_few
from caspr_spark.evaluate.heads import Array
from caspr_spark.evaluate.leaks import newest_sequence_time, refuse_leaks, telling_alone
from caspr_spark.evaluate.next_values import histories, ranking_scores
from caspr_spark.evaluate.questions import HOW_MUCH, WHICH_NUMBER, YES_OR_NO, Question
from caspr_spark.evaluate.significance import score_table
from caspr_spark.evaluate.tasks import newest_event_time
from caspr_spark.lineage import fingerprint
from caspr_spark.manifest import read_manifest, sequences_folder
from caspr_spark.metrics import replace_rows
from caspr_spark.registry import checkpoint_folder, read_card, read_model, write_card
from caspr_spark.session import local_frame
from caspr_spark.tables import create_table, last_commit_notes, read_table
from pipelines.contracts import event_contract, profile_contract
from pipelines.encoded_anew import EncodedAnew
from pipelines.known_profiles import known_profiles
from pipelines.labelled_customers import ATTRIBUTE, NO_FEATURES, checked_counts, checked_customers
from pipelines.monitor_embeddings import published_run
from pipelines.summary import Summary
from schemas.embeddings import CUSTOMER_EMBEDDING_HISTORY
from schemas.task_scores import TASK_SCORES


class _Found(NamedTuple):
    """Of one task: customers asked about, their scores (None: there are none, a note says why), notes for the user."""

    num_customers: int
    outcome: Outcome | None
    notes: list[str]


def evaluate_embeddings(
    spark: SparkSession, config: Config, as_of: datetime, *, model_version: str | None = None
) -> Summary:
    """Score every task of `evaluate.tasks` at the cut `as_of`, unless the same was scored before.

    The scores stand in TASK_SCORES and on the model's card. `model_version`: of the vectors; None for the champion's.

    Raises:
        UnsafeError: features, vectors or the model that made them could have seen the future.
        CasprError: no run was published for this as_of.
    """
    model_version = model_version or champion_of(config.root)
    run_id = published_run(spark, config.root, as_of, model_version)
    history = read_table(spark, CUSTOMER_EMBEDDING_HISTORY, config.root)
    run = history.where(F.col("run_id") == run_id).select("customer_id", "embedding", "as_of", "last_event_time")
    _refuse_leaks(spark, config.root, run, model_version=model_version, cut=as_of)
    events = read_table(spark, event_contract(config), config.root)
    events_made_from = last_commit_notes(spark, event_contract(config), config.root).get("made_from")

    anew = EncodedAnew(
        spark,
        config,
        as_of,
        model_version=model_version,
        customers=lambda: run.select("customer_id").toPandas()["customer_id"].to_list(),
    )
    num_scored = task_score_table(spark, config, as_of, model_version)["task"].value_counts().to_dict()
    notes, changed, num_customers, num_scores = [], False, 0, 0
    for name, task in config.evaluate.tasks.items():
        if task.horizon_days is not None:
            end = as_of + timedelta(days=task.horizon_days)
            newest = newest_event_time(events, source=task.source).first()
            if newest is None or newest["microseconds"] is None or _utc(newest["microseconds"]) < end:
                notes.append(f"{name}: skipped, the labels up to {end:%Y-%m-%d} are not known yet")
                continue
        made_from = fingerprint(
            run=run_id,
            events=events_made_from,
            profiles=_profiles_made_from(spark, config) if task.kind == ATTRIBUTE else None,
            task=task.model_dump(),
            evaluate=config.evaluate.model_dump(exclude={"tasks"}),
            seed=config.seed,
        )
        place = evaluation_file(config.root, name, as_of, model_version)
        known = read_evaluation(place)
        if known.get("made_from") == made_from and num_scored.get(name) == known["num_scores"]:
            num_customers, num_scores = num_customers + known["num_customers"], num_scores + known["num_scores"]
            notes += known["notes"]
            continue
        found = _outcome(spark, events, run, config, anew, name, cut=as_of)
        notes += found.notes
        if found.outcome is None:
            continue
        scores = _score_rows(spark, found.outcome.scores, task=name, as_of=as_of, model_version=model_version)
        replace_rows(scores, TASK_SCORES, config.root, {"task": name, "as_of": as_of, "model_version": model_version})
        about = {"num_customers": found.num_customers, "num_scores": len(found.outcome.scores), "notes": found.notes}
        _write_json(place, {"made_from": made_from, **about, "curves": found.outcome.curves})
        changed, num_customers = True, num_customers + found.num_customers
        num_scores += len(found.outcome.scores)
    if changed:
        _note_on_card(config.root, model_version, task_score_table(spark, config, as_of, model_version), as_of)
    return Summary("evaluate", num_customers, num_scores, tuple(notes), changed=changed)


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
    """made_from, num_customers, num_scores, notes and curves; empty where there are none."""
    return dict(json.loads(place.read_text())) if place.exists() else {}


def _refuse_leaks(spark: SparkSession, root: str, run: DataFrame, *, model_version: str, cut: datetime) -> None:
    ages = [F.unix_micros(F.max(name)).alias(name) for name in ("as_of", "last_event_time")]
    newest = run.agg(*ages).first()
    assert newest is not None  # an aggregate without groups has one row
    folder = sequences_folder(root, cut)
    manifest = read_manifest(folder)
    files = [str((folder / file.path).resolve()) for file in manifest.files]
    in_sequences = newest_sequence_time(spark.read.parquet(*files)).first() if files else None
    last_times = {
        "vectors": newest["last_event_time"],
        "sequences": in_sequences and in_sequences["microseconds"],
    }
    refuse_leaks(
        cut=cut,
        model=read_model(checkpoint_folder(root, model_version)).as_of,
        sequences=manifest.as_of,
        embedding=_utc(newest["as_of"]),
        newest_events={name: None if time is None else _utc(time) for name, time in last_times.items()},
    )


def _profiles_made_from(spark: SparkSession, config: Config) -> Any:
    notes = last_commit_notes(spark, profile_contract(config), config.root)
    return notes.get("made_from") or notes.get("version")


def _question(task: Task) -> Question:
    """Of a ranking: whether there are enough customers to whom any value comes."""
    if task.kind == ATTRIBUTE:
        return WHICH_NUMBER if task.values is None else YES_OR_NO
    return HOW_MUCH if task.kind == "value" or task.ranks else YES_OR_NO


def _outcome(
    spark: SparkSession,
    events: DataFrame,
    run: DataFrame,
    config: Config,
    anew: EncodedAnew,
    name: str,
    *,
    cut: datetime,
) -> _Found:
    """What is found for the task `name`. Raises UnsafeError where its features know the future."""
    task = config.evaluate.tasks[name]
    is_attribute = task.kind == ATTRIBUTE
    profiles = known_profiles(spark, config, cut) if is_attribute else None
    customers = checked_customers(events, run, name=name, task=task, cut=cut, profiles=profiles)
    labels, asked = customers["label"].to_numpy(), customers["customer_id"].to_list()
    question = _question(task)
    if too_few(labels, question):
        num_labelled = len(labels) if question == WHICH_NUMBER else int((labels > 0).sum())
        found = f"{num_labelled} of {len(customers)} customers"
        return _Found(len(customers), None, [f"{name}: skipped, {found} have the label, too few to split"])
    hand_made = customers.drop(columns=NO_FEATURES)
    vectors = np.vstack(customers["embedding"].to_list()).astype(float)
    made = anew.of(asked, hides_profiles=is_attribute)
    vectors = vectors if made.own is None else made.own
    own: dict[str, Array] = {RFM: hand_made.to_numpy(dtype=float), EMBEDDING: vectors}
    names = {RFM: list(hand_made.columns), EMBEDDING: [f"number {place}" for place in range(vectors.shape[1])]}
    notes = _suspicions(name, own, names, labels) if question == YES_OR_NO else []
    features: dict[str, Vectors] = {**own, **made.others}
    how: dict[str, Any] = config.evaluate.model_dump(include={"num_splits", "test_share", "validation_share"})
    how |= {"seed": config.seed, "folds": made.folds}
    if task.ranks:
        counted = checked_counts(events, name=name, task=task, cut=cut)
        return _Found(len(customers), ranking_scores(features, histories(counted, asked), **how), notes)
    rule = np.full(len(labels), labels.mean()) if is_attribute else customers["rule"].to_numpy()
    how["label_counts"] = config.evaluate.label_counts
    return _Found(len(customers), paired_scores(features, labels, rule=rule, question=question, **how), notes)


def _suspicions(
    task: str, features: Mapping[str, Array], names: Mapping[str, Sequence[str]], labels: Array
) -> list[str]:
    """A note for each number that tells the label alone. `names`: arm -> of the columns of its features."""
    return [
        f"warning: {task}: {arm} feature {names[arm][place]} alone tells the label (AUROC {area:.3f}): is it known "
        "before the cut?"
        for arm, values in features.items()
        for place, area in telling_alone(values, labels).items()
    ]


def _score_rows(
    spark: SparkSession, scores: pd.DataFrame, *, task: str, as_of: datetime, model_version: str
) -> DataFrame:
    """Scores as TASK_SCORES."""
    columns = "arm string, head string, split int, metric string, value double"
    return local_frame(spark, scores.itertuples(index=False, name=None), columns).select(
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
