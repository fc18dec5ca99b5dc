"""Reading and writing our Delta tables: contracts are checked both ways, and a commit says what it was made from."""

import json
from pathlib import Path
from typing import Any, Literal

from delta.tables import DeltaTable
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import DataType, StructType

from caspr_spark.errors import CasprError
from schemas.contract import Contract

# Reader protocol 1, so that delta-rs, DuckDB and Polars can read every table.
_PROPERTIES = {
    "delta.minReaderVersion": "1",
    "delta.minWriterVersion": "4",
    "delta.enableChangeDataFeed": "true",
    "delta.enableDeletionVectors": "false",
}


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
    notes = json.dumps({"made_from": made_from, "numbers": numbers or {}})
    writer = table.select(*contract.column_names).write.format("delta").mode(mode).option("userMetadata", notes)
    for key, value in _PROPERTIES.items():
        writer = writer.option(key, value)
    if mode == "overwrite":
        writer = writer.option("overwriteSchema", "true")
    if once is not None:
        writer = writer.option("txnAppId", once).option("txnVersion", "1")
    writer.save(path)


def create_table(spark: SparkSession, contract: Contract, root: str) -> None:
    """Make the empty table if there is none."""
    if not table_exists(spark, contract, root):
        empty = spark.createDataFrame([], contract.ddl.replace(" not null", ""))
        write_table(empty, contract, root, mode="append")


def last_commit_notes(spark: SparkSession, contract: Contract, root: str) -> dict[str, Any]:
    """`made_from`, `numbers` and `version` of the newest commit of ours; empty where there is none."""
    if not table_exists(spark, contract, root):
        return {}
    history = DeltaTable.forPath(spark, table_path(contract, root)).history(20)
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
