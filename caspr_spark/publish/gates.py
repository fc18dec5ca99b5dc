"""The numbers of a run's vectors that the gate judges before anybody may read them; `publish.gate` names them."""

from collections.abc import Mapping
from typing import Any

import pandas as pd
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

FEWEST_ALIKE = 20
"""So many customers with the same vector are a fault; a few may have the same events."""
SHARE_UNKNOWN = "share_unknown"
COVERAGE = "coverage"


def vector_health(vectors: DataFrame, *, size: int) -> DataFrame:
    """EMBEDDINGS -> one row, in one pass: the numbers of the vectors, and which run they are of (null if empty).

    `size`: numbers that a vector must have. The norm of a vector that is not finite is not looked at.
    """
    numbers = F.col("embedding")
    finite = F.forall(numbers, lambda x: x.isNotNull() & ~F.isnan(x) & (F.abs(x) < F.lit(float("inf"))))
    length = F.sqrt(F.aggregate(numbers, F.lit(0.0), lambda total, x: total + x * x))
    vectors = vectors.withColumn("is_finite", finite).withColumn("norm", F.when(F.col("is_finite"), length))
    num_rows = F.count(F.lit(1))
    is_constant = (num_rows >= FEWEST_ALIKE) & (F.min(numbers) == F.max(numbers))
    is_zero = F.coalesce(F.forall(numbers, lambda x: x == 0), F.lit(False))
    return vectors.select(
        num_rows.alias("num_rows"),
        (num_rows - F.countDistinct("customer_id")).alias("num_repeated"),
        F.count_if(numbers.isNull() | ~F.col("is_finite")).alias("num_not_finite"),
        F.count_if(F.size(numbers) != size).alias("num_wrong_size"),
        F.min("norm").alias("smallest_norm"),
        F.max("norm").alias("largest_norm"),
        F.avg(is_zero.cast("double")).alias("share_zero"),
        F.coalesce(is_constant, F.lit(False)).cast("double").alias("share_alike"),
        F.countDistinct("run_id", "model_version", "as_of").alias("num_runs"),
        F.min("run_id").alias("run_id"),
        F.unix_micros(F.min("as_of")).alias("as_of_microseconds"),
    )


def gate_numbers(health: Mapping[str, Any], *, num_promised: int, measured: Mapping[str, float | None]) -> pd.DataFrame:
    """The row that the gate judges: `health` of `vector_health`, and what else was measured (None: it was not).

    `num_promised`: customers that the manifest of the run's sequences says.
    """
    of_run = ("run_id", "as_of_microseconds")
    numbers = {name: value for name, value in health.items() if name not in of_run}
    numbers["num_missing"] = num_promised - health["num_rows"]
    for name in (SHARE_UNKNOWN, COVERAGE):
        numbers[name] = measured.get(name)
    return pd.DataFrame([numbers], dtype="float64")
