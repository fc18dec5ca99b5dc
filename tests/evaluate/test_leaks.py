"""What saw the future is refused and named, and what only looks as if is noted."""

from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pandas as pd
import pytest
from pyspark.sql import SparkSession

from caspr_spark.errors import UnsafeError
from caspr_spark.evaluate.leaks import (
    NUM_SAMPLED,
    newest_sequence_time,
    refuse_future_features,
    refuse_leaks,
    sampled,
    telling_alone,
)
from caspr_spark.session import local_frame

CUT = datetime(2017, 10, 2, tzinfo=UTC)
DAY, SECOND = timedelta(days=1), timedelta(seconds=1)
FEATURES = pd.DataFrame({"customer_id": ["ann", "bob"], "num_events": [5.0, 1.0], "gap_days_mean": [2.5, np.nan]})


def compare(made: pd.DataFrame, made_without_future: pd.DataFrame) -> None:
    refuse_future_features(made, made_without_future, keys=["customer_id"], task="churn", cut=CUT)


def test_f58_a_model_or_vector_of_after_the_cut_is_refused() -> None:
    refuse_leaks(cut=CUT, model=CUT, sequences=CUT, embedding=CUT)
    refuse_leaks(cut=CUT, model=CUT - DAY, sequences=CUT, embedding=CUT)
    with pytest.raises(UnsafeError, match="trained on events up to 2017-10-03"):
        refuse_leaks(cut=CUT, model=CUT + DAY, sequences=CUT, embedding=CUT)
    with pytest.raises(UnsafeError, match=r"sequences are as of 2017-10-03.*vectors are as of 2017-10-01"):
        refuse_leaks(cut=CUT, model=CUT, sequences=CUT + DAY, embedding=CUT - DAY)


def test_f58_an_event_at_the_cut_is_refused_and_one_before_it_is_not() -> None:
    of_the_cut: dict[str, Any] = {"cut": CUT, "model": CUT, "sequences": CUT, "embedding": CUT}
    refuse_leaks(**of_the_cut, newest_events={"sequences": CUT - SECOND, "vectors": None})
    with pytest.raises(UnsafeError, match="newest event of the vectors is of 2017-10-02"):
        refuse_leaks(**of_the_cut, newest_events={"sequences": CUT - SECOND, "vectors": CUT})


def test_the_newest_event_is_found_wherever_it_stands_and_padding_is_none(spark: SparkSession) -> None:
    rows = [("ann", 3, [10, 30, 20, 99]), ("bob", 1, [25, 0, 0, 0])]
    sequences = local_frame(spark, rows, "customer_id string, num_events int, event_times array<bigint>")
    assert newest_sequence_time(sequences).collect()[0]["microseconds"] == 30
    assert newest_sequence_time(sequences.where("num_events = 9")).collect()[0]["microseconds"] is None


def test_f58_features_that_change_without_the_future_are_refused_by_name() -> None:
    compare(FEATURES, FEATURES[::-1])
    planted = FEATURES.assign(num_events=[5.0, 2.0], gap_days_mean=[2.5, 1.0])
    with pytest.raises(
        UnsafeError,
        match=r"others: num_events \(1 of 2\), gap_days_mean \(1 of 2\)\. Make them of events before the cut",
    ):
        compare(planted, FEATURES)


def test_f58_a_feature_or_customer_that_the_future_alone_makes_is_refused() -> None:
    with pytest.raises(UnsafeError, match=r"others: num_ahead \(2 of 2\)\."):
        compare(FEATURES.assign(num_ahead=0.0), FEATURES)
    with pytest.raises(UnsafeError, match=r"others: num_events \(1 of 2\)\."):
        compare(FEATURES, FEATURES[:1])


def test_a_sum_in_another_order_is_the_same_and_one_event_in_a_million_is_not() -> None:
    sums = pd.DataFrame({"customer_id": ["ann", "bob"], "money": [0.1 + 0.2 + 0.3, 1e6]})
    compare(sums, sums.assign(money=[0.3 + 0.2 + 0.1, 1e6 + 1e-9]))
    near_nothing = pd.DataFrame({"customer_id": ["ann", "bob"], "money": [1e-5, 1e6]})
    compare(near_nothing, near_nothing.assign(money=[0.0, 1e6]))
    counts = pd.DataFrame({"customer_id": ["ann", "bob"], "num_events": [1e6, 3.0]})
    with pytest.raises(UnsafeError, match=r"num_events \(1 of 2\)"):
        compare(counts, counts.assign(num_events=[1e6, 2.0]))


def test_the_sample_is_the_same_for_any_order_of_the_customers() -> None:
    everybody = [f"c{number}" for number in range(NUM_SAMPLED + 500)]
    chosen = sampled(everybody)
    assert len(chosen) == len(set(chosen)) == NUM_SAMPLED
    assert sampled(everybody[::-1]) == chosen
    assert chosen != everybody[:NUM_SAMPLED]
    assert sorted(sampled(["b", "a"])) == ["a", "b"]


def test_a_number_that_tells_the_label_alone_is_found_either_way() -> None:
    labels = np.repeat([1.0, 0.0], [50, 150])
    random = np.random.default_rng(1)
    known_of_positives = np.where(labels > 0, random.normal(size=200), np.nan)
    nearly = labels + np.where(np.arange(200) % 25 == 0, 1 - 2 * labels, 0)  # 8 of 200 stand on the other side
    values = np.column_stack([-labels, random.normal(size=200), known_of_positives, nearly])
    assert telling_alone(values, labels) == {0: 1.0, 2: 1.0}


def test_with_few_of_a_kind_no_number_is_suspicious() -> None:
    for num_positives in (49, 51):
        labels = np.repeat([1.0, 0.0], [num_positives, 100 - num_positives])
        assert telling_alone(labels[:, None], labels) == {}
    labels = np.repeat([1.0, 0.0], [50, 50])
    assert telling_alone(labels[:, None], labels) == {0: 1.0}
