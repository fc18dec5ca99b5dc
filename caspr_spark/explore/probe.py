"""How well an attribute of a profile can be read from features of a customer, on customers held out."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.metrics import r2_score, roc_auc_score
from sklearn.model_selection import KFold, StratifiedKFold, train_test_split
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from caspr_spark.evaluate.heads import Array, mae
from caspr_spark.evaluate.significance import corrected_error

NUM_FOLDS = 5
LEAST_OF_CLASS = 15
"""A category of fewer customers is left out."""
LEAST_WITH_NUMBER = NUM_FOLDS * LEAST_OF_CLASS
"""Fewer customers with a number: no probe."""
MOST_CLASSES = 20
"""The most frequent categories that are told apart."""
CLEAR_ERRORS = 3
"""An attribute is called readable where a score beats its baseline by so many standard errors."""
AUROC, ACCURACY, R2, MAE = "AUROC", "accuracy", "R²", "mean absolute error"
_STRENGTHS = (0.003, 0.03, 0.3)
_PENALTIES = (1.0, 10.0, 100.0, 1000.0, 10_000.0)


class Score(NamedTuple):
    """A metric over the held-out folds; `by_features`: name of the features -> mean and standard error."""

    metric: str
    baseline: float
    """AUROC of chance, the share of the largest category, R² of the mean, or its absolute error."""
    by_features: dict[str, tuple[float, float]]


class Probed(NamedTuple):
    """What was found for one attribute, or, with no scores, why there is nothing."""

    num_customers: int
    about: str
    scores: tuple[Score, ...] = ()

    def is_readable_from(self, features: str) -> bool:
        """Whether the first metric (AUROC or R²) is clearly above its baseline."""
        mean, error = self.scores[0].by_features[features]
        return mean - self.scores[0].baseline > CLEAR_ERRORS * error


def categorical_probe(features: Mapping[str, Array], values: NDArray[Any], *, seed: int) -> Probed:
    """Logistic regressions, one category against the rest: macro AUROC and accuracy.

    `features`: name -> customers × numbers (NaN where unknown); `values`: a text of each customer, None where unknown.
    Categories of fewer than 15 customers, and those beyond the 20 most frequent, are left out, customers and all.
    """
    known = np.array([value is not None for value in values], dtype=bool)
    found, sizes = np.unique(values[known].astype(str), return_counts=True)
    in_order = np.lexsort((found, -sizes))
    kept = [found[place] for place in in_order[:MOST_CLASSES] if sizes[place] >= LEAST_OF_CLASS]
    rest = int(sizes.sum()) - int(sum(sizes[np.isin(found, kept)]))
    about = f"{len(kept)} categories"
    if rest:
        about += f"; {len(found) - len(kept)} rare ones with {rest} customers left out"
    if len(kept) < 2:
        reason = f"fewer than two categories have {LEAST_OF_CLASS} customers ({int(known.sum())} with a value)"
        return Probed(0, f"no probe: {reason}")
    where = np.flatnonzero(known)[np.isin(values[known].astype(str), kept)]
    labels = values[where].astype(str)
    folds = StratifiedKFold(NUM_FOLDS, shuffle=True, random_state=seed).split(where, labels)
    return _probed(features, where, labels, list(folds), about, _logistic_scores, seed)


def numerical_probe(features: Mapping[str, Array], values: Array, *, seed: int) -> Probed:
    """Ridge regression: R² and mean absolute error. `values`: a number of each customer, NaN where unknown."""
    where = np.flatnonzero(np.isfinite(values))
    if len(where) < LEAST_WITH_NUMBER:
        return Probed(0, f"no probe: {len(where)} customers have a value, fewer than {LEAST_WITH_NUMBER}")
    if not np.ptp(values[where]):
        return Probed(0, f"no probe: the {len(where)} customers with a value all have the same")
    folds = KFold(NUM_FOLDS, shuffle=True, random_state=seed).split(where)
    return _probed(features, where, values[where], list(folds), "a number", _ridge_scores, seed)


_Scored = dict[str, tuple[float, float]]
"""Metric -> its value on one fold, and that of the baseline."""


def _probed(
    features: Mapping[str, Array],
    where: NDArray[np.intp],
    labels: NDArray[Any],
    folds: list[tuple[NDArray[np.intp], NDArray[np.intp]]],
    about: str,
    scored: Callable[..., _Scored],
    seed: int,
) -> Probed:
    with threadpool_limits(1):
        by_fold = {
            name: [scored(numbers[where], labels, training, test, seed=seed) for training, test in folds]
            for name, numbers in features.items()
        }
    first = next(iter(by_fold.values()))
    test_to_train = 1 / (NUM_FOLDS - 1)
    scores = []
    for metric in first[0]:
        of_features = {}
        for name, found in by_fold.items():
            numbers = np.array([fold[metric][0] for fold in found])
            of_features[name] = (float(numbers.mean()), corrected_error(numbers, test_to_train))
        scores.append(Score(metric, float(np.mean([fold[metric][1] for fold in first])), of_features))
    return Probed(len(where), about, tuple(scores))


def _logistic_scores(
    features: Array, labels: NDArray[Any], training: NDArray[np.intp], test: NDArray[np.intp], *, seed: int
) -> _Scored:
    """The strength is chosen on a fifth of the training customers, by macro AUROC."""
    fit, choose = train_test_split(training, test_size=0.2, stratify=labels[training], random_state=seed)
    judged = {
        strength: _macro_auroc(_one_against_rest(strength).fit(features[fit], labels[fit]), features, labels, choose)
        for strength in _STRENGTHS
    }
    best = max(judged, key=lambda strength: judged[strength])
    model = _one_against_rest(best).fit(features[training], labels[training])
    names, counts = np.unique(labels[training], return_counts=True)
    correct = float(np.mean(model.predict(features[test]) == labels[test]))
    of_largest = float(np.mean(labels[test] == names[counts.argmax()]))
    return {AUROC: (_macro_auroc(model, features, labels, test), 0.5), ACCURACY: (correct, of_largest)}


def _one_against_rest(strength: float) -> Pipeline:
    return make_pipeline(*_prepared(), OneVsRestClassifier(LogisticRegression(C=strength, max_iter=1000)))


def _macro_auroc(model: Pipeline, features: Array, labels: NDArray[Any], where: NDArray[np.intp]) -> float:
    """Mean over the categories of the AUROC of one against the rest."""
    guesses, classes = model.predict_proba(features[where]), model.classes_
    truths = [labels[where] == name for name in classes]
    areas = [roc_auc_score(truth, guesses[:, place]) for place, truth in enumerate(truths) if truth.sum() > 0]
    return float(np.mean(areas))


def _ridge_scores(
    features: Array, labels: Array, training: NDArray[np.intp], test: NDArray[np.intp], *, seed: int
) -> _Scored:
    """The penalty is chosen by leave-one-out on the training customers."""
    model = make_pipeline(*_prepared(), RidgeCV(_PENALTIES)).fit(features[training], labels[training])
    guesses, mean = model.predict(features[test]), np.full(len(test), labels[training].mean())
    truth = labels[test]
    return {
        R2: (float(r2_score(truth, guesses)), float(r2_score(truth, mean))),
        MAE: (mae(truth, guesses), mae(truth, mean)),
    }


def _prepared() -> tuple[SimpleImputer, StandardScaler]:
    return SimpleImputer(strategy="median", keep_empty_features=True), StandardScaler()
