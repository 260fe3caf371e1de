"""Columns of few values as categories."""

import numpy as np
import pytest
import torch
from sklearn.preprocessing import OneHotEncoder

import skntk
import skntk.nn as snn
from skntk import NTKClassifier, NTKRegressor
from skntk.machines.categories import MOST_VALUES, Categories


def table(seed, n=80):
    """One continuous column, one of four values, one of two."""
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, 4, n)
    return np.column_stack([rng.standard_normal(n), codes - 1.5, rng.integers(0, 2, n)]), codes


def encode(X, rows, weights=None):
    found = Categories.of(
        torch.tensor(X), torch.ones(len(X), dtype=torch.float64) if weights is None else weights
    )
    return found, found.encode(torch.tensor(rows)).numpy()


def test_encoding_against_scikit_learn(seed):
    X, codes = table(seed)
    found, encoded = encode(X, X)
    assert list(found.values) == [1]
    assert found.width == encoded.shape[1] == 6
    onehot = OneHotEncoder(sparse_output=False).fit_transform(codes[:, None])
    block = (onehot - onehot.mean(0)) / np.sqrt(onehot.var(0).sum())
    expected = np.sqrt(6 / 3) * np.hstack([X[:, :1], block, X[:, 2:]])
    np.testing.assert_allclose(encoded, expected, rtol=1e-12, atol=1e-12)


def test_weights_are_numbers_of_rows(seed):
    X, _ = table(seed)
    w = np.random.default_rng(seed).integers(1, 4, 80)
    weighted = encode(X, X, torch.tensor(w, dtype=torch.float64))[1]
    np.testing.assert_allclose(weighted, encode(X.repeat(w, 0), X)[1], rtol=1e-12)


def test_a_new_value_is_none_of_the_others(seed):
    X, _ = table(seed)
    found, encoded = encode(X, [[0.0, 7.0, 0.0]])
    mean = found.means[1].numpy()
    np.testing.assert_allclose(encoded[0, 1:5], -mean * np.sqrt(2 / (mean * (1 - mean)).sum()))


@pytest.mark.parametrize("estimator", [NTKRegressor, NTKClassifier])
def test_codes_are_recognized_despite_rounding(estimator, seed):
    rng = np.random.default_rng(seed)
    X = np.column_stack([rng.choice([0.1, 0.2, 0.3, 0.7], 120), rng.standard_normal(120)])
    y = (X[:, 0] == 0.2) * 1.0 if estimator is NTKRegressor else (X[:, 0] == 0.2).astype(int)
    model = estimator(embedding="categorical", tuning=None).fit(X, y)
    expected = model.predict(X)
    np.testing.assert_allclose(model.predict(X.astype(np.float32)), expected, atol=1e-4)
    np.testing.assert_allclose(model.predict(X / 3 * 3), expected, atol=1e-6)
    narrow = estimator(embedding="categorical", tuning=None).fit(X.astype(np.float32), y)
    np.testing.assert_allclose(narrow.predict(X), expected, atol=1e-4)


def test_nearly_weightless_values_stay_finite(seed):
    X, _ = table(seed)
    w = np.where(X[:, 1] == X[0, 1], 1.0, 1e-300)
    assert np.abs(encode(X, X, torch.tensor(w))[1]).max() < 1e3


@pytest.mark.parametrize(("values", "n", "is_one"), [(2, 80, 0), (3, 11, 0), (3, 12, 1)])
def test_which_columns(values, n, is_one):
    X = np.arange(n)[:, None] % values * 1.0
    assert len(encode(X, X)[0].values) == is_one
    X = np.arange(40 * MOST_VALUES)[:, None] % (MOST_VALUES + 1 - is_one) * 1.0
    assert len(encode(X, X)[0].values) == is_one


@pytest.mark.parametrize("estimator", [NTKRegressor, NTKClassifier])
def test_kernel_of_the_embedding(estimator, seed):
    X, codes = table(seed)
    y = codes % 2 if estimator is NTKClassifier else 1.0 * codes
    model = estimator(depth=1, bias_std=0.1, embedding="categorical", tuning=None).fit(X, y)
    plain = estimator(depth=1, bias_std=0.1, tuning=None).fit(encode(X, X)[1], y)
    T, _ = table(seed + 1)
    np.testing.assert_allclose(model.predict(T), plain.predict(encode(X, T)[1]), atol=1e-10)


def test_without_such_columns_it_is_the_network_alone(seed):
    X = np.random.default_rng(seed).standard_normal((30, 3))
    model = NTKRegressor(embedding="categorical", tuning=None).fit(X, X[:, 0])
    plain = NTKRegressor(embedding="none", tuning=None).fit(X, X[:, 0])
    np.testing.assert_array_equal(model.predict(X), plain.predict(X))
    tried = NTKRegressor().fit(X, X[:, 0]).tuning_results_["choice"]
    assert {c.embedding for c in tried} == {"none", "featurewise"}


@pytest.mark.parametrize("estimator", [NTKRegressor, NTKClassifier])
def test_behind_an_embedding_one_layer_is_tried(estimator, seed):
    X, codes = table(seed)
    y = codes % 2 if estimator is NTKClassifier else 1.0 * codes

    def depths(**params):
        tried = estimator(bias_std=0.1, **params).fit(X, y).tuning_results_["choice"]
        return {e: {c.depth for c in tried if c.embedding == e} for e in ("none", "featurewise")}

    assert depths() == {"none": {1, 3}, "featurewise": {1}}
    assert depths(depth=2) == {"none": {2}, "featurewise": {2}}
    both = depths(param_grid={"depth": [1, 3]})
    assert both == {"none": {1, 3}, "featurewise": {1, 3}}


@pytest.mark.parametrize("tuning", ["loo", "marginal_likelihood"])
def test_codes_without_order_are_learned(tuning, seed):
    """Each of ten codes has a mean of its own: what no smooth function of the code is."""
    rng = np.random.default_rng(seed)
    codes, means = rng.integers(0, 10, 200), rng.permutation(10) * 1.0
    X = np.column_stack([codes / 3.0, rng.standard_normal((200, 3))])
    y = means[codes] + X[:, 1] + 0.3 * rng.standard_normal(200)
    options = {"depth": 1, "tuning": tuning}
    model = NTKRegressor(**options).fit(X[:120], y[:120])
    assert model.choice_.embedding == "categorical"
    plain = NTKRegressor(embedding="none", **options).fit(X[:120], y[:120])
    assert model.score(X[120:], y[120:]) > plain.score(X[120:], y[120:])


def test_infinite_width_reads_what_was_encoded():
    with pytest.raises(ValueError, match="embedding"):
        skntk.infinite_width(snn.MLP(3), embedding="categorical")


def test_a_module_has_its_width():
    X, _ = table(0)
    with pytest.raises(ValueError, match="OneHotEncoder"):
        NTKRegressor(module=snn.MLP(3), embedding="categorical").fit(X, X[:, 0])
