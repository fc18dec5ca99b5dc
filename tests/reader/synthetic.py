"""Published tables to read, written without Spark: synthetic vectors of two numbers."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
from deltalake import write_deltalake

from schemas.embeddings import CUSTOMER_EMBEDDING_HISTORY

TIME = pa.timestamp("us", "UTC")
SCHEMA = pa.schema(
    {
        "customer_id": pa.string(),
        "embedding": pa.list_(pa.float32()),
        "as_of": TIME,
        "last_event_time": TIME,
        "num_events": pa.int32(),
        "model_version": pa.string(),
        "run_id": pa.string(),
    }
)
# customer, day of January 2024 of the as_of, model, run, vector
Row = tuple[str, int, str, str, tuple[float, float]]

HISTORY: tuple[Row, ...] = (
    ("ann", 1, "m1", "r1", (1, 0)),
    ("bob", 1, "m1", "r1", (2, 0)),
    ("ann", 3, "m1", "r3", (1, 3)),
    ("cid", 3, "m1", "r3", (3, 3)),
    ("ann", 5, "m2", "r5", (1, 5)),
    ("dan", 5, "m2", "r5", (4, 5)),
)
LATEST: tuple[Row, ...] = (HISTORY[4], HISTORY[1], HISTORY[3], HISTORY[5])


def day(number: float) -> datetime:
    """Midnight (UTC) of a day of January 2024; 1.5 is noon of the first."""
    return datetime.fromtimestamp(datetime(2024, 1, 1, tzinfo=UTC).timestamp() + 86400 * (number - 1), tz=UTC)


def table_of(rows: Sequence[Row]) -> Any:
    """Rows as pyarrow.Table in the contract's columns."""
    full = [
        (customer, list(vector), day(number), day(number), 3, model, run)
        for customer, number, model, run, vector in rows
    ]
    return pa.table(
        [pa.array(column, field.type) for column, field in zip(zip(*full, strict=True), SCHEMA, strict=True)], SCHEMA
    )


def write_history(root: Path, rows: Sequence[Row]) -> None:
    """One commit for each run."""
    for run in dict.fromkeys(row[3] for row in rows):
        append(root, table_of([row for row in rows if row[3] == run]))


def append(root: Path, table: Any) -> None:
    write_deltalake(root / CUSTOMER_EMBEDDING_HISTORY.name, table, mode="append")
