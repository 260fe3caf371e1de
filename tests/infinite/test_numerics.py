"""Depth, size and degeneracy of inputs and networks."""

import weakref

import numpy as np
import pytest
import torch
from torch import nn

import skntk
import skntk.nn as snn

KINDS = ("nngp", "ntk")


def mlp(d, depth, activation="relu", **options):
    return skntk.infinite_width(snn.MLP(d, depth=depth, width=2, activation=activation, **options))


def relative(ours, expected, d1, d2=None):
    scale = np.sqrt(np.outer(d1, d1 if d2 is None else d2))
    return float((np.abs(ours - expected) / scale).max())


def rough_relu(X, Y, depth, weight_std, bias_std, kind):
    """Textbook arc-cosine recursion on matrices, in long double."""
    X, Y = np.longdouble(X), np.longdouble(Y)
    w, b = np.longdouble(weight_std) ** 2, np.longdouble(bias_std) ** 2
    d = X.shape[1]
    p, q, K = (X**2).sum(1) / d, (Y**2).sum(1) / d, X @ Y.T / d
    p, q, K = w * p + b, w * q + b, w * K + b
    T = K.copy()
    for _ in range(depth):
        root = np.sqrt(np.outer(p, q))
        theta = np.arccos(np.clip(K / root, -1, 1))
        slope = (np.pi - theta) / (2 * np.pi)
        K = w * root * (np.sin(theta) + (np.pi - theta) * np.cos(theta)) / (2 * np.pi) + b
        p, q = w * p / 2 + b, w * q / 2 + b
        T = K + w * T * slope
    return np.float64(T if kind == "ntk" else K)


@pytest.mark.parametrize("depth", [1, 10, 50])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_deep_relu_networks_in_both_precisions(depth, scale, seed):
    rng = np.random.default_rng(seed)
    X, Y = (scale * rng.lognormal(size=(12, 1)) * rng.normal(size=(12, 8)) for _ in range(2))
    X, Y = X.astype(np.float32), Y.astype(np.float32)
    for bias_std in (0.0, 0.1):
        kernel = mlp(8, depth, bias_std=bias_std)
        for kind in KINDS:
            expected = rough_relu(X, Y, depth, np.sqrt(2), bias_std, kind)
            d1, d2 = kernel.diag(X.astype(float), kind), kernel.diag(Y.astype(float), kind)
            for collapse in (True, False):
                double = kernel.gram(X.astype(float), Y.astype(float), kind=kind, collapse=collapse)
                single = kernel.gram(X, Y, kind=kind, collapse=collapse)
                assert relative(double, expected, d1, d2) < 1e-12
                assert relative(single, expected, d1, d2) < 1e-5


@pytest.mark.parametrize("activation", ["relu", "erf", "gelu", "sin", "abs"])
def test_all_rows_identical(activation, seed):
    row = np.random.default_rng(seed).normal(size=5)
    for dtype, tol in ((np.float64, 1e-13), (np.float32, 2e-6)):
        X = np.tile(row, (20, 1)).astype(dtype)
        for kernel in (mlp(5, 10, activation), mlp(5, 10, activation, bias_std=0.0)):
            for kind in KINDS:
                K = kernel(X, kind=kind)
                np.testing.assert_allclose(K, np.full_like(K, K[0, 0]), rtol=tol)
                np.testing.assert_allclose(kernel(X, X.copy(), kind=kind), K, rtol=tol)


def test_duplicates_behind_a_smooth_and_a_kinked_activation(seed):
    """A smooth dual loses half of the digits of a small angle, unless it is carried along."""
    X = np.random.default_rng(seed).normal(size=(100, 4))
    for smooth in (snn.Erf(), nn.GELU(), snn.Sin(), snn.Gaussian(), nn.Tanh()):
        net = nn.Sequential(
            snn.Linear(4, 2, bias_std=0.3), smooth, snn.Linear(2, 2, bias_std=0.3), nn.ReLU(),
            snn.Linear(2, 1),
        )  # fmt: skip
        kernel = skntk.infinite_width(net)
        for dtype, tol in ((np.float64, 1e-9), (np.float32, 2e-6)):
            rows = X.astype(dtype)
            K = kernel(rows, rows.copy())
            assert np.isfinite(K).all()
            np.testing.assert_allclose(np.diag(K), kernel.diag(rows), rtol=tol)


@pytest.mark.parametrize("bias_std", [0.0, 0.1])
@pytest.mark.parametrize("activation", ["relu", "erf", "gelu", "tanh", "gaussian", "sign"])
def test_rows_of_zeros(activation, bias_std, seed):
    X = np.random.default_rng(seed).normal(size=(4, 3))
    X[1] = X[3] = 0
    for dtype in (np.float32, np.float64):
        kernel = mlp(3, 3, activation, bias_std=bias_std)
        for kind in KINDS:
            K = kernel(X.astype(dtype), kind=kind)
            assert np.isfinite(K).all()
            np.testing.assert_allclose(K[1, 3], K[1, 1], rtol=1e-5, atol=1e-6)
            if bias_std == 0 and activation in ("relu", "erf", "gelu", "tanh"):
                assert not K[1].any()


@pytest.mark.parametrize("activation", ["relu", "abs", "leaky_relu"])
def test_rows_of_zeros_under_the_standard_parametrization(activation, seed):
    """A bias that starts at 0 is trained: its tangent passes a kink at a right angle.

    The same for a zero row with itself and with any other row, at every depth.
    """
    layers = []
    for _ in range(3):
        layer = snn.Linear(3, 3, weight_std=1.4, bias_std=0.0, parametrization="standard")
        layers += [layer, snn.activation(activation)]
    kernel = skntk.infinite_width(nn.Sequential(*layers, snn.Linear(3, 1)))
    X = np.random.default_rng(seed).normal(size=(5, 3))
    X[:2] = 0
    K = kernel(X)
    np.testing.assert_allclose(K[0], K[0, 0], rtol=1e-13, atol=1e-15)
    np.testing.assert_array_equal(np.diag(K), kernel.diag(X))
    assert np.linalg.eigvalsh(K).min() >= -1e-12 * np.trace(K)


def test_a_thousand_near_duplicates_in_float32(seed):
    rng = np.random.default_rng(seed)
    X = (rng.normal(size=20) + 1e-4 * rng.normal(size=(1000, 20))).astype(np.float32)
    for bias_std in (0.0, 0.1):
        kernel = mlp(20, 3, bias_std=bias_std)
        K = kernel(X)
        exact = kernel.gram(X, dtype="float64", collapse=False)
        assert relative(K, exact, np.diag(exact)) < 1e-5
        # The spread of the tangent kernel, linear in the distance, is resolved.
        np.testing.assert_allclose(exact.max() - K, exact.max() - exact, atol=2e-6 * exact.max())
        assert np.linalg.eigvalsh(K.astype(float)).min() > -1e-6 * np.trace(K)


@pytest.mark.parametrize("scale", [1e-30, 1e-12, 1e12, 1e30])
def test_inputs_of_any_size(scale, seed):
    X = np.random.default_rng(seed).normal(size=(5, 3))
    homogeneous, biased = mlp(3, 3, bias_std=0.0), mlp(3, 3, bias_std=0.1)
    for kind in KINDS:
        np.testing.assert_allclose(
            homogeneous(scale * X, kind=kind) / scale**2, homogeneous(X, kind=kind), rtol=1e-10
        )
        K = biased(scale * X, kind=kind)
        assert np.isfinite(K).all()
        assert np.linalg.eigvalsh(K).min() >= -1e-12 * np.trace(K)
    for activation in ("erf", "gelu", "sin", "gaussian"):
        for dtype in (np.float32, np.float64):
            if scale < 1e19 or dtype == np.float64:
                K = mlp(3, 2, activation)((scale * X).astype(dtype))
                assert np.isfinite(K).all()
                size = np.sqrt(np.diag(K))
                assert (np.abs(K) <= np.outer(size, size) * 1.0001).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("activation", ["relu", "erf", "gelu", "sin"])
def test_unscaled_features(activation, dtype, seed):
    """X in +-40."""
    X = np.random.default_rng(seed).uniform(-40, 40, size=(60, 5)).astype(dtype)
    kernel = mlp(5, 3, activation)
    K = kernel(X)
    exact = kernel.gram(X, dtype="float64")
    assert relative(K, exact, np.diag(exact)) < 1e-5
    assert np.linalg.eigvalsh(exact).min() > 0


def test_one_row_and_one_column():
    for X in (np.array([[2.0, -1.0]]), np.array([[1.0], [2.0], [-3.0], [0.0]])):
        kernel = mlp(X.shape[1], 2)
        K = kernel(X)
        assert K.shape == (len(X), len(X))
        np.testing.assert_array_equal(np.diag(K), kernel.diag(X))


def test_memory_of_a_deep_network_is_that_of_one_layer(seed):
    """States are dropped once no later layer reads them."""
    X = torch.from_numpy(np.random.default_rng(seed).normal(size=(300, 4)))
    alive = []

    class Counting(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):
            out = function(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor) and out.numel() == 300 * 300:
                alive.append(weakref.ref(out))
                peak[0] = max(peak[0], sum(r() is not None for r in alive))
            return out

    peaks = []
    for depth in (3, 12):
        kernel, peak = mlp(4, depth), [0]
        alive.clear()
        with Counting():
            kernel.gram(X, collapse=False)
        peaks.append(peak[0])
    assert peaks[1] <= peaks[0] + 1
