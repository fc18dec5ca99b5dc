"""Step 3: sequences -> checkpoint, with its card. The first is the champion, a later one the challenger."""

from datetime import datetime
from functools import partial
from pathlib import Path

from pyspark.sql import SparkSession

from caspr_spark import __version__
from caspr_spark.aliases import change_aliases, read_aliases, with_trained
from caspr_spark.config import Config
from caspr_spark.errors import GateError
from caspr_spark.lineage import fingerprint
from caspr_spark.manifest import SequenceManifest, read_manifest, sequences_folder
from caspr_spark.pretrain.job import EpochRecord, Progress, epochs_of
from caspr_spark.pretrain.launch import pretrain
from caspr_spark.pretrain.own_heads import HeadScore, failures, own_head_scores
from caspr_spark.registry import ModelCard, checkpoint_folder, kept_models, read_card, write_card
from caspr_spark.tables import read_table
from pipelines.summary import Summary
from schemas.vocabulary import VOCABULARY

_USES = {"finetune", "embed", "publish", "refresh", "maintain", "monitor", "evaluate", "report"}
_NO_PART = {"root", "dataset", "spark"} | _USES
"""What has no part in a model: where it lies, how it is used and watched."""


def pretrain_model(
    spark: SparkSession, config: Config, as_of: datetime, *, progress: Progress | None = None
) -> Summary:
    """Train on the sequences as of `as_of` and name the checkpoint; nothing where this training was done.

    See `caspr_spark.pretrain.launch.pretrain` for the errors; besides,

    Raises:
        GateError: the model's own heads fail on held-out customers; it is kept, but neither champion nor challenger.
    """
    folder, root = sequences_folder(config.root, as_of), Path(config.root)
    manifest = read_manifest(folder)
    before = (read_aliases(root), kept_models(root))
    version = pretrain(
        folder, model=config.model, pretrain=config.pretrain, seed=config.seed, root=root, progress=progress
    )
    epochs = epochs_of(checkpoint_folder(root, version))
    best = min(epochs, key=lambda epoch: epoch.judged_loss)
    card = read_card(root, version)
    if card is None:
        own_heads = own_head_scores(folder, checkpoint_folder(root, version))
        card = _card(config, manifest, version, len(epochs), best, own_heads)
        write_card(root, card)
    head_notes = _checked_heads(spark, config, version, tuple(map(HeadScore.model_validate, card.own_heads)))
    aliases = change_aliases(root, partial(with_trained, version=version))
    loss = best.validation_loss
    note = (
        f"model {version} ({aliases.alias_of(version)}): best of {len(epochs)} epochs is {best.epoch}, "
        + (f"validation loss {loss:.3f}" if loss is not None else f"training loss {best.training_loss:.3f}")
        + " (1 = best constant guess)"
    )
    training_rows = sum(file.rows for file in manifest.of_split("training"))
    notes = (note, *head_notes)
    return Summary("pretrain", training_rows, 1, notes, changed=(aliases, kept_models(root)) != before)


def _checked_heads(spark: SparkSession, config: Config, version: str, scores: tuple[HeadScore, ...]) -> list[str]:
    """Lines for the user: how the model's own guesses did over the middle horizon, and what is wrong with them."""
    if not scores:
        return []
    vocabulary = read_table(spark, VOCABULARY, config.root).where("attribute = 'source'").collect()
    names = {row["id"]: row["value"] for row in vocabulary}
    section = config.pretrain.own_heads
    found = failures(scores, section, names)
    if found and section.on_fail == "stop":
        problems = "\n".join(f"  - {problem}" for problem in found)
        raise GateError(
            f"pretrain: model {version} is kept, but gets no name, for its own guesses fail:\n{problems}\n"
            "Its training may have seen what is not there in use, or the time that was held out is unlike the others; "
            "see pretrain.own_heads"
        )
    horizons = sorted({score.horizon_days for score in scores})
    days = horizons[len(horizons) // 2]
    told = [
        f"{names.get(score.source_id, score.source_id)} AUROC {score.auroc:.3f}, expected {score.predicted:.0f}, "
        f"came {score.happened}"
        for score in scores
        if score.horizon_days == days and score.auroc is not None
    ]
    about = f"own guesses for {scores[0].customers} held-out customers, {days:g} days ahead: "
    return ([about + "; ".join(told)] if told else []) + [f"warning: {problem}" for problem in found]


def _card(
    config: Config,
    manifest: SequenceManifest,
    version: str,
    num_epochs: int,
    best: EpochRecord,
    own_heads: tuple[HeadScore, ...],
) -> ModelCard:
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
        own_heads=tuple(score.model_dump() for score in own_heads),
    )
