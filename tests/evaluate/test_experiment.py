"""Splits, heads and errors, on data whose answer is known."""

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest

from caspr_spark.evaluate.experiment import (
    CUSTOMERS,
    EMBEDDING,
    RFM,
    ROC_POINTS,
    Outcome,
    few_labels,
    paired_scores,
    random_splits,
)
from caspr_spark.evaluate.heads import Fitted, fused_mean, fused_odds, with_logarithms
from caspr_spark.evaluate.questions import HOW_MUCH, YES_OR_NO, high_value, how_much
from caspr_spark.evaluate.significance import TABLE_COLUMNS, corrected_error, p_value, score_table

NOISES = {RFM: 3.0, EMBEDDING: 0.5}


def outcome(seed: int) -> Outcome:
    """One strong hand-made feature with a hole, noise, and an embedding without meaning."""
    random = np.random.default_rng(7)
    labels = (np.arange(300) % 5 == 0).astype(int)
    hand_made = np.column_stack([labels + 0.3 * random.normal(size=300), random.normal(size=300)])
    hand_made[3, 0] = np.nan
    vectors = random.normal(size=(300, 4))
    shares = {"test_share": 0.2, "validation_share": 0.2}
    features, rule = {RFM: hand_made, EMBEDDING: vectors}, -hand_made[:, 1]
    return paired_scores(features, labels, rule=rule, question=YES_OR_NO, num_splits=2, seed=seed, **shares)


def test_planted_signal_is_found_by_the_arms_that_see_it() -> None:
    scores, curves = outcome(seed=1)
    best = scores[(scores["head"] == "best") & (scores["metric"] == "auroc")].groupby("arm")["value"].mean()
    assert best["rfm"] > 0.9
    assert best["both"] > 0.9
    assert best["embedding"] < 0.75
    assert curves["rfm"][0] <= curves["rfm"][50] <= curves["rfm"][-1] == 1.0
    assert {arm: len(rates) for arm, rates in curves.items()} == dict.fromkeys(curves, len(ROC_POINTS))
    counts = scores[(scores["arm"] == CUSTOMERS) & (scores["split"] == 0)].set_index("metric")["value"].to_dict()
    assert counts == {"num_train": 240, "num_test": 60, "positive_share": 0.2}


def test_same_seed_gives_the_same_scores() -> None:
    first, again, other = outcome(seed=1), outcome(seed=1), outcome(seed=2)
    pd.testing.assert_frame_equal(first.scores, again.scores)
    assert first.curves == again.curves
    assert not first.scores["value"].equals(other.scores["value"])


def test_splits_share_no_customer_and_lose_none() -> None:
    labels = np.array([1] * 20 + [0] * 80)
    splits = list(random_splits(labels, num_splits=3, test_share=0.2, validation_share=0.2, seed=1))
    for split in splits:
        assert sorted(np.concatenate(split)) == list(range(100))
        assert [len(part) for part in split] == [60, 20, 20]
        assert [labels[part].sum() for part in split] == [12, 4, 4]
    assert not np.array_equal(np.sort(splits[0].test), np.sort(splits[1].test))


def test_late_fusion_averages_log_odds() -> None:
    left, right = Fitted(0.8, np.array([0.5, 0.9, 0.2])), Fitted(0.6, np.array([0.9, 0.9, 0.8]))
    # odds 1 and 9 -> 3, so 0.75; 9 and 9 -> 9; 1/4 and 4 -> 1
    assert fused_odds(left, right).test_predictions == pytest.approx([0.75, 0.9, 0.5])
    assert fused_odds(left, right).validation_score == pytest.approx(0.7)
    assert fused_mean(left, right).test_predictions == pytest.approx([0.7, 0.9, 0.5])


def test_scores_of_amounts_by_hand() -> None:
    """80 % of 100 is reached by the customers of 60 and 25; they stand first and third of the four that are tested."""
    everybody = np.array([60.0, 25.0, 10.0, 5.0, 0.0])
    assert high_value(everybody) == 25.0
    found = how_much(np.array([60.0, 25.0, 10.0, 0.0]), np.array([50.0, 5.0, 10.0, 4.0]), everybody)
    assert found == pytest.approx(
        {"rmse": math.sqrt((100 + 400 + 0 + 16) / 4), "mae": 34 / 4, "spearman": 0.8, "high_value_auroc": 3 / 4}
    )


def test_planted_amounts_are_found_by_the_arms_that_see_them() -> None:
    """The amount is three times the first feature; the rule knows it exactly."""
    random = np.random.default_rng(3)
    hand_made = np.abs(random.normal(size=(300, 2)))
    labels = 3 * hand_made[:, 0]
    features = {RFM: hand_made, EMBEDDING: random.normal(size=(300, 4))}
    shares = {"test_share": 0.2, "validation_share": 0.2}
    found = paired_scores(features, labels, rule=labels, question=HOW_MUCH, num_splits=2, seed=1, **shares)
    means = found.scores.groupby(["arm", "head", "metric"])["value"].mean()

    assert found.curves == {}
    assert means["rule", "best", "rmse"] == 0
    assert means["rfm", "ridge", "rmse"] < 0.2 < 1.5 < means["embedding", "best", "rmse"]
    assert means["rfm", "median", "mae"] < 0.5
    assert means["rfm", "best", "spearman"] > 0.98
    table = score_table(found.scores.assign(task="value"))
    lines = table.set_index(["metric", "arm", "head"])
    assert lines.loc[("rmse", "embedding", "best"), "difference_to_rfm"] > 1
    assert lines.loc[("rmse", "embedding", "best"), "bootstrap_better"] == 0
    assert lines.loc[("rmse", "rule", "best"), "bootstrap_better"] == 1
    assert math.isnan(lines.loc[("spearman", "embedding", "best"), "bootstrap_better"])
    assert lines["lower_is_better"].groupby("metric").all().to_dict() == {
        "rmse": True,
        "mae": True,
        "spearman": False,
        "high_value_auroc": False,
    }


def test_few_labels_are_of_the_split_and_of_both_kinds() -> None:
    labels = np.array([1.0] * 40 + [0] * 160)
    (split,) = random_splits(labels, num_splits=1, test_share=0.2, validation_share=0.2, seed=1)
    few = few_labels(split, labels, 40, both_kinds=True, seed=1)
    assert few is not None
    assert [len(part) for part in few] == [30, 10, 40]
    assert [labels[part].sum() for part in few] == [6, 2, 8]
    for part, whole in zip(few, split, strict=True):
        assert set(part) <= set(whole)
    assert few_labels(split, labels, 160, both_kinds=True, seed=1) is not None
    assert few_labels(split, labels, 161, both_kinds=True, seed=1) is None
    assert few_labels(split, labels, 8, both_kinds=True, seed=1) is None
    assert few_labels(split, labels, 8, both_kinds=False, seed=1) is not None


def test_the_learning_curve_stands_beside_the_scores_with_all_labels() -> None:
    random = np.random.default_rng(3)
    labels = (np.arange(300) % 4 == 0).astype(float)
    features = {arm: np.column_stack([labels + noise * random.normal(size=300)]) for arm, noise in NOISES.items()}
    how: dict[str, Any] = {"test_share": 0.2, "validation_share": 0.2, "num_splits": 3, "seed": 1}
    found = paired_scores(features, labels, rule=labels, question=YES_OR_NO, label_counts=[40, 100, 999], **how).scores
    plain = paired_scores(features, labels, rule=labels, question=YES_OR_NO, **how).scores
    is_few = found["metric"].str.endswith("_labels")
    pd.testing.assert_frame_equal(found[~is_few].reset_index(drop=True), plain)

    table = score_table(found.assign(task="churn")).set_index(["metric", "arm", "head"])
    for count in (40, 100):
        line = table.loc[(f"auroc.{count}_labels", EMBEDDING, "logistic")]
        assert line["mean"] > table.loc[(f"auroc.{count}_labels", RFM, "logistic"), "mean"]
        assert line["difference_to_rfm"] > 0.1
    assert not [name for name in found["metric"] if "999" in name]


def test_ablated_vectors_are_arms_that_are_compared_with_the_whole_ones() -> None:
    random = np.random.default_rng(3)
    labels = (np.arange(300) % 4 == 0).astype(float)
    whole = np.column_stack([labels + 0.5 * random.normal(size=300)])
    features = {RFM: random.normal(size=(300, 2)), EMBEDDING: whole, "order_shuffled": random.normal(size=(300, 1))}
    how: dict[str, Any] = {"test_share": 0.2, "validation_share": 0.2, "num_splits": 4, "seed": 1}
    found = paired_scores(features, labels, rule=labels, question=YES_OR_NO, **how).scores
    table = score_table(found.assign(task="churn")).set_index(["metric", "arm", "head"])
    ablated = table.loc[("auroc", "order_shuffled", "logistic")]
    assert ablated["difference_to_embedding"] == pytest.approx(
        ablated["mean"] - table.loc[("auroc", EMBEDDING, "logistic"), "mean"]
    )
    assert ablated["difference_to_embedding"] < -0.15
    assert ablated["p_value_to_embedding"] < 0.05
    assert table["difference_to_embedding"].notna().sum() == 2  # of two metrics


def test_logarithms_keep_the_sign() -> None:
    assert with_logarithms(np.array([[math.e - 1, 1 - math.e, 0]])) == pytest.approx(
        np.array([[math.e - 1, 1 - math.e, 0, 1, -1, 0]])
    )


def test_nadeau_bengio_error_by_hand() -> None:
    # variance of 1, 2, 3 is 1; (1/3 + 1/4) * 1 = 7/12
    assert corrected_error(np.array([1.0, 2.0, 3.0]), 0.25) == pytest.approx(math.sqrt(7 / 12))
    assert math.isnan(corrected_error(np.array([1.0]), 0.25))


def test_p_value_by_hand() -> None:
    # t = 2 with 2 degrees of freedom: p = 1 - 2 / sqrt(2 + 4)
    assert p_value(2.0, 1.0, 3) == pytest.approx(1 - 2 / math.sqrt(6))
    assert p_value(0.0, 0.0, 3) == 1.0
    assert math.isnan(p_value(1.0, math.nan, 1))


def test_score_table_pairs_each_arm_with_rfm_of_the_same_head() -> None:
    values = {
        "rfm": [0.80, 0.82, 0.84],
        "embedding": [0.81, 0.84, 0.87],
        "both": [0.8, 0.82, 0.84],
        "fused": [0.9, 0.9, 0.9],
    }
    rows = [
        ("churn", arm, head, split, metric, value + (0.05 if head == "lightgbm" else 0))
        for arm, scores in values.items()
        for split, value in enumerate(scores)
        for head in ("best", "logistic", "lightgbm")
        for metric in ("auroc", "average_precision")
    ]
    rows += [("churn", CUSTOMERS, "", split, "num_train", 80.0) for split in range(3)]
    rows += [("churn", CUSTOMERS, "", split, "num_test", 20.0) for split in range(3)]
    table = score_table(pd.DataFrame(rows, columns=["task", "arm", "head", "split", "metric", "value"]))
    assert list(table.columns) == TABLE_COLUMNS
    lines = table.set_index(["metric", "arm", "head"])
    embedding = lines.loc[("auroc", "embedding", "best")]
    assert (embedding["mean"], embedding["difference_to_rfm"]) == pytest.approx((0.84, 0.02))
    # differences 0.01, 0.02, 0.03: variance 1e-4, error sqrt((1/3 + 20/80) * 1e-4)
    assert embedding["difference_standard_error"] == pytest.approx(math.sqrt(7 / 12) / 100)
    assert lines.loc[("auroc", "embedding", "lightgbm"), "difference_to_rfm"] == pytest.approx(0.02)
    assert lines.loc[("auroc", "both", "best"), "p_value"] == 1.0
    assert math.isnan(lines.loc[("auroc", "rfm", "best"), "difference_to_rfm"])
