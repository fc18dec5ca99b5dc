"""What is trained on top of features: classifiers and regressors. Each is chosen on the validation customers alone."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from lightgbm import LGBMClassifier, LGBMRegressor, early_stopping
from numpy.typing import NDArray
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

Array = NDArray[np.float64]
STRENGTHS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3)
"""Inverse regularisation strengths of the logistic head."""
PENALTIES = (1.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0, 10_000.0)
"""Of the ridge head."""


class Data(NamedTuple):
    """Features (customers × features) and labels (0 or 1, or amounts) of some customers."""

    features: Array
    labels: Array


class Fitted(NamedTuple):
    """A score on the validation customers (higher is better), and what is predicted of each test customer."""

    validation_score: float
    test_predictions: Array
    """Probabilities of label 1, or amounts."""


def logistic(training: Data, validation: Data, test: Array, *, seed: int) -> Fitted:
    """Logistic regression on the standardised [x, sign(x) log1p|x|], its strength chosen on validation."""
    prepare = prepared()
    seen, held_out = prepare.fit_transform(training.features), prepare.transform(validation.features)
    fits = [LogisticRegression(C=strength, max_iter=1000).fit(seen, training.labels) for strength in STRENGTHS]
    scores = [float(roc_auc_score(validation.labels, fit.decision_function(held_out))) for fit in fits]
    best = int(np.argmax(scores))
    return Fitted(scores[best], fits[best].predict_proba(prepare.transform(test))[:, 1])


def lightgbm(training: Data, validation: Data, test: Array, *, seed: int) -> Fitted:
    """Gradient-boosted trees of fixed, moderate size; their number is chosen on validation."""
    model = LGBMClassifier(**_trees(seed))
    _fit_trees(model, training, validation, metric="auc")
    held_out, probabilities = (np.asarray(model.predict_proba(part))[:, 1] for part in (validation.features, test))
    return Fitted(float(roc_auc_score(validation.labels, held_out)), probabilities)


def ridge(training: Data, validation: Data, test: Array, *, seed: int) -> Fitted:
    """Ridge regression on the standardised [x, sign(x) log1p|x|], its penalty chosen on validation."""
    prepare = prepared()
    seen, held_out = prepare.fit_transform(training.features), prepare.transform(validation.features)
    fits = [Ridge(alpha=penalty).fit(seen, training.labels) for penalty in PENALTIES]
    scores = [-rmse(validation.labels, fit.predict(held_out)) for fit in fits]
    best = int(np.argmax(scores))
    return Fitted(scores[best], np.asarray(fits[best].predict(prepare.transform(test))))


def lightgbm_mean(training: Data, validation: Data, test: Array, *, seed: int) -> Fitted:
    """Boosted trees as `lightgbm`, for the mean of an amount."""
    model = LGBMRegressor(objective="regression", **_trees(seed))
    return _regressed(model, training, validation, test, metric="l2", error=rmse)


def lightgbm_median(training: Data, validation: Data, test: Array, *, seed: int) -> Fitted:
    """Boosted trees as `lightgbm`, for the median of an amount: what mean absolute error asks for."""
    model = LGBMRegressor(objective="regression_l1", **_trees(seed))
    return _regressed(model, training, validation, test, metric="l1", error=mae)


def prepared() -> Pipeline:
    """Not yet fitted: [x, sign(x) log1p|x|], holes filled by the median, standardised."""
    imputer = SimpleImputer(strategy="median", keep_empty_features=True)
    return make_pipeline(imputer, FunctionTransformer(with_logarithms), StandardScaler())


def with_logarithms(features: Array) -> Array:
    """[x, sign(x) log1p|x|], side by side."""
    return np.hstack([features, np.sign(features) * np.log1p(np.abs(features))])


def fused_odds(left: Fitted, right: Fitted) -> Fitted:
    """Late fusion: the mean of two classifiers' log odds, as a probability. Its validation score is their mean."""
    log_odds = (_logit(left.test_predictions) + _logit(right.test_predictions)) / 2
    return Fitted((left.validation_score + right.validation_score) / 2, 1 / (1 + np.exp(-log_odds)))


def fused_mean(left: Fitted, right: Fitted) -> Fitted:
    """Late fusion: the mean of two regressors' predictions. Its validation score is their mean."""
    predictions = (left.test_predictions + right.test_predictions) / 2
    return Fitted((left.validation_score + right.validation_score) / 2, predictions)


def _trees(seed: int) -> dict[str, Any]:
    return {
        "n_estimators": 400,
        "learning_rate": 0.03,
        "num_leaves": 7,
        "min_child_samples": 20,
        "subsample": 0.8,
        "subsample_freq": 1,
        "colsample_bytree": 0.5,
        "reg_lambda": 5.0,
        "random_state": seed,
        "n_jobs": 1,  # on so few rows a second thread only waits
        "deterministic": True,
        "force_row_wise": True,
        "verbosity": -1,
    }


def _fit_trees(model: LGBMClassifier | LGBMRegressor, training: Data, validation: Data, *, metric: str) -> None:
    model.fit(
        training.features,
        training.labels,
        eval_X=validation.features,
        eval_y=validation.labels,
        eval_metric=metric,
        callbacks=[early_stopping(40, verbose=False)],
    )


def _regressed(
    model: LGBMRegressor,
    training: Data,
    validation: Data,
    test: Array,
    *,
    metric: str,
    error: Callable[[Array, Array], float],
) -> Fitted:
    _fit_trees(model, training, validation, metric=metric)
    held_out, predictions = (np.asarray(model.predict(part)) for part in (validation.features, test))
    return Fitted(-error(validation.labels, held_out), predictions)


def rmse(truth: Array, predicted: Array) -> float:
    """Root of the mean squared error."""
    return float(np.sqrt(np.mean(np.square(truth - predicted))))


def mae(truth: Array, predicted: Array) -> float:
    """Mean absolute error."""
    return float(np.mean(np.abs(truth - predicted)))


def _logit(probabilities: Array) -> Array:
    inside = np.clip(probabilities, 1e-6, 1 - 1e-6)
    return np.asarray(np.log(inside / (1 - inside)))
