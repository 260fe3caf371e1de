import pickle

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.base import BaseEstimator, ClassifierMixin, clone, is_classifier
from sklearn.datasets import load_iris
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skntk.core import SkntkWarning
from skntk.metrics import TemperatureScaling, negative_log_likelihood


class Said(ClassifierMixin, BaseEstimator):
    """A classifier whose rows are the probabilities that it predicts."""

    def __init__(self, classes=(0, 1, 2)):
        self.classes = classes
        self.classes_ = np.asarray(classes)

    def fit(self, X, y):
        raise AssertionError("it is fitted already")

    def predict_proba(self, X):
        return np.asarray(X)


def drawn(seed, n=2000, k=3):
    """Probabilities, and labels that follow them."""
    rng = np.random.default_rng(seed)
    P = softmax(rng.normal(size=(n, k)), axis=1)
    return P, np.array([rng.choice(k, p=p) for p in P])


def sharpened(P, factor):
    return softmax(np.log(P) * factor, axis=1)


@pytest.mark.parametrize("factor", [0.3, 1.0, 3.0])
def test_the_factor_of_sharpening_is_found(factor, seed):
    """The temperature follows the sharpening, and is near 1 for labels that follow P."""
    P, y = drawn(seed)
    honest = TemperatureScaling(Said()).fit(P, y).temperature_
    scaled = TemperatureScaling(Said()).fit(sharpened(P, factor), y)
    assert scaled.temperature_ == pytest.approx(factor * honest, rel=1e-9)
    # The Fisher information at T = 1 is about 0.6 a row: a standard error of 0.03.
    assert honest == pytest.approx(1, abs=0.15)
    expected = sharpened(P, 1 / honest)
    np.testing.assert_allclose(scaled.predict_proba(sharpened(P, factor)), expected, rtol=1e-9)


def test_no_other_temperature_is_better(seed):
    P, y = drawn(seed, n=100)
    sharp = sharpened(P, 4.0)
    scaled = TemperatureScaling(Said()).fit(sharp, y)
    best = negative_log_likelihood(y, scaled.predict_proba(sharp), [0, 1, 2])
    for T in np.geomspace(0.01, 100, 400):
        assert best <= negative_log_likelihood(y, sharpened(sharp, 1 / T), [0, 1, 2]) + 1e-12


def test_predictions_stay(seed):
    P, y = drawn(seed, n=200)
    words = np.array(["b", "a", "c"])  # columns need not be sorted
    scaled = TemperatureScaling(Said(words)).fit(sharpened(P, 5.0), words[y])
    assert scaled.temperature_ > 1
    np.testing.assert_array_equal(scaled.predict(P), words[P.argmax(axis=1)])
    np.testing.assert_array_equal(scaled.classes_, words)
    np.testing.assert_allclose(scaled.predict_proba(P).sum(axis=1), 1, rtol=1e-12)
    assert scaled.score(P, words[y]) == (P.argmax(axis=1) == y).mean()


def test_missing_classes(seed):
    P, y = drawn(seed, n=300)
    some = y != 1
    scaled = TemperatureScaling(Said()).fit(P[some], y[some])
    assert scaled.predict_proba(P).shape == (300, 3)


def test_probabilities_of_zero(seed):
    """They change nothing, but of the truth they cost the logarithm of the least number."""
    P, y = drawn(seed, n=300, k=2)
    scaled = TemperatureScaling(Said()).fit(np.column_stack([P, np.zeros(300)]), y)
    alone = TemperatureScaling(Said((0, 1))).fit(P, y)
    assert scaled.temperature_ == pytest.approx(alone.temperature_, rel=1e-9)
    sure = np.array([[1.0, 0.0]] * 10, dtype=np.float32)
    costly = TemperatureScaling(Said((0, 1))).fit(sure, [0] * 9 + [1])
    # Nine of ten are right: log(9) = -log(tiny) / T.
    expected = -np.log(np.finfo(np.float32).tiny) / np.log(9)
    assert costly.temperature_ == pytest.approx(expected, rel=1e-6)


def test_a_real_classifier_is_not_touched():
    X, y = load_iris(return_X_y=True)
    X, y = X[:, :2], y
    model = make_pipeline(StandardScaler(), LogisticRegression(C=1e4)).fit(X[::2], y[::2])
    before = pickle.dumps(model)
    scaled = TemperatureScaling(model).fit(X[1::2], y[1::2])
    assert pickle.dumps(model) == before
    assert scaled.estimator is model
    assert scaled.n_features_in_ == 2
    assert is_classifier(scaled)
    assert not hasattr(TemperatureScaling(Said()).fit(*drawn(0, n=50)), "n_features_in_")
    frozen = TemperatureScaling(FrozenEstimator(model)).fit(X[1::2], y[1::2])
    assert frozen.temperature_ == scaled.temperature_
    copy = pickle.loads(pickle.dumps(scaled))
    np.testing.assert_array_equal(copy.predict_proba(X), scaled.predict_proba(X))


def test_a_clone_keeps_the_classifier():
    X, y = load_iris(return_X_y=True)
    X, y = X[:, :2], y
    scaled = TemperatureScaling(LogisticRegression().fit(X[::2], y[::2])).fit(X[1::2], y[1::2])
    copy = clone(scaled)
    assert not hasattr(copy, "temperature_")
    assert copy.fit(X[1::2], y[1::2]).temperature_ == scaled.temperature_
    assert np.isfinite(cross_val_score(scaled, X[1::2], y[1::2], scoring="neg_log_loss")).all()
    with pytest.raises(ValueError, match="already fitted, estimator__C cannot be set"):
        scaled.set_params(estimator__C=2.0)
    other = Said()
    assert scaled.set_params(estimator=other).estimator is other


def test_all_right_is_warned_of():
    P = [[0.9, 0.1], [0.2, 0.8]]
    with pytest.warns(SkntkWarning, match=r"0\.01, the least .* predictions are all right"):
        scaled = TemperatureScaling(Said((0, 1))).fit(P, [0, 1])
    assert scaled.temperature_ == 0.01
    np.testing.assert_allclose(scaled.predict_proba(P), [[1, 0], [0, 1]], atol=1e-12)


def test_nearly_uniform_is_warned_of():
    P = np.full((4, 2), 0.5) + 1e-4 * np.array([1, -1])
    with pytest.warns(SkntkWarning, match="the least .* nearly uniform"):
        TemperatureScaling(Said((0, 1))).fit(P, [0, 0, 0, 1])


def test_worse_than_uniform_is_warned_of():
    with pytest.warns(SkntkWarning, match="100, the largest .* uniform distribution is as likely"):
        scaled = TemperatureScaling(Said((0, 1))).fit([[0.9, 0.1], [0.2, 0.8]], [1, 0])
    assert scaled.temperature_ == 100


@pytest.mark.parametrize("k", [1, 4])
def test_uniform_is_warned_of(k):
    with pytest.warns(SkntkWarning, match="every temperature is as good"):
        scaled = TemperatureScaling(Said(range(k))).fit(np.full((3, k), 1 / k), [0, 0, 0])
    assert scaled.temperature_ == 1


def test_an_unfitted_classifier_is_refused():
    with pytest.raises(NotFittedError, match="LogisticRegression is not fitted yet: fit it on"):
        TemperatureScaling(LogisticRegression()).fit([[0.0], [1.0]], [0, 1])


def test_before_fit():
    for method in ("predict", "predict_proba"):
        with pytest.raises(NotFittedError):
            getattr(TemperatureScaling(Said()), method)([[0.2, 0.3, 0.5]])


def test_a_classifier_without_probabilities_is_refused():
    model = RidgeClassifier().fit([[0.0], [1.0]], [0, 1])
    with pytest.raises(TypeError, match="RidgeClassifier has no predict_proba"):
        TemperatureScaling(model).fit([[0.0], [1.0]], [0, 1])


@pytest.mark.parametrize(
    ("P", "y", "message"),
    [
        ([[0.5, 0.5]], [7], r"y holds \[7\], which .* not trained on: it knows \[0, 1\]"),
        ([[0.5, 0.5]], ["a"], r"y holds \['a'\]"),
        ([[0.5, 0.5]], [0, 1], "inconsistent"),
        ([[0.5, 0.5]], [0.5], "Unknown label type"),
        ([[0.5, 0.5]], [[0, 1]], "1d"),
        ([[0.5, 0.6]], [0], "sum to 1"),
        ([[np.nan, 0.5]], [0], "finite"),
    ],
)
def test_bad_input_is_refused(P, y, message):
    with pytest.raises(ValueError, match=message):
        TemperatureScaling(Said((0, 1))).fit(P, y)
