"""The numbers by which a run's vectors are judged, and the default verdicts on them."""

from datetime import UTC, datetime
from typing import Any

import pytest
from pyspark.sql import SparkSession

from caspr_spark.config import Config
from caspr_spark.gate import declared_verdicts
from caspr_spark.publish.gates import FEWEST_ALIKE, gate_numbers, vector_health
from caspr_spark.session import local_frame

DAY = datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC)
COLUMNS = "customer_id string, embedding array<float>, run_id string, model_version string, as_of timestamp"
SOUND = {
    "num_rows": 3,
    "num_repeated": 0,
    "num_not_finite": 0,
    "num_wrong_size": 0,
    "smallest_norm": 1.0,
    "largest_norm": 2.0,
    "share_zero": 0.0,
    "share_alike": 0.0,
    "num_runs": 1,
    "run_id": "r1",
    "as_of_microseconds": 1_000_000,
}


def failures(config: Config, health: dict[str, Any], *, promised: int, **measured: float) -> list[str]:
    """Names of the default checks that fail."""
    numbers = gate_numbers(health, num_promised=promised, measured=measured)
    verdicts = declared_verdicts(numbers, gate=config.publish.gate, section="publish", noun="vectors").verdicts
    return [verdict.check for verdict in verdicts if not verdict.passed]


def health_of(spark: SparkSession, *vectors: Any) -> dict[str, Any]:
    rows = [(f"c{number}", vector, "r1", "m1", DAY) for number, vector in enumerate(vectors)]
    return vector_health(local_frame(spark, rows, COLUMNS), size=2).collect()[0].asDict()


def test_f70_every_fault_is_counted_once(spark: SparkSession, config: Config) -> None:
    nan, inf = float("nan"), float("inf")
    vectors = [[3.0, 4.0], [0.0, 0.0], [nan, 1.0], [-inf, 1.0], [None, 1.0], None, [1.0, 2.0, 2.0]]
    rows = [(f"c{number}", vector, "r1", "m1", DAY) for number, vector in enumerate(vectors)]
    rows.append(("c0", [6.0, 8.0], "r2", "m1", DAY))
    health = vector_health(local_frame(spark, rows, COLUMNS), size=2).collect()[0].asDict()
    assert health == {
        "num_rows": 8,
        "num_repeated": 1,
        "num_not_finite": 4,
        "num_wrong_size": 1,
        "smallest_norm": 0.0,
        "largest_norm": 10.0,
        "share_zero": 0.125,
        "share_alike": 0.0,
        "num_runs": 2,
        "run_id": "r1",
        "as_of_microseconds": 1_000_000,
    }
    names = ["customer_unique", "one_run", "vector_finite", "vector_size"]
    assert failures(config, health, promised=8) == [f"vectors.{name}" for name in names]


def test_f70_zero_and_constant_vectors_are_told_apart(spark: SparkSession, config: Config) -> None:
    def failed(*vectors: list[float]) -> list[str]:
        return failures(config, health_of(spark, *vectors), promised=len(vectors))

    assert failed([0.0, 0.0]) == ["vectors.vector_not_zero"]
    assert failed(*FEWEST_ALIKE * [[1.0, 2.0]]) == ["vectors.vector_varies"]
    assert failed(*FEWEST_ALIKE * [[0.0, 0.0]]) == ["vectors.vector_not_zero", "vectors.vector_varies"]
    assert failed([1.0, 2.0], [1.0, 2.0]) == []  # two customers may be alike
    assert failed([1.0, 2.0], [0.0, 0.0]) == []
    assert failed([20_000.0, 0.0]) == ["vectors.norm_bounded"]


def test_empty_run_fails_only_the_manifest(spark: SparkSession, config: Config) -> None:
    assert failures(config, health_of(spark), promised=0) == []
    assert failures(config, health_of(spark), promised=5) == ["vectors.rows_complete"]


@pytest.mark.parametrize(
    ("measured", "failed"),
    [
        ({"coverage": 0.9, "share_unknown": 0.4}, ["vectors.customers_covered"]),
        ({"coverage": 1.0, "share_unknown": 0.6}, ["vectors.values_known"]),
        ({}, []),
    ],
)
def test_coverage_and_unknown_values_are_judged_where_they_were_measured(
    config: Config, measured: dict[str, float], failed: list[str]
) -> None:
    assert failures(config, SOUND, promised=3, **measured) == failed
