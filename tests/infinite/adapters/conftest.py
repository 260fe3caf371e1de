"""Inputs, and the recursion of a ReLU network written a second time, from the papers alone."""

from collections.abc import Callable

import numpy as np
import pytest


def relu_kernels(
    X: np.ndarray, Y: np.ndarray, depth: int, weight_std: float, bias_std: float
) -> tuple[np.ndarray, np.ndarray]:
    """NNGP and NTK of a ReLU network: Jacot et al. 2018, theorem 1, with Cho & Saul 2009, eq. 6."""
    w, b, d = weight_std**2, bias_std**2, X.shape[1]
    kx, ky = (w * (Z**2).sum(1) / d + b for Z in (X, Y))
    K = w * X @ Y.T / d + b
    ntk = K
    for _ in range(depth):
        size = np.sqrt(kx[:, None] * ky)
        angle = np.arccos(np.clip(K / size, -1, 1))
        sigma = size * (np.sin(angle) + (np.pi - angle) * np.cos(angle)) / (2 * np.pi)
        K = w * sigma + b
        ntk = K + w * ntk * (np.pi - angle) / (2 * np.pi)
        kx, ky = w * kx / 2 + b, w * ky / 2 + b
    return K, ntk


@pytest.fixture
def formula() -> Callable[..., tuple[np.ndarray, np.ndarray]]:
    return relu_kernels


@pytest.fixture
def rng(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.fixture
def hard(rng: np.random.Generator) -> np.ndarray:
    """Rows with a duplicate, a near-duplicate, an antipode, a zero row and other sizes."""
    X = rng.standard_normal((9, 3))
    X[3], X[4], X[5], X[6] = X[2], X[2] + 1e-7, -X[2], 0
    X[7] *= 1e-3
    X[8] *= 10
    return X
