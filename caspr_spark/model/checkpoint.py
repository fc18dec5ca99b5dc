"""A checkpoint is one folder, and its name is the hash of what is in it. Weights are safetensors; nothing is pickled.

<root>/checkpoints/<model_version>/
    weights.safetensors
    model.json         what the weights mean: model section, layout, scaling, vocabulary version, as_of, ...
    curve.jsonl        one line an epoch
    checkpoint.json    SHA-256 of each of the above
<root>/checkpoints/current.json   the checkpoint that is in use; replaced last, in one rename
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from tempfile import mkdtemp

from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors.torch import load_file, save_file
from torch import Tensor

from caspr_spark.config import ModelSection
from caspr_spark.errors import CasprError, UnsafeError
from caspr_spark.lineage import file_sha256
from caspr_spark.manifest import Layout, Scaling, SequenceManifest

WEIGHTS, MODEL, CURVE, INDEX = "weights.safetensors", "model.json", "curve.jsonl", "checkpoint.json"
CURRENT = "current.json"


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelRecord(_Record):
    """What the weights mean. Sequences with another layout, vocabulary or scaling cannot be read with them."""

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


class Current(_Record):
    """current.json."""

    model_version: str
    fingerprint: str


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose bytes were checked."""

    model_version: str
    model: ModelRecord
    weights: dict[str, Tensor]


def checkpoints_folder(root: Path) -> Path:
    """Where all checkpoints of a data root lie."""
    return root / "checkpoints"


def save_checkpoint(root: Path, model: ModelRecord, weights: dict[str, Tensor], curve: Iterable[str]) -> str:
    """Write the checkpoint, make it the current one, and return its version. `curve`: JSON lines, one an epoch.

    A run that is killed at any point leaves the checkpoint that was current before, whole.
    """
    folder = checkpoints_folder(root)
    folder.mkdir(parents=True, exist_ok=True)
    part = Path(mkdtemp(prefix=".part-", dir=folder))
    try:
        save_file({name: tensor.contiguous() for name, tensor in sorted(weights.items())}, part / WEIGHTS)
        (part / MODEL).write_text(model.model_dump_json(indent=1))
        (part / CURVE).write_text("".join(f"{line}\n" for line in curve))
        sha256 = {name: file_sha256(part / name) for name in (WEIGHTS, MODEL, CURVE)}
        version = hashlib.sha256((sha256[WEIGHTS] + sha256[MODEL]).encode()).hexdigest()[:12]
        (part / INDEX).write_text(Index(model_version=version, sha256=sha256).model_dump_json(indent=1))
        for name in (WEIGHTS, MODEL, CURVE, INDEX):
            _sync(part / name)
        part.chmod(0o755)
        _put_in_place(part, folder / version)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    current = folder / f".{CURRENT}.part"
    current.write_text(Current(model_version=version, fingerprint=model.fingerprint).model_dump_json())
    _sync(current)
    os.replace(current, folder / CURRENT)
    _sync(folder)
    return version


def current_checkpoint(root: Path) -> Current:
    """Which checkpoint is in use. Raises CasprError where none is."""
    path = checkpoints_folder(root) / CURRENT
    try:
        return Current.model_validate_json(path.read_text())
    except FileNotFoundError:
        raise CasprError(f"{path}: no checkpoint yet; run pretrain_model first") from None
    except ValidationError:
        raise UnsafeError(f"{path}: expected model_version and fingerprint, found other keys; pretrain again") from None


def load_checkpoint(folder: Path) -> Checkpoint:
    """The checkpoint in `folder`. Raises UnsafeError, naming the file, where a byte of it is not what was written."""
    index = Index.model_validate(_json(folder / INDEX))
    for name in (WEIGHTS, MODEL, CURVE):
        path = folder / name
        if name not in index.sha256 or not path.is_file():
            raise UnsafeError(f"{path}: expected a file of this checkpoint, found none; restore it or pretrain again")
        if (found := file_sha256(path)) != index.sha256[name]:
            raise UnsafeError(
                f"{path}: expected sha256 {index.sha256[name]}, found {found}; the file was changed or cut; "
                "restore it or pretrain again"
            )
    hashed = hashlib.sha256((index.sha256[WEIGHTS] + index.sha256[MODEL]).encode()).hexdigest()[:12]
    if hashed != index.model_version:
        raise UnsafeError(f"{folder / INDEX}: expected version {hashed}, found {index.model_version}; it was changed")
    model = ModelRecord.model_validate(_json(folder / MODEL))
    try:
        weights = load_file(folder / WEIGHTS)
    except Exception as error:  # safetensors raises its own class, and others for headers that no JSON is
        raise UnsafeError(f"{folder / WEIGHTS}: not a safetensors file ({error}); it is refused unread") from None
    return Checkpoint(index.model_version, model, weights)


def check_fits(model: ModelRecord, manifest: SequenceManifest) -> None:
    """Raise UnsafeError, saying what differs, unless the weights can read the sequences of `manifest`."""
    differences = []
    if model.vocabulary_version != manifest.vocabulary_version:
        differences.append(f"vocabulary_version: model {model.vocabulary_version}, data {manifest.vocabulary_version}")
    for field in Layout.model_fields:
        ours, theirs = getattr(model.layout, field), getattr(manifest.layout, field)
        if ours != theirs:
            differences.append(f"layout.{field}: model {_short(ours)}, data {_short(theirs)}")
    for name in sorted(model.scaling.keys() | manifest.scaling.keys()):
        if model.scaling.get(name) != manifest.scaling.get(name):
            differences.append(f"scaling.{name}: model {model.scaling.get(name)}, data {manifest.scaling.get(name)}")
    if differences:
        found = "".join(f"\n  - {difference}" for difference in differences)
        raise UnsafeError(f"the model and the sequences do not fit; pretrain again on these sequences:{found}")


def _short(value: object) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
    return f"({text})" if isinstance(value, tuple) else text


def _json(path: Path) -> object:
    try:
        loaded: object = json.loads(path.read_bytes())
        return loaded
    except FileNotFoundError:
        raise CasprError(f"{path}: no such checkpoint; run pretrain_model, or name another") from None
    except ValueError:
        raise UnsafeError(f"{path}: expected JSON, found something else; restore it or pretrain again") from None


def _put_in_place(part: Path, place: Path) -> None:
    """The name is the hash of the content, so what is already there is the same unless it was damaged."""
    if place.exists():
        try:
            load_checkpoint(place)
            return
        except CasprError:
            shutil.rmtree(place)
    os.replace(part, place)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
