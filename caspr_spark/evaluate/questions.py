"""The forms a question can have, yes or no, how much, and which number: heads, metrics, how answers are averaged."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
from scipy.stats import spearmanr
from sklearn.metrics import average_precision_score, roc_auc_score

from caspr_spark.evaluate.heads import (
    Array,
    Fitted,
    fused_mean,
    fused_odds,
    lightgbm,
    lightgbm_mean,
    lightgbm_median,
    logistic,
    mae,
    ridge,
    rmse,
)
from caspr_spark.evaluate.weighted import (
    by_threshold,
    weighted_auroc,
    weighted_average_precision,
    weighted_mae,
    weighted_rmse,
)

HIGH_VALUE_SHARE = 0.8
"""The high-value customers are the fewest that make this share of all value."""
_HIGH_VALUE = "high_value_auroc"
LOWER_IS_BETTER = frozenset({"rmse", "mae"})
Metrics = dict[str, float]
Weighted = Callable[[Array, Array, Array, Array], Mapping[str, Array]]
"""As Question.metrics, with weights [R, test customers] as well -> scores [R]; not of every metric."""


class Question(NamedTuple):
    """How labels of one form are answered and judged."""

    heads: Mapping[str, Callable[..., Fitted]]
    """Name -> trained by (training, validation, test features, seed=)."""
    candidates: tuple[str, ...]
    """The heads of which the better on validation is called best."""
    fused: Callable[[Fitted, Fitted], Fitted]
    metrics: Callable[[Array, Array, Array], Metrics]
    """(labels of the test customers, what was predicted of them, labels of all customers) -> scores."""
    weighted: Weighted


def yes_or_no(truth: Array, predicted: Array, _everybody: Array) -> Metrics:
    """auroc and average_precision."""
    return {
        "auroc": float(roc_auc_score(truth, predicted)),
        "average_precision": float(average_precision_score(truth, predicted)),
    }


def how_much(truth: Array, predicted: Array, everybody: Array) -> Metrics:
    """rmse and mae in the label's unit, spearman, and the auroc with which high-value customers are ranked first."""
    is_high = truth >= high_value(everybody)
    return {
        "rmse": rmse(truth, predicted),
        "mae": mae(truth, predicted),
        "spearman": float(spearmanr(truth, predicted).statistic) if np.ptp(predicted) and np.ptp(truth) else 0.0,
        _HIGH_VALUE: float(roc_auc_score(is_high, predicted)) if 0 < is_high.sum() < len(is_high) else np.nan,
    }


def which_number(truth: Array, predicted: Array, everybody: Array) -> Metrics:
    """`how_much` of numbers that do not add up, such as years: nobody is of high value."""
    return {name: score for name, score in how_much(truth, predicted, everybody).items() if name != _HIGH_VALUE}


def weighted_yes_or_no(truth: Array, predicted: Array, _everybody: Array, weights_RC: Array) -> Mapping[str, Array]:
    """`yes_or_no` of weighted customers."""
    by = by_threshold(truth, predicted, weights_RC)
    return {"auroc": weighted_auroc(by), "average_precision": weighted_average_precision(by)}


def weighted_how_much(truth: Array, predicted: Array, everybody: Array, weights_RC: Array) -> Mapping[str, Array]:
    """`how_much` of weighted customers, but for spearman."""
    is_high = (truth >= high_value(everybody)).astype(float)
    return {
        "rmse": weighted_rmse(truth, predicted, weights_RC),
        "mae": weighted_mae(truth, predicted, weights_RC),
        _HIGH_VALUE: weighted_auroc(by_threshold(is_high, predicted, weights_RC)),
    }


def weighted_which_number(truth: Array, predicted: Array, everybody: Array, weights_RC: Array) -> Mapping[str, Array]:
    """`which_number` of weighted customers, but for spearman."""
    found = weighted_how_much(truth, predicted, everybody, weights_RC)
    return {name: scores_R for name, scores_R in found.items() if name != _HIGH_VALUE}


def high_value(labels: Array) -> float:
    """The smallest label of the fewest customers who make HIGH_VALUE_SHARE of the sum of all."""
    ordered = np.sort(labels)[::-1]
    reached = np.searchsorted(np.cumsum(ordered), HIGH_VALUE_SHARE * ordered.sum())
    return float(ordered[min(int(reached), len(ordered) - 1)])


def best_of(fits: Mapping[str, Fitted], question: Question) -> Fitted:
    """The candidate that is better on validation."""
    return max((fits[name] for name in question.candidates), key=lambda fit: fit.validation_score)


YES_OR_NO = Question(
    heads={"logistic": logistic, "lightgbm": lightgbm},
    candidates=("logistic", "lightgbm"),
    fused=fused_odds,
    metrics=yes_or_no,
    weighted=weighted_yes_or_no,
)
HOW_MUCH = Question(
    heads={"ridge": ridge, "lightgbm": lightgbm_mean, "median": lightgbm_median},
    candidates=("ridge", "lightgbm"),
    fused=fused_mean,
    metrics=how_much,
    weighted=weighted_how_much,
)
WHICH_NUMBER = HOW_MUCH._replace(metrics=which_number, weighted=weighted_which_number)
