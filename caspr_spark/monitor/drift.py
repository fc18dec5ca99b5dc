"""How far customers' vectors moved between two runs of the same model. Two models' spaces are never compared."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, NamedTuple

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

QUANTILES = {"p01": 0.01, "p05": 0.05, "p25": 0.25, "p50": 0.5, "p75": 0.75, "p95": 0.95, "p99": 0.99}


def run_at(history: DataFrame, *, as_of: datetime, model_version: str) -> DataFrame:
    """CUSTOMER_EMBEDDING_HISTORY -> the rows of the run at `as_of` by this model.

    Where several runs share both (other inputs), the one with the largest run_id, so that every reader takes the same.
    """
    same = history.where((F.col("as_of") == F.lit(as_of)) & (F.col("model_version") == model_version))
    return _largest(same, "run_id")


def previous_run(history: DataFrame, *, as_of: datetime, model_version: str) -> DataFrame:
    """CUSTOMER_EMBEDDING_HISTORY -> the rows of the newest run before `as_of` by this model; empty if there is none."""
    earlier = history.where((F.col("as_of") < F.lit(as_of)) & (F.col("model_version") == model_version))
    return _largest(_largest(earlier, "as_of"), "run_id")


def _largest(rows: DataFrame, column: str) -> DataFrame:
    """The rows with the largest value of `column`."""
    return rows.join(F.broadcast(rows.agg(F.max(column).alias(column))), on=column, how="left_semi")


def vector_norm(vector: Column) -> Column:
    """Euclidean norm; NaN or infinite for a vector that is not finite."""
    return F.sqrt(_dot(vector, vector))


def cosine_distances(newer: DataFrame, older: DataFrame) -> DataFrame:
    """Customers of both runs -> customer_id, distance (0 to 2), is_zero, is_finite.

    The distance is null where a vector is zero or not finite, or the two differ in length.
    """
    pairs = newer.select("customer_id", F.col("embedding").alias("newer")).join(
        older.select("customer_id", F.col("embedding").alias("older")), on="customer_id", how="inner"
    )
    new, old = F.col("newer"), F.col("older")
    norms = vector_norm(new) * vector_norm(old)
    is_finite = ~F.isnan(norms) & (norms < F.lit(float("inf")))
    cosine = F.greatest(F.lit(-1.0), F.least(F.lit(1.0), _dot(new, old) / norms))
    return pairs.select(
        "customer_id",
        F.when(is_finite & (norms > 0) & (F.size(new) == F.size(old)), 1 - cosine).alias("distance"),
        (is_finite & (norms == 0)).alias("is_zero"),
        is_finite.alias("is_finite"),
    )


def _dot(left: Column, right: Column) -> Column:
    """Inner product in double precision; a null element counts as not a number."""
    products = F.zip_with(left, right, lambda x, y: F.coalesce(x.cast("double") * y, F.lit(float("nan"))))
    return F.aggregate(products, F.lit(0.0), lambda total, x: total + x)


def distance_numbers(distances: DataFrame) -> DataFrame:
    """`cosine_distances` -> one row: num_compared, num_zero, num_not_finite, mean and the quantiles of the distance."""
    distance = F.col("distance")
    return distances.select(
        F.count(distance).alias("num_compared"),
        F.count_if("is_zero").alias("num_zero"),
        F.count_if(~F.col("is_finite")).alias("num_not_finite"),
        F.mean(distance).alias("mean"),
        *(F.percentile(distance, share).alias(name) for name, share in QUANTILES.items()),
    )


class Verdict(NamedTuple):
    """`is_drift` is None where no verdict is possible; `text` says what was found."""

    is_drift: bool | None
    text: str


def drift_verdict(numbers: Mapping[str, Any], *, min_customers: int, max_median_distance: float) -> Verdict:
    """What `distance_numbers` mean."""
    num_compared = int(numbers["num_compared"])
    if num_compared < min_customers:
        found = f"{num_compared} of at least {min_customers}"
        return Verdict(None, f"too few customers to compare ({found}), no verdict on drift")
    median = float(numbers["p50"])
    sides = f"median cosine distance {median:.4f} of {num_compared:,} customers to their previous vector"
    if median > max_median_distance:
        return Verdict(True, f"{sides}, above the limit of {max_median_distance:g}")
    return Verdict(False, sides)
