"""Lookups: columns of another table (product -> category), joined by equality."""

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from caspr_spark.config import Lookup
from caspr_spark.errors import CasprError
from caspr_spark.events.file_schemas import CORRUPT
from caspr_spark.events.raw import FILE, quoted


def with_lookup(rows: DataFrame, table: DataFrame, *, lookup: Lookup, where: str) -> DataFrame:
    """Raw rows plus the lookup's columns; null where the table has no such key.

    Raises:
        CasprError: a key stands more than once in the table, so that rows would be multiplied.
    """
    keys = list(lookup.on.values())
    table = table.dropna(subset=[quoted(key) for key in keys])  # equal to nothing
    repeated = table.groupBy(*[F.col(quoted(key)) for key in keys]).count().where("count > 1").limit(5).collect()
    if repeated:
        examples = "; ".join(str(tuple(row)[:-1]) for row in repeated)
        raise CasprError(
            f"{where}: the key {keys} must stand once in the table, but it is repeated for {examples}; "
            "use a filter or a table with one row a key"
        )
    if taken := set(lookup.columns) & set(rows.columns):
        raise CasprError(f"{where}.columns: {sorted(taken)} are already columns of the raw table; give them new names")
    renamed = table.select(
        *[F.col(quoted(theirs)).alias(f"lookup_key_{index}") for index, theirs in enumerate(keys)],
        *[F.col(quoted(theirs)).alias(ours) for ours, theirs in lookup.columns.items()],
    )
    matches = F.lit(True)
    for index, ours in enumerate(lookup.on):
        matches = matches & _equal(rows, ours, renamed, f"lookup_key_{index}")
    joined = rows.join(renamed, on=matches, how="left")
    raw_columns = [name for name in rows.columns if name not in (CORRUPT, FILE)]
    return joined.select(
        *[F.col(quoted(name)) for name in [*raw_columns, *lookup.columns]], F.col(FILE), F.col(CORRUPT)
    )


def _equal(rows: DataFrame, ours: str, table: DataFrame, theirs: str) -> Column:
    """Equality; as text where the types differ, so that a CSV joins a Parquet table."""
    left, right = rows[quoted(ours)], table[theirs]
    if rows.schema[ours].dataType == table.schema[theirs].dataType:
        return left == right
    return left.cast("string") == right.cast("string")
