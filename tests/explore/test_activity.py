"""What segments do, worked out by hand on a few customers."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pyspark.sql import DataFrame, SparkSession

from caspr_spark.explore.activity import (
    RECENCY,
    activity_measures,
    customer_activity,
    measure_contrasts,
    value_contrasts,
)
from caspr_spark.session import local_frame

AS_OF = datetime(2017, 10, 2, tzinfo=UTC)
COLUMNS = "customer_id string, event_time timestamp, source string, spend double, shop string, tags array<string>"
SOURCES, NUMERICAL = ("visits", "letters"), ("spend",)


def event(
    customer: str,
    days_before: float,
    spend: float | None = None,
    shop: str | None = None,
    tags: list[str | None] | None = None,
    source: str = "visits",
) -> tuple[Any, ...]:
    return (customer, AS_OF - timedelta(days=days_before), source, spend, shop, tags)


# ann: known for 56 days, so two periods; bob: for 7, which count as one period.
EVENTS = [
    event("ann", 56, 10.0, "mill", ["tea", "milk"]),
    event("ann", 20, float("nan"), "mill", ["tea", "tea", None]),
    event("ann", 2, 30.0, "port", []),
    event("ann", 1, source="letters"),
    event("bob", 7, 5.0, "port", ["milk"]),
    event("cid", 3, None, None, None, source="letters"),
]
LATER = [event("ann", 0, 900.0, "late", ["late"]), event("bob", -3, 900.0, "late"), event("dan", -1, 1.0)]


def activity_of(spark: SparkSession, rows: list[tuple[Any, ...]]) -> DataFrame:
    events = local_frame(spark, rows, COLUMNS)
    return customer_activity(events, as_of=AS_OF, sources=SOURCES, numerical=NUMERICAL)


def values_of(spark: SparkSession, rows: list[tuple[Any, ...]], segments: dict[str, int]) -> list[tuple[Any, ...]]:
    events = local_frame(spark, rows, COLUMNS)
    members = local_frame(spark, segments.items(), "customer_id string, segment int")
    kinds: Any = {"shop": "categorical", "tags": "set"}
    found = value_contrasts(events, members, as_of=AS_OF, attributes=kinds, num_values=5)
    return sorted(tuple(row) for row in found.collect())


def test_activity_by_hand_and_no_event_at_or_after_as_of(spark: SparkSession) -> None:
    found = {row["customer_id"]: row.asDict() for row in activity_of(spark, EVENTS).collect()}
    names = activity_measures(SOURCES, NUMERICAL)
    assert names == [
        RECENCY,
        "visits: events per 28 days",
        "letters: events per 28 days",
        "spend per 28 days",
        "spend of an event, mean",
    ]
    assert [found["ann"][name] for name in names] == pytest.approx([1, 3 / 2, 1 / 2, 20, 20])
    assert [found["bob"][name] for name in names] == pytest.approx([7, 1, 0, 5, 5])
    assert [found["cid"][name] for name in names] == [3, 0, 1, 0, None]
    with_later = {row["customer_id"]: row.asDict() for row in activity_of(spark, EVENTS + LATER).collect()}
    assert with_later == found


def test_contrasts_are_in_standard_deviations_of_everybody(spark: SparkSession) -> None:
    rows = [("a", 1.0, 5.0), ("b", 3.0, 5.0), ("c", 5.0, 5.0), ("d", 7.0, 5.0), ("elsewhere", 99.0, 9.0)]
    activity = local_frame(spark, rows, "customer_id string, visits double, same double")
    members = [("a", 1), ("b", 1), ("c", 2), ("d", 2), ("silent", 2)]
    segments = local_frame(spark, members, "customer_id string, segment int")
    found = measure_contrasts(activity, segments, measures=["visits", "same"]).orderBy("segment").collect()
    deviation = 5**0.5  # of 1, 3, 5, 7
    assert [tuple(row) for row in found] == [
        (1, "visits", 2.0, 4.0, pytest.approx(-2 / deviation)),
        (2, "visits", 6.0, 4.0, pytest.approx(2 / deviation)),
    ]


def test_the_over_represented_value_is_the_planted_one_and_no_later_event_counts(spark: SparkSession) -> None:
    segments = {"ann": 1, "bob": 2, "cid": 2}
    found = values_of(spark, EVENTS, segments)
    # shop: mill in 2 of ann's 3 events with a shop, and of 4 in all; tags: tea in 2 of ann's 2 with tags, of 3 in all.
    assert found == [
        (1, "shop", "mill", pytest.approx(2 / 3), 0.5, 1),
        (1, "tags", "tea", 1.0, pytest.approx(2 / 3), 1),
        (2, "shop", "port", 1.0, 0.5, 1),
        (2, "tags", "milk", 1.0, pytest.approx(2 / 3), 1),
    ]
    assert values_of(spark, EVENTS + LATER, segments) == found


def test_what_a_single_member_does_is_not_what_a_segment_does(spark: SparkSession) -> None:
    crowd = [event(f"c{number}", 2, 1.0, "mill") for number in range(41)]
    hermit = [event("c0", 1 + day, 1.0, "cave") for day in range(30)]
    others = [event("x", 2 + day, 1.0, "port") for day in range(40)] + [event("x", 1, 1.0, "mill")]
    found = values_of(spark, crowd + hermit + others, {**{f"c{number}": 1 for number in range(41)}, "x": 2})
    assert [(segment, value) for segment, _, value, *_ in found] == [(1, "mill"), (2, "port")]
