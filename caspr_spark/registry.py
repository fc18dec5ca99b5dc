"""The model registry: which checkpoints are kept, and what each of them is. No torch is needed to look.

<root>/checkpoints/
    <model_version>/    one folder a model; caspr_spark/model/checkpoint.py writes and loads it
        model.json          what the weights mean: model section, layout, scaling, vocabulary version, as_of, ...
        checkpoint.json     SHA-256 of the files that the version is a hash of
        model_card.json     what it was trained on, how well, and its scores; written for people, not hashed
    aliases.json        which of them is champion or challenger, see caspr_spark/aliases.py
"""

import fcntl
import hashlib
import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from caspr_spark.config import ModelSection
from caspr_spark.errors import CasprError, UnsafeError
from caspr_spark.lineage import file_sha256
from caspr_spark.manifest import Fit, Layout, Scaling

WEIGHTS, MODEL, CURVE, INDEX = "weights.safetensors", "model.json", "curve.jsonl", "checkpoint.json"
CARD = "model_card.json"
FINETUNED, PREDICTIONS = "finetuned", "predictions.parquet"
"""<root>/finetuned/<name>/ holds a model for one task, and what it says of customers; see pipelines/finetune.py."""
TRAINING_LOCK = ".lock"
"""In the folder of the checkpoints; held (flock) for as long as a model is trained."""
_MEND = "restore it, pretrain again, or take another model into use (caspr-spark models)"


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelRecord(_Record):
    """model.json: what the weights mean. They read sequences of their own vocabulary, or of one grown from it."""

    section: ModelSection
    layout: Layout
    scaling: dict[str, Scaling]
    vocabulary_version: str
    as_of: datetime
    """Of the sequences that the model was trained on."""
    fingerprint: str
    """Of the inputs and settings of the training."""
    seed: int


class Index(_Record):
    """checkpoint.json: file name -> SHA-256."""

    model_version: str
    sha256: dict[str, str]


class ModelCard(_Record):
    """model_card.json: what a model is, for whoever has to choose one."""

    model_version: str
    program: str
    """Version of caspr-spark that trained it."""
    parent: str | None
    """The champion of that time, from whose vocabulary this one grew; None for the first model."""
    as_of: datetime
    customers: int
    """Training customers."""
    validation_customers: int
    events: int
    """Of all of them, in their sequences."""
    vocabulary_version: str
    config_hash: str
    """Of the whole configuration but where the data lie and how they are run."""
    settings: dict[str, Any]
    """The sections sequences, model and pretrain, and the seed."""
    objective: str
    epochs: int
    best_epoch: int
    """The one whose weights were kept."""
    training_loss: float
    validation_loss: float | None
    """Of the best epoch; 1.0 is the best constant guess."""
    own_heads: tuple[dict[str, Any], ...] = ()
    """Of objective future: how its own guesses did on validation customers; see pretrain/own_heads.py."""
    scores: tuple[dict[str, Any], ...] = ()
    """What `evaluate` found, newest as_of last: task, as_of, metric, arm, mean, standard_error."""

    @property
    def loss(self) -> float:
        """What early stopping looked at."""
        return self.training_loss if self.validation_loss is None else self.validation_loss


def checkpoints_folder(root: str | Path) -> Path:
    """Where all checkpoints of a data root lie."""
    return Path(root) / "checkpoints"


def checkpoint_folder(root: str | Path, version: str) -> Path:
    """Where one checkpoint lies."""
    return checkpoints_folder(root) / version


def kept_models(root: str | Path) -> dict[str, ModelRecord | None]:
    """model_version -> what its weights mean, None where that is damaged; by the as_of of training, newest last."""
    found: dict[str, ModelRecord | None] = {}
    for path in sorted(checkpoints_folder(root).glob(f"[!.]*/{INDEX}")):
        try:
            found[path.parent.name] = read_model(path.parent)
        except CasprError:
            found[path.parent.name] = None
    never = datetime.min.replace(tzinfo=UTC)
    return dict(sorted(found.items(), key=lambda item: item[1].as_of if item[1] else never))


def trained_model(root: str | Path, fingerprint: str) -> str | None:
    """The version of the checkpoint that this training made, if it is there and every byte of it is as it was."""
    for version, model in kept_models(root).items():
        if model is not None and model.fingerprint == fingerprint:
            try:
                verified_index(checkpoint_folder(root, version))
            except CasprError:  # damaged: training again mends it
                return None
            return version
    return None


def is_training(root: str | Path) -> bool:
    """Whether a model is being trained below the root, and reads its sequences."""
    place = checkpoints_folder(root) / TRAINING_LOCK
    if not place.exists():
        return False
    with place.open() as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def read_model(folder: Path) -> ModelRecord:
    """What the weights of the checkpoint in `folder` mean. Raises CasprError where there is none."""
    path = folder / MODEL
    try:
        return ModelRecord.model_validate(read_json(path))
    except ValidationError as error:
        raise UnsafeError(f"{path}: not the description of a model ({error.error_count()} problems)") from None


def verified_index(folder: Path) -> Index:
    """checkpoint.json of a checkpoint. Raises UnsafeError where a byte of a file is not what was written."""
    try:
        index = Index.model_validate(read_json(folder / INDEX))
    except ValidationError:
        raise UnsafeError(f"{folder / INDEX}: expected the hashes of a checkpoint; {_MEND}") from None
    for name in (WEIGHTS, MODEL, CURVE):
        path = folder / name
        if name not in index.sha256 or not path.is_file():
            raise UnsafeError(f"{path}: expected a file of this checkpoint, found none; {_MEND}")
        if (found := file_sha256(path)) != index.sha256[name]:
            raise UnsafeError(
                f"{path}: expected sha256 {index.sha256[name]}, found {found}; the file was changed or cut; {_MEND}"
            )
    if (hashed := version_of(index.sha256)) != index.model_version:
        raise UnsafeError(f"{folder / INDEX}: expected version {hashed}, found {index.model_version}; it was changed")
    return index


def version_of(sha256: dict[str, str]) -> str:
    """model_version: the hash of the weights and of what they mean."""
    return hashlib.sha256((sha256[WEIGHTS] + sha256[MODEL]).encode()).hexdigest()[:12]


def check_fits(model: ModelRecord, data: Fit) -> None:
    """Raise UnsafeError, saying what differs, unless the weights can read sequences of this fit.

    They can read those of the vocabulary they were trained on, and those of one that grew from it: a value that came
    later has an id beyond the model's and is unknown to it. The scaling is the model's own then.
    """
    has_grown = model.vocabulary_version in data.grown_from
    differences = []
    if model.vocabulary_version != data.vocabulary_version and not has_grown:
        differences.append(f"vocabulary_version: model {model.vocabulary_version}, data {data.vocabulary_version}")
    theirs = data.layout.before_growth(model.layout) if has_grown else data.layout
    for field in Layout.model_fields:
        own, found = getattr(model.layout, field), getattr(theirs, field)
        if own != found:
            differences.append(f"layout.{field}: model {_short(own)}, data {_short(found)}")
    for name in sorted(model.scaling.keys() | data.scaling.keys()) if not has_grown else []:
        if model.scaling.get(name) != data.scaling.get(name):
            differences.append(f"scaling.{name}: model {model.scaling.get(name)}, data {data.scaling.get(name)}")
    if differences:
        found = "".join(f"\n  - {difference}" for difference in differences)
        raise UnsafeError(
            "the model and the sequences do not fit; put the configuration back that the model was trained with, or "
            f"pretrain again on these sequences:{found}"
        )


def read_card(root: str | Path, version: str) -> ModelCard | None:
    """The model's card; None where it has none."""
    path = checkpoint_folder(root, version) / CARD
    return ModelCard.model_validate_json(path.read_text()) if path.is_file() else None


def write_card(root: str | Path, card: ModelCard) -> None:
    replace_text(checkpoint_folder(root, card.model_version) / CARD, card.model_dump_json(indent=1))


def replace_text(path: Path, text: str) -> None:
    """Put a file in place in one rename, on disk when this returns."""
    part = path.with_name(f".{path.name}.part")
    part.write_text(text)
    sync(part)
    os.replace(part, path)
    sync(path.parent)


def sync(path: Path) -> None:
    """What was written to the file or folder is on disk when this returns."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_json(path: Path) -> object:
    """Raises CasprError where there is no file, UnsafeError where it is no JSON."""
    try:
        loaded: object = json.loads(path.read_bytes())
        return loaded
    except FileNotFoundError:
        raise CasprError(f"{path}: no such checkpoint; run pretrain_model, or name another") from None
    except ValueError:
        raise UnsafeError(f"{path}: expected JSON, found something else; {_MEND}") from None


def _short(value: object) -> str:
    return f"({', '.join(map(str, value))})" if isinstance(value, tuple) else str(value)
