"""A few rows as a DataFrame, without a Python worker."""

from datetime import UTC, datetime

import pytest
from pyspark.sql import SparkSession

from caspr_spark.session import local_frame

TYPES = "name string, number int, share double, time timestamp, is_so boolean, parts array<string>"
ROWS = [
    ("a", 1, 0.5, datetime(2026, 3, 29, 0, 30, tzinfo=UTC), True, ["x", "ÿ"]),
    (None, None, None, None, None, None),
    ("'; --\n", -(2**31), -0.0, datetime(1970, 1, 1, tzinfo=UTC), False, []),
]


def test_rows_and_types_are_those_that_were_asked_for(spark: SparkSession) -> None:
    found, expected = local_frame(spark, ROWS, TYPES), spark.createDataFrame(ROWS, TYPES)
    assert found.schema == expected.schema
    assert found.collect() == expected.collect()
    assert local_frame(spark, [], TYPES).schema == expected.schema
    assert local_frame(spark, iter(()), TYPES).collect() == []


def test_no_python_worker_is_asked_for_them(spark: SparkSession) -> None:
    def plan(frame: object) -> str:
        return str(frame._jdf.queryExecution().executedPlan())  # type: ignore[attr-defined]

    assert plan(local_frame(spark, ROWS, TYPES)).startswith("LocalTableScan")
    assert plan(local_frame(spark, [], TYPES)).startswith("LocalTableScan")


def test_a_row_of_another_length_is_refused(spark: SparkSession) -> None:
    with pytest.raises(ValueError, match="shorter"):
        local_frame(spark, [("a",)], "name string, number int")


def test_no_plan_shows_the_values(spark: SparkSession) -> None:
    """Of the key of erased customers, for one (caspr_spark/tombstones.py)."""
    secret = "5ec3e7" * 10
    joined = local_frame(spark, [("a",)], "name string").crossJoin(local_frame(spark, [(secret,)], "secret string"))
    query = joined.where("sha2(concat(secret, name), 256) <> ''")._jdf.queryExecution()
    told = [
        query.toString(),
        *(plan.toJSON() for plan in (query.analyzed(), query.optimizedPlan(), query.executedPlan())),
    ]
    assert all("secret" in text and secret not in text for text in told)
