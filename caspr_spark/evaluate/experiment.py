"""Random paired splits: every arm is trained, chosen and tested on the same customers. Deterministic from the seed."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve
from sklearn.model_selection import train_test_split
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from caspr_spark.evaluate.heads import Array, Data, Fitted, fused, lightgbm, logistic

RFM, EMBEDDING, BOTH, FUSED = "rfm", "embedding", "both", "fused"
ARMS = (RFM, EMBEDDING, BOTH, FUSED)
BEST = "best"
CUSTOMERS = "customers"
"""The arm of the rows that count a split's customers: num_train (validation included), num_test, positive_share."""
ROC_POINTS = np.linspace(0, 1, 101)
SCORE_COLUMNS = ["arm", "head", "split", "metric", "value"]


class Split(NamedTuple):
    """Positions of the customers in each part."""

    training: NDArray[np.intp]
    validation: NDArray[np.intp]
    test: NDArray[np.intp]


class Outcome(NamedTuple):
    """`scores` in SCORE_COLUMNS; `curves`: arm -> mean true positive rate (best head) at ROC_POINTS."""

    scores: pd.DataFrame
    curves: dict[str, list[float]]


def random_splits(
    labels: Array, *, num_splits: int, test_share: float, validation_share: float, seed: int
) -> Iterator[Split]:
    """Splits with the same share of positives in each part; `validation_share` is of all customers."""
    everyone = np.arange(len(labels))
    for number in range(num_splits):
        state = seed * 1000 + number
        rest, test = train_test_split(everyone, test_size=test_share, stratify=labels, random_state=state)
        share = validation_share / (1 - test_share)
        training, validation = train_test_split(rest, test_size=share, stratify=labels[rest], random_state=state)
        yield Split(training, validation, test)


def paired_scores(
    features: Mapping[str, Array],
    labels: Array,
    *,
    num_splits: int,
    test_share: float,
    validation_share: float,
    seed: int,
) -> Outcome:
    """Scores of all arms and heads on all splits; `features` holds those of RFM and EMBEDDING, customer by customer."""
    features = {**features, BOTH: np.hstack([features[RFM], features[EMBEDDING]])}
    rows: list[tuple[str, str, int, str, float]] = []
    curves: dict[str, list[Array]] = {arm: [] for arm in ARMS}
    splits = random_splits(
        labels, num_splits=num_splits, test_share=test_share, validation_share=validation_share, seed=seed
    )
    for number, split in enumerate(splits):
        num_test = len(split.test)
        rows += [
            (CUSTOMERS, "", number, "num_train", len(labels) - num_test),
            (CUSTOMERS, "", number, "num_test", num_test),
            (CUSTOMERS, "", number, "positive_share", float(labels[split.test].mean())),
        ]
        with threadpool_limits(1):
            fits = {arm: _fits(values, labels, split, seed=seed + number) for arm, values in features.items()}
        fits[FUSED] = {head: fused(fits[RFM][head], fits[EMBEDDING][head]) for head in fits[RFM]}
        truth = labels[split.test]
        for arm in ARMS:
            for head, fit in fits[arm].items():
                probabilities = fit.test_probabilities
                rows.append((arm, head, number, "auroc", float(roc_auc_score(truth, probabilities))))
                precision = float(average_precision_score(truth, probabilities))
                rows.append((arm, head, number, "average_precision", precision))
            false_positives, true_positives, _ = roc_curve(truth, fits[arm][BEST].test_probabilities)
            curves[arm].append(np.interp(ROC_POINTS, false_positives, true_positives))
    means = {arm: [round(float(rate), 6) for rate in np.mean(rates, axis=0)] for arm, rates in curves.items()}
    return Outcome(pd.DataFrame(rows, columns=SCORE_COLUMNS), means)


def _fits(features: Array, labels: Array, split: Split, *, seed: int) -> dict[str, Fitted]:
    """Head -> its fit on one split; `best` is the one that is better on validation."""
    parts = {name: Data(features[where], labels[where]) for name, where in split._asdict().items()}
    training, validation, test = parts["training"], parts["validation"], parts["test"].features
    fits = {
        "logistic": logistic(training, validation, test),
        "lightgbm": lightgbm(training, validation, test, seed=seed),
    }
    return fits | {BEST: max(fits.values(), key=lambda fit: fit.validation_auroc)}


def too_few(labels: Any, *, num_parts: int = 3, least: int = 5) -> bool:
    """Whether some part of a split would have hardly any customer of one label."""
    positives = int(np.sum(labels))
    return min(positives, len(labels) - positives) < num_parts * least
