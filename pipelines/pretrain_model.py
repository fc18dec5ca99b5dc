"""Step 3: sequences -> checkpoint, with its card. The first is the champion, a later one the challenger."""

import json
from datetime import datetime
from functools import partial
from pathlib import Path

from pyspark.sql import SparkSession

from caspr_spark import __version__
from caspr_spark.aliases import change_aliases, read_aliases, with_trained
from caspr_spark.config import Config
from caspr_spark.lineage import fingerprint
from caspr_spark.manifest import SequenceManifest, read_manifest, sequences_folder
from caspr_spark.pretrain.job import EpochRecord
from caspr_spark.pretrain.launch import Progress, pretrain
from caspr_spark.registry import CURVE, ModelCard, checkpoint_folder, kept_models, read_card, write_card
from pipelines.summary import Summary

_NO_PART = {"root", "dataset", "embed", "publish", "refresh", "maintain", "monitor", "evaluate", "report", "spark"}
"""What has no part in a model: where it lies, how it is used and watched."""


def pretrain_model(
    spark: SparkSession, config: Config, as_of: datetime, *, progress: Progress | None = None
) -> Summary:
    """Train on the sequences as of `as_of` and name the checkpoint; nothing where this training was done.

    `spark` is used by launcher horovod_spark alone. See `caspr_spark.pretrain.launch.pretrain` for the errors.
    """
    folder, root = sequences_folder(config.root, as_of), Path(config.root)
    manifest = read_manifest(folder)
    before = (read_aliases(root), kept_models(root))
    version = pretrain(
        folder, model=config.model, pretrain=config.pretrain, seed=config.seed, root=root, progress=progress
    )
    lines = (checkpoint_folder(root, version) / CURVE).read_text().splitlines()
    epochs = [EpochRecord.model_validate(json.loads(line)) for line in lines]
    best = min(epochs, key=lambda epoch: epoch.judged_loss)
    if read_card(root, version) is None:
        write_card(root, _card(config, manifest, version, len(epochs), best))
    aliases = change_aliases(root, partial(with_trained, version=version))
    loss = best.validation_loss
    note = (
        f"model {version} ({aliases.alias_of(version)}): best of {len(epochs)} epochs is {best.epoch}, "
        + (f"validation loss {loss:.3f}" if loss is not None else f"training loss {best.training_loss:.3f}")
        + " (1 = best constant guess)"
    )
    training_rows = sum(file.rows for file in manifest.of_split("training"))
    return Summary("pretrain", training_rows, 1, (note,), changed=(aliases, kept_models(root)) != before)


def _card(config: Config, manifest: SequenceManifest, version: str, num_epochs: int, best: EpochRecord) -> ModelCard:
    champion = read_aliases(config.root).champion
    return ModelCard(
        model_version=version,
        program=__version__,
        parent=champion if champion != version else None,
        as_of=manifest.as_of,
        customers=sum(file.rows for file in manifest.of_split("training")),
        validation_customers=sum(file.rows for file in manifest.of_split("validation")),
        events=int(manifest.lineage["events"]),
        vocabulary_version=manifest.vocabulary_version,
        config_hash=fingerprint(config=config.model_dump(mode="json", exclude=_NO_PART)),
        settings=config.model_dump(mode="json", include={"sequences", "model", "pretrain", "seed"}),
        objective=" + ".join(name for name, weight in config.model.objectives if weight),
        epochs=num_epochs,
        best_epoch=best.epoch,
        training_loss=best.training_loss,
        validation_loss=best.validation_loss,
    )
