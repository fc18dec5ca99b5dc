"""Weighted scores against scikit-learn's, and resampled differences against the textbook's."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from caspr_spark.evaluate.bootstrap import TwoArms, advantages
from caspr_spark.evaluate.questions import how_much, weighted_how_much, weighted_yes_or_no


def test_weighted_scores_are_those_of_scikit_learn() -> None:
    random = np.random.default_rng(1)
    truth = (random.random(80) < 0.3).astype(float)
    predicted = np.round(random.random(80) + 0.3 * truth, 1)  # with ties
    weights_RC = random.poisson(1.0, size=(20, 80)).astype(float)
    found = weighted_yes_or_no(truth, predicted, truth, weights_RC)
    for resample, weights in enumerate(weights_RC):
        assert found["auroc"][resample] == pytest.approx(roc_auc_score(truth, predicted, sample_weight=weights))
        assert found["average_precision"][resample] == pytest.approx(
            average_precision_score(truth, predicted, sample_weight=weights)
        )


def test_a_weight_of_two_is_the_customer_twice() -> None:
    random = np.random.default_rng(2)
    truth, predicted = random.exponential(size=30), random.exponential(size=30)
    times = random.poisson(1.0, size=30)
    found = weighted_how_much(truth, predicted, truth, times[None].astype(float))
    expected = how_much(np.repeat(truth, times), np.repeat(predicted, times), truth)
    assert {metric: values[0] for metric, values in found.items()} == pytest.approx(
        {metric: expected[metric] for metric in found}
    )
    assert set(expected) - set(found) == {"spearman"}


def test_no_positive_customer_drawn_is_no_score() -> None:
    found = weighted_yes_or_no(np.array([1.0, 0.0]), np.array([0.5, 0.4]), np.zeros(0), np.array([[0.0, 1.0]]))
    assert np.isnan(found["auroc"]).all()
    assert np.isnan(found["average_precision"]).all()


def test_the_error_of_a_mean_absolute_difference_is_the_textbooks() -> None:
    """With one split of everybody, the difference of two mean absolute errors is a mean: error deviation / sqrt(n)."""
    random = np.random.default_rng(3)
    labels = random.exponential(size=400)
    noise = random.normal(size=400)
    tested = TwoArms(np.arange(400), predicted=labels + 0.9 * noise, reference=labels + noise)
    found = advantages([tested], labels, weighted_how_much, seed=1)["mae"]
    assert found.error == pytest.approx((0.1 * np.abs(noise)).std() / np.sqrt(400), rel=0.1)
    assert found.share_better == 1.0
    assert advantages([tested], labels, weighted_how_much, seed=1)["mae"] == found


def test_no_difference_is_better_half_of_the_time() -> None:
    labels = (np.arange(200) % 4 == 0).astype(float)
    same = np.random.default_rng(4).random(200)
    found = advantages([TwoArms(np.arange(200), same, same)], labels, weighted_yes_or_no, seed=1)
    assert {metric: tuple(one) for metric, one in found.items()} == {
        "auroc": (0.0, 0.5),
        "average_precision": (0.0, 0.5),
    }
