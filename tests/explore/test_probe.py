"""The probe on planted customers: what stands in the features is read, what does not is not."""

import numpy as np
import pytest

from caspr_spark.explore.page import verdict
from caspr_spark.explore.probe import ACCURACY, AUROC, MAE, R2, categorical_probe, numerical_probe

NUM = 300
RANDOM = np.random.default_rng(7)
VECTORS = RANDOM.normal(size=(NUM, 6))
REGION = np.array(["north", "south", "west"], dtype=object)[np.argmax(VECTORS[:, :3], axis=1)]
COIN = RANDOM.choice(np.array(["a", "a", "b"], dtype=object), size=NUM)


def test_a_planted_category_is_read_and_only_from_the_features_that_hold_it() -> None:
    found = categorical_probe({"vector": VECTORS, "noise": RANDOM.normal(size=(NUM, 6))}, REGION, seed=1)
    assert (found.num_customers, found.about) == (NUM, "3 categories")
    area, accuracy = found.scores
    assert (area.metric, area.baseline, accuracy.metric) == (AUROC, 0.5, ACCURACY)
    assert area.by_features["vector"][0] > 0.9
    assert accuracy.by_features["vector"][0] > accuracy.baseline + 0.3
    assert area.by_features["noise"][0] < 0.6
    assert verdict(found, "vector") == "can be read"
    assert verdict(found, "noise") == "not beyond the baseline"


def test_a_random_category_is_no_better_than_the_baseline() -> None:
    found = categorical_probe({"vector": VECTORS}, COIN, seed=1)
    area, accuracy = found.scores
    mean, error = area.by_features["vector"]
    assert abs(mean - 0.5) < 3 * error
    assert accuracy.baseline == pytest.approx(np.mean(COIN == "a"), abs=0.01)
    assert accuracy.by_features["vector"][0] < accuracy.baseline + 3 * accuracy.by_features["vector"][1]
    assert verdict(found, "vector") == "not beyond the baseline"


def test_rare_categories_and_unknown_customers_are_left_out_and_counted() -> None:
    values = REGION.copy()
    values[:10], values[10:24], values[24:30] = None, "isle", "ship"
    found = categorical_probe({"vector": VECTORS}, values, seed=1)
    assert found.num_customers == NUM - 30
    assert found.about == "3 categories; 2 rare ones with 20 customers left out"


def test_too_few_customers_are_said_and_not_probed() -> None:
    values = np.array(["a"] * 40 + ["b"] * 14 + [None] * (NUM - 54), dtype=object)
    found = categorical_probe({"vector": VECTORS}, values, seed=1)
    assert (found.scores, found.num_customers) == ((), 0)
    assert found.about == "no probe: fewer than two categories have 15 customers (54 with a value)"
    assert categorical_probe({"vector": VECTORS}, np.full(NUM, None, dtype=object), seed=1).scores == ()
    numbers = np.r_[np.arange(74.0), np.full(NUM - 74, np.nan)]
    about = numerical_probe({"vector": VECTORS}, numbers, seed=1).about
    assert about == "no probe: 74 customers have a value, fewer than 75"
    assert "all have the same" in numerical_probe({"vector": VECTORS}, np.ones(NUM), seed=1).about
    assert verdict(numerical_probe({"vector": VECTORS}, numbers, seed=1), "vector") == "–"


def test_a_planted_number_is_read_and_a_random_one_is_not() -> None:
    age = 40 + 10 * VECTORS[:, 0] + RANDOM.normal(size=NUM)
    planted = numerical_probe({"vector": VECTORS}, age, seed=1)
    share, error = planted.scores
    assert (share.metric, error.metric) == (R2, MAE)
    assert share.by_features["vector"][0] > 0.95
    assert share.baseline == pytest.approx(0, abs=0.05)
    assert error.by_features["vector"][0] < 0.2 * error.baseline
    assert verdict(planted, "vector") == "can be read"
    assert verdict(numerical_probe({"vector": VECTORS}, RANDOM.normal(size=NUM), seed=1), "vector") != "can be read"


def test_features_that_are_unknown_are_no_obstacle() -> None:
    gaps = VECTORS.copy()
    gaps[::3, 1], gaps[:, 5] = np.nan, np.nan
    assert categorical_probe({"vector": gaps}, REGION, seed=1).scores[0].by_features["vector"][0] > 0.7


def test_equal_inputs_give_equal_scores() -> None:
    assert categorical_probe({"v": VECTORS}, REGION, seed=3) == categorical_probe({"v": VECTORS}, REGION, seed=3)
