"""Stage pretrain as two functions, `pretrain` and `finetune`: what was trained before, locks, restarts."""

import contextlib
import fcntl
import hashlib
import importlib.util
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pandas as pd

from caspr_spark.config import ModelSection, PretrainSection
from caspr_spark.errors import ConfigError, TemporaryError
from caspr_spark.manifest import SequenceManifest, read_manifest
from caspr_spark.model.checkpoint import Checkpoint
from caspr_spark.pretrain.job import (
    EpochRecord,
    Job,
    LeftOut,
    Progress,
    TaskJob,
    finetune_fingerprint,
    pretrain_fingerprint,
)
from caspr_spark.pretrain.memory import check_memory
from caspr_spark.pretrain.reader import check_sequence_files
from caspr_spark.pretrain.start import WorkersFailed, remove_stale, run_workers
from caspr_spark.pretrain.tensorboard import tensorboard_events
from caspr_spark.registry import TRAINING_LOCK, checkpoint_folder, checkpoints_folder, trained_model


def pretrain(
    manifest_folder: Path,
    *,
    model: ModelSection,
    pretrain: PretrainSection,
    seed: int,
    root: Path,
    place: Path | None = None,
    left_out: LeftOut | None = None,
    progress: Progress | None,
) -> str:
    """Train on the sequences of `manifest_folder`, write the checkpoint, return its model_version.

    Customers who are `left_out` are neither trained on nor looked at to stop. The checkpoint lies below `place`, or
    `root` where that is None; no other training of `root` runs meanwhile.

    Does nothing but verify the checkpoint and return its version where the same training was done before. An
    interrupted training goes on after its last saved step. Raises ConfigError, UnsafeError or CasprError of any
    worker; TemporaryError while another training of the same root runs.
    """
    manifest_folder, root = manifest_folder.resolve(), root.resolve()
    place = root if place is None else place.resolve()
    manifest = read_manifest(manifest_folder)
    job = Job(
        manifest_folder=manifest_folder,
        model=model,
        pretrain=pretrain,
        seed=seed,
        root=place,
        fingerprint=pretrain_fingerprint(manifest, model=model, pretrain=pretrain, seed=seed, left_out=left_out),
        left_out=left_out,
    )
    return _trained(job, manifest, progress, locked=root)


def finetune(
    manifest_folder: Path,
    *,
    customers: pd.DataFrame,
    model: Checkpoint,
    train: Literal["head", "encoder"],
    encoder_rate_share: float,
    pretrain: PretrainSection,
    seed: int,
    root: Path,
    place: Path,
    progress: Progress | None,
) -> str:
    """Train a head, or head and encoder, for the labels of `customers`: customer_key, label, part, a row a customer.

    It starts from the encoder of `model`, a checkpoint of `root`. `pretrain`: how it is trained. The checkpoint lies
    below `place`, which holds nothing but this task's; returns its model_version. Reruns and errors are those of
    `pretrain`; no other training of the root runs meanwhile.
    """
    manifest_folder, root, place = manifest_folder.resolve(), root.resolve(), place.resolve()
    manifest = read_manifest(manifest_folder)
    labels = customers[["customer_key", "label", "part"]]
    pretrained = checkpoint_folder(root, model.model_version)
    task = TaskJob(pretrained=pretrained, train=train, encoder_rate_share=encoder_rate_share)
    job = Job(
        manifest_folder=manifest_folder,
        model=model.model.section,
        pretrain=pretrain,
        seed=seed,
        root=place,
        fingerprint=finetune_fingerprint(
            manifest,
            model_version=model.model_version,
            labels_sha256=hashlib.sha256(labels.to_csv(index=False).encode()).hexdigest(),
            task=task,
            pretrain=pretrain,
            seed=seed,
        ),
        task=task,
    )
    return _trained(job, manifest, progress, locked=root, labels=labels)


def _trained(
    job: Job,
    manifest: SequenceManifest,
    progress: Progress | None,
    *,
    locked: Path,
    labels: pd.DataFrame | None = None,
) -> str:
    """The version of the job's checkpoint, trained now unless it was before; no other training of `locked` runs."""
    checkpoints = checkpoints_folder(job.root)
    checkpoints.mkdir(parents=True, exist_ok=True)
    with _only_one(checkpoints_folder(locked)):
        if version := trained_model(job.root, job.fingerprint):
            return version
        _check_launcher(job.pretrain)
        check_sequence_files(job.manifest_folder, manifest)
        if job.task is None:
            check_memory(job, manifest)
        _clean(checkpoints, job.work_folder)
        if labels is not None:
            labels.to_parquet(job.labels_file, index=False)
        with _told(job, progress) as tell:
            _run(job, tell)
        version = trained_model(job.root, job.fingerprint)
        assert version is not None  # the worker of rank 0 has just written it
        shutil.rmtree(job.work_folder)
        return version


def _check_launcher(pretrain: PretrainSection) -> None:
    if pretrain.launcher == "single" and pretrain.num_workers != 1:
        raise ConfigError(f"pretrain.num_workers: launcher 'single' is one process, found {pretrain.num_workers}")
    if pretrain.launcher.startswith("horovod") and importlib.util.find_spec("horovod") is None:
        raise ConfigError(
            f"pretrain.launcher: '{pretrain.launcher}' needs Horovod, which is not installed; run `make setup-dev`, or "
            "choose torchrun or single"
        )


@contextlib.contextmanager
def _only_one(checkpoints: Path) -> Iterator[None]:
    """The lock ends with this process, however it ends."""
    with (checkpoints / TRAINING_LOCK).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise TemporaryError(f"{checkpoints}: another training is running there; wait for it, then again") from None
        yield


def _clean(checkpoints: Path, work: Path) -> None:
    """Remove what killed runs left, except the state of this very training."""
    for left in [*checkpoints.glob(".part-*"), *checkpoints.glob(".training-*")]:
        if left != work:
            shutil.rmtree(left)
    work.mkdir(exist_ok=True)
    remove_stale(work)


def _run(job: Job, progress: Progress) -> None:
    """Train; workers that failed without a word are started again, up to `pretrain.max_restarts` times."""
    for restart in range(1, job.pretrain.max_restarts + 2):
        try:
            run_workers(job, progress)
            return
        except WorkersFailed as failure:
            if restart > job.pretrain.max_restarts:
                raise
            message = str(failure).partition("; ")[0]
            logging.getLogger(__name__).warning("%s: restart %d of %d", message, restart, job.pretrain.max_restarts)
            remove_stale(job.work_folder)


@contextlib.contextmanager
def _told(job: Job, progress: Progress | None) -> Iterator[Progress]:
    """What is called with each epoch: `progress`, and TensorBoard's events where the job asks for them."""
    told = [progress] if progress else []
    with contextlib.ExitStack() as stack:
        if job.pretrain.tensorboard is not None:
            folder = Path(job.pretrain.tensorboard) / job.fingerprint
            told.append(stack.enter_context(tensorboard_events(folder)))

        def tell(record: EpochRecord) -> None:
            for one in told:
                one(record)

        yield tell
