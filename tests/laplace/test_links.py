"""Links from normal outputs to probabilities, against what they approximate."""

import numpy as np
import pytest
import torch

from skntk.laplace.links import bridge, entropies, entropy, probit


@pytest.fixture
def outputs(seed):
    generator = torch.Generator().manual_seed(seed)
    mean = torch.randn(8, 4, generator=generator, dtype=torch.float64)
    A = torch.randn(8, 4, 4, generator=generator, dtype=torch.float64)
    return mean, A @ A.mT / 4


@pytest.mark.parametrize("link", ["probit", "bridge"])
def test_probabilities(outputs, link):
    mean, cov = outputs
    p = probit(mean, cov.diagonal(dim1=1, dim2=2)) if link == "probit" else bridge(mean, cov)
    assert torch.allclose(p.sum(1), torch.ones(8).double())
    assert (p >= 0).all()


def test_probit_without_variance(outputs):
    mean, _ = outputs
    assert torch.equal(probit(mean, torch.zeros_like(mean)), mean.softmax(1))


def test_probit_of_two_classes(seed):
    """Close to the integral that it stands for, which is MacKay's for the difference."""
    rng = np.random.default_rng(seed)
    m, v = rng.normal(size=20), rng.uniform(0.1, 4, 20)
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)
    exact = (
        weights / np.sqrt(2 * np.pi) / (1 + np.exp(-(m[:, None] + np.sqrt(v)[:, None] * nodes)))
    ).sum(1)
    # one output carries the difference: independent outputs of half the variance each
    mean = torch.tensor(np.column_stack([m / 2, -m / 2]))
    two = probit(mean, torch.tensor(np.column_stack([v, v])))[:, 0]
    assert np.abs(two.numpy() - exact).max() < 0.02


def test_bridge_formula(outputs):
    """As written in the paper, where nothing is too large for it."""
    mean, cov = outputs
    k = 4
    rows, total = cov.sum(2), cov.sum((1, 2))
    m = mean - rows * mean.sum(1, keepdim=True) / total[:, None]
    v = (cov - rows[:, :, None] * rows[:, None, :] / total[:, None, None]).diagonal(dim1=1, dim2=2)
    alpha = (1 - 2 / k + m.exp() / k**2 * (-m).exp().sum(1, keepdim=True)) / v
    torch.testing.assert_close(bridge(mean, cov), alpha / alpha.sum(1, keepdim=True))


def test_bridge_survives_large_outputs():
    mean = torch.tensor([[800.0, -800.0, 0.0]], dtype=torch.float64)
    p = bridge(mean, torch.eye(3, dtype=torch.float64)[None])
    assert torch.isfinite(p).all()
    assert p[0, 0] > 0.99


def test_bridge_of_certain_outputs():
    mean = torch.tensor([[1.0, 0.0, -1.0]], dtype=torch.float64)
    p = bridge(mean, torch.zeros(1, 3, 3, dtype=torch.float64))
    assert torch.isfinite(p).all()


def test_entropies(outputs):
    mean, _ = outputs
    p, total, inner = entropies([mean, mean])
    torch.testing.assert_close(p, mean.softmax(1))
    torch.testing.assert_close(total, inner)
    p, total, inner = entropies([mean, -mean])
    assert (total > inner).all()
    assert torch.equal(entropy(torch.eye(3)), torch.zeros(3))
