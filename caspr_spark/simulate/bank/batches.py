"""Batches of raw rows: which rows arrive when, and how they are written, so that a reader never sees half a batch.

Batch k of a table has the rows of [start + k * hours, start + (k + 1) * hours) in `FOLDER/<table>/batch-00000k`. A
table without rows in a batch has no such folder, but for batch 0 of CSV and Parquet: a file that tells the columns.
"""

import shutil
from collections.abc import Sequence
from datetime import timedelta
from functools import lru_cache
from itertools import groupby
from pathlib import Path

from pyspark.sql import Column, DataFrame, Observation, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import DoubleType, TimestampType

from caspr_spark.simulate.bank.customers import Bank, customer_days, customers, epoch_day
from caspr_spark.simulate.bank.faults import (
    ADDED_COLUMN,
    Fault,
    has,
    most_batches_delayed,
    with_arrivals,
    with_wrong_values,
)
from caspr_spark.simulate.bank.tables import TABLES, RawTable

ROWS_PER_FILE = 500_000  # about, of a customer's five rows a day
_CSV_TIME = "yyyy-MM-dd HH:mm:ss"
_NOT_WRITTEN = ("batch", "place", "is_corrupt")
_FORMATS = {"csv": "csv", "json": "text", "parquet": "parquet"}  # JSON as lines of text, so that one can be broken


def batch_folder(folder: Path, table: str, batch: int) -> Path:
    return folder / table / f"batch-{batch:06d}"


def deliver_batch(staged: Path, folder: Path, batch: int) -> None:
    """Move what `staged` holds of a batch into `folder`, as if it arrived now; again, it does nothing."""
    for table in TABLES:
        arrived, place = (batch_folder(parent, table, batch) for parent in (staged, folder))
        if arrived.exists():
            place.parent.mkdir(parents=True, exist_ok=True)
            arrived.rename(place)


def batch_rows(
    spark: SparkSession, bank: Bank, table: RawTable, *, hours: int, batches: range, faults: Sequence[Fault] = ()
) -> DataFrame:
    """The table's columns, typed, for the rows that arrive in the batches; `batch`, `place` in the file, `is_corrupt`.

    `batches` has a step of 1. The rows are the same however many partitions Spark makes.
    """
    earliest = max(0, batches.start - most_batches_delayed(faults, table))
    begin, end = (bank.start + timedelta(hours=hours * batch) for batch in (earliest, batches.stop))
    from_day, to_day = epoch_day(begin), epoch_day(end - timedelta(microseconds=1))
    num_files = 1 + bank.num_customers * 5 * (to_day - from_day + 1) // ROWS_PER_FILE
    made = table.rows(_days(spark, bank, from_day, to_day, num_files), bank)
    in_time = made.where((F.col("at") >= F.lit(begin)) & (F.col("at") < F.lit(end)))
    second = F.unix_seconds("at") - int(bank.start.timestamp())
    numbered = in_time.withColumn("batch", F.floor(second / (3600 * hours)).cast("int"))
    sent = with_arrivals(with_wrong_values(numbered, table, faults, seed=bank.seed), table, faults, seed=bank.seed)
    arrived = sent.where(F.col("batch").between(batches.start, batches.stop - 1))
    shuffled = [batch for batch in batches if has(faults, "out_of_order", table, batch)]
    place = F.when(F.col("batch").isin(shuffled), F.xxhash64(*table.key)).otherwise(F.unix_micros("at"))
    return arrived.withColumn("place", place).drop("at")


def write_batches(
    spark: SparkSession,
    bank: Bank,
    table: RawTable,
    folder: Path,
    *,
    hours: int,
    batches: range,
    faults: Sequence[Fault] = (),
) -> int:
    """Write the batches that `folder` does not hold yet and return the number of rows."""
    num_rows = 0
    for (added, retyped), alike in groupby(
        batches, lambda batch: (has(faults, "column_added", table, batch), has(faults, "column_retyped", table, batch))
    ):
        first, *others = alike
        span = range(first, (others or [first])[-1] + 1)
        rows = batch_rows(spark, bank, table, hours=hours, batches=span, faults=faults)
        rows = rows.withColumn(ADDED_COLUMN, F.lit("5.1")) if added else rows
        rows = rows.withColumn(str(table.number), _with_unit(table)) if retyped else rows
        num_rows += _write(rows, table, folder, batches=span)
    return num_rows


@lru_cache(maxsize=4)  # a plan without rows; the tables share it, for to make it is a second of talk with the JVM
def _days(spark: SparkSession, bank: Bank, from_day: int, to_day: int, num_partitions: int) -> DataFrame:
    known = customers(spark, bank, until_day=to_day, num_partitions=num_partitions)
    return customer_days(known, bank, from_day=from_day, to_day=to_day)


def _write(rows: DataFrame, table: RawTable, folder: Path, *, batches: range) -> int:
    """All batches into one hidden folder, then each to its place by one rename. Files once seen are never replaced."""
    writing = folder / f".writing-{table.name}"
    shutil.rmtree(writing, ignore_errors=True)
    counted = Observation()
    ordered = rows.observe(counted, F.count(F.lit(1)).alias("rows")).sortWithinPartitions("batch", "place", *table.key)
    written = _encoded(ordered, table)
    _save(written, table, writing, partitioned=True)
    if 0 in batches and table.format != "json" and not (writing / "batch=0").exists():
        _save(written.drop("batch").limit(0), table, writing / "batch=0", partitioned=False)
    for batch in batches:
        target, made = batch_folder(folder, table.name, batch), writing / f"batch={batch}"
        if made.exists() and not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            made.rename(target)
    shutil.rmtree(writing)
    return int(counted.get["rows"])


def _save(rows: DataFrame, table: RawTable, folder: Path, *, partitioned: bool) -> None:
    writer = rows.write.format(_FORMATS[table.format])
    writer = writer.option(
        "mapreduce.fileoutputcommitter.marksuccessfuljobs", "false"
    )  # a source system leaves no such
    if table.format == "csv":
        writer = writer.options(header="true", escape='"')
    (writer.partitionBy("batch") if partitioned else writer).save(str(folder))


def _encoded(rows: DataFrame, table: RawTable) -> DataFrame:
    """`batch` and the columns as their format writes them, damaged where `is_corrupt` says so."""
    types = {field.name: field.dataType for field in rows.schema.fields if field.name not in _NOT_WRITTEN}
    columns = {name: F.col(name) for name in types}
    times = [name for name, data_type in types.items() if isinstance(data_type, TimestampType)]
    number, is_corrupt = table.number, F.col("is_corrupt")
    if table.format == "csv":
        columns |= {name: F.date_format(name, _CSV_TIME) for name in times}
        if number is not None:
            columns[number] = F.when(is_corrupt, "n/a").otherwise(F.col(number).cast("string"))
    elif table.format == "json":
        columns |= {name: F.unix_millis(name) for name in times}
        line = F.to_json(F.struct(*_named(columns)))
        half = F.substring(line, F.lit(1), F.floor(F.length(line) / 2).cast("int"))
        columns = {"value": F.when(is_corrupt, half).otherwise(line)}
    elif number is not None and isinstance(types[number], DoubleType):
        columns[number] = F.when(is_corrupt, float("nan")).otherwise(F.col(number))
    return rows.select(*_named(columns), "batch")


def _named(columns: dict[str, Column]) -> list[Column]:
    return [column.alias(name) for name, column in columns.items()]


def _with_unit(table: RawTable) -> Column:
    return F.concat(F.col(str(table.number)).cast("string"), F.lit(" units"))
