"""Scores of weighted customers, for many weightings at once: weights are [R, C], scores [R]. NaN where undefined."""

from typing import NamedTuple

import numpy as np

from caspr_spark.evaluate.heads import Array


class ByThreshold(NamedTuple):
    """Weights of positives and of negatives, summed over equal predictions, the highest first."""

    positives_RT: Array
    negatives_RT: Array


def by_threshold(is_positive: Array, predicted: Array, weights_RC: Array) -> ByThreshold:
    """`is_positive`: above 0 or not."""
    order = np.argsort(-predicted, kind="stable")
    ordered = predicted[order]
    ordered_RC, is_positive_C = weights_RC[:, order], (is_positive > 0)[order]
    positives_RC = ordered_RC * is_positive_C
    negatives_RC = ordered_RC - positives_RC
    begins = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    if len(begins) == len(ordered):  # nothing to sum, which would take long
        return ByThreshold(positives_RC, negatives_RC)
    return ByThreshold(*(np.add.reduceat(one_RC, begins, axis=1) for one_RC in (positives_RC, negatives_RC)))


def weighted_auroc(by: ByThreshold) -> Array:
    """Area under the ROC curve; equal predictions count half."""
    positives_RT, negatives_RT = by
    higher_RT = np.cumsum(positives_RT, axis=1) - positives_RT / 2
    with np.errstate(invalid="ignore"):
        area_R: Array = (negatives_RT * higher_RT).sum(axis=1) / (positives_RT.sum(axis=1) * negatives_RT.sum(axis=1))
    return area_R


def weighted_average_precision(by: ByThreshold) -> Array:
    """Mean over the positives of the precision at their threshold."""
    positives_RT, negatives_RT = by
    found_RT, all_RT = np.cumsum(positives_RT, axis=1), np.cumsum(positives_RT + negatives_RT, axis=1)
    with np.errstate(invalid="ignore"):
        precision_RT = np.where(positives_RT > 0, found_RT / all_RT, 0.0)
        mean_R: Array = (positives_RT * precision_RT).sum(axis=1) / positives_RT.sum(axis=1)
    return mean_R


def weighted_rmse(truth: Array, predicted: Array, weights_RC: Array) -> Array:
    """Root of the mean squared error."""
    return np.sqrt(_weighted_mean(np.square(truth - predicted), weights_RC))


def weighted_mae(truth: Array, predicted: Array, weights_RC: Array) -> Array:
    """Mean absolute error."""
    return _weighted_mean(np.abs(truth - predicted), weights_RC)


def _weighted_mean(values: Array, weights_RC: Array) -> Array:
    mean_R: Array = weights_RC @ values / weights_RC.sum(axis=1)
    return mean_R
