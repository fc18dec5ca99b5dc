"""Who is asked about, and what the answer is, at the borders of the windows."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from caspr_spark.evaluate.tasks import attribute_labels, newest_event_time, task_labels
from caspr_spark.session import local_frame

CUT = datetime(2017, 10, 2, tzinfo=UTC)
SHOP: dict[str, Any] = {"source": "shop", "money": "spend", "cut": CUT, "active_days": 56, "horizon_days": 28}
DAY, SECOND = timedelta(days=1), timedelta(seconds=1)


def test_churn_is_no_purchase_from_the_cut_on_to_the_horizon(spark: SparkSession) -> None:
    rows = [
        ("stays", CUT - DAY, "shop"),
        ("stays", CUT + 27 * DAY, "shop"),
        ("churns", CUT - SECOND, "shop"),
        ("back_at_the_cut", CUT - DAY, "shop"),
        ("back_at_the_cut", CUT, "shop"),
        ("back_at_the_end", CUT - DAY, "shop"),
        ("back_at_the_end", CUT + 28 * DAY, "shop"),
        ("back_before_the_end", CUT - DAY, "shop"),
        ("back_before_the_end", CUT + 28 * DAY - SECOND, "shop"),
        ("active_long_enough", CUT - 56 * DAY, "shop"),
        ("active_too_early", CUT - 56 * DAY - SECOND, "shop"),
        ("new", CUT, "shop"),
        ("only_letters", CUT - DAY, "letters"),
        ("gets_a_letter", CUT - DAY, "shop"),
        ("gets_a_letter", CUT + DAY, "letters"),
    ]
    events = local_frame(spark, rows, "customer_id string, event_time timestamp, source string")
    labels = task_labels(events.withColumn("spend", F.lit(1.0)), kind="churn", **SHOP)
    assert {row["customer_id"]: row["rule"] for row in labels.collect()}["active_long_enough"] == 56.0
    assert {row["customer_id"]: row["label"] for row in labels.collect()} == {
        "stays": 0,
        "churns": 1,
        "back_at_the_cut": 0,
        "back_at_the_end": 1,
        "back_before_the_end": 0,
        "active_long_enough": 1,
        "gets_a_letter": 1,
    }


def test_value_is_the_sum_within_the_horizon_and_the_rule_that_of_as_long_before(spark: SparkSession) -> None:
    rows = [
        ("ann", CUT - 29 * DAY, "shop", 1.0),
        ("ann", CUT - 28 * DAY, "shop", 2.0),
        ("ann", CUT - SECOND, "shop", None),
        ("ann", CUT, "shop", 4.0),
        ("ann", CUT + 27 * DAY, "shop", 8.0),
        ("ann", CUT + 28 * DAY, "shop", 16.0),
        ("ann", CUT + DAY, "letters", 32.0),
        ("bob", CUT - 40 * DAY, "shop", 64.0),
        ("too early", CUT - 57 * DAY, "shop", 1.0),
        ("new", CUT, "shop", 1.0),
    ]
    events = local_frame(spark, rows, "customer_id string, event_time timestamp, source string, spend double")
    labels = task_labels(events, kind="value", **SHOP)
    assert {row["customer_id"]: (row["label"], row["rule"]) for row in labels.collect()} == {
        "ann": (12.0, 2.0),
        "bob": (0.0, 0.0),
    }


def test_an_event_is_asked_of_those_who_had_another_and_the_rule_counts_as_long_before(spark: SparkSession) -> None:
    rows = [
        ("ann", CUT - 56 * DAY, "letters"),
        ("ann", CUT - 29 * DAY, "coupons"),
        ("ann", CUT - 28 * DAY, "coupons"),
        ("ann", CUT - SECOND, "coupons"),
        ("ann", CUT, "coupons"),
        ("bob", CUT - SECOND, "letters"),
        ("bob", CUT + 28 * DAY, "coupons"),
        ("bob", CUT + DAY, "shop"),
        ("letter too early", CUT - 57 * DAY, "letters"),
        ("letter at the cut", CUT, "letters"),
        ("no letter", CUT - DAY, "shop"),
        ("no letter", CUT + DAY, "coupons"),
    ]
    events = local_frame(spark, rows, "customer_id string, event_time timestamp, source string")
    asked = SHOP | {"event": "coupons", "after": "letters"}
    labels = task_labels(events.withColumn("spend", F.lit(1.0)), kind="event", **asked)
    assert {row["customer_id"]: (row["label"], row["rule"]) for row in labels.collect()} == {
        "ann": (1.0, 2.0),
        "bob": (0.0, 0.0),
    }


@pytest.mark.parametrize("is_set", [True, False])
def test_with_values_only_events_that_hold_one_of_them_are_asked_for(spark: SparkSession, *, is_set: bool) -> None:
    rows = [
        ("cards before and after", CUT - DAY, "calls", "cards"),
        ("cards before and after", CUT + DAY, "calls", "cards"),
        ("other call", CUT - DAY, "calls", "loans"),
        ("other call", CUT + DAY, "calls", "loans"),
        ("topic unknown", CUT - DAY, "calls", "fraud"),
        ("topic unknown", CUT + DAY, "calls", None),
        ("topic elsewhere", CUT - DAY, "calls", "loans"),
        ("topic elsewhere", CUT + DAY, "letters", "cards"),
    ]
    columns = "customer_id string, event_time timestamp, source string, topic string"
    events = local_frame(spark, rows, columns).withColumn("spend", F.lit(1.0))
    if is_set:
        events = events.withColumn("topic", F.when(F.col("topic").isNotNull(), F.array("topic")))
    asked = SHOP | {"source": "calls", "event": "calls", "attribute": "topic", "values": ["cards", "fraud"]}
    labels = task_labels(events, kind="event", **asked)
    assert {row["customer_id"]: (row["label"], row["rule"]) for row in labels.collect()} == {
        "cards before and after": (1.0, 1.0),
        "other call": (0.0, 0.0),
        "topic unknown": (0.0, 1.0),
        "topic elsewhere": (0.0, 0.0),
    }


def test_newest_event_is_of_the_source(spark: SparkSession) -> None:
    rows = [("ann", CUT, "shop"), ("ann", CUT + DAY, "letters")]
    events = local_frame(spark, rows, "customer_id string, event_time timestamp, source string")
    newest = newest_event_time(events, source="shop").collect()[0]["microseconds"]
    assert newest == int(CUT.timestamp()) * 1_000_000
    assert newest_event_time(events, source="none").collect()[0]["microseconds"] is None


def test_an_attribute_is_asked_of_active_customers_of_whom_it_is_known(spark: SparkSession) -> None:
    rows = [
        ("ann", CUT - 56 * DAY, "shop"),
        ("ann", CUT - DAY, "shop"),
        ("bob", CUT - SECOND, "shop"),
        ("no profile", CUT - DAY, "shop"),
        ("income unknown", CUT - DAY, "shop"),
        ("active too early", CUT - 56 * DAY - SECOND, "shop"),
        ("new", CUT, "shop"),
        ("only letters", CUT - DAY, "letters"),
    ]
    events = local_frame(spark, rows, "customer_id string, event_time timestamp, source string")
    told = [(name, "high", 2.5) for name in ("ann", "active too early", "new", "only letters", "never came")]
    told += [("bob", "low", -1.0), ("income unknown", None, float("nan"))]
    profiles = local_frame(spark, told, "customer_id string, income string, score double")
    asked: dict[str, Any] = {"source": "shop", "cut": CUT, "active_days": 56}
    labels = attribute_labels(events, profiles, attribute="income", values=["high", "higher"], **asked)
    assert sorted(tuple(row) for row in labels.collect()) == [("ann", 1.0), ("bob", 0.0)]
    numbers = attribute_labels(events, profiles, attribute="score", values=None, **asked)
    assert sorted(tuple(row) for row in numbers.collect()) == [("ann", 2.5), ("bob", -1.0)]
