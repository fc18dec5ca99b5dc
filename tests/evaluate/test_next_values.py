"""Rankings worked out by hand, a planted taste that is found, and nothing from after the cut before it."""

import math
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pandas as pd
import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from caspr_spark.evaluate.experiment import CUSTOMERS, EMBEDDING, RFM
from caspr_spark.evaluate.next_values import histories, ranking_scores, value_counts
from caspr_spark.evaluate.rankings import Histories, Scores, customer_metrics
from caspr_spark.evaluate.significance import score_table
from caspr_spark.session import local_frame

CUT = datetime(2017, 10, 2, tzinfo=UTC)
DAY, SECOND = timedelta(days=1), timedelta(seconds=1)
ROWS: list[tuple[Any, ...]] = [
    ("ann", CUT - 90 * DAY, "shop", ["milk"]),
    ("ann", CUT - SECOND, "shop", ["milk", "bread"]),
    ("ann", CUT, "shop", ["tea"]),
    ("ann", CUT + 28 * DAY, "shop", ["bread"]),
    ("ann", CUT + DAY, "letters", ["wine"]),
    ("bob", CUT - 2 * DAY, "shop", []),
    ("bob", CUT + 27 * DAY, "shop", ["milk"]),
    ("too early", CUT - 57 * DAY, "shop", ["milk"]),
    ("new", CUT, "shop", ["milk"]),
]


@pytest.mark.parametrize("is_set", [True, False])
def test_values_before_and_within_the_horizon_are_counted(spark: SparkSession, *, is_set: bool) -> None:
    events = local_frame(
        spark, ROWS, "customer_id string, event_time timestamp, source string, categories array<string>"
    )
    if not is_set:
        events = events.withColumn("categories", F.explode_outer("categories"))
    counted = value_counts(
        events, source="shop", attribute="categories", cut=CUT, active_days=56, horizon_days=28
    ).toPandas()
    found = {(row.customer_id, row.value): (row.num_before, row.num_after) for row in counted.itertuples()}
    assert found == {
        ("ann", "milk"): (2, 0),
        ("ann", "bread"): (1, 0),
        ("ann", "tea"): (0, 1),
        ("bob", None): (1, 0),
        ("bob", "milk"): (0, 1),
    }
    known = histories(counted, ["bob", "ann"])
    assert known.counts_CV.tolist() == [[0, 0], [2, 1]]  # milk, bread; nobody had tea before the cut
    assert known.happens_CV.tolist() == [[True, False], [False, False]]


@pytest.mark.parametrize("is_set", [True, False])
def test_the_first_event_with_a_value_that_is_ranked_is_all_that_comes(spark: SparkSession, *, is_set: bool) -> None:
    rows = [
        ("ann", CUT - DAY, "3", "clicks", "login"),
        ("ann", CUT - DAY, "4", "clicks", "loans"),
        ("ann", CUT, "1", "clicks", "login"),
        ("ann", CUT + SECOND, "3", "clicks", "cards"),
        ("ann", CUT + SECOND, "2", "clicks", "funds"),
        ("ann", CUT + DAY, "5", "clicks", "loans"),
        ("bob", CUT - DAY, "1", "clicks", "cards"),
        ("bob", CUT + SECOND, "1", "clicks", None),
        ("bob", CUT + DAY, "1", "clicks", "login"),
        ("bob", CUT + 7 * DAY, "1", "clicks", "cards"),
        ("cat", CUT - DAY, "1", "clicks", "login"),
        ("cat", CUT + SECOND, "0", "calls", "cards"),
    ]
    columns = "customer_id string, event_time timestamp, event_id string, source string, page string"
    events = local_frame(spark, rows, columns)
    if is_set:
        events = events.withColumn("page", F.when(F.col("page").isNotNull(), F.array("page")))
    asked: dict[str, Any] = {"source": "clicks", "attribute": "page", "cut": CUT, "active_days": 7, "horizon_days": 7}
    counted = value_counts(events, **asked, ignored=["login"], only_first=True).toPandas()
    found = {(row.customer_id, row.value): (row.num_before, row.num_after) for row in counted.itertuples()}
    assert {key: numbers for key, numbers in found.items() if key[1] is not None and any(numbers)} == {
        ("ann", "loans"): (1, 0),
        ("ann", "funds"): (0, 1),  # of two at one time the one with the smaller event_id
        ("bob", "cards"): (1, 0),
    }
    assert {customer for customer, value in found if value is None} >= {"cat"}  # still asked about


def test_rankings_by_hand() -> None:
    """Ranked 1, 2, 3, 4; the values at ranks 2 and 3 come; that at rank 3 is new, behind rank 4's, which is new too."""
    scores = np.array([[0.9, 0.8, 0.7, 0.6], [0.9, 0.8, 0.7, 0.6]])
    known = Histories(
        np.array([[5.0, 1, 0, 0], [0, 0, 0, 0]]), np.array([[False, True, True, False], [False, False, False, False]])
    )
    found = customer_metrics(Scores(scores, -scores), known, np.array([0, 1]))
    gains = [1, 1 / math.log2(3), 1 / 2]
    assert {name: values[0] for name, values in found.items()} == pytest.approx(
        {
            "map_all": (1 / 2 + 2 / 3) / 2,
            "precision_at_1_all": 0,
            "success_at_5_all": 1,
            "ndcg_at_3_all": (gains[1] + gains[2]) / (gains[0] + gains[1]),
            "map_new": 1 / 2,
            "precision_at_1_new": 0,
            "success_at_5_new": 1,
            "ndcg_at_3_new": gains[1],
        }
    )
    assert all(math.isnan(values[1]) for values in found.values())


def test_a_taste_that_only_the_vector_knows_is_found() -> None:
    """Half of the customers take the values of one half next, none of which they had before, and which are no rarer."""
    random = np.random.default_rng(5)
    taste = random.integers(0, 2, size=400)
    counts = np.zeros((400, 20))
    counts[np.arange(400), random.integers(0, 20, size=400)] = 1
    happens = np.zeros((400, 20), dtype=bool)
    for customer, half in enumerate(taste):
        happens[customer, 10 * half + random.choice(10, size=3, replace=False)] = True
    vectors = np.column_stack([taste + 0.1 * random.normal(size=400), random.normal(size=(400, 3))])
    features = {RFM: random.normal(size=(400, 3)), EMBEDDING: vectors}
    how: dict[str, Any] = {"num_splits": 2, "test_share": 0.2, "validation_share": 0.2, "seed": 1}
    scores = ranking_scores(features, Histories(counts, happens), **how).scores
    pd.testing.assert_frame_equal(scores, ranking_scores(features, Histories(counts, happens), **how).scores)

    table = score_table(scores.assign(task="values")).set_index(["metric", "arm"])
    for metric in ("map_all", "map_new"):
        for arm in ("rfm", "rule", "ease"):
            assert table.loc[(metric, arm), "mean"] < 0.35
        for arm in ("embedding", "both", "fused"):
            assert table.loc[(metric, arm), "mean"] > 0.4
        assert table.loc[(metric, "embedding"), "bootstrap_better"] == 1
    assert set(scores[scores["arm"] == CUSTOMERS]["metric"]) == {"num_train", "num_test", "positive_share"}


def test_what_customers_like_this_one_had_is_learned_without_labels() -> None:
    """Two tastes of 100 values; a customer had 30 of them and gets one more: 0.04 from what comes alone."""
    random = np.random.default_rng(6)
    taste = random.integers(0, 2, size=300)
    counts, happens = np.zeros((300, 200)), np.zeros((300, 200), dtype=bool)
    for customer, half in enumerate(taste):
        own = 100 * half + random.permutation(100)
        counts[customer, own[:30]] = 1
        happens[customer, own[30]] = True
    vectors = np.column_stack([taste, random.normal(size=(300, 60))])
    features = {RFM: random.normal(size=(300, 3)), EMBEDDING: vectors}
    how: dict[str, Any] = {"num_splits": 3, "test_share": 0.2, "validation_share": 0.2, "seed": 1}
    scores = ranking_scores(features, Histories(counts, happens), **how).scores
    found = scores[scores["metric"] == "map_new"].groupby("arm")["value"].mean()
    assert found["embedding"] > 0.05
