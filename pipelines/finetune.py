"""Sequences, a pretrained encoder and somebody's labels -> a model for that task, beside the frozen vector's heads.

<root>/finetuned/<name>/
    result.json          scores on test customers, beside those of the frozen vector; customers, model, seconds
    predictions.parquet  customer_id, score, part: one row a labelled customer
    checkpoints/<model_version>/   encoder and head; caspr_spark/model/task.py loads it
"""

import json
import os
import shutil
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError
from pyspark.sql import SparkSession
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from caspr_spark.config import Config, Name
from caspr_spark.erase.requests import refuse_unfinished
from caspr_spark.errors import CasprError, ConfigError
from caspr_spark.evaluate.experiment import random_splits
from caspr_spark.evaluate.heads import Array, Data, logistic, ridge
from caspr_spark.evaluate.leaks import refuse_leaks
from caspr_spark.evaluate.questions import how_much, yes_or_no
from caspr_spark.lease import lease
from caspr_spark.manifest import SequenceManifest, read_manifest, sequences_folder
from caspr_spark.model.batch import known_columns
from caspr_spark.model.checkpoint import load_checkpoint
from caspr_spark.model.scoring import load_encoder
from caspr_spark.model.task import load_task
from caspr_spark.pretrain.job import Progress, epochs_of
from caspr_spark.pretrain.labels import is_yes_or_no, read_labels, with_keys
from caspr_spark.pretrain.launch import finetune as trained
from caspr_spark.pretrain.reader import Rows, SequenceReader
from caspr_spark.registry import FINETUNED, PREDICTIONS, check_fits, checkpoint_folder, replace_text
from pipelines.summary import Summary

RESULT = "result.json"
BATCH_SIZE = 512
AMOUNT_METRICS = ("rmse", "mae", "spearman")


class Frozen(NamedTuple):
    """What the vector gives without fine-tuning, on the same customers."""

    head: str
    test_predictions: Array
    seconds: float


def finetune(
    spark: SparkSession,
    config: Config,
    as_of: datetime,
    *,
    labels: Path,
    name: str,
    model_version: str,
    train: Literal["head", "encoder"],
    progress: Progress | None = None,
) -> Summary:
    """Train a model for the labels in the file `labels`, starting from `model_version`; nothing where that was done.

    `name`: of the folder below <root>/finetuned, whose result is replaced.

    Raises:
        ConfigError: the name is none, or the labels cannot be learned from or are of customers without a sequence.
        UnsafeError: the pretrained model saw events after `as_of`, or cannot read the sequences.
        CasprError: as `caspr_spark.pretrain.launch.pretrain`.
    """
    place, folder = finetuned_folder(config.root, name), sequences_folder(config.root, as_of)
    manifest = read_manifest(folder)
    pretrained = load_checkpoint(checkpoint_folder(config.root, model_version))
    refuse_leaks(cut=as_of, model=pretrained.model.as_of, sequences=manifest.as_of, embedding=manifest.as_of)
    check_fits(pretrained.model, manifest)
    customers = _in_parts(with_keys(read_labels(labels, as_of=as_of), folder, manifest), config)
    version = trained(
        folder,
        customers=customers,
        model=pretrained,
        train=train,
        encoder_rate_share=config.finetune.encoder_rate_share,
        pretrain=config.pretrain.model_copy(update=config.finetune.model_dump(exclude={"encoder_rate_share"})),
        seed=config.seed,
        root=Path(config.root),
        place=place,
        progress=progress,
    )
    result = read_result(place)
    is_new = result.get("checkpoint") != version or not (place / PREDICTIONS).is_file()
    if is_new:
        with lease(config.root, wait_seconds=config.refresh.wait_seconds):  # no erasure meanwhile: there are ids now
            refuse_unfinished(config.root)
            about = {"name": name, "train": train}
            result = about | _written(config, folder, manifest, customers, place, model_version, version)
            replace_text(place / RESULT, json.dumps(result, indent=1))
            _remove_others(place, version)
    return Summary("finetune", len(customers), len(customers), tuple(_notes(result, place)), changed=is_new)


def finetuned_folder(root: str | Path, name: str) -> Path:
    """Where a fine-tuned model lies. Raises ConfigError for what is no name."""
    try:
        TypeAdapter(Name).validate_python(name)
    except ValidationError:
        raise ConfigError(f"--name: expected a-z, 0-9 and _, a letter first, found {name!r}") from None
    return Path(root) / FINETUNED / name


def read_result(place: Path) -> dict[str, Any]:
    """result.json; empty where there is none. Raises CasprError where it cannot be read."""
    path = place / RESULT
    try:
        return dict(json.loads(path.read_text())) if path.exists() else {}
    except ValueError:
        raise CasprError(f"{path}: expected JSON, found something else; remove it, and run finetune again") from None


def _in_parts(customers: pd.DataFrame, config: Config) -> pd.DataFrame:
    """With the column part: training, validation or test."""
    (split,) = random_splits(
        customers["label"].to_numpy(),
        num_splits=1,
        test_share=config.evaluate.test_share,
        validation_share=config.evaluate.validation_share,
        seed=config.seed,
    )
    part = np.empty(len(customers), dtype=object)
    for name, positions in split._asdict().items():
        part[positions] = name
    return customers.assign(part=part)


def _written(
    config: Config,
    folder: Path,
    manifest: SequenceManifest,
    customers: pd.DataFrame,
    place: Path,
    model_version: str,
    version: str,
) -> dict[str, Any]:
    """Score the customers, write the predictions, and return what result.json holds."""
    started = time.monotonic()
    answers = _answers(folder, manifest, customers, checkpoint_folder(place, version))
    seconds = {"finetuned_scoring": time.monotonic() - started}
    _write_predictions(place, customers.assign(score=answers)[["customer_id", "score", "part"]])
    frozen = _frozen(folder, manifest, customers, checkpoint_folder(config.root, model_version), seed=config.seed)
    epochs = epochs_of(checkpoint_folder(place, version))
    seconds |= {"finetuned_training": sum(epoch.seconds for epoch in epochs), "frozen": frozen.seconds}
    is_test = (customers["part"] == "test").to_numpy()
    labels = customers["label"].to_numpy()
    return {
        "kind": "yes_or_no" if is_yes_or_no(labels) else "how_much",
        "as_of": manifest.as_of.isoformat(),
        "pretrained": model_version,
        "checkpoint": version,
        "epochs": len(epochs),
        "best_epoch": min(epochs, key=lambda epoch: epoch.judged_loss).epoch,
        "customers": customers["part"].value_counts().to_dict(),
        "label_mean": {part: float(rows.mean()) for part, rows in customers.groupby("part")["label"]},
        "frozen_head": frozen.head,
        "scores": {
            "finetuned": _scores(labels, labels[is_test], answers[is_test]),
            "frozen": _scores(labels, labels[is_test], frozen.test_predictions),
        },
        "seconds": {name: round(number, 3) for name, number in seconds.items()},
    }


def _scores(labels: Array, truth: Array, predicted: Array) -> dict[str, float]:
    """Of the test customers."""
    if is_yes_or_no(labels):
        return yes_or_no(truth, predicted, labels)
    found = how_much(truth, predicted, labels)
    return {metric: found[metric] for metric in AMOUNT_METRICS}


def _answers(folder: Path, manifest: SequenceManifest, customers: pd.DataFrame, checkpoint: Path) -> Array:
    """The fine-tuned model's, customer by customer."""
    task, as_of_us = load_task(checkpoint), round(manifest.as_of.timestamp() * 1_000_000)
    answers = np.empty(len(customers))
    for positions, rows in _batches(folder, manifest, customers):
        known = known_columns(rows, task.model.layout)
        answers[positions] = task.answers(known, as_of_us, threads=os.cpu_count() or 1)
    return answers


def _frozen(
    folder: Path, manifest: SequenceManifest, customers: pd.DataFrame, checkpoint: Path, *, seed: int
) -> Frozen:
    """The fixed head of the project on the pretrained encoder's vectors."""
    started = time.monotonic()
    encoder, as_of_us = load_encoder(checkpoint), round(manifest.as_of.timestamp() * 1_000_000)
    vectors = np.empty((len(customers), encoder.embedding_size))
    for positions, rows in _batches(folder, manifest, customers):
        known = known_columns(rows, encoder.manifest_requirements.layout)
        vectors[positions] = encoder.encode(known, as_of_us, threads=os.cpu_count() or 1)
    labels, part = customers["label"].to_numpy(), customers["part"].to_numpy()
    training, validation = (Data(vectors[part == name], labels[part == name]) for name in ("training", "validation"))
    head = logistic if is_yes_or_no(labels) else ridge
    with threadpool_limits(1):
        fitted = head(training, validation, vectors[part == "test"], seed=seed)
    return Frozen(head.__name__, fitted.test_predictions, time.monotonic() - started)


def _batches(
    folder: Path, manifest: SequenceManifest, customers: pd.DataFrame
) -> Iterator[tuple[NDArray[np.intp], Rows]]:
    """(positions in `customers`, columns of the sequence files), every customer once."""
    keys = customers["customer_key"].to_numpy()
    place_of = pd.Index(keys)
    reader = SequenceReader(folder, manifest, "validation", rank=0, size=1, keys=keys)
    for rows in reader.batches(BATCH_SIZE, shuffle_seed=None):
        yield place_of.get_indexer(rows["customer_key"]), rows


def _write_predictions(place: Path, predictions: pd.DataFrame) -> None:
    part = place / f".{PREDICTIONS}.part"
    predictions.to_parquet(part, index=False)
    os.replace(part, place / PREDICTIONS)


def _remove_others(place: Path, version: str) -> None:
    """The checkpoints that an earlier result of this name spoke of."""
    for path in (place / "checkpoints").glob("[!.]*"):
        if path.is_dir() and path.name != version:
            shutil.rmtree(path)


def _notes(result: dict[str, Any], place: Path) -> list[str]:
    in_parts = ", ".join(f"{result['customers'][part]:,} {part}" for part in ("training", "validation", "test"))
    finetuned, frozen, seconds = result["scores"]["finetuned"], result["scores"]["frozen"], result["seconds"]
    scores = [
        f"{metric}: {finetuned[metric]:.4f} fine-tuned ({result['train']}), {frozen[metric]:.4f} frozen vector "
        f"({result['frozen_head']})"
        for metric in finetuned
    ]
    return [
        f"model {result['checkpoint']} from {result['pretrained']}: best of {result['epochs']} epochs is "
        f"{result['best_epoch']}; customers: {in_parts}",
        *scores,
        f"seconds: {seconds['finetuned_training']:.1f} training and {seconds['finetuned_scoring']:.1f} scoring "
        f"fine-tuned, {seconds['frozen']:.1f} frozen vector and head",
        f"written to {place}",
    ]
