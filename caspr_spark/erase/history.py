"""Rows taken out of a Delta table for good: no older version, change file or statistic of the log keeps them."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from delta.tables import DeltaTable
from pyspark.sql import DataFrame, SparkSession

from caspr_spark.tables import committed_with

ERASED_BY = "caspr.erased_by"
"""Table property: the request with which the table's history begins."""

_RETENTION_CHECK = "spark.databricks.delta.retentionDurationCheck.enabled"
_VERSION_DIGITS = 20


def remove_rows(spark: SparkSession, place: Path, rows: DataFrame, *, key: list[str]) -> None:
    """Delete the rows of the table at `place` that equal one of `rows` in the columns `key`; older versions stay."""
    same = " and ".join(f"present.`{name}` <=> gone.`{name}`" for name in key)
    (
        DeltaTable.forPath(spark, str(place))
        .alias("present")
        .merge(rows.select(*key).distinct().alias("gone"), same)
        .whenMatchedDelete()
        .execute()
    )


def forget_history(spark: SparkSession, place: Path, *, request_id: str, notes: dict[str, Any]) -> int:
    """Leave nothing but the newest rows of the table at `place`: its log begins with one commit that bears `notes`.

    Versions go on counting, so a version before it is not found (as Delta says) and never another's content. Returns
    the version that is left.
    """
    with _any_retention(spark):
        DeltaTable.forPath(spark, str(place)).vacuum(0)
    with committed_with(spark, made_from=notes.get("made_from", ""), numbers=notes.get("numbers")):
        spark.sql(f"alter table delta.`{place.absolute()}` set tblproperties ('{ERASED_BY}' = '{request_id}')")
    newest = DeltaTable.forPath(spark, str(place)).history(1).select("version").first()
    assert newest is not None  # the commit just made
    delta_log = spark._jvm.org.apache.spark.sql.delta.DeltaLog  # type: ignore[union-attr]
    delta_log.forTable(spark._jsparkSession, str(place)).checkpoint()
    version = int(newest["version"])
    last = json.loads((place / "_delta_log" / "_last_checkpoint").read_text())["version"]
    assert last == version  # without the checkpoint the table would be lost with its log
    for entry in (place / "_delta_log").iterdir():
        number = entry.name.removeprefix(".")[:_VERSION_DIGITS]
        if number.isdigit() and int(number) < version:
            entry.unlink()
    return version


@contextmanager
def _any_retention(spark: SparkSession) -> Iterator[None]:
    """Let VACUUM remove files however new they are."""
    spark.conf.set(_RETENTION_CHECK, "false")
    try:
        yield
    finally:
        spark.conf.unset(_RETENTION_CHECK)
