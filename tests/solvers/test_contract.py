"""What Cholesky and spectral factorizations share, on both backends, against brute force."""

import importlib
import itertools
import pickle
from abc import ABC, abstractmethod

import numpy as np
import pytest
import scipy.stats
import torch

from skntk.core import KernelOverflowError
from skntk.solvers import Factor, Spectral, backends, cholesky

RTOL = 1e-9  # the problems below have condition numbers up to about 1e5
SCALES = (1e-30, 1.0, 1e30)


def gram(seed, n, rank=None, scale=1.0):
    """A random PSD matrix with mean diagonal near `scale`."""
    rng = np.random.default_rng(seed)
    F = rng.normal(size=(n, n if rank is None else rank))
    return torch.from_numpy(scale * (F @ F.T) / F.shape[1])


def problem(seed, n, *, k=3, rank=None, scale=1.0):
    """Gram matrix, weights of mean one, targets."""
    rng = np.random.default_rng([seed, n])
    weights = rng.uniform(0.2, 3.0, size=n)
    Y = torch.from_numpy(rng.normal(size=(n, k)))
    return gram(seed, n, rank, scale), torch.from_numpy(weights / weights.mean()), Y


def dense(K, alpha, weights):
    return K.numpy() + alpha * np.diag(1 / weights.numpy())


def left_out(C, Y):
    """Explicit refit without row i, for every i; the variance includes the noise of row i."""
    residual, variance = np.empty(Y.shape), np.empty(len(C))
    for i in range(len(C)):
        rest = np.delete(np.arange(len(C)), i)
        gain = np.linalg.solve(C[np.ix_(rest, rest)], C[rest, i])
        residual[i] = Y[i] - gain @ Y[rest]
        variance[i] = C[i, i] - gain @ C[rest, i]
    return residual, variance


def close(actual, expected):
    actual, expected = np.asarray(actual), np.asarray(expected)
    np.testing.assert_allclose(
        actual, expected, rtol=RTOL, atol=RTOL * np.abs(expected).max(initial=0.0)
    )


class FactorContract(ABC):
    """Inherited by the tests of every implementation of `Factor`."""

    backend: type[backends.Backend]

    @abstractmethod
    def factor(self, K, alpha, weights) -> Factor:
        """Factor ``K + alpha W⁻¹``."""

    @pytest.fixture(autouse=True)
    def _use_backend(self, monkeypatch):
        monkeypatch.setattr(backends, "for_device", lambda device: self.backend())
        # Blocks of a few rows, so that small matrices have many and a ragged last one.
        monkeypatch.setattr(backends, "BLOCK", 7)
        monkeypatch.setattr(importlib.import_module("skntk.solvers.cholesky"), "_BLOCK", 5)
        monkeypatch.setattr("skntk.solvers.spectral._CHUNK", 100)

    @pytest.fixture(params=[1, 2, 5, 24], ids="n={}".format)
    def case(self, request, seed):
        K, weights, Y = problem(seed, request.param)
        C = dense(K, 0.03, weights)
        return self.factor(K, 0.03, weights), C, Y

    def test_solve(self, case):
        factor, C, Y = case
        assert factor.n_samples == len(C)
        close(factor.solve(Y), np.linalg.solve(C, Y))

    def test_half_solve_is_a_root_of_the_inverse(self, case):
        factor, C, _ = case
        H = factor.half_solve(torch.eye(len(C), dtype=torch.float64))
        close(H.mT @ H, np.linalg.inv(C))

    @pytest.mark.parametrize("layout", ["rows", "columns", "strided"])
    def test_half_solve_in_every_layout(self, case, layout):
        factor, C, _ = case
        H = factor.half_solve(torch.eye(len(C), dtype=torch.float64))
        for m, overwrite in itertools.product((0, 1, 4), (False, True)):
            values = torch.from_numpy(np.random.default_rng(m).normal(size=(len(C), 2 * m)))
            B = values[:, ::2]
            if layout != "strided":
                B = B.contiguous() if layout == "rows" else B.mT.contiguous().mT
            before, around = B.clone(), values[:, 1::2].clone()
            close(factor.half_solve(B, overwrite=overwrite), H @ before)
            assert overwrite or torch.equal(B, before)
            assert torch.equal(values[:, 1::2], around)

    def test_logdet(self, case):
        factor, C, _ = case
        np.testing.assert_allclose(factor.logdet(), np.linalg.slogdet(C)[1], rtol=0, atol=1e-9)

    def test_log_marginal_likelihood(self, case):
        factor, C, Y = case
        normal = scipy.stats.multivariate_normal(np.zeros(len(C)), C)
        close(factor.log_marginal_likelihood(Y), normal.logpdf(Y.T.numpy()).reshape(-1))

    def test_leave_one_out(self, case):
        factor, C, Y = case
        residual, variance = left_out(C, Y.numpy())
        result = factor.leave_one_out(Y)
        close(result.residual, residual)
        close(result.variance, variance)

    @pytest.mark.parametrize("scale", SCALES)
    def test_scale_of_the_kernel_does_not_matter(self, seed, scale):
        K, weights, Y = problem(seed, 12, rank=4)
        unit, scaled = (self.factor(s * K, s * 1e-3, weights) for s in (1.0, scale))
        close(scale * scaled.solve(Y), unit.solve(Y))
        close(scaled.leave_one_out(Y).residual, unit.leave_one_out(Y).residual)
        close(scaled.leave_one_out(Y).variance / scale, unit.leave_one_out(Y).variance)

    def test_zero_kernel_is_all_noise(self):
        K, weights, Y = torch.zeros(6, 6, dtype=torch.float64), *problem(0, 6)[1:]
        factor = self.factor(K, 0.5, weights)
        close(factor.solve(Y), 2 * weights[:, None] * Y)
        close(factor.leave_one_out(Y).residual, Y)
        close(factor.leave_one_out(Y).variance, 0.5 / weights)

    def test_duplicate_rows(self, seed):
        K, weights, Y = problem(seed, 9)
        twice = torch.arange(18) // 2
        K, weights, Y = K[twice][:, twice], weights[twice], Y[twice]
        factor = self.factor(K, 0.01, weights)
        C = dense(K, 0.01, weights)
        close(factor.solve(Y), np.linalg.solve(C, Y))
        close(factor.leave_one_out(Y).residual, left_out(C, Y.numpy())[0])

    def test_leaves_its_arguments_alone(self, seed):
        K, weights, Y = problem(seed, 11)
        before = K.clone(), weights.clone(), Y.clone()
        factor = self.factor(K, 0.1, weights)
        factor.solve(Y), factor.leave_one_out(Y), factor.log_marginal_likelihood(Y)
        assert all(map(torch.equal, (K, weights, Y), before))

    def test_reads_any_layout_of_the_gram(self, seed):
        K, weights, Y = problem(seed, 8)
        wide = torch.zeros(8, 16, dtype=torch.float64)
        wide[:, ::2] = K
        expected = self.factor(K, 0.1, weights).solve(Y)
        for other in (K.mT.contiguous().mT, wide[:, ::2], K.clone().requires_grad_()):
            result = self.factor(other, 0.1, weights).solve(Y)
            close(result, expected)
            assert not result.requires_grad

    def test_pickles(self, case):
        factor, _, Y = case
        assert torch.equal(pickle.loads(pickle.dumps(factor)).solve(Y), factor.solve(Y))

    def test_is_frozen(self, case):
        with pytest.raises(AttributeError):
            case[0].alpha = 1.0

    @pytest.mark.parametrize("method", ["solve", "half_solve", "leave_one_out"])
    def test_refuses_other_targets(self, case, method):
        factor, C, Y = case
        with pytest.raises(ValueError, match=rf"shape .* pass \({len(C)}, m\)"):
            getattr(factor, method)(torch.zeros(len(C) + 1, 1, dtype=torch.float64))
        with pytest.raises(ValueError, match="shape"):
            getattr(factor, method)(Y[:, 0])
        with pytest.raises(TypeError, match=r"float32; pass a torch\.float64"):
            getattr(factor, method)(Y.float())
        with pytest.raises(TypeError, match="ndarray"):
            getattr(factor, method)(Y.numpy())

    def test_tells_nan_from_infinity(self, seed):
        K, weights, _ = problem(seed, 25)
        K[20, 3] = K[3, 20] = np.nan
        with pytest.raises(ValueError, match=r"K\[3, 20\] is NaN"):
            self.factor(K, 0.1, weights)
        K[20, 3] = K[3, 20] = np.inf
        with pytest.raises(KernelOverflowError, match=r"K\[3, 20\] is infinite.*weight_std"):
            self.factor(K, 0.1, weights)

    def test_finite_entries_may_sum_to_infinity(self):
        K = torch.full((2, 2), 1.6e308, dtype=torch.float64)
        K[0, 1] = K[1, 0] = 0.0
        Y = torch.ones(2, 1, dtype=torch.float64)
        close(1.6e308 * self.factor(K, 0.0, torch.ones(2)).solve(Y), Y)

    @pytest.mark.parametrize("shape", [(0, 0), (3, 2), (4,), (2, 2, 2)])
    def test_refuses_what_is_not_square(self, shape):
        with pytest.raises(ValueError, match="shape"):
            self.factor(torch.zeros(shape, dtype=torch.float64), 0.1, torch.ones(3))

    def test_refuses_other_dtypes(self):
        with pytest.raises(TypeError, match="float32"):
            self.factor(torch.eye(3), 0.1, torch.ones(3, dtype=torch.float64))

    @pytest.mark.parametrize("alpha", [-1.0, np.nan, np.inf])
    def test_refuses_bad_noise(self, alpha):
        with pytest.raises(ValueError, match="pass finite non-negative"):
            self.factor(gram(0, 3), alpha, torch.ones(3, dtype=torch.float64))


class _Cholesky(FactorContract):
    def factor(self, K, alpha, weights):
        return cholesky(K, alpha / weights)


class _Spectral(FactorContract):
    def factor(self, K, alpha, weights):
        return Spectral.from_gram(K, weights).at(alpha)


class TestCholeskyLapack(_Cholesky):
    backend = backends.Lapack


class TestCholeskyTorch(_Cholesky):
    backend = backends.Torch


class TestSpectralLapack(_Spectral):
    backend = backends.Lapack


class TestSpectralTorch(_Spectral):
    backend = backends.Torch


def test_blocks_of_real_size(seed):
    """More rows than any block, with nothing patched."""
    n = 1100
    K, weights, Y = problem(seed, n)
    K.diagonal().add_(1.0)
    C = dense(K, 0.1, weights)
    inverse = np.linalg.inv(C)
    spectral = Spectral.from_gram(K, weights).at(0.1)
    for factor in (cholesky(K, 0.1 / weights), spectral):
        close(factor.solve(Y), inverse @ Y.numpy())
        close(factor.inverse_diagonal(), inverse.diagonal())
    R = K + torch.from_numpy(C) - K
    assert backends.Torch().cholesky_(R) == 0
    close(R.triu(), np.linalg.cholesky(C).T)
