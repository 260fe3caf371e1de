"""Gradient flow with all pairs of outputs, against the exponential of the whole matrix."""

import math

import numpy as np
import pytest
import torch
from scipy.linalg import expm

import skntk
import skntk.nn as snn
from skntk.diagnostics.flow import FlowMachine, PairKernel
from skntk.finite import EmpiricalKernel


@pytest.fixture(params=[1, 3], ids=["1 output", "3 outputs"])
def problem(request, seed):
    """A network, training and new rows, the function there before training, and targets."""
    k = request.param
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = snn.MLP(4, k, depth=1, width=20, activation="erf", bias_std=0.3).double()
        X, new = torch.randn(7, 4, dtype=torch.float64), torch.randn(5, 4, dtype=torch.float64)
        Z = torch.randn(7, k, dtype=torch.float64)
    with torch.no_grad():
        return net, X, new, net(X), net(new), Z


def matrices(net, X, new, limit):
    """Kernels (n k, n k) and (m k, n k), row by row, of all pairs of outputs."""
    if limit:
        kernel = skntk.infinite_width(net)
        eye = np.eye(net(X).shape[1])
        return [np.kron(np.asarray(kernel(A, X)), eye) for A in (X, new)]
    kernels = [skntk.empirical_ntk(net, A, X).numpy() for A in (X, new)]
    k = kernels[0].shape[2]
    return [K.transpose(0, 2, 1, 3).reshape(len(K) * k, -1) for K in kernels]


def machine(net, X, start, Z, limit):
    kernel = skntk.infinite_width(net) if limit else EmpiricalKernel(net, "full")
    return FlowMachine(PairKernel(kernel), X, start, Z)


@pytest.mark.parametrize("limit", [False, True], ids=["finite", "limit"])
@pytest.mark.parametrize("time", [0.0, 0.3, 20.0])
def test_function_and_loss(problem, time, limit):
    net, X, new, start, at_new, Z = problem
    K, cross = matrices(net, X, new, limit)
    n, k = Z.shape
    gap = (Z - start).numpy().reshape(-1)
    left = expm(-K * time / (n * k)) @ gap
    expected = at_new.numpy().reshape(-1) + cross @ np.linalg.solve(K, gap - left)
    flow = machine(net, X, start, Z, limit)
    found = flow.predict(new, at_new, time).numpy().reshape(-1)
    np.testing.assert_allclose(found, expected, atol=1e-9)
    assert flow.loss(time) == pytest.approx((left**2).sum() / (2 * n * k), rel=1e-9)


@pytest.mark.parametrize("limit", [False, True], ids=["finite", "limit"])
def test_the_end_is_the_kernel_machine_without_a_ridge(problem, limit):
    net, X, new, start, at_new, Z = problem
    K, cross = matrices(net, X, new, limit)
    gap = (Z - start).numpy().reshape(-1)
    expected = at_new.numpy().reshape(-1) + cross @ np.linalg.solve(K, gap)
    flow = machine(net, X, start, Z, limit)
    found = flow.predict(new, at_new, math.inf).numpy().reshape(-1)
    np.testing.assert_allclose(found, expected, atol=1e-8)
    assert flow.loss(math.inf) < 1e-20


def test_the_time_of_a_loss(problem):
    net, X, _, start, _, Z = problem
    flow = machine(net, X, start, Z, False)
    for time in (1e-3, 1.0, 50.0):
        assert flow.time_of(flow.loss(time)) == pytest.approx(time, rel=1e-6)
    assert flow.time_of(flow.loss(0.0)) == 0
    assert flow.time_of(2 * flow.loss(0.0)) == 0
    assert flow.time_of(0.0) == math.inf


def test_a_singular_kernel_learns_what_it_can(seed):
    """A row that stands twice with two targets ends at their mean."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = snn.MLP(4, 1, depth=1, width=20).double()
        X = torch.randn(4, 4, dtype=torch.float64)[[0, 1, 2, 3, 0]]
    Z = torch.tensor([[1.0], [0.5], [-1.0], [2.0], [3.0]], dtype=torch.float64)
    flow = machine(net, X, torch.zeros(5, 1), Z, False)
    found = flow.predict(X, torch.zeros(5, 1), math.inf)
    expected = torch.tensor([[2.0], [0.5], [-1.0], [2.0], [2.0]], dtype=torch.float64)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-7)
    assert flow.loss(math.inf) == pytest.approx(2 / 10)
    assert flow.time_of(0.1) == math.inf


def test_a_kernel_of_zeros_learns_nothing():
    net = snn.MLP(2, 1, depth=1, width=4, bias_std=0.0).double()
    X = torch.zeros(3, 2, dtype=torch.float64)
    flow = machine(net, X, torch.zeros(3, 1), torch.ones(3, 1).double(), False)
    assert flow.predict(X, torch.zeros(3, 1), math.inf).abs().max() == 0
    assert flow.time_of(0.1) == math.inf
    assert flow.loss(math.inf) == pytest.approx(0.5)


def test_rows_go_block_by_block(problem, monkeypatch):
    net, X, new, start, at_new, Z = problem
    flow = machine(net, X, start, Z, False)
    whole = flow.predict(new, at_new, 3.0)
    monkeypatch.setattr("skntk.diagnostics.flow._NUMBERS", 1)
    torch.testing.assert_close(flow.predict(new, at_new, 3.0), whole, rtol=0, atol=1e-12)


def test_a_loss_that_vanishes_has_a_time_all_the_same():
    """Where all that is to be learned is learned long before the slowest rate."""
    kernel = Fixed(torch.diag(torch.tensor([1.0, 1000.0], dtype=torch.float64)))
    Z = torch.tensor([[0.0], [1.0]], dtype=torch.float64)
    machine = FlowMachine(kernel, torch.zeros(2, 1), torch.zeros(2, 1), Z)
    time = machine.time_of(1e-3)
    assert machine.loss(time) == pytest.approx(1e-3)


class Fixed:
    """A kernel matrix, whatever the rows."""

    pairs = False

    def __init__(self, K):
        self.K = K

    def gram(self, X, Y=None):
        return self.K.clone()

    def as_columns(self, F):
        return F
