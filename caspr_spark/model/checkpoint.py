"""A checkpoint is one folder, and its name is the hash of what is in it. Weights are safetensors; nothing is pickled.

<root>/checkpoints/<model_version>/
    weights.safetensors
    model.json         what the weights mean: model section, layout, scaling, vocabulary version, as_of, ...
    curve.jsonl        one line an epoch
    checkpoint.json    SHA-256 of each of the above

caspr_spark/registry.py tells what is kept, caspr_spark/aliases.py which of it is in use.
"""

import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp

from safetensors.torch import load_file, save_file
from torch import Tensor

from caspr_spark.errors import CasprError, UnsafeError
from caspr_spark.lineage import file_sha256
from caspr_spark.registry import (
    CURVE,
    INDEX,
    MODEL,
    WEIGHTS,
    Index,
    ModelRecord,
    checkpoints_folder,
    read_model,
    sync,
    verified_index,
    version_of,
)


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose bytes were checked."""

    model_version: str
    model: ModelRecord
    weights: dict[str, Tensor]


def save_checkpoint(root: Path, model: ModelRecord, weights: dict[str, Tensor], curve: Iterable[str]) -> str:
    """Write the checkpoint and return its version. `curve`: JSON lines, one an epoch.

    A run that is killed at any point leaves no folder of that name, or a whole one.
    """
    folder = checkpoints_folder(root)
    folder.mkdir(parents=True, exist_ok=True)
    part = Path(mkdtemp(prefix=".part-", dir=folder))
    try:
        save_file({name: tensor.contiguous() for name, tensor in sorted(weights.items())}, part / WEIGHTS)
        (part / MODEL).write_text(model.model_dump_json(indent=1))
        (part / CURVE).write_text("".join(f"{line}\n" for line in curve))
        sha256 = {name: file_sha256(part / name) for name in (WEIGHTS, MODEL, CURVE)}
        version = version_of(sha256)
        (part / INDEX).write_text(Index(model_version=version, sha256=sha256).model_dump_json(indent=1))
        for name in (WEIGHTS, MODEL, CURVE, INDEX):
            sync(part / name)
        part.chmod(0o755)
        _put_in_place(part, folder / version)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    sync(folder)
    return version


def load_checkpoint(folder: Path) -> Checkpoint:
    """The checkpoint in `folder`. Raises UnsafeError, naming the file, where a byte of it is not what was written."""
    index = verified_index(folder)
    model = read_model(folder)
    try:
        weights = load_file(folder / WEIGHTS)
    except Exception as error:  # safetensors raises its own class, and others for headers that no JSON is
        raise UnsafeError(f"{folder / WEIGHTS}: not a safetensors file ({error}); it is refused unread") from None
    return Checkpoint(index.model_version, model, weights)


def _put_in_place(part: Path, place: Path) -> None:
    """The name is the hash of the content, so what is already there is the same unless it was damaged."""
    if place.exists():
        try:
            load_checkpoint(place)
            return
        except CasprError:
            shutil.rmtree(place)
    os.replace(part, place)
