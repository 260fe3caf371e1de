"""Products with the Jacobian against the Jacobian itself."""

import numpy as np
import pytest
import torch
from explicit import jacobians
from scipy.sparse.linalg import aslinearoperator, eigsh
from torch import nn

import skntk.nn as snn
from skntk.finite import JacobianOperator
from skntk.finite.curvature import output_hessian


class NoForwardMode(torch.autograd.Function):
    """A cube without a forward-mode derivative."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return 3 * x**2 * g


class Cube(nn.Module):
    def forward(self, x):
        return NoForwardMode.apply(x)


NETWORKS = {
    "dense": lambda: (snn.MLP(4, 3, width=8, activation="erf"), (4,)),
    "conv": lambda: (snn.ConvNet(2, 3, depth=1, width=4, norm="layer"), (2, 6, 6)),
    "no forward mode": lambda: (nn.Sequential(nn.Linear(4, 5), Cube(), nn.Linear(5, 3)), (4,)),
}


@pytest.fixture(params=NETWORKS)
def case(request, seed):
    torch.manual_seed(seed)
    net, shape = NETWORKS[request.param]()
    net = net.double()
    X = torch.randn(7, *shape, dtype=torch.float64)
    found = jacobians(net, X)
    J = torch.cat([found[n].reshape(3, 7, -1) for n, _ in net.named_parameters()], 2)
    return net, X, J.transpose(0, 1).reshape(21, -1)


@pytest.mark.parametrize("batch_size", [3, 256])
def test_products(case, batch_size):
    net, X, J = case
    operator = JacobianOperator(net, X, batch_size=batch_size)
    assert operator.shape == tuple(J.shape)
    v, u = torch.randn(J.shape[1]).double(), torch.randn(7, 3).double()
    close = {"rtol": 1e-10, "atol": 1e-10}
    torch.testing.assert_close(operator.jvp(v).reshape(-1), J @ v, **close)
    torch.testing.assert_close(operator.vjp(u), J.T @ u.reshape(-1), **close)
    torch.testing.assert_close(
        operator.ntk_product(u).reshape(-1), J @ J.T @ u.reshape(-1), **close
    )
    torch.testing.assert_close(operator.ggn_product(v), J.T @ (J @ v), **close)
    H = torch.block_diag(*output_hessian(net(X).detach(), "categorical"))
    torch.testing.assert_close(operator.ggn_product(v, "categorical"), J.T @ H @ J @ v, **close)


def test_as_scipy_operators(case):
    net, X, J = case
    operator, J = JacobianOperator(net, X), J.numpy()
    V = np.random.default_rng(0).standard_normal((J.shape[1], 2))
    np.testing.assert_allclose(operator @ V, J @ V, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(operator.T @ (J @ V), J.T @ (J @ V), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(
        (operator @ operator.T) @ V[:21, 0], J @ (J.T @ V[:21, 0]), atol=1e-9
    )
    top = eigsh(operator.ntk(), k=2, return_eigenvectors=False)
    np.testing.assert_allclose(top, np.linalg.eigvalsh(J @ J.T)[-2:], rtol=1e-8)
    top = eigsh(operator.ggn(), k=1, return_eigenvectors=False)
    np.testing.assert_allclose(top, np.linalg.eigvalsh(J @ J.T)[-1:], rtol=1e-8)
    assert aslinearoperator(operator) is operator


def test_some_parameters_and_dtype(seed):
    torch.manual_seed(seed)
    net = snn.MLP(4, 2, width=8)
    X = torch.randn(5, 4)
    operator = JacobianOperator(net, X, parameters=["2"], dtype="float64")
    assert operator.names == ("2.weight", "2.bias")
    assert operator.shape == (10, 18)
    assert (operator @ np.ones(18)).dtype == np.float64
    assert next(net.parameters()).dtype == torch.float32


def test_refused():
    net, X = snn.MLP(4, 2, width=8), torch.randn(5, 4)
    with pytest.raises(ValueError, match="batch_size=0"):
        JacobianOperator(net, X, batch_size=0)
    with pytest.raises(ValueError, match="likelihood='poisson'"):
        JacobianOperator(net, X).ggn("poisson")
    with pytest.raises(ValueError, match="v has shape"):
        JacobianOperator(net, X).jvp(torch.ones(3))
    with pytest.raises(ValueError, match="frozen"):
        JacobianOperator(net.requires_grad_(False), X)
    with pytest.raises(ValueError, match="BatchNorm1d at '0' is in training mode"):
        JacobianOperator(nn.Sequential(nn.BatchNorm1d(4)), X)
