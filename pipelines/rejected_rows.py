"""Quarantine: what is in `rejected`, and its raw rows written out to be mended and delivered again."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from caspr_spark.config import Config, Source
from caspr_spark.errors import ConfigError
from caspr_spark.events.sources import table_key, wanted_columns
from caspr_spark.tables import read_table
from schemas.events import REJECTED


class Exported(NamedTuple):
    """Rows that were written out, and those beside them that are text which no reader could part into columns."""

    num_rows: int
    num_unparsed: int
    unparsed: Path


def rejected_counts(spark: SparkSession, config: Config, *, source: str | None, reason: str | None) -> pd.DataFrame:
    """source, reason, file, rows: what was not taken, most rows first."""
    rejected = _chosen(spark, config, source, reason)
    counted = rejected.groupBy("source", "reason", "file").agg(F.sum("num_rows").alias("rows"))
    return counted.orderBy(F.desc("rows"), "source", "reason", "file").toPandas()


def export_rejected(spark: SparkSession, config: Config, output: Path, *, source: str, reason: str | None) -> Exported:
    """Write a source's rejected rows, each once, as the raw table has them: CSV where `output` ends so, or JSON lines.

    Texts that could not be parsed go to a file beside it, as they were. Equal rows of one file are one row.

    Raises:
        ConfigError: no such source, a name that ends in neither .csv nor .jsonl, or a file that is there already.
    """
    unparsed = output.with_name(f"{output.name}.unparsed")
    if output.suffix not in (".csv", ".jsonl"):
        raise ConfigError(f"--output {output}: expected a name that ends in .csv or .jsonl")
    if there := [path for path in (output, unparsed) if path.exists()]:
        raise ConfigError(f"{there[0]} is there already; move it away, or choose another --output")
    rejected = _chosen(spark, config, source, reason).select("content").distinct().orderBy("content")
    is_parsed = F.coalesce(F.try_parse_json("content").isNotNull() & F.col("content").startswith("{"), F.lit(False))
    parsed, texts = rejected.where(is_parsed), rejected.where(~is_parsed)
    output.parent.mkdir(parents=True, exist_ok=True)
    if output.suffix == ".csv":
        num_rows = _write_csv(output, parsed, _columns(parsed, config, source), _separator(config, source))
    else:
        num_rows = _write_lines(output, _contents(parsed))
    num_unparsed = 0 if texts.isEmpty() else _write_lines(unparsed, _contents(texts))
    return Exported(num_rows, num_unparsed, unparsed)


def _chosen(spark: SparkSession, config: Config, source: str | None, reason: str | None) -> DataFrame:
    if source is not None and source not in config.activity_tables:
        raise ConfigError(f"--source {source}: there are {', '.join(config.activity_tables)}")
    rejected = read_table(spark, REJECTED, config.root)
    for column, value in (("source", source), ("reason", reason)):
        rejected = rejected if value is None else rejected.where(F.col(column) == value)
    return rejected


def _contents(rows: DataFrame) -> Iterator[str]:
    return (row["content"] for row in rows.toLocalIterator())


def _columns(parsed: DataFrame, config: Config, source: str) -> list[str]:
    """The columns that any row has a value in, and those that are declared: a file without them would be refused."""
    table = config.activity_tables[source]
    looked_up = {
        name for lookup in (table.lookups.values() if isinstance(table, Source) else ()) for name in lookup.columns
    }
    declared = {column for _, column in wanted_columns(table, table_key(source, table))} - looked_up
    keys = parsed.select(F.explode(F.json_object_keys("content")).alias("name")).distinct().collect()
    return sorted(declared | {row["name"] for row in keys})


def _separator(config: Config, source: str) -> str:
    options = {key.lower(): value for key, value in config.activity_tables[source].options.items()}
    return options.get("sep", options.get("delimiter", ","))


def _write_csv(output: Path, parsed: DataFrame, columns: list[str], separator: str) -> int:
    with output.open("x", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns, delimiter=separator, lineterminator="\n")
        writer.writeheader()
        rows = (json.loads(content) for content in _contents(parsed))
        return sum(1 for row in rows if writer.writerow({name: _cell(value) for name, value in row.items()}))


def _cell(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _write_lines(output: Path, contents: Iterator[str]) -> int:
    with output.open("x", encoding="utf-8") as file:
        return sum(1 for content in contents if file.write(content + "\n"))
