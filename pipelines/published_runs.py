"""The published runs as tables to look at."""

import pandas as pd
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from caspr_spark.config import Config
from caspr_spark.errors import CasprError
from caspr_spark.tables import read_table
from schemas.run_metrics import RUN_METRICS
from schemas.runs import RUNS

_TIME = "yyyy-MM-dd HH:mm:ss"


def run_table(spark: SparkSession, config: Config) -> pd.DataFrame:
    """One row a run, newest as_of first. Raises CasprError where nothing was published."""
    runs = read_table(spark, RUNS, config.root).orderBy(F.desc("as_of"), F.desc("events_version"))
    shown = ("run_id", "kind", "num_customers", "num_removed", "events_version")
    return runs.select(F.date_format("as_of", _TIME).alias("as_of"), *shown).toPandas()


def run_numbers(spark: SparkSession, config: Config, run_id: str) -> pd.DataFrame:
    """What is recorded of one run: its row in RUNS, then its numbers. Raises CasprError where there is none."""
    runs = read_table(spark, RUNS, config.root).where(F.col("run_id") == run_id)
    row = runs.withColumn("as_of", F.date_format("as_of", _TIME)).first()
    if row is None:
        raise CasprError(f"{config.root}: there is no run {run_id}; `caspr-spark runs` lists them")
    metrics = read_table(spark, RUN_METRICS, config.root).where(F.col("run_id") == run_id)
    measured = metrics.orderBy("stage", "metric", "key").select("stage", "metric", "key", "value").collect()
    lines = [(name, str(value)) for name, value in row.asDict().items()]
    lines += [(" ".join(filter(None, found[:3])), f"{found['value']:.6g}") for found in measured]
    return pd.DataFrame(lines, columns=["name", "value"])
