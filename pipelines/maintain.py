"""Maintenance: small files joined, files that no table needs any more removed, old sequences and models let go."""

import re
import shutil
from pathlib import Path

from delta.tables import DeltaTable
from pyspark.sql import SparkSession

from caspr_spark.aliases import read_aliases
from caspr_spark.config import Config
from caspr_spark.disk import remove_scratch
from caspr_spark.events.arrivals import remove_other_positions
from caspr_spark.registry import CARD, checkpoint_folder, is_training, kept_models
from caspr_spark.tables import last_commit_notes, table_path
from pipelines.contracts import event_contract
from pipelines.summary import Summary
from schemas.embeddings import latest_of

_AS_OF = re.compile(r"\d{8}T\d{6}Z")


def maintain(spark: SparkSession, config: Config) -> Summary:
    """Compact and vacuum every table below the root, and delete all but the newest sequences and models.

    A link to a folder elsewhere is no folder of ours and is left alone.

    Of the models stay the champion, the challenger, the one that a rollback goes back to, and the newest
    `maintain.keep_models`; of the others the card stays, and the vectors that they published in the history.

    Vacuum removes what no version younger than `maintain.retention_hours` needs: also files of killed writers.
    """
    root = Path(config.root)
    tables = sorted(path.parent for path in root.glob("*/_delta_log"))
    before = sum(_num_bytes(table) for table in tables)
    notes = []
    for place in tables:
        table = DeltaTable.forPath(spark, str(place))
        compacted = table.optimize().executeCompaction().first()
        table.vacuum(config.maintain.retention_hours)
        if compacted is not None and compacted["metrics"]["numFilesRemoved"]:
            metrics = compacted["metrics"]
            notes.append(f"{place.name}: {metrics['numFilesRemoved']} files joined into {metrics['numFilesAdded']}")
    if is_training(config.root):
        notes.append("a model is being trained: sequences and models were left alone")
    else:
        notes += _removed_sequences(config) + _removed_models(config)
    position = last_commit_notes(spark, event_contract(config), config.root).get("numbers", {}).get("position")
    remove_other_positions(config.root, position)
    remove_scratch(config.root)
    after = sum(_num_bytes(table) for table in tables)
    notes.append(f"{before:,} bytes of tables before, {after:,} after")
    return Summary("maintain", len(tables), len(tables), tuple(notes), changed=len(notes) > 1 or before != after)


def _removed_sequences(config: Config) -> list[str]:
    """Delete all but the newest sequences; a line for each."""
    found = (Path(config.root) / "sequences").glob("*")
    folders = sorted(path for path in found if _AS_OF.fullmatch(path.name) and not path.is_symlink())
    removed = folders[: -config.maintain.keep_sequences]
    for folder in removed:
        shutil.rmtree(folder)
    return [f"sequences of {folder.name} deleted" for folder in removed]


def _removed_models(config: Config) -> list[str]:
    """Delete the checkpoints that nothing needs, and their latest vectors; a line for each."""
    aliases, kept = read_aliases(config.root), list(kept_models(config.root))
    needed = {*aliases.scored, *aliases.former_champions[-1:], *kept[-config.maintain.keep_models :]}
    others = [version for version in kept if version not in needed]
    removed = [version for version in others if not checkpoint_folder(config.root, version).is_symlink()]
    for version in removed:
        for file in checkpoint_folder(config.root, version).iterdir():
            if file.name != CARD:
                file.unlink()
        shutil.rmtree(table_path(latest_of(version), config.root), ignore_errors=True)
    return [f"model {version} deleted; its card and its history stay" for version in removed]


def _num_bytes(table: Path) -> int:
    return sum(path.stat().st_size for path in table.rglob("*.parquet"))
