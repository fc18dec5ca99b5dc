"""A latest table gets the rows of another one without a vector being written: one commit that names other files.

The files are linked into the table's own folder (copied where the file system has no hard links), so that neither
table's vacuum can take them from the other; then a commit of the Delta protocol takes the old files out and puts the
new ones in. Readers of any kind see the one state or the other.
"""

import json
import os
import shutil
import time
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse
from uuid import uuid4

import pyarrow.parquet as pq
from pyspark.sql import SparkSession

from caspr_spark import __version__
from caspr_spark.errors import TemporaryError
from caspr_spark.tables import commit_notes, create_table, table_path, table_version
from schemas.contract import Contract


def link_table(
    spark: SparkSession, source: Contract, target: Contract, root: str, *, made_from: str, numbers: dict[str, Any]
) -> bool:
    """Make the rows of `target` those of `source`, in one commit that carries the notes; False where they are already.

    Both tables are ours: not partitioned, without deletion vectors, and nobody else writes them meanwhile.

    Raises:
        TemporaryError: somebody else did.
    """
    create_table(spark, target, root)
    version = table_version(spark, target, root)
    folder = Path(table_path(target, root))
    wanted = {path.name: path for path in _files(spark, source, root)}
    present = {path.name: path for path in _files(spark, target, root)}
    if wanted.keys() == present.keys():
        return False
    now = round(time.time() * 1000)
    actions: list[dict[str, Any]] = []
    for name in sorted(present.keys() - wanted.keys()):
        gone = {"path": name, "deletionTimestamp": now, "dataChange": True, "extendedFileMetadata": True}
        actions.append({"remove": {**gone, "partitionValues": {}, "size": present[name].stat().st_size}})
    for name in sorted(wanted.keys() - present.keys()):
        _link(wanted[name], folder / name)
        added = {"path": name, "partitionValues": {}, "size": wanted[name].stat().st_size, "modificationTime": now}
        actions.append({"add": {**added, "dataChange": True, "stats": json.dumps(_statistics(wanted[name], target))}})
    about = {
        "timestamp": now,
        "operation": "WRITE",
        "operationParameters": {"mode": "Overwrite", "partitionBy": "[]"},
        "readVersion": version,
        "engineInfo": f"caspr-spark/{__version__}",
        "userMetadata": commit_notes(made_from, numbers),
    }
    _commit(folder / "_delta_log", version + 1, [{"commitInfo": about}, *actions])
    return True


def _files(spark: SparkSession, table: Contract, root: str) -> list[Path]:
    """The data files of the table's newest version; all of them lie in its own folder."""
    uris = spark.read.format("delta").load(table_path(table, root)).inputFiles()
    return [Path(table_path(table, root)) / Path(unquote(urlparse(uri).path)).name for uri in uris]


def _link(file: Path, place: Path) -> None:
    if place.exists():  # Delta never uses a name twice: it is this file, from a switch before or one that was killed
        return
    try:
        os.link(file, place)
    except OSError:
        part = place.with_name(f".{place.name}.part")
        shutil.copyfile(file, part)
        os.replace(part, place)


def _statistics(file: Path, table: Contract) -> dict[str, Any]:
    """Rows, and the smallest and largest customer, by which readers pass over files."""
    footer = pq.read_metadata(file)
    found: dict[str, Any] = {"numRecords": footer.num_rows}
    key = table.key[0]
    position = [footer.schema.column(number).path for number in range(footer.num_columns)].index(key)
    bounds = [footer.row_group(number).column(position).statistics for number in range(footer.num_row_groups)]
    if bounds and all(one is not None and one.has_min_max for one in bounds):
        found["minValues"] = {key: min(one.min for one in bounds)}
        found["maxValues"] = {key: max(one.max for one in bounds)}
        found["nullCount"] = {key: 0}
    return found


def _commit(log: Path, version: int, actions: list[dict[str, Any]]) -> None:
    """Put the commit in place, whole, unless there is one of this version."""
    part, place = log / f".{uuid4().hex}.part", log / f"{version:020}.json"
    part.write_text("".join(f"{json.dumps(action)}\n" for action in actions), encoding="utf-8")
    try:
        os.link(part, place)  # unlike a rename it fails where there is one
    except OSError:
        if place.exists():
            raise TemporaryError(f"{log.parent}: somebody else wrote version {version}; run the same again") from None
        os.rename(part, place)  # no hard links here; the lease keeps other writers of ours away
    finally:
        part.unlink(missing_ok=True)
