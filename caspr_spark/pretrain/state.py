"""Where a training stands: everything that is needed to go on after a crash.

Two states are kept, the newest and the one before. Each is written whole, then renamed; a digest over all of it tells
a damaged one, and then the other is taken.
"""

import hashlib
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from caspr_spark.errors import CasprError, UnsafeError
from caspr_spark.pretrain.job import EpochRecord

STATE_FILE, PREVIOUS_FILE, PART_FILE = "state.safetensors", "state-before.safetensors", ".state.safetensors.part"


@dataclass(frozen=True)
class UnderWay:
    """An epoch that is not over."""

    step: int
    """Steps of it that are done."""
    sums_A: Tensor
    counts_A: Tensor
    """float64: of these steps, all ranks together."""
    seconds: float
    waiting_seconds: float
    exchange_seconds: float


@dataclass
class TrainingState:
    """The one object that a resumed training starts from. All that is drawn follows from seed, epoch and step."""

    weights_W: Tensor
    first_moment_W: Tensor
    second_moment_W: Tensor
    best_W: Tensor
    num_steps: int = 0
    """Steps that moved the weights, in all epochs."""
    curve: list[EpochRecord] = field(default_factory=list)
    under_way: UnderWay | None = None

    @property
    def num_epochs(self) -> int:
        return len(self.curve)

    @property
    def best(self) -> EpochRecord | None:
        """The newest epoch that was the best so far, so the best."""
        return next((record for record in reversed(self.curve) if record.is_best), None)


def save_state(folder: Path, state: TrainingState) -> None:
    """Make `state` the newest in `folder`; what was the newest is kept as the one before.

    Raises CasprError where the disk does not take it; the states of before are whole.
    """
    try:
        _save(folder, state)
    except (OSError, SafetensorError) as error:
        (folder / PART_FILE).unlink(missing_ok=True)  # it would keep the disk full
        raise CasprError(
            f"{folder}: the state of the training could not be saved ({error}); make room and run the same command "
            f"again: {saved_until(folder)}"
        ) from error


def _save(folder: Path, state: TrainingState) -> None:
    tensors = {
        "weights_W": state.weights_W,
        "first_moment_W": state.first_moment_W,
        "second_moment_W": state.second_moment_W,
        "best_W": state.best_W,
    }
    about: dict[str, Any] = {
        "num_steps": state.num_steps,
        "curve": [record.model_dump(mode="json") for record in state.curve],
    }
    if (under_way := state.under_way) is not None:
        tensors |= {"sums_A": under_way.sums_A, "counts_A": under_way.counts_A}
        about["under_way"] = {
            "step": under_way.step,
            "seconds": under_way.seconds,
            "waiting_seconds": under_way.waiting_seconds,
            "exchange_seconds": under_way.exchange_seconds,
        }
    tensors = {name: tensor.cpu() for name, tensor in tensors.items()}
    text = json.dumps(about)
    part = folder / PART_FILE
    save_file(tensors, part, {"state": text, "sha256": _digest(tensors, text)})
    with part.open("rb+") as written:
        os.fsync(written.fileno())
    if (newest := folder / STATE_FILE).exists():
        os.replace(newest, folder / PREVIOUS_FILE)
    os.replace(part, newest)


def load_state(folder: Path) -> TrainingState | None:
    """The newest whole state of an interrupted training in `folder`, or None. Raises UnsafeError if all are damaged."""
    damaged = []
    for path in (folder / STATE_FILE, folder / PREVIOUS_FILE):
        if not path.exists():
            continue
        try:
            return _read(path)
        except OSError:
            raise  # the file may be whole, and others may read it
        except Exception as error:  # whatever a damaged file makes safetensors or json raise
            damaged.append(f"{path}: state of an interrupted training, unreadable ({error}); remove it")
    if damaged:
        raise UnsafeError("\n".join(damaged))
    return None


def saved_until(folder: Path) -> str:
    """Up to where the newest state in `folder` is, in words; it is not checked."""
    try:
        with safe_open(folder / STATE_FILE, framework="pt") as file:
            about = json.loads(file.metadata()["state"])
    except Exception:  # none, or damaged: whatever safetensors or json raise then
        return "nothing is saved yet, and it begins anew"
    epochs, under_way = len(about["curve"]), about.get("under_way")
    where = f"step {under_way['step']} of epoch {epochs + 1}" if under_way else f"the end of epoch {epochs}"
    return f"it goes on after {where}"


def _read(path: Path) -> TrainingState:
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is not a mapping)
    if _digest(tensors, metadata["state"]) != metadata["sha256"]:
        raise ValueError("its digest is another")
    about = json.loads(metadata["state"])
    under_way = None
    if of_epoch := about.get("under_way"):
        under_way = UnderWay(sums_A=tensors.pop("sums_A"), counts_A=tensors.pop("counts_A"), **of_epoch)
    curve = [EpochRecord.model_validate(record) for record in about["curve"]]
    return TrainingState(num_steps=about["num_steps"], curve=curve, under_way=under_way, **tensors)


def _digest(tensors: dict[str, Tensor], text: str) -> str:
    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].numpy().data)
    return digest.hexdigest()
