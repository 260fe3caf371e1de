"""The spectral solver for many ridges at once, against one dense solve for each."""

import importlib
import math

import numpy as np
import pytest
import scipy.optimize
import scipy.stats
import torch

from skntk.core import MemoryBudgetError, NotPositiveDefiniteError
from skntk.solvers import Spectral, backends

ALPHAS = np.array([1e-3, 0.1, 7.0])
N, K_OUT = 13, 3


def close(actual, expected):
    """Within 1e-9 of the largest entry: the error of a solve is normwise."""
    actual, expected = np.asarray(actual), np.asarray(expected)
    np.testing.assert_allclose(actual, expected, rtol=1e-9, atol=1e-9 * np.abs(expected).max())


@pytest.fixture(params=[None, "weighted"], ids=["unweighted", "weighted"])
def data(request, seed, monkeypatch):
    """Gram matrix (n, n), weights (n,), targets (n, k), the decomposition."""
    monkeypatch.setattr(importlib.import_module("skntk.solvers.spectral"), "_CHUNK", 50)
    rng = np.random.default_rng(seed)
    F = rng.normal(size=(N, 8))
    K, Y = F @ F.T, rng.normal(size=(N, K_OUT))
    w = None if request.param is None else rng.uniform(0.3, 3.0, size=N)
    spectral = Spectral.from_gram(torch.from_numpy(K), w)
    return K, np.ones(N) if w is None else w, Y, spectral


@pytest.fixture(params=["shared", "per output"])
def alphas(request):
    """Ridges (A,), or (A, k) that differ from output to output."""
    return ALPHAS if request.param == "shared" else ALPHAS[:, None] * [1.0, 3.0, 0.2]


def each(data, alphas):
    """Index, output and dense regularised matrix of every ridge and output."""
    K, w, Y, _ = data
    grid = np.broadcast_to(alphas.reshape(len(alphas), -1), (len(alphas), Y.shape[1]))
    for a, row in enumerate(grid):
        for j, alpha in enumerate(row):
            yield a, j, K + alpha * np.diag(1 / w)


def test_coefficients(data, alphas):
    Y, spectral = data[2:]
    result = spectral.coefficients(torch.from_numpy(Y), alphas)
    assert result.shape == (3, N, K_OUT)
    for a, j, C in each(data, alphas):
        close(result[a, :, j], np.linalg.solve(C, Y[:, j]))


def test_leave_one_out(data, alphas):
    Y, spectral = data[2:]
    residual, variance = spectral.leave_one_out(torch.from_numpy(Y), alphas)
    assert residual.shape == (3, N, K_OUT)
    assert variance.shape == (3, N) if alphas.ndim == 1 else (3, N, K_OUT)
    for a, j, C in each(data, alphas):
        expected = np.empty((2, N))
        for i in range(N):
            rest = np.delete(np.arange(N), i)
            gain = np.linalg.solve(C[np.ix_(rest, rest)], C[rest, i])
            expected[:, i] = Y[i, j] - gain @ Y[rest, j], C[i, i] - gain @ C[rest, i]
        close(residual[a, :, j], expected[0])
        close(variance[a] if alphas.ndim == 1 else variance[a, :, j], expected[1])


def test_log_marginal_likelihood(data, alphas):
    Y, spectral = data[2:]
    result = spectral.log_marginal_likelihood(torch.from_numpy(Y), alphas)
    assert result.shape == (3, K_OUT)
    for a, j, C in each(data, alphas):
        expected = scipy.stats.multivariate_normal(np.zeros(N), C).logpdf(Y[:, j])
        assert result[a, j] == pytest.approx(expected, rel=1e-9, abs=1e-8)


def test_profile_is_the_maximum_over_the_scale(data, alphas):
    Y, spectral = data[2:]
    evidence, scale = spectral.profile_log_marginal_likelihood(torch.from_numpy(Y), alphas)
    assert evidence.shape == scale.shape == (3, K_OUT)
    for a, j, C in each(data, alphas):

        def lost(log_scale, C=C, j=j):
            covariance = math.exp(log_scale) * C
            return -scipy.stats.multivariate_normal(np.zeros(N), covariance).logpdf(Y[:, j])

        best = scipy.optimize.minimize_scalar(lost, bracket=(-3.0, 3.0), tol=1e-10)
        assert evidence[a, j] == pytest.approx(-best.fun, rel=1e-9)
        assert math.log(scale[a, j]) == pytest.approx(best.x, abs=1e-5)


def test_profile_of_a_zero_target_is_finite(data):
    zero = torch.zeros(N, 1, dtype=torch.float64)
    evidence, scale = data[3].profile_log_marginal_likelihood(zero, ALPHAS)
    assert torch.isfinite(evidence).all()
    assert (scale == 0).all()


def test_at_is_one_of_many(data):
    Y, spectral = torch.from_numpy(data[2]), data[3]
    for a, alpha in enumerate(ALPHAS):
        factor = spectral.at(alpha)
        np.testing.assert_allclose(
            factor.log_marginal_likelihood(Y), spectral.log_marginal_likelihood(Y, ALPHAS)[a]
        )
        one, many = factor.leave_one_out(Y), spectral.leave_one_out(Y, ALPHAS)
        np.testing.assert_allclose(one.residual, many.residual[a], rtol=1e-12)
        np.testing.assert_allclose(one.variance, many.variance[a], rtol=1e-12)


def test_decomposition(data):
    K, w, _, spectral = data
    Q = spectral.eigenvectors
    root = np.sqrt(w)
    np.testing.assert_allclose(
        (Q * spectral.eigenvalues) @ Q.mT, root[:, None] * K * root, atol=1e-12 * K.max()
    )
    assert (spectral.eigenvalues >= 0).all()
    assert 0 <= spectral.clipped < 1e-13 * K.max()


def test_both_drivers_agree(seed, monkeypatch):
    """The driver for large matrices gives the same answers."""
    rng = np.random.default_rng(seed)
    F = rng.normal(size=(60, 20))
    K, Y = torch.from_numpy(F @ F.T), torch.from_numpy(rng.normal(size=(60, 2)))
    expected = Spectral.from_gram(K).coefficients(Y, ALPHAS)
    monkeypatch.setattr(backends, "EVD_MAX_ROWS", 0)
    close(Spectral.from_gram(K).coefficients(Y, ALPHAS), expected)


@pytest.mark.parametrize("order", ["C", "F"])
def test_overwrite_works_in_the_memory_of_the_gram(seed, order):
    F = np.random.default_rng(seed).normal(size=(20, 20))
    K = torch.from_numpy(F @ F.T)
    given = K.clone() if order == "C" else K.mT.contiguous().mT
    spectral = Spectral.from_gram(given, np.linspace(0.5, 1.5, 20), overwrite=True)
    assert spectral.eigenvectors.data_ptr() == given.data_ptr()
    plain = Spectral.from_gram(K, np.linspace(0.5, 1.5, 20))
    assert torch.equal(plain.eigenvectors, spectral.eigenvectors)


def _eigenvalues(seed, lowest, n=10):
    Q, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(n, n)))
    values = np.r_[lowest, np.full(n - 1, (n - lowest) / (n - 1))]
    K = (Q * values) @ Q.T
    return torch.from_numpy((K + K.T) / 2)


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_rounding_is_clipped_and_more_is_refused(seed, scale):
    spectral = Spectral.from_gram(scale * _eigenvalues(seed, -1e-6))
    assert spectral.clipped == pytest.approx(scale * 1e-6, rel=1e-6)
    assert spectral.eigenvalues[0] == 0
    with pytest.raises(NotPositiveDefiniteError, match="not a kernel matrix"):
        Spectral.from_gram(scale * _eigenvalues(seed, -1e-3))


def test_singular_without_ridge_is_refused(seed):
    F = np.random.default_rng(seed).normal(size=(9, 3))
    Y = torch.ones(9, 1, dtype=torch.float64)
    for K in (torch.from_numpy(F @ F.T), torch.zeros(9, 9, dtype=torch.float64)):
        spectral = Spectral.from_gram(K)
        for call in (spectral.coefficients, spectral.leave_one_out):
            with pytest.raises(NotPositiveDefiniteError, match="Raise alpha"):
                call(Y, [1.0, 0.0])
        with pytest.raises(NotPositiveDefiniteError, match="Raise alpha"):
            spectral.at(0.0)
        with pytest.raises(NotPositiveDefiniteError, match="Raise alpha"):
            spectral.time_coefficients(Y, [1.0, np.inf], 0.0)
        assert torch.isfinite(spectral.time_coefficients(Y, [1.0, 1e300], 0.0)).all()


def test_regular_without_ridge_is_solved(seed):
    K = _eigenvalues(seed, 0.1)
    Y = torch.ones(10, 1, dtype=torch.float64)
    np.testing.assert_allclose(K @ Spectral.from_gram(K).coefficients(Y, [0.0])[0], Y, rtol=1e-12)


def test_no_ridges(data):
    Y, spectral = torch.from_numpy(data[2]), data[3]
    assert spectral.coefficients(Y, []).shape == (0, N, K_OUT)
    assert spectral.leave_one_out(Y, []).variance.shape == (0, N)
    assert spectral.time_coefficients(Y, [], 0.1).shape == (0, N, K_OUT)


@pytest.mark.parametrize("alphas", [1.0, np.ones((2, 2)), np.ones((1, 2, 3))])
def test_refuses_ridges_of_another_shape(data, alphas):
    with pytest.raises(ValueError, match=r"alphas has shape .* pass \(A,\), or \(A, 3\)"):
        data[3].coefficients(torch.from_numpy(data[2]), alphas)


@pytest.mark.parametrize("bad", [-1.0, np.nan, np.inf])
def test_refuses_bad_ridges_times_and_weights(data, bad):
    K, _, Y, spectral = data
    Y = torch.from_numpy(Y)
    with pytest.raises(ValueError, match="alphas holds"):
        spectral.coefficients(Y, [1.0, bad])
    with pytest.raises(ValueError, match="alpha holds"):
        spectral.time_coefficients(Y, [1.0], bad)
    if bad != np.inf:
        with pytest.raises(ValueError, match="times holds"):
            spectral.time_coefficients(Y, [bad], 0.1)
    with pytest.raises(ValueError, match="weights holds"):
        Spectral.from_gram(torch.from_numpy(K), np.r_[np.ones(N - 1), bad])


def test_refuses_zero_weights_and_other_shapes(data):
    K, _, Y, spectral = data
    with pytest.raises(ValueError, match=r"weights holds 0\.0"):
        Spectral.from_gram(torch.from_numpy(K), np.r_[np.ones(N - 1), 0.0])
    with pytest.raises(ValueError, match="weights has shape"):
        Spectral.from_gram(torch.from_numpy(K), np.ones(N - 1))
    with pytest.raises(ValueError, match="times has shape"):
        spectral.time_coefficients(torch.from_numpy(Y), 1.0, 0.1)
    with pytest.raises(ValueError, match="alpha has shape"):
        spectral.time_coefficients(torch.from_numpy(Y), [1.0], [0.1, 0.1])


def test_says_the_memory_that_it_lacks(data, monkeypatch):
    monkeypatch.setattr("skntk.core.memory.available_bytes", lambda device: 100)
    with pytest.raises(MemoryBudgetError, match="eigendecomposition needs"):
        Spectral.from_gram(torch.from_numpy(data[0]))
