"""Distances between newer and older vectors, and how they are counted, against values worked out by hand."""

from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from pyspark.sql import DataFrame, SparkSession

from caspr_spark.monitor.drift import (
    coordinate_numbers,
    cosine_distances,
    distance_counts,
    distance_numbers,
    older_vectors,
    run_at,
    segment_counts,
)
from caspr_spark.monitor.sketch import DISTANCE_EDGES
from caspr_spark.session import local_frame

NAN = float("nan")
DAY = datetime(2017, 10, 1, tzinfo=UTC)
COLUMNS = "customer_id string, embedding array<float>, as_of timestamp, last_event_time timestamp, num_events int"


def vectors(spark: SparkSession, rows: dict[str, Any], *, day: float = 0, num_events: int = 3) -> DataFrame:
    """All of one run, `day` days after DAY; the newest event is of DAY."""
    as_of = DAY + timedelta(days=day)
    return local_frame(spark, [(name, vector, as_of, DAY, num_events) for name, vector in rows.items()], COLUMNS)


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
    distances = cosine_distances(vectors(spark, newer), vectors(spark, older))
    numbers = distance_numbers(distances).collect()[0]
    assert (numbers["num_compared"], numbers["num_zero"], numbers["num_not_finite"]) == (2, 1, 2)
    assert (numbers["mean"], numbers["p50"], numbers["p95"]) == pytest.approx((0.5, 0.5, 0.95))
    assert sum(row["num_customers"] for row in distance_counts(distances, interval_days=1).collect()) == 2
    means = {
        row["coordinate"]: (row["mean"], row["variance"]) for row in coordinate_numbers(vectors(spark, newer)).collect()
    }
    assert means == {0: (0.5, 0.25), 1: (0.5, 0.25)}


def test_f84_null_element_and_other_length_have_no_distance(spark: SparkSession) -> None:
    newer = vectors(spark, {"null": [None, 1.0], "longer": [1.0, 1.0, 1.0]})
    older = vectors(spark, {"null": [1.0, 1.0], "longer": [1.0, 1.0]})
    assert [row["distance"] for row in cosine_distances(newer, older).collect()] == [None, None]


def test_f80_unchanged_vectors_have_moved_nowhere(spark: SparkSession) -> None:
    same = {f"c{number}": [float(number + 1), 1.0] for number in range(40)}
    distances = cosine_distances(vectors(spark, same, day=7), vectors(spark, same))
    found = [tuple(row) for row in distance_counts(distances, interval_days=7).collect()]
    assert found == [("no new events, 2 to 8 days, run after 2 to 8 days", 0, 40)]


def test_distances_are_counted_by_gap_and_new_events_in_equal_steps_of_their_logarithm(spark: SparkSession) -> None:
    def at(distance: float) -> list[float]:
        return [1 - distance, (1 - (1 - distance) ** 2) ** 0.5]

    older = vectors(spark, {name: [1.0, 0.0] for name in "abcdef"})
    newer = [
        vectors(spark, {"a": at(0.011), "b": at(0.013), "c": at(0.02)}, day=0.49),
        vectors(spark, {"d": at(0.5)}, day=0.5, num_events=4),
        vectors(spark, {"e": at(1.0)}, day=8),
        vectors(spark, {"f": at(2.0)}, day=32, num_events=2),
    ]
    moved = cosine_distances(newer[0].union(newer[1]).union(newer[2]).union(newer[3]), older)
    counted = distance_counts(moved, interval_days=0.25).collect()
    found = {(row["stratum"], row["bin"]): row["num_customers"] for row in counted}
    # eight bins a decade from 1e-6 on: 0.01 begins bin 33, 0.0133 bin 34, 0.0178 bin 35, 0.422 bin 46, 1 bin 49
    assert found == {
        ("no new events, under 12 hours, run after under 12 hours", 33): 2,
        ("no new events, under 12 hours, run after under 12 hours", 35): 1,
        ("new events, 12 hours to 2 days, run after under 12 hours", 46): 1,
        ("no new events, 8 to 32 days, run after under 12 hours", 49): 1,
        ("new events, over 32 days, run after under 12 hours", 51): 1,
    }
    assert list(np.searchsorted(DISTANCE_EDGES, [0.011, 0.013, 0.02, 0.5, 2.0], side="right")) == [33, 33, 35, 46, 51]


def test_f64_a_run_that_catches_up_is_not_compared_with_shorter_ones(spark: SparkSession) -> None:
    moved = cosine_distances(vectors(spark, {"a": [0.0, 1.0]}, day=3, num_events=9), vectors(spark, {"a": [1.0, 0.0]}))
    daily, late = (distance_counts(moved, interval_days=days).collect() for days in (1, 3))
    assert [row["stratum"] for row in daily] == ["new events, 2 to 8 days, run after 12 hours to 2 days"]
    assert [row["stratum"] for row in late] == ["new events, 2 to 8 days, run after 2 to 8 days"]


def test_the_largest_segments_are_counted(spark: SparkSession) -> None:
    older = vectors(spark, {name: [1.0, 0.0] for name in "abc"})
    moved = cosine_distances(vectors(spark, {"a": [0.0, 1.0], "b": [0.0, 1.0], "c": [1.0, 0.0]}, day=1), older)
    rows = [
        ("a", "region=north"),
        ("b", "region=north"),
        ("c", "region=south"),
        ("a", "topic=rent"),
        ("d", "region=east"),
    ]
    own = local_frame(spark, rows, "customer_id string, segment string")
    counted = segment_counts(moved, own, interval_days=1, max_segments=2)
    found = [tuple(row) for row in counted.orderBy("segment").collect()]
    gap = "no new events, 12 hours to 2 days, run after 12 hours to 2 days"
    assert found == [("region=north", gap, 49, 2), ("region=south", gap, 0, 1)]


def test_f83_the_older_vector_is_the_customers_newest_earlier_one_of_the_same_model(spark: SparkSession) -> None:
    rows = [
        ("ann", 1, "m1", "r1"),
        ("ann", 2, "m1", "r2"),
        ("ann", 2, "m1", "r3"),  # the same time again: the larger run_id
        ("ann", 3, "m2", "s3"),  # another model
        ("ann", 4, "m1", "r4"),
        ("ann", 5, "m1", "r5"),  # later
        ("bob", 1, "m1", "r1"),  # not in the run
        ("cid", 1, "m1", "r1"),  # was not touched on day 2
        ("cid", 4, "m1", "r4"),
        ("dan", 3, "m2", "s3"),  # new to this model
        ("dan", 4, "m1", "r4"),
    ]
    days = [(customer, DAY + timedelta(days=day), model, run) for customer, day, model, run in rows]
    history = local_frame(spark, days, "customer_id string, as_of timestamp, model_version string, run_id string")
    found = older_vectors(history, history.where("run_id = 'r4'")).collect()
    assert {row["customer_id"]: row["run_id"] for row in found} == {"ann": "r3", "cid": "r1"}
    at_two = run_at(history, as_of=DAY + timedelta(days=2), model_version="m1").collect()
    assert [row["run_id"] for row in at_two] == ["r3"]
