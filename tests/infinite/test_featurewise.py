"""The feature-wise embedding against a network of one hidden layer on each column."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import skntk
import skntk.nn as snn
from skntk.gram import engine
from skntk.infinite.featurewise import FeaturewiseInputs

FRONT = snn.MLP(1, depth=1, weight_std=math.sqrt(2), bias_std=1.0)


def embedded(X, Y=None):
    """Mean over the features of the kernel of one, 1 where all of them are 1 or -1."""
    k = skntk.infinite_width(FRONT)
    Y = X if Y is None else Y
    tiles = [k(X[:, [j]], Y[:, [j]], kind="ntk") for j in range(X.shape[1])]
    return np.mean(tiles, axis=0) / k(np.ones((1, 1))).item()


def rows(seed, n=12, d=4):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, d)) * 10 ** rng.uniform(-2, 2, d)
    X[1] = X[0]
    X[2] = -X[0]
    X[3] = 0
    X[4, 1:] = X[0, 1:]
    return X


def covariance(X, Y=None):
    inputs = FeaturewiseInputs.of(torch.as_tensor(X))
    other = inputs if Y is None else FeaturewiseInputs.of(torch.as_tensor(Y))
    return inputs.pairs(other).nngp.numpy()


def test_covariance_is_the_mean_of_explicit_kernels(seed):
    X, Y = rows(seed), rows(seed + 1, n=5)
    own, other = (FeaturewiseInputs.of(torch.as_tensor(Z)).own().nngp.numpy() for Z in (X, Y))
    np.testing.assert_allclose(own, np.diagonal(embedded(X)), rtol=1e-12)
    size = np.sqrt(np.outer(own, other))
    np.testing.assert_allclose(covariance(X, Y) / size, embedded(X, Y) / size, atol=1e-13)
    signs = np.sign(np.random.default_rng(seed).standard_normal((3, 7)))
    np.testing.assert_allclose(np.diagonal(covariance(signs)), 1.0, rtol=1e-14)


@pytest.mark.parametrize("kind", ["ntk", "nngp"])
def test_one_layer_on_top_by_hand(kind, seed):
    X = rows(seed)
    net = snn.MLP(4, depth=1, weight_std=1.3, bias_std=0.2)
    K = skntk.infinite_width(net, embedding="featurewise")(X, kind=kind)
    c = embedded(X)
    nngp = 1.69 * c + 0.04
    k = np.diagonal(nngp)
    scale = np.sqrt(np.outer(k, k))
    theta = np.arccos(np.clip(nngp / scale, -1, 1))
    theta[np.arange(12), np.arange(12)] = theta[0, 1] = theta[1, 0] = 0
    relu = scale * (np.sin(theta) + (np.pi - theta) * np.cos(theta)) / (2 * np.pi)
    slope = (np.pi - theta) / (2 * np.pi)
    out = 1.69 * relu + 0.04
    expected = out if kind == "nngp" else out + 1.69 * slope * nngp
    np.testing.assert_allclose(K, expected, rtol=1e-7)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_coincident_rows_agree_with_the_diagonal(dtype, seed):
    X = rows(seed).astype(dtype)
    k = skntk.infinite_width(snn.MLP(4, depth=3, bias_std=0.0), embedding="featurewise")
    own = k.diag(X)
    tol = 1e-6 if dtype == "float32" else 1e-14
    np.testing.assert_allclose(np.diagonal(k(X, X.copy())), own, rtol=tol)
    assert k(X)[0, 1] == pytest.approx(own[0], rel=tol)


def test_near_coincident_rows_lose_no_digits_to_the_angle(seed):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((1, 3))
    k = skntk.infinite_width(snn.MLP(3, depth=2), embedding="featurewise")
    # The kernel falls like the angle, and that like the square root of the distance.
    fall = [1 - (k(x, x + step) / k.diag(x)).item() for step in (1e-6, 1e-9, 1e-12)]
    np.testing.assert_allclose(np.divide(fall[1:], fall[:-1]), 1e-3**0.5, rtol=0.02)


@given(seed=st.integers(0, 10**6), n=st.integers(1, 12), d=st.integers(1, 5))
def test_symmetric_and_positive_semi_definite(seed, n, d):
    X = np.random.default_rng(seed).standard_normal((n, d)).round(1) * 10
    k = skntk.infinite_width(snn.MLP(d, depth=1), embedding="featurewise")
    for K in (covariance(X), k(X), k(X, kind="nngp")):
        np.testing.assert_allclose(K, K.T, rtol=1e-13)
        assert np.linalg.eigvalsh(K).min() >= -1e-12 * np.trace(K)


def test_tiling_and_order_change_nothing(seed, monkeypatch):
    X = np.random.default_rng(seed).standard_normal((50, 3))
    k = skntk.infinite_width(snn.MLP(3, depth=2), embedding="featurewise")
    K, order = k(X), np.random.default_rng(seed).permutation(50)
    np.testing.assert_allclose(k(X[order]), K[np.ix_(order, order)], rtol=1e-12)
    monkeypatch.setattr(engine, "CPU_TILE", 7)
    np.testing.assert_allclose(k(X), K, rtol=1e-12)
    np.testing.assert_allclose(k(X[:20], X[20:]), K[:20, 20:], rtol=1e-12)
    np.testing.assert_allclose(k.gram(X, n_jobs=2), K, rtol=1e-12)


def test_gradients_with_respect_to_the_inputs(seed):
    rng = np.random.default_rng(seed)
    X = torch.tensor(rng.standard_normal((4, 2)), requires_grad=True)
    Y = torch.tensor(rng.standard_normal((3, 2)))
    k = skntk.infinite_width(snn.MLP(2, depth=1), embedding="featurewise")
    assert torch.autograd.gradcheck(lambda x: k(x, Y), X)
    (slope,) = torch.autograd.grad(k(X).sum(), X)  # on the cusp at coincident rows
    assert torch.isfinite(slope).all()


def test_overflow_is_one_clear_error():
    k = skntk.infinite_width(snn.MLP(2), embedding="featurewise")
    with pytest.raises(skntk.core.KernelOverflowError, match="not finite"):
        k(np.full((3, 2), 1e200))
    with pytest.raises(ValueError, match="embedding='columns'"):
        skntk.infinite_width(snn.MLP(2), embedding="columns")
