"""Rankings: one decomposition for all penalties gives what scikit-learn's regressions give one by one."""

import numpy as np
import pytest
from sklearn.linear_model import Ridge

from caspr_spark.evaluate.experiment import Split
from caspr_spark.evaluate.heads import Array, prepared
from caspr_spark.evaluate.rankings import PENALTIES, Histories, had_by_likes, ridges

NUM_CUSTOMERS, NUM_VALUES = 90, 7
SPLIT = Split(np.arange(0, 50), np.arange(50, 70), np.arange(70, 90))


@pytest.fixture(params=[4, 80], ids=["few features", "more features than customers"])
def features(request: pytest.FixtureRequest) -> Array:
    return np.random.default_rng(1).normal(size=(NUM_CUSTOMERS, request.param))


@pytest.fixture
def known(features: Array) -> Histories:
    random = np.random.default_rng(2)
    counts_CV = random.poisson(np.exp(features[:, :1] - 0.5), size=(NUM_CUSTOMERS, NUM_VALUES)).astype(float)
    return Histories(counts_CV, random.random((NUM_CUSTOMERS, NUM_VALUES)) < 0.3)


def test_what_likes_had_is_a_ridge_regression(features: Array, known: Histories) -> None:
    seen, had_CV = prepared().fit_transform(features), (known.counts_CV > 0).astype(float)
    found = had_by_likes(features, known)
    assert len(found) == len(PENALTIES)
    for penalty, scores in zip(PENALTIES, found, strict=True):
        expected = Ridge(alpha=penalty).fit(seen, had_CV).predict(seen)
        np.testing.assert_allclose(scores.all_CV, expected, atol=1e-9)
        np.testing.assert_allclose(scores.new_CV, expected, atol=1e-9)


def test_what_comes_is_a_ridge_regression_of_the_training_customers(features: Array, known: Histories) -> None:
    prepare = prepared()
    seen = prepare.fit_transform(features[SPLIT.training])
    happens = known.happens_CV[SPLIT.training].astype(float)
    asked = np.concatenate([SPLIT.validation, SPLIT.test])
    for penalty, scores in zip(PENALTIES, ridges(features, known, SPLIT), strict=True):
        expected = Ridge(alpha=penalty).fit(seen, happens).predict(prepare.transform(features[asked]))
        np.testing.assert_allclose(scores.all_CV[asked], expected, atol=1e-9)
        assert np.isnan(scores.all_CV[SPLIT.training]).all()
