"""Random paired splits: every arm is trained, chosen and tested on the same customers. Deterministic from the seed."""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeVar

import numpy as np
import pandas as pd
from joblib import Parallel, delayed  # type: ignore[import-untyped]
from numpy.typing import NDArray
from sklearn.metrics import roc_curve
from sklearn.model_selection import train_test_split
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from caspr_spark.evaluate.bootstrap import TwoArms, advantages
from caspr_spark.evaluate.heads import Array, Data, Fitted
from caspr_spark.evaluate.questions import WHICH_NUMBER, YES_OR_NO, Question, Weighted, best_of

RULE, RFM, EMBEDDING, BOTH, FUSED = "rule", "rfm", "embedding", "both", "fused"
UNSEEN = "unseen"
"""The arm of vectors whose encoder never saw the test customers; one array of all customers a fold."""
Vectors = Array | tuple[Array, ...]
"""Customer by customer: the same on every split, or one array a fold."""
ARMS = (RFM, EMBEDDING, BOTH, FUSED)
"""The arms that are trained; RULE is a guess without training."""
BEST = "best"
CUSTOMERS = "customers"
"""The arm of the rows that count a split's customers: num_train (validation included), num_test, positive_share."""
ROC_POINTS = np.linspace(0, 1, 101)
LEAST = 15
"""Customers of a kind, five a part of the split."""
BOOTSTRAP_ERROR, BOOTSTRAP_BETTER = "bootstrap_error", "bootstrap_better"
"""Written `bootstrap_error.auroc`: of an arm's difference to rfm, over resampled customers; they stand at split 0."""
LABELS = "labels"
"""Written `auroc.100_labels`: of the linear heads, trained and chosen with so many labelled customers alone."""
SPLITS_A_WORKER = 5
"""Splits that a process of its own is worth starting for."""
Found = TypeVar("Found")
SCORE_COLUMNS = ["arm", "head", "split", "metric", "value"]


class Split(NamedTuple):
    """Positions of the customers in each part."""

    training: NDArray[np.intp]
    validation: NDArray[np.intp]
    test: NDArray[np.intp]


class Outcome(NamedTuple):
    """`scores` in SCORE_COLUMNS; `curves`, of yes or no: arm -> mean true positive rate (best head) at ROC_POINTS."""

    scores: pd.DataFrame
    curves: dict[str, list[float]]


def random_splits(
    labels: Array,
    *,
    num_splits: int,
    test_share: float,
    validation_share: float,
    seed: int,
    folds: NDArray[np.int64] | None = None,
) -> Iterator[Split]:
    """Splits with the same share of positive labels in each part, where there are a few of both kinds.

    `validation_share` is of all customers. With `folds` (one a customer, from 0 on) these are the test customers, by
    turns, in place of random ones.
    """
    everyone, strata = np.arange(len(labels)), labels > 0
    if _rarer(labels) < LEAST:
        strata = np.zeros_like(strata)
    for number in range(num_splits):
        state = seed * 1000 + number
        if folds is None:
            rest, test = train_test_split(everyone, test_size=test_share, stratify=strata, random_state=state)
        else:
            is_test = folds == number % (folds.max() + 1)
            rest, test = everyone[~is_test], everyone[is_test]
        share = validation_share * len(everyone) / len(rest)
        training, validation = train_test_split(rest, test_size=share, stratify=strata[rest], random_state=state)
        yield Split(training, validation, test)


def of_fold(vectors: Vectors, number: int) -> Array:
    """Those for the split `number`."""
    return vectors[number % len(vectors)] if isinstance(vectors, tuple) else vectors


def paired_scores(
    features: Mapping[str, Vectors],
    labels: Array,
    *,
    rule: Array,
    question: Question,
    num_splits: int,
    test_share: float,
    validation_share: float,
    seed: int,
    label_counts: Sequence[int] = (),
    folds: NDArray[np.int64] | None = None,
) -> Outcome:
    """Scores of all arms and heads on all splits; `features` holds those of RFM and EMBEDDING, customer by customer.

    Other `features` are ablated vectors: arms that have the linear head alone.

    `rule`: what a naive rule predicts of each customer; its scores stand under BEST. `label_counts`: of the learning
    curve; those that a split's training and validation customers do not reach are left out. `folds`: of
    `random_splits`.
    """
    ablated = {arm: values for arm, values in features.items() if arm not in (RFM, EMBEDDING)}
    own = {arm: of_fold(features[arm], 0) for arm in (RFM, EMBEDDING)}
    own[BOTH] = np.hstack([own[RFM], own[EMBEDDING]])
    splits = random_splits(
        labels, num_splits=num_splits, test_share=test_share, validation_share=validation_share, seed=seed, folds=folds
    )
    found = in_parallel(
        partial(_of_split, own, ablated, labels, rule, question, label_counts=label_counts, seed=seed), splits
    )
    rows = [row for one in found for row in one.rows]
    tested = {key: [one.tested[key] for one in found] for key in found[0].tested}
    rows += bootstrap_rows(tested, labels, question.weighted, seed=seed)
    curves = {arm: np.mean([one.rates[arm] for one in found], axis=0) for arm in found[0].rates}
    means = {arm: [round(float(rate), 6) for rate in curve] for arm, curve in curves.items()}
    return Outcome(pd.DataFrame(rows, columns=SCORE_COLUMNS), means)


def in_parallel(of_split: Callable[[int, Split], Found], splits: Iterable[Split]) -> list[Found]:
    """What `of_split` finds for each (number, split), in their order; many are shared out over the processors."""
    numbered = list(enumerate(splits))
    return list(_workers(len(numbered))(delayed(of_split)(number, split) for number, split in numbered))


def _workers(num_splits: int) -> Parallel:
    return Parallel(n_jobs=max(1, min(os.cpu_count() or 1, num_splits // SPLITS_A_WORKER)))


class _OfSplit(NamedTuple):
    """What is found on one split."""

    rows: list[tuple[str, str, int, str, float]]
    tested: dict[tuple[str, str], TwoArms]
    rates: dict[str, Array]
    """Of yes or no: arm -> true positive rates at ROC_POINTS."""


def _of_split(
    features: Mapping[str, Array],
    ablated: Mapping[str, Vectors],
    labels: Array,
    rule: Array,
    question: Question,
    number: int,
    split: Split,
    *,
    label_counts: Sequence[int],
    seed: int,
) -> _OfSplit:
    num_test, truth = len(split.test), labels[split.test]
    rows: list[tuple[str, str, int, str, float]] = [
        (CUSTOMERS, "", number, "num_train", len(labels) - num_test),
        (CUSTOMERS, "", number, "num_test", num_test),
        (CUSTOMERS, "", number, "positive_share", float((truth > 0).mean())),
    ]
    with threadpool_limits(1):
        fits = {arm: _fits(values, labels, split, question, seed=seed + number) for arm, values in features.items()}
        fits[FUSED] = {head: question.fused(fits[RFM][head], fits[EMBEDDING][head]) for head in fits[RFM]}
        predictions = {(RULE, BEST): rule[split.test]}
        predictions |= {(arm, head): fit.test_predictions for arm in ARMS for head, fit in fits[arm].items()}
        tested = {}
        for (arm, head), predicted in predictions.items():
            found = question.metrics(truth, predicted, labels)
            rows += [(arm, head, number, metric, value) for metric, value in found.items()]
            if arm != RFM:
                tested[arm, head] = TwoArms(split.test, predicted, fits[RFM][head].test_predictions)
        for arm, values in ablated.items():
            fit = _linear_fit(of_fold(values, number), labels, split, question)
            found = question.metrics(truth, fit.test_predictions, labels)
            rows += [(arm, question.candidates[0], number, metric, value) for metric, value in found.items()]
        for num_labels in label_counts:
            few = few_labels(split, labels, num_labels, both_kinds=question == YES_OR_NO, seed=seed * 1000 + number)
            if few is not None:
                rows += _few_scores(features, labels, few, question, number=number, num_labels=num_labels)
    rates = {}
    for arm in ARMS if question == YES_OR_NO else ():
        false_positives, true_positives, _ = roc_curve(truth, fits[arm][BEST].test_predictions)
        rates[arm] = np.interp(ROC_POINTS, false_positives, true_positives)
    return _OfSplit(rows, tested, rates)


def few_labels(split: Split, labels: Array, num_labels: int, *, both_kinds: bool, seed: int) -> Split | None:
    """The split with `num_labels` customers to train and validate on, shares as in `split`, positive ones also.

    Each part has two positive ones at least and, if it must be of `both_kinds`, two others. None where there are not
    so many.
    """
    random = np.random.default_rng([seed, num_labels])
    num_known = len(split.training) + len(split.validation)
    if num_labels > num_known:
        return None
    chosen: list[NDArray[np.intp]] = []
    for part in (split.training, split.validation):
        positives, others = part[labels[part] > 0], part[labels[part] <= 0]
        num_positives = max(2, round(len(positives) * num_labels / num_known))
        num_others = round(len(part) * num_labels / num_known) - num_positives
        if num_positives > len(positives) or not 2 * both_kinds <= num_others <= len(others):
            return None
        drawn = [
            random.choice(positives, num_positives, replace=False),
            random.choice(others, num_others, replace=False),
        ]
        chosen.append(np.sort(np.concatenate(drawn)))
    return Split(chosen[0], chosen[1], split.test)


def _few_scores(
    features: Mapping[str, Array],
    labels: Array,
    split: Split,
    question: Question,
    *,
    number: int,
    num_labels: int,
) -> list[tuple[str, str, int, str, float]]:
    fits = {arm: _linear_fit(values, labels, split, question) for arm, values in features.items()}
    fits[FUSED] = question.fused(fits[RFM], fits[EMBEDDING])
    return [
        (arm, question.candidates[0], number, f"{metric}.{num_labels}_{LABELS}", value)
        for arm, fit in fits.items()
        for metric, value in question.metrics(labels[split.test], fit.test_predictions, labels).items()
    ]


def bootstrap_rows(
    tested: Mapping[tuple[str, str], Sequence[TwoArms]], labels: Array, weighted: Weighted, *, seed: int
) -> list[tuple[str, str, int, str, float]]:
    """Rows of SCORE_COLUMNS with the advantage of each (arm, head) over rfm; see BOOTSTRAP_ERROR."""
    rows = []
    workers = _workers(max((len(of_splits) for of_splits in tested.values()), default=0))
    found = workers(delayed(advantages)(of_splits, labels, weighted, seed=seed) for of_splits in tested.values())
    for (arm, head), of_metrics in zip(tested, found, strict=True):
        for metric, (error, better) in of_metrics.items():
            rows.append((arm, head, 0, f"{BOOTSTRAP_ERROR}.{metric}", error))
            rows.append((arm, head, 0, f"{BOOTSTRAP_BETTER}.{metric}", better))
    return rows


def _linear_fit(features: Array, labels: Array, split: Split, question: Question) -> Fitted:
    """The first candidate, which is linear and needs no seed."""
    head = question.candidates[0]
    linear = question._replace(heads={head: question.heads[head]}, candidates=(head,))
    return _fits(features, labels, split, linear, seed=0)[head]


def _fits(features: Array, labels: Array, split: Split, question: Question, *, seed: int) -> dict[str, Fitted]:
    """Head -> its fit on one split; `best` is the candidate that is better on validation."""
    parts = {name: Data(features[where], labels[where]) for name, where in split._asdict().items()}
    training, validation, test = parts["training"], parts["validation"], parts["test"].features
    fits = {name: head(training, validation, test, seed=seed) for name, head in question.heads.items()}
    return fits | {BEST: best_of(fits, question)}


def too_few(labels: Any, question: Question) -> bool:
    """Whether some part of a split would have hardly any customer of a positive label, or of the answer no; where a
    number is asked for, hardly any customer."""
    if question == WHICH_NUMBER:
        return len(labels) < LEAST
    return (_rarer(labels) if question == YES_OR_NO else int(np.sum(labels > 0))) < LEAST


def _rarer(labels: Any) -> int:
    positives = int(np.sum(labels > 0))
    return min(positives, len(labels) - positives)
