"""The counts by which a run is judged."""

from datetime import UTC, datetime

from pyspark.sql import SparkSession

from caspr_spark.publish.gates import FEWEST_ALIKE, failed_checks, vector_health

DAY = datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC)
COLUMNS = "customer_id string, embedding array<float>, run_id string, model_version string, as_of timestamp"


def test_f70_every_fault_is_counted_once(spark: SparkSession) -> None:
    nan, inf = float("nan"), float("inf")
    vectors = [[1.0, 2.0], [0.0, 0.0], [nan, 1.0], [-inf, 1.0], [None, 1.0], None, [1.0, 2.0, 3.0]]
    rows = [(f"c{number}", vector, "r1", "m1", DAY) for number, vector in enumerate(vectors)]
    rows.append(("c0", [5.0, 6.0], "r2", "m1", DAY))
    health = vector_health(spark.createDataFrame(rows, COLUMNS)).collect()[0].asDict()
    assert health == {
        "num_rows": 8,
        "num_customers": 7,
        "num_not_finite": 4,
        "smallest_size": 2,
        "largest_size": 3,
        "num_zero": 1,
        "is_constant": False,
        "num_runs": 2,
        "run_id": "r1",
        "as_of_microseconds": 1_000_000,
    }
    names = [line.split(":")[0] for line in failed_checks(health, num_rows=8, size=2)]
    assert names == ["customer_unique", "one_run", "vector_finite", "vector_size"]


def test_sound_vectors_fail_nothing(spark: SparkSession) -> None:
    rows = [("ann", [1.0, 2.0], "r1", "m1", DAY), ("bob", [0.0, 0.0], "r1", "m1", DAY)]
    health = vector_health(spark.createDataFrame(rows, COLUMNS)).collect()[0].asDict()
    assert failed_checks(health, num_rows=2, size=2) == []


def test_empty_run_fails_only_the_manifest(spark: SparkSession) -> None:
    health = vector_health(spark.createDataFrame([], COLUMNS)).collect()[0].asDict()
    assert failed_checks(health, num_rows=0, size=2) == []
    assert [line.split(":")[0] for line in failed_checks(health, num_rows=5, size=2)] == ["rows_complete"]


def test_f70_zero_and_constant_vectors_are_told_apart(spark: SparkSession) -> None:
    def failures(*vectors: list[float]) -> list[str]:
        rows = [(f"c{number}", vector, "r1", "m1", DAY) for number, vector in enumerate(vectors)]
        health = vector_health(spark.createDataFrame(rows, COLUMNS)).collect()[0].asDict()
        return [line.split(":")[0] for line in failed_checks(health, num_rows=len(vectors), size=2)]

    assert failures([0.0, 0.0]) == ["vector_not_zero"]
    assert failures(*FEWEST_ALIKE * [[1.0, 2.0]]) == ["vector_varies"]
    assert failures(*FEWEST_ALIKE * [[0.0, 0.0]]) == ["vector_not_zero", "vector_varies"]
    assert failures([1.0, 2.0], [1.0, 2.0]) == []  # two customers may be alike
    assert failures([1.0, 2.0]) == []
