"""Resampled customers: how sure a difference between two arms is, of other customers than those that happened to come.

A customer that is drawn twice counts twice in every split that tests it; the splits and what was trained stay. Every
weighted score takes all resamples at once: weights are [R, C], scores [R].
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from caspr_spark.evaluate.heads import Array
from caspr_spark.evaluate.questions import LOWER_IS_BETTER, Weighted

NUM_RESAMPLES = 1000
CHUNK = 100
"""Resamples that are scored at once."""


class Advantage(NamedTuple):
    """Of one arm over another, over the resamples."""

    error: float
    """Standard deviation of the mean difference over splits."""
    share_better: float
    """Share of the resamples in which the arm is better; one that is equal counts half."""


class TwoArms(NamedTuple):
    """What two arms predicted of one split's test customers (rows), who stand at `positions` in the labels."""

    positions: NDArray[np.intp]
    predicted: Array
    reference: Array


def advantages(tested: Sequence[TwoArms], labels: Array, weighted: Weighted, *, seed: int) -> Mapping[str, Advantage]:
    """Metric -> how sure the mean difference over splits between predicted and reference is; deterministic."""
    random, num_customers = np.random.default_rng(seed), len(labels)
    differences: dict[str, list[Array]] = {}
    for begin in range(0, NUM_RESAMPLES, CHUNK):
        drawn = min(CHUNK, NUM_RESAMPLES - begin)
        weights_RC = random.multinomial(num_customers, np.full(num_customers, 1 / num_customers), size=drawn)
        of_splits: dict[str, list[Array]] = {}
        for positions, predicted, reference in tested:
            truth, test_weights_RC = labels[positions], weights_RC[:, positions].astype(float)
            ours = weighted(truth, predicted, labels, test_weights_RC)
            theirs = weighted(truth, reference, labels, test_weights_RC)
            for metric, values_R in ours.items():
                of_splits.setdefault(metric, []).append(values_R - theirs[metric])
        for metric, parts in of_splits.items():
            differences.setdefault(metric, []).append(_mean_of_splits(np.array(parts)))
    return {metric: _advantage(metric, np.concatenate(parts)) for metric, parts in differences.items()}


def _mean_of_splits(differences_NR: Array) -> Array:
    """[R]: of the splits where the score is defined; NaN where it is in none."""
    is_known_NR = ~np.isnan(differences_NR)
    with np.errstate(invalid="ignore"):
        mean_R: Array = np.where(is_known_NR, differences_NR, 0.0).sum(axis=0) / is_known_NR.sum(axis=0)
    return mean_R


def _advantage(metric: str, differences_R: Array) -> Advantage:
    better = -differences_R if metric in LOWER_IS_BETTER else differences_R
    return Advantage(float(differences_R.std(ddof=1)), float((better > 0).mean() + (better == 0).mean() / 2))
