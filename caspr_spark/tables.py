"""Reading and writing our Delta tables: contracts are checked both ways, and a commit says what it was made from."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from delta.tables import DeltaTable
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import DataType, StructType

from caspr_spark.errors import CasprError
from caspr_spark.session import local_frame
from schemas.contract import Contract

# Reader protocol 1, so that delta-rs, DuckDB and Polars can read every table.
TABLE_PROPERTIES = {
    "delta.minReaderVersion": "1",
    "delta.minWriterVersion": "4",
    "delta.enableChangeDataFeed": "true",
    "delta.enableDeletionVectors": "false",
}

_MAX_RANGES = 36
_COMMITS_LOOKED_AT = 20


def table_path(contract: Contract, root: str) -> str:
    """Where the table lies below the data root."""
    return str(Path(root) / contract.name) if "://" not in root else f"{root.rstrip('/')}/{contract.name}"


def table_exists(spark: SparkSession, contract: Contract, root: str) -> bool:
    return DeltaTable.isDeltaTable(spark, table_path(contract, root))


def read_table(spark: SparkSession, contract: Contract, root: str, *, version: int | None = None) -> DataFrame:
    """The table's rows in the contract's columns, at `version` or the newest.

    Raises:
        CasprError: there is no such table, or its columns are not the contract's.
    """
    path = table_path(contract, root)
    if not DeltaTable.isDeltaTable(spark, path):
        raise CasprError(f"{path}: no table '{contract.name}' here; run the step that writes it first")
    reader = spark.read.format("delta")
    table = (reader if version is None else reader.option("versionAsOf", version)).load(path)
    check_columns(table, contract, path)
    return table.select(*contract.column_names)


def write_table(
    table: DataFrame,
    contract: Contract,
    root: str,
    *,
    mode: Literal["overwrite", "append"] = "overwrite",
    made_from: str = "",
    numbers: dict[str, Any] | None = None,
    once: str | None = None,
) -> None:
    """Write `table` in one commit that carries `made_from` (a fingerprint of its inputs) and the step's `numbers`.

    `once` names a write that must not happen twice: the same name again writes nothing (Delta's transaction id).

    Raises:
        CasprError: the columns are not the contract's.
    """
    path = table_path(contract, root)
    check_columns(table, contract, path)
    notes = commit_notes(made_from, numbers)
    writer = table.select(*contract.column_names).write.format("delta").mode(mode).option("userMetadata", notes)
    for key, value in TABLE_PROPERTIES.items():
        writer = writer.option(key, value)
    if mode == "overwrite":
        writer = writer.option("overwriteSchema", "true")
    if once is not None:
        writer = writer.option("txnAppId", once).option("txnVersion", "1")
    writer.save(path)


def change_table(
    spark: SparkSession,
    contract: Contract,
    root: str,
    *,
    removed: DataFrame,
    added: DataFrame,
    made_from: str = "",
    numbers: dict[str, Any] | None = None,
    near: str | None = None,
) -> None:
    """Take `removed` out of the table and put `added` in, in one commit.

    Rows are told apart by the contract's key; a key in both tables is a changed row. Where nothing is removed the rows
    are appended, and no file is rewritten. `near` names a timestamp column of both tables: only files with times of
    the same days (or months, where these are many) are looked at. Nothing to change is an empty commit, which still
    carries the notes.

    Raises:
        CasprError: the columns are not the contract's.
    """
    if removed.isEmpty():
        write_table(added, contract, root, mode="append", made_from=made_from, numbers=numbers)
        return
    path = table_path(contract, root)
    check_columns(added, contract, path)
    same_key = " and ".join(f"present.`{name}` <=> change.`{name}`" for name in contract.key)
    changes = (
        added.select(*contract.column_names, F.lit(True).alias("is_added"))
        .unionByName(
            removed.join(
                added, on=[removed[name].eqNullSafe(added[name]) for name in contract.key], how="left_anti"
            ).select(*contract.column_names, F.lit(False).alias("is_added"))
        )
        .alias("change")
    )
    if near is not None:
        same_key = f"{same_key} and ({_spans(removed.select(near).unionAll(added.select(near)), near)})"
    values: dict[str, str | Any] = {f"`{name}`": f"change.`{name}`" for name in contract.column_names}
    with committed_with(spark, made_from=made_from, numbers=numbers):
        (
            DeltaTable.forPath(spark, path)
            .alias("present")
            .merge(changes, same_key)
            .whenMatchedDelete("not change.is_added")
            .whenMatchedUpdate("change.is_added", set=values)
            .whenNotMatchedInsert("change.is_added", values=values)
            .execute()
        )


@contextmanager
def committed_with(
    spark: SparkSession, *, made_from: str, numbers: dict[str, Any] | None = None, once: str | None = None
) -> Iterator[None]:
    """A MERGE inside carries these notes; `once` as in `write_table`."""
    settings = {"spark.databricks.delta.commitInfo.userMetadata": commit_notes(made_from, numbers)}
    if once is not None:
        settings["spark.databricks.delta.write.txnAppId"] = once
        settings["spark.databricks.delta.write.txnVersion"] = "1"
    for key, value in settings.items():
        spark.conf.set(key, value)
    try:
        yield
    finally:
        for key in settings:
            spark.conf.unset(key)


def commit_notes(made_from: str, numbers: dict[str, Any] | None) -> str:
    """What a commit of ours carries, as `last_commit_notes` reads it."""
    return json.dumps({"made_from": made_from, "numbers": numbers or {}})


def _spans(times: DataFrame, column: str) -> str:
    """The days of `times`, or months where these are many, as a predicate on the table present, in literals, so that
    Delta passes over other files."""
    for unit in ("day", "month"):
        begin = F.to_date(F.date_trunc(unit, column)).alias("begin")
        spans = [(row["begin"], row["begin"]) for row in times.select(begin).distinct().orderBy("begin").collect()]
        if len(spans) <= _MAX_RANGES:
            break
    else:
        spans = [(spans[0][0], spans[-1][1])]
    return " or ".join(
        f"(present.`{column}` >= timestamp'{first:%Y-%m-%d}' "
        f"and present.`{column}` < timestamp'{last:%Y-%m-%d}' + interval 1 {unit})"
        for first, last in spans
    )


def table_version(spark: SparkSession, contract: Contract, root: str) -> int:
    """Newest version of the table; -1 where there is none."""
    if not table_exists(spark, contract, root):
        return -1
    newest = DeltaTable.forPath(spark, table_path(contract, root)).history(1).select("version").first()
    return -1 if newest is None else int(newest["version"])


def changed_rows(spark: SparkSession, contract: Contract, root: str, *, after: int, until: int) -> DataFrame:
    """Rows that commits after version `after` up to `until` put in, changed (before and after) or took out."""
    if after >= until:
        return read_table(spark, contract, root, version=until).limit(0)
    return _change_feed(spark, contract, root, first=after + 1, last=until).select(*contract.column_names)


def replaced_rows(spark: SparkSession, contract: Contract, root: str, *, made_from: str) -> DataFrame | None:
    """Rows of the table as they were before the commit that carries `made_from` changed them or took them out.

    None where none of the last commits carries it.
    """
    history = DeltaTable.forPath(spark, table_path(contract, root)).history(_COMMITS_LOOKED_AT)
    is_it = F.get_json_object("userMetadata", "$.made_from") == made_from
    commit = history.where(is_it).orderBy("version").select("version").first()
    if commit is None:
        return None
    changes = _change_feed(spark, contract, root, first=commit["version"], last=commit["version"])
    return changes.where(F.col("_change_type").isin("update_preimage", "delete")).select(*contract.column_names)


def _change_feed(spark: SparkSession, contract: Contract, root: str, *, first: int, last: int) -> DataFrame:
    feed = spark.read.format("delta").option("readChangeFeed", "true").option("startingVersion", first)
    return feed.option("endingVersion", last).load(table_path(contract, root))


def has_its_files(table: DataFrame) -> bool:
    """False for an old version of a table some of whose files were vacuumed."""
    spark = table.sparkSession
    jvm, configuration = spark._jvm, spark._jsc.hadoopConfiguration()
    paths = (jvm.org.apache.hadoop.fs.Path(jvm.java.net.URI(file)) for file in table.inputFiles())  # type: ignore[union-attr]
    return all(path.getFileSystem(configuration).exists(path) for path in paths)


def is_missing_file(error: Exception) -> bool:
    """True for what Spark raises where a file of a version, or of its changes, was vacuumed, or its log cut."""
    return any(sign in str(error) for sign in ("FileNotFound", "FILE_NOT_EXIST"))


def create_table(spark: SparkSession, contract: Contract, root: str) -> None:
    """Make the empty table if there is none."""
    if not table_exists(spark, contract, root):
        write_table(empty_table(spark, contract), contract, root, mode="append")


def empty_table(spark: SparkSession, contract: Contract) -> DataFrame:
    """No rows in the contract's columns."""
    return local_frame(spark, [], contract.ddl.replace(" not null", ""))


def last_commit_notes(spark: SparkSession, contract: Contract, root: str) -> dict[str, Any]:
    """`made_from`, `numbers` and `version` of the newest commit of ours; empty where there is none."""
    return notes_at(spark, table_path(contract, root)) if table_exists(spark, contract, root) else {}


def notes_at(spark: SparkSession, path: str) -> dict[str, Any]:
    """As `last_commit_notes`, of the table at `path`."""
    history = DeltaTable.forPath(spark, path).history(_COMMITS_LOOKED_AT)
    ours = history.where(F.col("userMetadata").isNotNull()).orderBy(F.desc("version")).select("version", "userMetadata")
    newest = ours.first()
    return {} if newest is None else {**json.loads(newest["userMetadata"]), "version": newest["version"]}


def column_types(contract: Contract) -> dict[str, DataType]:
    """Column name -> Spark type."""
    schema = StructType.fromDDL(contract.ddl)
    assert isinstance(schema, StructType)
    return {field.name: field.dataType for field in schema.fields}


def check_columns(table: DataFrame, contract: Contract, where: str) -> None:
    """Names and types must be the contract's, in any order; nothing is cast silently.

    Raises:
        CasprError: listing every missing, unexpected and differently typed column.
    """
    expected = {name: type_.simpleString() for name, type_ in column_types(contract).items()}
    found = {field.name: field.dataType.simpleString() for field in table.schema.fields}
    problems = [f"column '{name}' is missing" for name in expected if name not in found]
    problems += [f"column '{name}' is not in the contract" for name in found if name not in expected]
    problems += [
        f"column '{name}' is {found[name]}, expected {type_}"
        for name, type_ in expected.items()
        if name in found and found[name] != type_
    ]
    if problems:
        raise CasprError(f"{where}: not the columns of contract '{contract.name}': " + "; ".join(problems))
