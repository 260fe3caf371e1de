"""Sample weights: repetitions without tuning, relative with it."""

import numpy as np
import pytest

from skntk import NTKClassifier, NTKRegressor


@pytest.fixture
def data(seed):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((30, 2))
    y = np.sin(X[:, 0]) + 0.2 * rng.standard_normal(30)
    w = rng.integers(0, 4, 30)
    w[:3] = 0, 1, 2
    return X, y, w, rng.standard_normal((8, 2))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"training_time": 20.0},
        {"training_time": 3.0, "uncertainty": "ensemble", "kind": "nngp"},
        {"embedding": "featurewise", "alpha": 0.3},
    ],
)
def test_a_weight_is_a_number_of_rows(changes, data):
    X, y, w, T = data
    weighted = NTKRegressor(tuning=None, **changes).fit(X, y, sample_weight=w)
    repeated = NTKRegressor(tuning=None, **changes).fit(X.repeat(w, 0), y.repeat(w))
    for name in ("return_std", "return_cov"):
        for a, b in zip(
            weighted.predict(T, **{name: True}), repeated.predict(T, **{name: True}), strict=True
        ):
            np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-8)
    for a, b in zip(
        weighted.staged_predict(T, [0.5, np.inf]),
        repeated.staged_predict(T, [0.5, np.inf]),
        strict=True,
    ):
        np.testing.assert_allclose(a, b, rtol=1e-7)
    assert weighted.noise_variance_ == pytest.approx(repeated.noise_variance_)
    assert weighted.alpha_ == pytest.approx(repeated.alpha_)


@pytest.mark.parametrize("alpha", ["auto", 1e-3, 1.0])
def test_a_weight_is_a_number_of_rows_for_classes(alpha, data):
    X, y, w, T = data
    labels = np.digitize(y, [-0.3, 0.5])
    machine = NTKClassifier(tuning=None, alpha=alpha)
    weighted = machine.fit(X, labels, sample_weight=w).predict_proba(T)
    repeated = machine.fit(X.repeat(w, 0), labels.repeat(w)).predict_proba(T)
    np.testing.assert_allclose(weighted, repeated, atol=1e-7)


@pytest.mark.parametrize("tuning", ["loo", "marginal_likelihood", None])
def test_rows_of_weight_zero_are_dropped(tuning, data):
    X, y, w, T = data
    X = X.copy()
    X[w == 0] = 1e6
    kept = w > 0
    model = NTKRegressor(depth=1, tuning=tuning)
    dropped = model.fit(X, y, sample_weight=w).predict(T)
    assert len(model.X_fit_) == kept.sum()
    np.testing.assert_array_equal(
        dropped, model.fit(X[kept], y[kept], sample_weight=w[kept]).predict(T)
    )
    classifier = NTKClassifier(depth=1, tuning=tuning)
    labels = np.where(kept, y > 0, 2)  # a class that only weightless rows have
    dropped = classifier.fit(X, labels, sample_weight=w).predict_proba(T)
    assert list(classifier.classes_) == [0, 1]
    np.testing.assert_array_equal(
        dropped, classifier.fit(X[kept], labels[kept], sample_weight=w[kept]).predict_proba(T)
    )


@pytest.mark.parametrize("tuning", ["loo", "marginal_likelihood"])
def test_tuning_ignores_the_size_of_the_weights(tuning, data):
    X, y, w, T = data
    one, two = (
        NTKRegressor(depth=1, tuning=tuning).fit(X, y, sample_weight=f * w) for f in (1, 2.0**-13)
    )
    for a, b in zip(one.predict(T, return_std=True), two.predict(T, return_std=True), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9)
    # The noise of a row of weight 1 has another meaning then.
    assert two.noise_variance_ == pytest.approx(2.0**-13 * one.noise_variance_)
    one, two = (
        NTKClassifier(depth=1, tuning=tuning).fit(X, y > 0, sample_weight=f * w) for f in (1, 64)
    )
    np.testing.assert_allclose(one.predict_proba(T), two.predict_proba(T), rtol=1e-9)


def test_equal_weights_are_none(data):
    X, y, _, T = data
    for model in (NTKRegressor(depth=1), NTKRegressor(tuning=None), NTKClassifier(tuning=None)):
        target = y > 0 if isinstance(model, NTKClassifier) else y
        expected = model.fit(X, target).predict(T)
        np.testing.assert_array_equal(
            model.fit(X, target, sample_weight=np.ones(30)).predict(T), expected
        )


def test_heavy_rows_are_followed(data):
    X, y, _, _ = data
    w = np.ones(30)
    w[5] = 1e4
    model = NTKRegressor(tuning=None, alpha=1.0).fit(X, y)
    far = abs(model.predict(X[[5]])[0] - y[5])
    model.fit(X, y, sample_weight=w)
    assert abs(model.predict(X[[5]])[0] - y[5]) < 0.02 * max(far, 0.1)
    std = model.predict(X, return_std=True)[1]
    assert std[5] == std.min()
