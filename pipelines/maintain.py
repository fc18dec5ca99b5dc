"""Maintenance: small files joined, files that no table needs any more removed, old sequences let go."""

import re
import shutil
from pathlib import Path

from delta.tables import DeltaTable
from pyspark.sql import SparkSession

from caspr_spark.config import Config
from caspr_spark.disk import remove_scratch
from caspr_spark.events.arrivals import remove_other_positions
from caspr_spark.tables import last_commit_notes
from pipelines.contracts import event_contract
from pipelines.summary import Summary

_AS_OF = re.compile(r"\d{8}T\d{6}Z")


def maintain(spark: SparkSession, config: Config) -> Summary:
    """Compact and vacuum every table below the root, and delete all but the newest `maintain.keep_sequences` sequences.

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
    folders = sorted(path for path in (root / "sequences").glob("*") if _AS_OF.fullmatch(path.name))
    for folder in folders[: -config.maintain.keep_sequences]:
        shutil.rmtree(folder)
        notes.append(f"sequences of {folder.name} deleted")
    position = last_commit_notes(spark, event_contract(config), config.root).get("numbers", {}).get("position")
    remove_other_positions(config.root, position)
    remove_scratch(config.root)
    after = sum(_num_bytes(table) for table in tables)
    notes.append(f"{before:,} bytes of tables before, {after:,} after")
    return Summary("maintain", len(tables), len(tables), tuple(notes), changed=len(notes) > 1 or before != after)


def _num_bytes(table: Path) -> int:
    return sum(path.stat().st_size for path in table.rglob("*.parquet"))
