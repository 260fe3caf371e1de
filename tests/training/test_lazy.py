"""Linearized networks trained to convergence are kernel machines of their empirical NTK."""

import numpy as np
import pytest
import torch
from torch import nn

import skntk
import skntk.nn as snn
from skntk import NetworkRegressor, NTKRegressor

#: The optimizers that move within the span of the gradients, and end where a kernel machine is.
OPTIMIZERS = {
    "gd": {"optimizer": "gd", "max_epochs": 150},
    "gd with momentum": {"optimizer": "gd", "momentum": 0.4, "max_epochs": 80},
    "sgd": {"optimizer": "sgd", "batch_size": 2, "rate": 0.7, "max_epochs": 100},
    "natural gradient": {"optimizer": "natural_gradient", "damping": 0.0, "max_epochs": 2},
    "damped": {"optimizer": "natural_gradient", "max_epochs": 30},
}


def dense(k):
    """Network and rows, drawn from torch's state."""
    net = snn.MLP(5, k, depth=2, width=48, activation="erf", bias_std=0.3)
    return net, torch.linalg.qr(torch.randn(5, 5))[0][:4] * 2, torch.randn(3, 5)


def convolutional(k):
    net = snn.ConvNet(2, k, depth=2, width=24, activation="erf")
    waves = torch.linalg.qr(torch.randn(72, 3))[0].T.reshape(3, 2, 6, 6) * 8
    return net, waves, torch.randn(3, 2, 6, 6)


@pytest.fixture(params=[1, 2], ids=["1 output", "2 outputs"])
def n_outputs(request):
    return request.param


@pytest.fixture(params=[dense, convolutional], ids=["dense", "conv"])
def problem(request, n_outputs, seed):
    """A network in float64, training and new rows, and targets."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net, X, new = request.param(n_outputs)
        Y = torch.randn(len(X), n_outputs).double() * 3 + 5
    return net.double(), X.double().numpy(), new.double().numpy(), Y.numpy()


def function(net, X):
    with torch.no_grad():
        return net(torch.as_tensor(X)).numpy()


def stacked(K):
    """The kernel (n, m, k, k) as a matrix, output by output."""
    n, m, k, _ = K.shape
    return K.transpose(2, 0, 3, 1).reshape(k * n, k * m)


def kernel_machine(net, X, Y, new, centered=False):
    """Standardized predictions at new rows of the full kernel, without a ridge."""
    Z = (Y - Y.mean(0)) / Y.std(0)
    start, at_new = (0.0 if centered else function(net, A) for A in (X, new))
    K = stacked(skntk.empirical_ntk(net, X))
    dual = np.linalg.solve(K, (Z - start).T.ravel())
    moved = stacked(skntk.empirical_ntk(net, new, X)) @ dual
    return moved.reshape(Y.shape[1], len(new)).T + at_new


def trained(net, X, Y, rate=None, **params):
    model = NetworkRegressor(module=net, regime="linearized", dtype="float64", random_state=0)
    model.set_params(**params)
    if rate is not None:  # relative to the largest that is stable for all rows at once
        K = stacked(skntk.empirical_ntk(net, X))
        n = len(X)
        model.set_params(learning_rate=rate * n * Y.shape[1] / np.linalg.eigvalsh(K)[-1])
    return model.fit(X, Y)


def standardized(model, X, Y):
    return (model.predict(X).reshape(len(X), -1) - Y.mean(0)) / Y.std(0)


@pytest.mark.parametrize("name", ["gd with momentum", "natural gradient", "damped"])
def test_the_end_of_training_is_the_kernel_machine(problem, name):
    assert_kernel_machine(problem, name)


@pytest.mark.parametrize(
    ("problem", "n_outputs"), [(dense, 2), (convolutional, 1)], indirect=True, ids=["dense", "conv"]
)
@pytest.mark.parametrize("name", ["gd", "sgd"])
def test_the_end_of_plain_descent_is_the_kernel_machine(problem, name):
    assert_kernel_machine(problem, name)


def assert_kernel_machine(problem, name):
    net, X, new, Y = problem
    model = trained(net, X, Y, **OPTIMIZERS[name])
    Z = (Y - Y.mean(0)) / Y.std(0)
    np.testing.assert_allclose(standardized(model, X, Y), Z, atol=1e-6)
    expected = kernel_machine(net, X, Y, new)
    np.testing.assert_allclose(standardized(model, new, Y), expected, atol=1e-6)
    assert np.abs(function(net, new)).max() > 0.01  # the function at initialization counts


@pytest.mark.parametrize("name", ["gd with momentum", "natural gradient"])
def test_centered(problem, name):
    net, X, new, Y = problem
    model = trained(net, X, Y, centered=True, **OPTIMIZERS[name])
    expected = kernel_machine(net, X, Y, new, centered=True)
    np.testing.assert_allclose(standardized(model, new, Y), expected, atol=1e-6)


@pytest.mark.parametrize("centered", [False, True])
@pytest.mark.parametrize("make", [dense, convolutional])
def test_the_machine_of_the_same_network(make, centered, seed):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net, X, new = make(1)
        y = torch.randn(len(X)).double().numpy()
    net, X, new = net.double(), X.double().numpy(), new.double().numpy()
    model = trained(net, X, y[:, None], centered=centered, **OPTIMIZERS["natural gradient"])
    machine = NTKRegressor(module=net, width=None, alpha=0.0, tuning=None, centered=centered)
    machine.fit(X, y)
    found, expected = model.predict(new)[:, 0], machine.predict(new)
    np.testing.assert_allclose(found, expected, atol=1e-7 * y.std())


@pytest.mark.parametrize("centered", [False, True])
@pytest.mark.parametrize("depth", [0, 2])
def test_the_machine_with_the_same_random_state(depth, centered, seed):
    """The default networks of both estimators are drawn alike."""
    rng = np.random.default_rng(seed)
    X, y, new = rng.standard_normal((5, 6)), rng.standard_normal(5), rng.standard_normal((4, 6))
    same = {
        "depth": depth,
        "width": 24,
        "activation": "gelu",
        "weight_std": 1.3,
        "bias_std": 0.2,
        "centered": centered,
        "dtype": "float64",
        "random_state": seed,
    }
    model = NetworkRegressor(regime="linearized", **OPTIMIZERS["natural gradient"], **same)
    machine = NTKRegressor(alpha=0.0, tuning=None, **same)
    expected = machine.fit(X, y).predict(new)
    np.testing.assert_allclose(model.fit(X, y).predict(new), expected, atol=1e-7)


@pytest.mark.parametrize("problem", [dense], indirect=True, ids=["dense"])
def test_adam_ends_elsewhere(problem):
    net, X, new, Y = problem
    model = trained(net, X, Y, optimizer="adam", learning_rate=0.03, max_epochs=250)
    assert model.history_[-1, "train_loss"] < 1e-6
    Z = (Y - Y.mean(0)) / Y.std(0)
    np.testing.assert_allclose(standardized(model, X, Y), Z, atol=1e-2)
    difference = standardized(model, new, Y) - kernel_machine(net, X, Y, new)
    assert np.abs(difference).max() > 1e-2


def test_a_linearization_has_the_gradients_of_its_anchor(problem):
    """Training moves the parameters, not the point at which they are expanded."""
    net, X, _, Y = problem
    before = {name: p.clone() for name, p in net.named_parameters()}
    model = trained(net, X, Y, optimizer="gd", max_epochs=3)
    anchor, moved = model.module_.anchor, model.module_.module
    for name, p in net.named_parameters():
        assert torch.equal(p, before[name])  # the user's network is left as it was
        assert torch.equal(dict(anchor.named_parameters())[name], before[name])
        assert not torch.equal(dict(moved.named_parameters())[name], before[name])


@pytest.mark.parametrize("optimizer", ["gd", "natural_gradient", "kfac"])
def test_frozen_parameters_stay(optimizer, seed):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net, X, new = dense(1)
        y = torch.randn(len(X)).double().numpy()
    net, X, new = net.double(), X.double().numpy(), new.double().numpy()
    net[0].requires_grad_(False)
    model = trained(net, X, y[:, None], optimizer=optimizer, damping=0.0, max_epochs=100)
    assert torch.equal(model.module_.module[0].weight, net[0].weight)
    assert not torch.equal(model.module_.module[2].weight, net[2].weight)
    if optimizer != "kfac":
        expected = kernel_machine(net, X, y[:, None], new)
        np.testing.assert_allclose(standardized(model, new, y[:, None]), expected, atol=1e-6)


class Scaled(nn.Module):
    """A network whose output is multiplied by a parameter that no rule explains."""

    def __init__(self, width=16):
        super().__init__()
        self.hidden = snn.MLP(5, 1, depth=1, width=width, activation="erf")
        self.log_scale = nn.Parameter(torch.zeros(()))

    def forward(self, x):
        return self.hidden(x) * self.log_scale.exp()


def test_parameters_without_a_rule(seed):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net, (_, X, new) = Scaled().double(), dense(1)
        y = torch.randn(len(X), 1).double().numpy()
    X, new = X.double().numpy(), new.double().numpy()
    model = trained(net, X, y, **OPTIMIZERS["natural gradient"])
    expected = kernel_machine(net, X, y, new)
    np.testing.assert_allclose(standardized(model, new, y), expected, atol=1e-6)
