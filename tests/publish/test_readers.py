"""The feature table, read without Spark and without this project."""

from typing import Any

import duckdb
import polars
from deltalake import DeltaTable
from pyspark.sql import SparkSession

from caspr_spark.config import Config
from caspr_spark.tables import read_table, table_path
from pipelines.publish_embeddings import PUBLISHED
from schemas.embeddings import CUSTOMER_EMBEDDINGS

COLUMNS = ["customer_id", "embedding", "num_events", "model_version", "run_id"]


def test_four_readers_see_the_same_rows(spark: SparkSession, twice_published: Config) -> None:
    for contract in PUBLISHED:
        assert DeltaTable(table_path(contract, twice_published.root)).protocol().min_reader_version == 1

    path = table_path(CUSTOMER_EMBEDDINGS, twice_published.root)
    times = ", epoch_us(as_of) as as_of, epoch_us(last_event_time) as last_event_time"
    found = {
        "spark": read_table(spark, CUSTOMER_EMBEDDINGS, twice_published.root)
        .selectExpr(*COLUMNS, "unix_micros(as_of) as as_of", "unix_micros(last_event_time) as last_event_time")
        .toPandas()
        .to_dict("records"),
        "deltalake": _with_microseconds(DeltaTable(path).to_pyarrow_table().to_pylist()),
        "polars": _with_microseconds(polars.read_delta(path).to_dicts()),
        "duckdb": _duckdb_rows(path, times),
    }
    expected = {"ann": [3.0, 4.0], "bob": [0.5, -1.0], "çid 'x'": [5.0, 0.0]}
    assert {row["customer_id"]: row["embedding"] for row in found["spark"]} == expected
    in_order = {reader: sorted(rows, key=lambda row: str(row["customer_id"])) for reader, rows in found.items()}
    for reader, rows in in_order.items():
        assert rows == in_order["spark"], reader


def _duckdb_rows(path: str, times: str) -> list[dict[str, Any]]:
    vectors = DeltaTable(path).to_pyarrow_dataset()  # noqa: F841  (DuckDB finds it by name)
    return duckdb.sql(f"select {', '.join(COLUMNS)}{times} from vectors").df().to_dict("records")


def _with_microseconds(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    times = ("as_of", "last_event_time")
    return [
        {name: round(value.timestamp() * 1e6) if name in times else value for name, value in row.items()}
        for row in rows
    ]
