"""Tables rewritten group by group: one run's metrics, one task's scores. The same rows again commit nothing."""

import math
from collections.abc import Mapping
from datetime import datetime

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from caspr_spark.session import local_frame
from caspr_spark.tables import check_columns, create_table, read_table, table_path
from schemas.contract import Contract
from schemas.run_metrics import RUN_METRICS

Metrics = Mapping[tuple[str, str], float]
"""(metric, key) -> value; the key is empty where a metric has only one value."""


def metric_rows(spark: SparkSession, metrics: Metrics, *, as_of: datetime, run_id: str, stage: str) -> DataFrame:
    """Numbers of one stage as RUN_METRICS. A number that is not finite is left out: it was not measured."""
    finite = [(metric, key, float(value)) for (metric, key), value in metrics.items() if math.isfinite(value)]
    rows = local_frame(spark, finite, "metric string, key string, value double")
    return rows.select(F.lit(as_of).alias("as_of"), F.lit(run_id).alias("run_id"), F.lit(stage).alias("stage"), "*")


def write_metrics(
    spark: SparkSession, metrics: Metrics, root: str, *, as_of: datetime, run_id: str, stage: str
) -> bool:
    """Replace what RUN_METRICS holds of this as_of, run and stage; True where something changed.

    `run_id` is empty for a stage before embedding.
    """
    rows = metric_rows(spark, metrics, as_of=as_of, run_id=run_id, stage=stage)
    return replace_rows(rows, RUN_METRICS, root, {"as_of": as_of, "run_id": run_id, "stage": stage})


def replace_rows(rows: DataFrame, contract: Contract, root: str, group: Mapping[str, str | datetime]) -> bool:
    """Put `rows` in place of those whose columns equal `group`, in one commit; True where something changed.

    Raises:
        CasprError: the columns are not the contract's.
    """
    spark = rows.sparkSession
    check_columns(rows, contract, table_path(contract, root))
    create_table(spark, contract, root)
    condition = " and ".join(f"{column} = {_literal(value)}" for column, value in group.items())
    ordered = rows.select(*contract.column_names).coalesce(1).orderBy(*contract.key)
    present = read_table(spark, contract, root).where(condition).orderBy(*contract.key)
    if present.collect() == ordered.collect():
        return False
    writer = ordered.write.format("delta").mode("overwrite").option("replaceWhere", condition)
    writer.save(table_path(contract, root))
    return True


def _literal(value: str | datetime) -> str:
    """A Spark SQL literal."""
    if isinstance(value, datetime):
        return f"timestamp'{value.isoformat()}'"
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
