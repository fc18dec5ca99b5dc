"""Step 3: sequences -> checkpoint."""

import json
from datetime import datetime
from pathlib import Path

from pyspark.sql import SparkSession

from caspr_spark.config import Config
from caspr_spark.errors import CasprError
from caspr_spark.manifest import read_manifest, sequences_folder
from caspr_spark.model.checkpoint import CURVE, checkpoints_folder, current_checkpoint
from caspr_spark.pretrain.launch import Progress, pretrain
from pipelines.summary import Summary


def pretrain_model(
    spark: SparkSession, config: Config, as_of: datetime, *, progress: Progress | None = None
) -> Summary:
    """Train on the sequences as of `as_of` and make the checkpoint current; nothing where this training was done.

    `spark` is used by launcher horovod_spark alone. See `caspr_spark.pretrain.launch.pretrain` for the errors.
    """
    folder, root = sequences_folder(config.root, as_of), Path(config.root)
    manifest = read_manifest(folder)
    before = _current_version(root)
    version = pretrain(
        folder, model=config.model, pretrain=config.pretrain, seed=config.seed, root=root, progress=progress
    )
    curve = (checkpoints_folder(root) / version / CURVE).read_text().splitlines()
    epochs = [json.loads(line) for line in curve]
    best = min(epochs, key=lambda epoch: epoch["validation_loss"] or epoch["training_loss"])
    loss = best["validation_loss"]
    note = (
        f"model {version}: best of {len(epochs)} epochs is {best['epoch']}, "
        + (f"validation loss {loss:.3f}" if loss is not None else f"training loss {best['training_loss']:.3f}")
        + " (1 = best constant guess)"
    )
    training_rows = sum(file.rows for file in manifest.of_split("training"))
    return Summary("pretrain", training_rows, 1, (note,), changed=version != before)


def _current_version(root: Path) -> str | None:
    try:
        return current_checkpoint(root).model_version
    except CasprError:
        return None
