"""Counts of a run, against values counted by hand."""

from datetime import UTC, datetime

import pytest
from pyspark.sql import SparkSession

from caspr_spark.manifest import CategoricalAttribute, Layout, SetAttribute
from caspr_spark.monitor.volume import known_customers, run_numbers, unknown_counts
from caspr_spark.session import local_frame

LAYOUT = Layout(
    max_events=2,
    categorical=(CategoricalAttribute(name="page", num_ids=9), CategoricalAttribute(name="store", num_ids=9)),
    sets=(SetAttribute(name="topics", num_ids=9, max_values=2), SetAttribute(name="tags", num_ids=9, max_values=1)),
    numerical=(),
    profile_categorical=(CategoricalAttribute(name="age", num_ids=9),),
    profile_numerical=(),
)


def test_f40_unknown_values_are_counted_by_attribute(spark: SparkSession) -> None:
    sequences = local_frame(
        spark,
        [
            # page, store of two events; topics (2), tags (1) of two events; age
            ([3, 1, 1, 4], [3, 1, 5, 1, 0, 1], [3]),
            ([1, 0, 0, 0], [4, 5, 0, 0, 0, 0], [1]),
        ],
        "categorical array<int>, sets array<int>, profile_categorical array<int>",
    )
    rows = unknown_counts(sequences, LAYOUT).collect()
    counted = {row["attribute"]: (row["num_unknown"], row["num_values"]) for row in rows}
    assert counted == {"page": (2, 3), "store": (1, 2), "topics": (2, 5), "tags": (1, 2), "age": (1, 2)}


def test_layout_without_categories_has_no_counts(spark: SparkSession) -> None:
    nothing = LAYOUT.model_copy(update={"categorical": (), "sets": (), "profile_categorical": ()})
    assert unknown_counts(local_frame(spark, [([1.0],)], "numerical array<float>"), nothing).collect() == []


def test_f84_unsound_vectors_are_counted_and_left_out_of_the_norms(spark: SparkSession) -> None:
    rows = [([3.0, 4.0], 1), ([0.0, 1.0], 3), ([0.0, 0.0], 2), ([float("nan"), 1.0], 2)]
    numbers = run_numbers(local_frame(spark, rows, "embedding array<float>, num_events int")).collect()[0].asDict()
    assert (numbers["customers_embedded"], numbers["zero_vectors"], numbers["not_finite_vectors"]) == (4, 1, 1)
    assert (numbers["norm:p50"], numbers["norm:p25"]) == pytest.approx((3, 2))
    assert (numbers["sequence_length:p50"], numbers["sequence_length:p99"]) == pytest.approx((2, 2.97))


def test_f56_an_event_at_as_of_makes_nobody_known(spark: SparkSession) -> None:
    cut = datetime(2017, 10, 2, tzinfo=UTC)
    rows = [("ann", cut.replace(day=1)), ("ann", cut.replace(day=1)), ("bob", cut), ("cid", cut.replace(day=3))]
    events = local_frame(spark, rows, "customer_id string, event_time timestamp")
    assert [row["customer_id"] for row in known_customers(events, as_of=cut).collect()] == ["ann"]
