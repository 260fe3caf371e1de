"""Gradients with respect to the inputs: right away from coincident rows, finite on them."""

import pytest
import torch

import skntk
import skntk.nn as snn
from skntk.core import KernelOverflowError, MemoryBudgetError, memory
from skntk.infinite.duals import quadrature

ACTIVATIONS = ["relu", "leaky_relu", "abs", "erf", "gelu", "sin", "gaussian", "silu"]


def kernel_of(activation, bias_std=0.2, depth=2):
    return skntk.infinite_width(
        snn.MLP(3, depth=depth, width=2, activation=activation, weight_std=1.2, bias_std=bias_std)
    )


def rows(seed, n=4):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, 3, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("kind", ["nngp", "ntk"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_finite_differences(activation, kind, seed):
    kernel = kernel_of(activation)
    X, Y = rows(seed, 3).requires_grad_(), (rows(seed + 1, 2) + 0.1).requires_grad_()
    how = {"atol": 1e-6, "fast_mode": activation == "silu"}  # quadrature takes long
    torch.autograd.gradcheck(lambda a, b: kernel(a, b, kind=kind), (X, Y), **how)
    torch.autograd.gradcheck(lambda a: kernel.diag(a, kind=kind), (X,), **how)


@pytest.mark.parametrize("activation", ["relu", "erf"])
def test_symmetric_matrix(activation, seed):
    """Its diagonal is that of `diag`, in value and gradient, though rows coincide there."""
    kernel = kernel_of(activation)
    X = rows(seed).requires_grad_()
    torch.autograd.gradcheck(lambda a: kernel(a), (X,), atol=1e-6)
    K = kernel(X)
    torch.testing.assert_close(K.detach(), kernel(X.detach()), rtol=1e-12, atol=1e-12)
    (one,) = torch.autograd.grad(K.diagonal().sum(), X)
    (other,) = torch.autograd.grad(kernel.diag(X).sum(), X)
    torch.testing.assert_close(one, other)


@pytest.mark.parametrize("bias_std", [0.0, 0.2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_finite_at_coincident_points(activation, dtype, bias_std, seed):
    X = 0.5 * rows(seed).to(dtype)
    X = torch.cat([X, X[:1], -X[:1], 2 * X[:1], X[:1] + 1e-6, torch.zeros(1, 3, dtype=dtype)])
    for kind in ("nngp", "ntk"):
        one, two = X.clone().requires_grad_(), X.clone().requires_grad_()
        kernel = kernel_of(activation, bias_std)
        for value in (kernel(one, kind=kind), kernel(one, two, kind=kind), kernel.diag(one, kind)):
            assert torch.isfinite(value).all()
            used = [x for x in (one, two) if x is one or value.ndim == 2]
            for gradient in torch.autograd.grad(value.sum(), used, allow_unused=True):
                assert gradient is None or torch.isfinite(gradient).all()


def test_only_the_second_input_is_differentiated():
    kernel = kernel_of("relu")
    X, Y = rows(0), rows(1).requires_grad_()
    (gradient,) = torch.autograd.grad(kernel(X, Y).sum(), Y)
    assert gradient.shape == Y.shape
    torch.testing.assert_close(kernel(X, Y).detach(), kernel(X, Y.detach()))


def test_backward_twice_through_separate_calls():
    kernel, X = kernel_of("relu"), rows(0).requires_grad_()
    for _ in range(2):
        kernel(X).sum().backward()
    assert torch.isfinite(X.grad).all()


def test_graph_that_does_not_fit_is_refused(monkeypatch):
    monkeypatch.setattr(memory, "available_bytes", lambda device="cpu": 2**20)
    X = torch.zeros(200, 3, requires_grad=True)
    with pytest.raises(MemoryBudgetError, match=r"differentiable kernel of 200 x 200.*GiB|MiB"):
        kernel_of("relu")(X)


def test_overflow_is_refused():
    X = (1e30 * torch.ones(2, 3)).requires_grad_()
    kernel = kernel_of("relu")
    for call in (lambda: kernel(X), lambda: kernel(torch.ones(2, 3), X), lambda: kernel.diag(X)):
        with pytest.raises(KernelOverflowError, match="float32"):
            call()


@pytest.mark.parametrize("bias_std", [0.0, 0.3])
@pytest.mark.parametrize("activation", ["relu", "erf"])
def test_forward_mode_is_reverse_mode(activation, bias_std, seed):
    kernel, Y = kernel_of(activation, bias_std), rows(seed + 1, 3)
    X, tangent = rows(seed), rows(seed + 2)
    for function in (kernel, lambda z: kernel(z, Y), lambda z: kernel(Y, z), kernel.diag):
        leaf = X.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(function(leaf).sum(), leaf)
        for allowed in (True, False):
            with torch.set_grad_enabled(allowed):
                _, slope = torch.func.jvp(lambda z: function(z).sum(), (X,), (tangent,))  # noqa: B023
            torch.testing.assert_close(slope, (gradient * tangent).sum())


def test_no_graph_where_none_is_wanted():
    kernel, X = kernel_of("relu"), rows(0).requires_grad_()
    with torch.no_grad():
        assert not kernel(X).requires_grad
        assert torch.equal(kernel(X), kernel(X.detach()))


@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_inference_mode_leaves_nothing_behind(activation):
    """Tables that were made in it would be no use to those who differentiate."""
    quadrature.rule.cache_clear()
    kernel, X = kernel_of(activation), rows(0)
    with torch.inference_mode():
        K = kernel(X)
    assert torch.equal(K, kernel(X))
    kernel(X.clone().requires_grad_()).sum().backward()
