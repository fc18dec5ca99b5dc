"""Sequences on disk: Parquet with one row group a file, listed in the manifest with rows and hashes."""

import os
import shutil
from pathlib import Path
from uuid import uuid4

import pyarrow.parquet as pq
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from caspr_spark.manifest import MANIFEST_FILE, SequenceFile, SequenceManifest, Split

_ROW_GROUP_BYTES = str(512 * 1024 * 1024)  # larger than a file, so that a file is one row group
_SPLITS: tuple[Split, ...] = ("training", "validation")


def write_files(
    sequences: DataFrame, folder: Path, *, customers_per_row_group: int, num_customers: dict[str, int], seed: int
) -> tuple[SequenceFile, ...]:
    """Write `sequences` (with the column `split`) into a new folder below `folder` and describe its files.

    Which customer lies in which file depends on its id and the seed alone. Nothing that is there already is touched.
    """
    data = folder / f"data-{uuid4().hex[:12]}"
    groups = {split: max(1, -(-num_customers.get(split, 0) // customers_per_row_group)) for split in _SPLITS}
    num_groups = F.when(F.col("split") == "training", groups["training"]).otherwise(groups["validation"])
    grouped = sequences.withColumn("row_group", F.pmod(F.xxhash64("customer_id", F.lit(seed + 1)), num_groups))
    (
        grouped.repartition("split", "row_group")
        .sortWithinPartitions("split", "row_group", "customer_key", "customer_id")
        .write.option("compression", "zstd")
        .option("parquet.block.size", _ROW_GROUP_BYTES)
        .partitionBy("split", "row_group")
        .parquet(str(data))
    )
    return _described(sequences.sparkSession, folder, data)


def remove_other_data(folder: Path, manifest: SequenceManifest) -> None:
    """Delete the data folders that the manifest does not name (of earlier or killed runs)."""
    named = {Path(file.path).parts[0] for file in manifest.files} | {manifest.touched}
    for entry in folder.iterdir():
        if entry.is_dir() and entry.name.startswith(("data-", "touched-")) and entry.name not in named:
            shutil.rmtree(entry)


def _described(spark: SparkSession, folder: Path, data: Path) -> tuple[SequenceFile, ...]:
    paths = sorted(data.glob("split=*/row_group=*/*.parquet"))
    if not paths:
        return ()
    hashed = spark.read.format("binaryFile").option("pathGlobFilter", "*.parquet").load(f"{data}/split=*/row_group=*")
    rows = hashed.select("path", F.sha2("content", 256).alias("sha256")).collect()
    hashes = {Path(row["path"]).parts[-3:]: row["sha256"] for row in rows}  # split, row_group, file name
    files = []
    for path in paths:
        footer = pq.read_metadata(path)
        split: Split = "training" if "split=training" in path.parts else "validation"
        files.append(
            SequenceFile(
                path=os.path.relpath(path, folder),
                split=split,
                rows=footer.num_rows,
                row_groups=footer.num_row_groups,
                bytes=path.stat().st_size,
                sha256=hashes[path.parts[-3:]],
            )
        )
    return tuple(files)


def has_manifest(folder: Path) -> bool:
    return (folder / MANIFEST_FILE).exists()
