"""Classifiers on top of features. Each is chosen on the validation customers alone."""

from typing import NamedTuple

import numpy as np
from lightgbm import LGBMClassifier, early_stopping
from numpy.typing import NDArray
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

Array = NDArray[np.float64]
STRENGTHS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3)
"""Inverse regularisation strengths of the logistic head."""


class Data(NamedTuple):
    """Features (customers × features) and labels (0 or 1) of some customers."""

    features: Array
    labels: Array


class Fitted(NamedTuple):
    """AUROC on the validation customers, and the probability of label 1 for each test customer."""

    validation_auroc: float
    test_probabilities: Array


def logistic(training: Data, validation: Data, test: Array) -> Fitted:
    """Logistic regression on the standardised [x, sign(x) log1p|x|], its strength chosen on validation."""
    imputer = SimpleImputer(strategy="median", keep_empty_features=True)
    prepare = make_pipeline(imputer, FunctionTransformer(with_logarithms), StandardScaler())
    seen, held_out = prepare.fit_transform(training.features), prepare.transform(validation.features)
    best: tuple[float, LogisticRegression] | None = None
    for strength in STRENGTHS:
        model = LogisticRegression(C=strength, max_iter=1000).fit(seen, training.labels)
        auroc = float(roc_auc_score(validation.labels, model.decision_function(held_out)))
        if best is None or auroc > best[0]:
            best = (auroc, model)
    assert best is not None
    return Fitted(best[0], best[1].predict_proba(prepare.transform(test))[:, 1])


def lightgbm(training: Data, validation: Data, test: Array, *, seed: int) -> Fitted:
    """Gradient-boosted trees of fixed, moderate size; their number is chosen on validation."""
    model = LGBMClassifier(
        n_estimators=400,
        learning_rate=0.03,
        num_leaves=7,
        min_child_samples=20,
        subsample=0.8,
        subsample_freq=1,
        colsample_bytree=0.5,
        reg_lambda=5.0,
        random_state=seed,
        n_jobs=1,  # on so few rows a second thread only waits
        deterministic=True,
        force_row_wise=True,
        verbosity=-1,
    )
    model.fit(
        training.features,
        training.labels,
        eval_X=validation.features,
        eval_y=validation.labels,
        eval_metric="auc",
        callbacks=[early_stopping(40, verbose=False)],
    )
    held_out, probabilities = (np.asarray(model.predict_proba(part))[:, 1] for part in (validation.features, test))
    return Fitted(float(roc_auc_score(validation.labels, held_out)), probabilities)


def with_logarithms(features: Array) -> Array:
    """[x, sign(x) log1p|x|], side by side."""
    return np.hstack([features, np.sign(features) * np.log1p(np.abs(features))])


def fused(left: Fitted, right: Fitted) -> Fitted:
    """Late fusion: the mean of two classifiers' log odds, as a probability. Its validation score is their mean."""
    log_odds = (_logit(left.test_probabilities) + _logit(right.test_probabilities)) / 2
    return Fitted((left.validation_auroc + right.validation_auroc) / 2, 1 / (1 + np.exp(-log_odds)))


def _logit(probabilities: Array) -> Array:
    inside = np.clip(probabilities, 1e-6, 1 - 1e-6)
    return np.asarray(np.log(inside / (1 - inside)))
