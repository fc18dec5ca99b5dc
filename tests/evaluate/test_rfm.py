"""RFM features of two customers, worked out by hand."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pyspark.sql import SparkSession

from caspr_spark.evaluate.rfm import rfm_features
from caspr_spark.session import local_frame

CUT = datetime(2017, 10, 2, tzinfo=UTC)
COLUMNS = "customer_id string, event_time timestamp, event_id string, source string, spend double"


def event(customer: str, days_before: float, spend: float | None, source: str = "shop") -> tuple[Any, ...]:
    time = CUT - timedelta(days=days_before)
    amount = None if spend is None else float(spend)
    return (customer, time, f"{source}:{customer}{days_before}", source, amount)


# ann: 0.5, 6.5 (same week), 8, 40 and 100 days before the cut; gaps 60, 32, 1.5, 6 days.
ANN = [event("ann", 0.5, 10), event("ann", 6.5, 2), event("ann", 8, 4), event("ann", 40, 8), event("ann", 100, 1)]
# bob: once, exactly 7 days before the cut, price unknown.
BOB = [event("bob", 7, None)]
ELSEWHERE = [event("ann", 1, 1000, source="letters"), event("cid", 1, 5, source="letters")]

EXPECTED = {
    "days_since_last": (0.5, 7),
    "days_since_first": (100, 7),
    "days_first_to_last": (99.5, 0),
    "num_events": (5, 1),
    "num_events_7_days": (2, 1),
    "num_events_14_days": (3, 1),
    "num_events_28_days": (3, 1),
    "num_events_56_days": (4, 1),
    "num_events_91_days": (4, 1),
    "num_active_days": (5, 1),
    "num_active_weeks": (4, 1),  # days 0-7, 7-14, 35-42, 98-105
    "num_active_months": (3, 1),  # days 0-28, 28-56, 84-112
    "gap_days_min": (1.5, None),
    "gap_days_max": (60, None),
    "gap_days_mean": (24.875, None),
    "gap_days_std": (23.383688, None),  # population, of 60, 32, 1.5, 6
    "money": (25, 0),
    "money_7_days": (12, 0),
    "money_14_days": (16, 0),
    "money_28_days": (16, 0),
    "money_56_days": (24, 0),
    "money_91_days": (24, 0),
    "money_min": (1, None),
    "money_max": (10, None),
    "money_mean": (5, None),
    "money_std": (3.464102, None),  # sqrt(((5² + 3² + 1² + 3² + 4²) / 5)) = sqrt(12)
    "money_per_week_min": (1, None),  # weeks: 12, 4, 8, 1
    "money_per_week_max": (12, None),
    "money_per_week_mean": (6.25, None),
    "money_per_week_std": (4.145781, None),
    "money_per_month_min": (1, None),  # months: 16, 8, 1
    "money_per_month_max": (16, None),
    "money_per_month_mean": (25 / 3, None),
    "money_per_month_std": (6.128259, None),
}


def features(spark: SparkSession, rows: list[tuple[Any, ...]]) -> dict[str, dict[str, float | None]]:
    events = local_frame(spark, rows, COLUMNS)
    found = rfm_features(events, source="shop", money="spend", cut=CUT).collect()
    return {row["customer_id"]: {k: v for k, v in row.asDict().items() if k != "customer_id"} for row in found}


def test_f58_features_by_hand_and_unmoved_by_an_event_after_the_cut(spark: SparkSession) -> None:
    found = features(spark, ANN + BOB + ELSEWHERE)
    assert found.keys() == {"ann", "bob"}
    for position, customer in enumerate(("ann", "bob")):
        expected = {name: values[position] for name, values in EXPECTED.items()}
        assert found[customer] == pytest.approx(expected, abs=1e-6), customer
    planted = [event("ann", 0, 500), event("ann", -3, 500), event("bob", 0, 500), event("dan", -1, 500)]
    assert features(spark, ANN + BOB + ELSEWHERE + planted) == found


def test_of_other_sources_there_are_recency_and_frequency(spark: SparkSession) -> None:
    events = local_frame(spark, ANN + BOB + ELSEWHERE + [event("ann", 15, None, source="letters")], COLUMNS)
    asked: dict[str, Any] = {"source": "shop", "money": "spend", "cut": CUT}
    alone = {row["customer_id"]: row.asDict() for row in rfm_features(events, **asked).collect()}
    found = {row["customer_id"]: row.asDict() for row in rfm_features(events, **asked, others=["letters"]).collect()}
    assert found.keys() == {"ann", "bob"}
    for customer, own in alone.items():
        assert {name: found[customer][name] for name in own} == own
    ann, bob = found["ann"], found["bob"]
    assert (ann["letters_days_since_last"], ann["letters_num_events"], ann["letters_num_events_14_days"]) == (1, 2, 1)
    assert ann["letters_gap_days_mean"] == pytest.approx(14)
    assert (bob["letters_days_since_last"], bob["letters_num_events"], bob["letters_num_active_weeks"]) == (None, 0, 0)
    assert not [name for name in ann if name.startswith("letters_money")]
