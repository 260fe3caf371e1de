"""Eigenvalues and norms without Jacobians, against Jacobians that are written out."""

import copy

import numpy as np
import pytest
import torch
from scipy.sparse.linalg import eigsh
from torch import nn

import skntk.nn as snn
from skntk.diagnostics import spectrum
from skntk.diagnostics.measures import alignment
from skntk.diagnostics.spectrum import Extremes, StartJacobian, effective_rank, stacked
from skntk.finite import capture, empirical_ntk


def explicit(net, X):
    """Jacobian (n k, P), row by row, by autograd."""
    rows = []
    for x in X:
        for f in net(x[None])[0]:
            grads = torch.autograd.grad(f, list(net.parameters()), retain_graph=True)
            rows.append(torch.cat([g.reshape(-1) for g in grads]))
    return torch.stack(rows)


def dense(k):
    return snn.MLP(5, k, depth=2, width=12, activation="erf", bias_std=0.3)


def convolutional(k):
    return snn.ConvNet(2, k, depth=2, width=4, norm="layer", bias_std=0.3)


@pytest.fixture(params=[(dense, 1), (dense, 3), (convolutional, 2)],
                ids=["1 output", "3 outputs", "images"])  # fmt: skip
def pair(request, seed):
    """A network, the same with other weights, and rows."""
    make, k = request.param
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        nets = [make(k).double() for _ in range(2)]
        X = torch.randn(6, *((5,) if make is dense else (2, 4, 4)), dtype=torch.float64)
    return nets[0], nets[1], X, k


@pytest.mark.parametrize("solver", ["auto", "dense", "lanczos"])
def test_extreme_eigenvalues(pair, solver):
    """Relative error of both: 1e-8 at the default tolerance of Lanczos, 1e-10."""
    net, _, X, k = pair
    values = np.linalg.svd(explicit(net, X).detach().numpy(), compute_uv=False) ** 2
    found = StartJacobian(net, X, k, solver=solver).extremes
    assert found.smallest == pytest.approx(values[-1], rel=1e-8)
    assert found.largest == pytest.approx(values[0], rel=1e-8)
    assert not found.singular


@pytest.mark.parametrize("tol", [1e-2, 1e-4, 1e-8])
def test_the_tolerance_of_lanczos_is_kept(pair, tol):
    """And what it has errs on the known side: the smallest is not below, the largest not above."""
    net, other, X, k = pair
    values = np.linalg.svd(explicit(net, X).detach().numpy(), compute_uv=False) ** 2
    start = StartJacobian(net, X, k, solver="lanczos", tol=tol)
    found = start.extremes
    assert values[-1] * (1 - 1e-9) <= found.smallest <= values[-1] * (1 + tol)
    assert values[0] * (1 - tol) <= found.largest <= values[0] * (1 + 1e-9)
    norm = torch.linalg.matrix_norm((explicit(net, X) - explicit(other, X)).detach(), 2).item()
    assert norm * (1 - tol) <= start.distance(other) <= norm * (1 + 1e-9)


@pytest.mark.parametrize("rows", [1, 2, 3, 6])
@pytest.mark.parametrize("solver", ["dense", "lanczos"])
def test_distance_of_jacobians(pair, solver, rows):
    net, other, X, k = pair
    J, K = explicit(net, X[:rows]).detach(), explicit(other, X[:rows]).detach()
    expected = torch.linalg.matrix_norm(J - K, 2).item()
    start = StartJacobian(net, X[:rows], k, solver=solver)
    assert start.distance(other) == pytest.approx(expected, rel=1e-8)
    assert start.distance(net) == 0


@pytest.mark.parametrize("size", [1e-1, 1e-3, 1e-6])
@pytest.mark.parametrize("solver", ["dense", "lanczos"])
def test_small_distances_do_not_drown(pair, solver, size):
    """Where kernels cancel in their difference, products with the Jacobians take over.

    Jacobians have rounding errors themselves, of about 1e-14 of their size.
    """
    net, other, X, k = pair
    near = copy.deepcopy(net)
    with torch.no_grad():
        for p, q in zip(near.parameters(), other.parameters(), strict=True):
            p += size * q
    J, K = explicit(net, X).detach(), explicit(near, X).detach()
    expected = torch.linalg.matrix_norm(J - K, 2).item()
    found = StartJacobian(net, X, k, solver=solver).distance(near)
    assert found == pytest.approx(expected, rel=1e-8 + 1e-13 / size)


@pytest.mark.parametrize("solver", ["dense", "lanczos"])
@pytest.mark.parametrize("why", ["a row twice", "fewer parameters than outputs", "dead"])
def test_a_singular_kernel_is_reported_as_such(why, solver, seed):
    """Not as a tiny positive number, whatever rounding leaves of it."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net, X = dense(1).double(), torch.randn(6, 5, dtype=torch.float64)
        if why == "a row twice":
            X = X[[0, 1, 2, 3, 4, 0]]
        elif why == "fewer parameters than outputs":
            net = nn.Linear(4, 1, dtype=torch.float64)
            X = X[:, :4]
        else:
            net = nn.Sequential(nn.Linear(5, 8, bias=False), nn.ReLU(), nn.Linear(8, 1, bias=False))
            net, X = net.double(), torch.cat([X[:5], torch.zeros(1, 5)])
    found = StartJacobian(net, X, 1, solver=solver).extremes
    assert found.singular
    assert found.smallest == 0
    assert found.largest > 0


def test_a_kernel_that_is_barely_regular_is_not_called_singular():
    assert Extremes.of(1e-11, 1.0, 100) == (1e-11, 1.0, False)
    assert Extremes.of(1e-14, 1.0, 100) == (0.0, 1.0, True)
    assert Extremes.of(-1e-18, 1.0, 100) == (0.0, 1.0, True)
    assert Extremes.of(0.0, 0.0, 100).singular


def test_lanczos_that_does_not_converge_says_what_to_do(monkeypatch):
    def gives_up(operator, **kwargs):
        return eigsh(operator, **{**kwargs, "maxiter": 1, "ncv": 3})

    monkeypatch.setattr(spectrum, "eigsh", gives_up)
    net, X = nn.Linear(30, 1).double(), torch.eye(30, dtype=torch.float64)
    X *= torch.linspace(1, 2, 30)[:, None]
    with pytest.raises(RuntimeError, match=r"raise tol, or .*solver='dense', or use fewer rows"):
        StartJacobian(net, X, 1, solver="lanczos")


def test_stacked_is_the_gram_of_all_outputs(pair):
    net, _, X, k = pair
    J = explicit(net, X).detach()
    by_output = J.reshape(len(X), k, -1).transpose(0, 1).flatten(0, 1)
    K = stacked(torch.as_tensor(empirical_ntk(net, X)))
    torch.testing.assert_close(K, by_output @ by_output.T, rtol=0, atol=1e-11 * float(K.max()))
    assert len(capture(net, X).outputs) == len(X)


def test_effective_rank():
    assert effective_rank(torch.ones(7)) == pytest.approx(7)
    assert effective_rank(torch.tensor([0.0, 0.0, 4.0])) == pytest.approx(1)
    p = np.array([0.7, 0.2, 0.1])
    expected = np.exp(-(p * np.log(p)).sum())
    assert effective_rank(torch.as_tensor(5 * p)) == pytest.approx(expected)


def test_alignment(seed):
    """1 for the targets' own kernel, whatever is added to all entries; 0 for what is orthogonal."""
    rng = np.random.default_rng(seed)
    Z = torch.as_tensor(rng.standard_normal((8, 2)))
    own = (Z @ Z.T + 5)[:, :, None, None]
    centered = Z - Z.mean(0)
    own_centered = (centered @ centered.T + 5)[:, :, None, None]
    assert alignment(own_centered, Z) == pytest.approx(1)
    assert alignment(own, Z) == pytest.approx(1)
    v = torch.as_tensor(rng.standard_normal(8))
    basis = torch.linalg.qr(torch.cat([torch.ones(8, 1).double(), Z, v[:, None]], 1))[0][:, 3]
    apart = torch.outer(basis, basis)[:, :, None, None]
    assert alignment(apart, Z) == pytest.approx(0, abs=1e-12)
    H = np.eye(8) - 1 / 8
    K = rng.standard_normal((8, 8))
    K = K @ K.T
    A, B = H @ K @ H, H @ (Z @ Z.T).numpy() @ H
    expected = (A * B).sum() / np.linalg.norm(A) / np.linalg.norm(B)
    assert alignment(torch.as_tensor(K)[:, :, None, None], Z) == pytest.approx(expected)
