"""Models that are known by name alone: registered below a root, without weights or training."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from caspr_spark.aliases import change_aliases, with_trained
from caspr_spark.lineage import file_sha256
from caspr_spark.manifest import Layout
from caspr_spark.registry import (
    CURVE,
    INDEX,
    MODEL,
    WEIGHTS,
    Index,
    ModelCard,
    ModelRecord,
    checkpoint_folder,
    version_of,
    write_card,
)
from tests.pretrain.planted import model_section

EMPTY = Layout(max_events=4, categorical=(), sets=(), numerical=(), profile_categorical=(), profile_numerical=())
FIRST = datetime(2017, 10, 1, tzinfo=UTC)


def register(
    root: str | Path,
    version: str | None = None,
    *,
    as_of: datetime = FIRST,
    layout: Layout = EMPTY,
    embedding_size: int = 2,
    **about: Any,
) -> str:
    """A checkpoint with weights of no network, named as training names it: the first champion, others challenger.

    Without `version` the name is the hash of the content, as in life.
    """
    record = ModelRecord.model_validate(
        {
            "section": model_section(embedding_size=embedding_size),
            "layout": layout,
            "scaling": {},
            "vocabulary_version": "v",
            "as_of": as_of,
            "fingerprint": version or "f",
            "seed": 1,
        }
        | about
    )
    part = checkpoint_folder(root, ".new")
    part.mkdir(parents=True)
    (part / WEIGHTS).write_bytes(b"weights")
    (part / MODEL).write_text(record.model_dump_json())
    epoch = {"epoch": 1, "training_loss": 1.0, "validation_loss": 1.1}
    (part / CURVE).write_text(json.dumps(epoch) + "\n")
    sha256 = {name: file_sha256(part / name) for name in (WEIGHTS, MODEL, CURVE)}
    version = version or version_of(sha256)
    (part / INDEX).write_text(Index(model_version=version_of(sha256), sha256=sha256).model_dump_json())
    part.rename(checkpoint_folder(root, version))
    write_card(root, card_of(version, as_of))
    change_aliases(root, lambda aliases: with_trained(aliases, str(version)))
    return version


def card_of(version: str, as_of: datetime) -> ModelCard:
    return ModelCard(
        model_version=version,
        program="0",
        parent=None,
        as_of=as_of,
        customers=9,
        validation_customers=1,
        events=90,
        vocabulary_version="v",
        config_hash="c",
        settings={"seed": 1},
        objective="masked_recovery",
        epochs=1,
        best_epoch=1,
        training_loss=1.0,
        validation_loss=1.1,
    )
