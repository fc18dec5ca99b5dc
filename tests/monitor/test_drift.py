"""Cosine distances, against values worked out by hand."""

from datetime import UTC, datetime
from typing import Any

import pytest
from pyspark.sql import DataFrame, SparkSession

from caspr_spark.monitor.drift import cosine_distances, distance_numbers, drift_verdict, previous_run, run_at

NAN = float("nan")


def vectors(spark: SparkSession, rows: dict[str, Any]) -> DataFrame:
    return spark.createDataFrame(list(rows.items()), "customer_id string, embedding array<float>")


def test_distance_is_one_minus_cosine(spark: SparkSession) -> None:
    newer = {"same": [1.0, 2.0], "longer": [2.0, 4.0], "90": [0.0, 3.0], "180": [-1.0, 0.0], "60": [1.0, 0.0]}
    older = {"same": [1.0, 2.0], "longer": [1.0, 2.0], "90": [5.0, 0.0], "180": [7.0, 0.0], "60": [0.5, 0.75**0.5]}
    found = cosine_distances(vectors(spark, newer | {"new": [1.0, 1.0]}), vectors(spark, older | {"gone": [1.0, 1.0]}))
    distances = {row["customer_id"]: row["distance"] for row in found.collect()}
    expected = {"same": 0, "longer": 0, "90": 1, "180": 2, "60": 0.5}
    assert distances == pytest.approx(expected, abs=1e-7)


def test_f84_zero_and_nan_are_counted_and_never_averaged_in(spark: SparkSession) -> None:
    newer = {"a": [1.0, 0.0], "b": [0.0, 1.0], "zero": [0.0, 0.0], "nan": [NAN, 0.0], "inf": [float("inf"), 0.0]}
    older = {"a": [1.0, 0.0], "b": [1.0, 0.0], "zero": [1.0, 0.0], "nan": [1.0, 0.0], "inf": [1.0, 0.0]}
    numbers = distance_numbers(cosine_distances(vectors(spark, newer), vectors(spark, older))).collect()[0]
    assert (numbers["num_compared"], numbers["num_zero"], numbers["num_not_finite"]) == (2, 1, 2)
    assert (numbers["mean"], numbers["p50"], numbers["p95"]) == pytest.approx((0.5, 0.5, 0.95))


def test_f84_null_element_and_other_length_have_no_distance(spark: SparkSession) -> None:
    newer = vectors(spark, {"null": [None, 1.0], "longer": [1.0, 1.0, 1.0]})
    older = vectors(spark, {"null": [1.0, 1.0], "longer": [1.0, 1.0]})
    assert [row["distance"] for row in cosine_distances(newer, older).collect()] == [None, None]


def test_f80_unchanged_vectors_are_no_drift(spark: SparkSession) -> None:
    same = vectors(spark, {f"c{number}": [float(number + 1), 1.0] for number in range(40)})
    numbers = distance_numbers(cosine_distances(same, same)).collect()[0].asDict()
    verdict = drift_verdict(numbers, min_customers=30, max_median_distance=0.25)
    assert verdict.is_drift is False
    assert numbers["p99"] == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(("median", "is_drift"), [(0.25, False), (0.2501, True)])
def test_median_above_the_limit_is_drift(median: float, is_drift: bool) -> None:
    verdict = drift_verdict({"num_compared": 30, "p50": median}, min_customers=30, max_median_distance=0.25)
    assert verdict.is_drift is is_drift


def test_f82_few_customers_get_no_verdict() -> None:
    verdict = drift_verdict({"num_compared": 5, "p50": 2.0}, min_customers=30, max_median_distance=0.25)
    assert verdict.is_drift is None
    assert "too few" in verdict.text
    assert drift_verdict({"num_compared": 0, "p50": None}, min_customers=1, max_median_distance=0).is_drift is None


def test_f83_the_previous_run_is_the_newest_earlier_one_of_the_same_model(spark: SparkSession) -> None:
    def day(number: int) -> datetime:
        return datetime(2017, 10, number, tzinfo=UTC)

    runs = [(1, "m1", "a"), (2, "m1", "b"), (3, "m2", "c"), (4, "m1", "d"), (4, "m1", "e"), (5, "m2", "f")]
    rows = [(f"{run}{customer}", day(number), model, run) for number, model, run in runs for customer in (1, 2)]
    history = spark.createDataFrame(rows, "customer_id string, as_of timestamp, model_version string, run_id string")

    def previous(number: int, model: str) -> list[str]:
        run = previous_run(history, as_of=day(number), model_version=model)
        return sorted(row["customer_id"] for row in run.collect())

    assert previous(4, "m1") == ["b1", "b2"]
    assert previous(5, "m2") == ["c1", "c2"]
    assert previous(6, "m3") == []
    at_four = run_at(history, as_of=day(4), model_version="m1").collect()
    assert sorted(row["customer_id"] for row in at_four) == ["e1", "e2"]
