"""Backfill: which intervals between two times have no run of the champion."""

from datetime import datetime, timedelta

from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from caspr_spark.aliases import champion_of
from caspr_spark.config import Config
from caspr_spark.errors import ConfigError
from caspr_spark.tables import read_table, table_exists
from schemas.runs import RUNS


def missing_intervals(
    spark: SparkSession, config: Config, first: datetime, last: datetime, *, every: timedelta
) -> list[datetime]:
    """The as_of times first, first + every, ... up to last of which RUNS has no run of the champion, oldest first.

    Raises:
        ConfigError: `last` is before `first`.
    """
    if last < first:
        raise ConfigError(f"--to {last.isoformat()} is before --from {first.isoformat()}")
    wanted = [first + number * every for number in range((last - first) // every + 1)]
    if not table_exists(spark, RUNS, config.root):
        return wanted
    model_version = champion_of(config.root)
    runs = read_table(spark, RUNS, config.root).where(F.col("model_version") == model_version)
    finished = {row["seconds"] for row in runs.select(F.unix_seconds("as_of").alias("seconds")).collect()}
    return [time for time in wanted if round(time.timestamp()) not in finished]
