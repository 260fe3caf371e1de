"""Jitter, memory and refusals of the Cholesky solver."""

import importlib

import numpy as np
import pytest
import torch

from skntk.core import MemoryBudgetError, NotPositiveDefiniteError
from skntk.solvers import backends, cholesky
from skntk.solvers.checks import INDEFINITE_LIMIT

BACKENDS = [backends.Lapack, backends.Torch]


@pytest.fixture(params=BACKENDS, ids=lambda backend: backend.__name__, autouse=True)
def _backend(request, monkeypatch):
    monkeypatch.setattr(backends, "for_device", lambda device: request.param())
    monkeypatch.setattr(backends, "BLOCK", 7)
    monkeypatch.setattr(importlib.import_module("skntk.solvers.cholesky"), "_BLOCK", 5)


def test_many_rows_are_factored_by_blocks(seed, monkeypatch):
    """LAPACK above its limit: the same factor, and the same refusal."""
    K = with_eigenvalue(seed, 0.1)
    expected = torch.linalg.cholesky(K)
    monkeypatch.setattr(backends, "POTRF_MAX_ROWS", 10)
    C = K.clone()
    assert backends.Lapack().cholesky_(C) == 0
    torch.testing.assert_close(C.triu(), expected.mT, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(C.tril(-1), K.tril(-1), rtol=0, atol=0)
    assert backends.Lapack().cholesky_(with_eigenvalue(seed, -0.5)) > 0


def low_rank(seed, n=16, rank=3):
    F = np.random.default_rng(seed).normal(size=(n, rank))
    return torch.from_numpy(F @ F.T)


def with_eigenvalue(seed, lowest, n=16):
    """Mean diagonal one, and one eigenvalue at `lowest`."""
    Q, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(n, n)))
    values = np.r_[lowest, np.full(n - 1, (n - lowest) / (n - 1))]
    K = (Q * values) @ Q.T
    return torch.from_numpy((K + K.T) / 2)


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_singular_matrix_gets_reported_jitter(seed, scale):
    K = scale * low_rank(seed)
    mean = float(K.diagonal().mean())
    factor = cholesky(K, 0.0)
    assert 1e-10 * mean <= factor.jitter <= 1e-8 * mean
    # The factor is of K + jitter, no more and no less.
    C = K.numpy() + factor.jitter * np.eye(len(K))
    R = factor._R.triu().numpy()
    np.testing.assert_allclose(R.T @ R, C, rtol=0, atol=1e-13 * C.max())
    np.testing.assert_allclose(factor.logdet(), np.linalg.slogdet(C)[1], atol=1e-3)


def test_pivot_of_pure_rounding_counts_as_singular():
    """LAPACK accepts the last pivot, about 2e-16, but it has no correct digit."""
    near_one = np.nextafter(1.0, 0.0)
    K = torch.tensor([[1.0, near_one], [near_one, 1.0]], dtype=torch.float64)
    assert np.linalg.cholesky(K.numpy())[1, 1] > 0
    assert cholesky(K, 0.0).jitter == pytest.approx(1e-10)


def test_no_jitter_where_none_is_needed(seed):
    assert cholesky(low_rank(seed), 1e-8).jitter == 0.0


def test_jitter_is_no_larger_than_needed(seed):
    """An eigenvalue at -3e-7 wants a jitter of 1e-6, in every unit."""
    K = with_eigenvalue(seed, -3e-7)
    for scale in (1.0, 1e20):
        assert cholesky(scale * K, 0.0).jitter == pytest.approx(scale * 1e-6, rel=1e-6)


@pytest.mark.parametrize("overwrite", [False, True])
def test_failure_names_the_remedy_and_restores(seed, overwrite):
    K = with_eigenvalue(seed, -3 * INDEFINITE_LIMIT)
    before = K.clone()
    with pytest.raises(NotPositiveDefiniteError, match="raise alpha") as caught:
        cholesky(K, 0.0, overwrite=overwrite)
    assert isinstance(caught.value, np.linalg.LinAlgError)
    assert torch.equal(K, before)
    assert cholesky(K, 1.0).jitter == 0.0


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("noise", [0.1, 0.0], ids=["at once", "after retries"])
def test_overwrite_works_in_the_memory_of_the_gram(seed, noise, order):
    K = low_rank(seed, 30)
    given = K.clone() if order == "C" else K.clone().mT
    factor = cholesky(given, noise, overwrite=True)
    assert factor._R.data_ptr() == given.data_ptr()
    assert (factor.jitter == 0.0) == (noise > 0)
    # The strictly lower triangle (as stored) still holds the kernel.
    assert torch.equal(factor._R.tril(-1), K.tril(-1))
    plain = cholesky(K, noise)
    assert plain._R.data_ptr() != K.data_ptr()
    assert torch.equal(plain._R, factor._R)


@pytest.mark.parametrize("order", ["C", "F"])
def test_half_solve_overwrites(seed, order):
    factor = cholesky(low_rank(seed), 0.1)
    B = torch.ones(16, 4, dtype=torch.float64)
    B = B if order == "C" else B.mT.contiguous().mT
    expected = factor.half_solve(B)
    assert torch.equal(B, torch.ones_like(B))
    result = factor.half_solve(B, overwrite=True)
    assert result.data_ptr() == B.data_ptr()
    assert torch.equal(B, expected)


def test_zero_matrix_without_noise_is_refused():
    with pytest.raises(NotPositiveDefiniteError, match="raise alpha"):
        cholesky(torch.zeros(3, 3, dtype=torch.float64), 0.0)


def test_negative_diagonal_is_refused():
    with pytest.raises(NotPositiveDefiniteError, match="raise alpha"):
        cholesky(-torch.eye(3, dtype=torch.float64), 0.5)


def test_noise_of_each_row(seed):
    K, noise = low_rank(seed), np.linspace(0.1, 2.0, 16)
    R = cholesky(K, noise)._R.triu()
    np.testing.assert_allclose(R.mT @ R, K.numpy() + np.diag(noise), atol=1e-12)
    with pytest.raises(ValueError, match=r"noise has shape \(3,\)"):
        cholesky(K, noise[:3])
    with pytest.raises(ValueError, match=r"noise holds -1\.0"):
        cholesky(K, np.r_[noise[:-1], -1.0])


def test_says_the_memory_that_it_lacks(seed, monkeypatch):
    monkeypatch.setattr("skntk.core.memory.available_bytes", lambda device: 100)
    K = low_rank(seed)
    with pytest.raises(MemoryBudgetError, match="Cholesky factor needs"):
        cholesky(K, 0.1)
    cholesky(K, 0.1, overwrite=True)  # allocates nothing of that size
