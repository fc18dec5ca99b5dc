"""What a training job is (SPEC.json of the workers) and what it tells after every epoch."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from caspr_spark.config import ModelSection, PretrainSection
from caspr_spark.lineage import fingerprint
from caspr_spark.manifest import SequenceManifest
from caspr_spark.registry import CURVE

TRAINING_VERSION = 6
"""Raise it when a change of the code gives other weights from the same inputs."""
NO_EFFECT = ("launcher", "threads", "device", "timeout_seconds", "max_restarts", "tensorboard", "own_heads")
"""Settings that move a weight by rounding at most (of bfloat16, on a GPU that chose it by itself): a change of them is
no reason to train again."""


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TaskJob(_Record):
    """What a fine-tuning is, beside what every training is."""

    pretrained: Path
    """Folder of the checkpoint whose encoder it starts from."""
    train: Literal["head", "encoder"]
    """The head alone, or the whole encoder with it."""
    encoder_rate_share: float
    """The encoder's learning rate, as a share of the head's."""


class LeftOut(_Record):
    """Customers whom a training must not see: one of `num_folds` folds of all, by a hash of their keys."""

    fold: int
    """From 0 on."""
    num_folds: int


class Job(_Record):
    """Everything a worker needs to know. All paths are reachable from every worker."""

    manifest_folder: Path
    model: ModelSection
    pretrain: PretrainSection
    seed: int
    root: Path
    fingerprint: str
    task: TaskJob | None = None
    """None: a pretraining."""
    left_out: LeftOut | None = None
    """Of a pretraining; None: nobody."""

    @property
    def stage(self) -> str:
        """The section of the configuration that its settings come from."""
        return "pretrain" if self.task is None else "finetune"

    @property
    def labels_file(self) -> Path:
        """Of a fine-tuning: customer_key, label and part of its customers; removed when it is done."""
        return self.work_folder / "labels.parquet"

    @property
    def work_folder(self) -> Path:
        """State, progress and log of the training while it runs; removed when it is done."""
        return self.root / "checkpoints" / f".training-{self.fingerprint}"


class EpochRecord(_Record):
    """One epoch, all workers together. Losses are relative: 1.0 is the best constant guess."""

    epoch: int
    """From 1 on."""
    training_loss: float
    validation_loss: float | None
    """None where no validation customer has an event to recover."""
    validation_by_attribute: dict[str, float]
    is_best: bool
    """Whether these weights are the best so far."""
    rows: int
    """Training customers seen."""
    seconds: float
    waiting_share: float
    """Share of the seconds of rank 0 spent waiting for data."""
    exchange_share: float = 0.0
    """Share of the seconds of rank 0 spent on sums over the workers, waiting for them included."""

    @property
    def judged_loss(self) -> float:
        """What early stopping looks at: the validation loss, or the training loss where there is none."""
        return self.training_loss if self.validation_loss is None else self.validation_loss


Progress = Callable[[EpochRecord], None]
"""Is called with each epoch when it is over."""


def epochs_of(checkpoint: Path) -> list[EpochRecord]:
    """The training of the checkpoint in this folder, epoch by epoch."""
    return [EpochRecord.model_validate_json(line) for line in (checkpoint / CURVE).read_text().splitlines()]


def training_seconds(checkpoint: Path) -> float:
    """What its epochs took, together."""
    return sum(epoch.seconds for epoch in epochs_of(checkpoint))


def _effective(pretrain: PretrainSection) -> dict[str, Any]:
    """The settings that weights follow from. What precision is by itself is a matter of the device, and left out."""
    unset = {"precision"} if pretrain.precision == "auto" else set()
    return pretrain.model_dump(mode="json", exclude={*NO_EFFECT, *unset})


def pretrain_fingerprint(
    manifest: SequenceManifest,
    *,
    model: ModelSection,
    pretrain: PretrainSection,
    seed: int,
    left_out: LeftOut | None = None,
) -> str:
    """Equal where training again would give the same weights (up to rounding)."""
    return fingerprint(
        version=TRAINING_VERSION,
        sequences=manifest.fingerprint,
        layout=manifest.layout.model_dump(mode="json"),
        files=sorted((file.split, file.sha256) for file in manifest.files),
        model=model.model_dump(mode="json"),
        pretrain=_effective(pretrain),
        seed=seed,
        left_out=left_out and left_out.model_dump(),
    )


def finetune_fingerprint(
    manifest: SequenceManifest,
    *,
    model_version: str,
    labels_sha256: str,
    task: TaskJob,
    pretrain: PretrainSection,
    seed: int,
) -> str:
    """Equal where fine-tuning again would give the same weights (up to rounding). `labels_sha256`: with their parts."""
    return fingerprint(
        version=TRAINING_VERSION,
        sequences=manifest.fingerprint,
        files=sorted((file.split, file.sha256) for file in manifest.files),
        model=model_version,
        labels=labels_sha256,
        task=task.model_dump(mode="json", exclude={"pretrained"}),
        pretrain=_effective(pretrain),
        seed=seed,
    )
