"""Look-alikes: nearest by angle, the listed left out."""

import numpy as np
import pytest
from pyspark.sql import SparkSession

from caspr_spark.explore.lookalikes import lookalikes, mean_direction, similarities
from caspr_spark.session import local_frame


def test_direction_is_the_mean_of_normalised_vectors() -> None:
    found = mean_direction(np.array([[10, 0], [0, 0.1], [0, 0], [np.nan, 1]], dtype=float))
    assert found == pytest.approx([0.5**0.5, 0.5**0.5])
    assert mean_direction(np.zeros((2, 2))) is None
    assert mean_direction(np.array([[1.0, 0], [-1, 0]])) is None


def test_the_nearest_by_angle_without_the_listed_and_vectors_without_direction(spark: SparkSession) -> None:
    vectors = {
        "listed": [1.0, 0.0],
        "same": [9.0, 0.0],
        "near": [1.0, 1.0],
        "also near": [2.0, 2.0],
        "far": [0.0, 3.0],
        "opposite": [-1.0, 0.0],
        "zero": [0.0, 0.0],
        "broken": [float("nan"), 1.0],
        "endless": [float("inf"), 1.0],
    }
    run = local_frame(spark, vectors.items(), "customer_id string, embedding array<float>")
    listed = local_frame(spark, [("listed",), ("nobody",)], "customer_id string")
    found = lookalikes(similarities(run, np.array([1.0, 0.0])), listed, num=4).collect()
    expected = [("same", 1), ("also near", 0.5**0.5), ("near", 0.5**0.5), ("far", 0)]
    assert [tuple(row) for row in found] == [(name, pytest.approx(similarity)) for name, similarity in expected]
    everybody = similarities(run, np.array([1.0, 0.0]))
    assert {row["customer_id"] for row in everybody.collect()} == vectors.keys() - {"zero", "broken", "endless"}
