"""The feature table, read without Spark and without this project."""

from typing import Any

import duckdb
import polars
from deltalake import DeltaTable
from pyspark.sql import SparkSession

from caspr_spark.config import Config
from caspr_spark.tables import read_table, table_path
from schemas.embeddings import CUSTOMER_EMBEDDINGS, PUBLISHED

COLUMNS = ["customer_id", "embedding", "num_events", "model_version", "run_id"]


def test_four_readers_see_the_same_rows(spark: SparkSession, twice_published: Config) -> None:
    for contract in PUBLISHED:
        assert DeltaTable(table_path(contract, twice_published.root)).protocol().min_reader_version == 1

    path = table_path(CUSTOMER_EMBEDDINGS, twice_published.root)
    found = {
        "spark": _spark_rows(spark, twice_published.root),
        "deltalake": _with_microseconds(DeltaTable(path).to_pyarrow_table().to_pylist()),
        "polars": _with_microseconds(polars.read_delta(path).to_dicts()),
        "duckdb": _duckdb_rows(path),
    }
    expected = {"ann": [3.0, 4.0], "bob": [0.5, -1.0], "çid 'x'": [5.0, 0.0]}
    assert {row["customer_id"]: row["embedding"] for row in found["spark"]} == expected
    in_order = {reader: sorted(rows, key=lambda row: str(row["customer_id"])) for reader, rows in found.items()}
    for reader, rows in in_order.items():
        assert rows == in_order["spark"], reader


def _spark_rows(spark: SparkSession, root: str) -> list[dict[str, Any]]:
    times = ["unix_micros(as_of) as as_of", "unix_micros(last_event_time) as last_event_time"]
    return [row.asDict() for row in read_table(spark, CUSTOMER_EMBEDDINGS, root).selectExpr(*COLUMNS, *times).collect()]


def _duckdb_rows(path: str) -> list[dict[str, Any]]:
    vectors = DeltaTable(path).to_pyarrow_table()  # noqa: F841  (DuckDB finds it by name)
    times = ["epoch_us(as_of) as as_of", "epoch_us(last_event_time) as last_event_time"]
    found = duckdb.sql(f"select {', '.join([*COLUMNS, *times])} from vectors")
    return [dict(zip(found.columns, row, strict=True)) for row in found.fetchall()]


def _with_microseconds(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    times = ("as_of", "last_event_time")
    return [
        {name: round(value.timestamp() * 1e6) if name in times else value for name, value in row.items()}
        for row in rows
    ]
