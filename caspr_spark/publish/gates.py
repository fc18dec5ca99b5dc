"""What a run's vectors must be before anybody may read them."""

from collections.abc import Mapping
from typing import Any

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

FEWEST_ALIKE = 20
"""So many customers with the same vector are a fault; a few may have the same events."""


def vector_health(vectors: DataFrame) -> DataFrame:
    """EMBEDDINGS -> one row: the counts that `failed_checks` judges by, and which run it is (null if empty)."""
    numbers = F.col("embedding")
    finite = F.forall(numbers, lambda x: x.isNotNull() & ~F.isnan(x) & (F.abs(x) < F.lit(float("inf"))))
    one_vector = F.min(numbers) == F.max(numbers)
    return vectors.select(
        F.count(F.lit(1)).alias("num_rows"),
        F.countDistinct("customer_id").alias("num_customers"),
        F.count_if(numbers.isNull() | ~finite).alias("num_not_finite"),
        F.coalesce(F.min(F.size(numbers)), F.lit(0)).alias("smallest_size"),
        F.coalesce(F.max(F.size(numbers)), F.lit(0)).alias("largest_size"),
        F.count_if(F.forall(numbers, lambda x: x == 0)).alias("num_zero"),
        F.coalesce((F.count(F.lit(1)) >= FEWEST_ALIKE) & one_vector, F.lit(False)).alias("is_constant"),
        F.countDistinct("run_id", "model_version", "as_of").alias("num_runs"),
        F.min("run_id").alias("run_id"),
        F.unix_micros(F.min("as_of")).alias("as_of_microseconds"),
    )


def failed_checks(health: Mapping[str, Any], *, num_rows: int, size: int) -> list[str]:
    """A line per failed check: its name, what was expected, what was found. Empty: the run may be published.

    `num_rows` is what the manifest of the run's sequences promises, `size` the configured length of a vector.
    """
    found, customers = health["num_rows"], health["num_customers"]
    smallest, largest = health["smallest_size"], health["largest_size"]
    sizes = str(smallest) if smallest == largest else f"{smallest} to {largest}"
    failures = {
        f"rows_complete: expected {num_rows} rows, as the manifest says, found {found}": found != num_rows,
        f"customer_unique: expected {found} customers, found {customers}": customers != found,
        f"one_run: expected rows of one run, found {health['num_runs']} runs": health["num_runs"] > 1,
        f"vector_finite: {health['num_not_finite']} vectors hold NaN, infinity or null": health["num_not_finite"] > 0,
        f"vector_size: expected {size} numbers in a vector, found {sizes}": found > 0 and sizes != str(size),
        "vector_not_zero: every vector is zero": 0 < found == health["num_zero"],
        f"vector_varies: all {found} customers have the same vector": bool(health["is_constant"]),
    }
    return [line for line, failed in failures.items() if failed]
