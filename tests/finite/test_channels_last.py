"""Networks of images in float32, which are run with channels last."""

import pytest
import torch
from explicit import contracted, difference, drawn, jacobians, parameter
from networks import CONVOLUTIONS, IN_PLACE, NORMS, images, made, net
from torch import nn
from torch.nn import functional as F

import skntk.nn as snn
from skntk.finite import assembly, capture, empirical_ntk
from skntk.finite.channels_last import ChannelsLast
from skntk.finite.network import NetworkInputs
from skntk.finite.plan import Plan

TOLERANCE = 2e-5


def convolved(function):
    """How to make a network of a convolution, a function of it and the module, and a mean."""
    return net(lambda m, x: function(m, m.c(x)), c=nn.Conv2d(2, 4, 3))


def asserting(m, x):
    assert x.is_contiguous()
    return x.relu().flatten(1)


def refusing(m, x):
    if not x.is_contiguous():
        raise RuntimeError("strides")
    return x.relu().flatten(1)


def activation_on_a_view(m, x):
    y = x.view(len(x), -1)
    F.relu_(y)
    return x.mean((2, 3)) + y[:, :4]


def by_strides(m, x):
    return x.as_strided((len(x), 8), (x[0].numel(), 1)).tanh()


WILLING = {
    "flatten": images(nn.Conv2d(2, 4, 3), nn.ReLU()),
    "view": convolved(lambda m, x: x.relu().view(len(x), -1)),
    "view, size in a tuple": convolved(lambda m, x: x.relu().view((len(x), 2, -1)).sum(2)),
    "batch norm": images(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(True), nn.Conv2d(4, 3, 2)),
    "group norm": images(nn.Conv2d(2, 4, 3), nn.GroupNorm(2, 4), nn.ReLU(), nn.Conv2d(4, 3, 2)),
    "wide residual network": lambda: snn.WideResNet(2, 3, depth=10, width=4),
    "rows to images": net(
        lambda m, x: m.c(x.flatten(1).view(len(x), 2, 7, -1)).relu(), c=nn.Conv2d(2, 3, 2)
    ),
}


def on_a_copy(make_copy, change):
    def function(m, x):
        y = make_copy(x)
        change(m, y)
        return x.mean((2, 3))

    return net(lambda m, x: function(m, m.c(x)), c=nn.Conv2d(2, 4, 3), g=parameter(1))


def neutral_gain(m, y):
    y *= 1 + 0 * m.g


UNWILLING = {
    "clamped, view": on_a_copy(lambda x: x.view(len(x), -1), lambda m, y: y.clamp_(-9e9, 9e9)),
    "clamped, reshape": on_a_copy(lambda x: x.reshape(-1), lambda m, y: y.clamp_(-9e9, 9e9)),
    "clamped, flatten": on_a_copy(lambda x: torch.flatten(x, 1), lambda m, y: y.clamp_(-1, 1)),
    "clamped, contiguous": on_a_copy(lambda x: x.contiguous(), lambda m, y: y.clamp_(-1, 1)),
    "neutral gain": on_a_copy(lambda x: x.flatten(1), neutral_gain),
    "assertion": convolved(asserting),
    "error": convolved(refusing),
    "activation on a view": convolved(activation_on_a_view),
    "strides": convolved(by_strides),
}


@pytest.fixture(autouse=True)
def random(seed):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


def check(module, X):
    """Float32 against an explicit Jacobian in float64."""
    J = jacobians(module, X)
    module.float()
    X = X.float() if X.is_floating_point() else X
    for name, found in capture(module, X).jacobians().items():
        assert difference(found.double(), J[name]) <= TOLERANCE, name
    for outputs, budget in (("full", None), ("full", 1000), ("diagonal", None), ("trace", None)):
        K = empirical_ntk(module, X, outputs=outputs, memory_budget=budget)
        assert difference(K.double(), contracted(J, J, outputs)) <= TOLERANCE, outputs


def planned(module, X):
    return Plan.of(module, NetworkInputs.of(X, module), dict(module.named_parameters()))


@pytest.mark.parametrize("few", [0, 1000])
@pytest.mark.parametrize("n", [1, 5])
@pytest.mark.parametrize("name", WILLING)
def test_willing(name, n, few, monkeypatch):
    monkeypatch.setattr(assembly, "_FEW_INPUTS", few)  # products of all outputs, or of each
    module, X = WILLING[name](), torch.randn(n, 2, 7, 6)
    with torch.no_grad():  # lazy modules learn their sizes
        module.eval()(X)
    module, X = drawn(module), X.double()
    assert not planned(module, X).channels_last  # in float64
    check(module, X)
    assert planned(module, X.float()).channels_last


@pytest.mark.parametrize("name", UNWILLING)
def test_unwilling(name):
    module, X = drawn(UNWILLING[name]()), torch.randn(5, 2, 7, 6, dtype=torch.float64)
    check(module, X)
    assert not planned(module, X.float()).channels_last


def other_path(m, x):
    x = m.c(x).tanh()
    return x.view_as(torch.empty(len(x), 80)) if len(x) > 3 else x.flatten(1)


def test_another_path_that_is_unwilling():
    module = drawn(net(other_path, c=nn.Conv2d(2, 4, 3))())
    X = torch.randn(8, 2, 7, 6, dtype=torch.float64)
    check(module, X)
    assert planned(module, X.float()).channels_last


@pytest.mark.parametrize("side", [1, 2, 3])
def test_narrow_images_keep_their_order(side):
    """Some of whose dilated convolutions end the process, when channels are last."""
    make = images(nn.Conv2d(8, 2, (3, 1), stride=2, padding=1, dilation=2))
    module, X = make(), torch.randn(3, 8, 5, side)
    with torch.no_grad():
        module(X)
    check(drawn(module), X.double())


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
@pytest.mark.parametrize("name", [*CONVOLUTIONS, *NORMS, *IN_PLACE])
def test_rules(name):
    check(*made(name, 4)[:2])


def test_mode_keeps_values_and_order():
    conv, X = nn.Conv2d(3, 4, 3), torch.randn(2, 3, 6, 5)
    with torch.no_grad(), ChannelsLast():
        found = conv(X)
        assert found.view(torch.int32).shape == found.shape
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert difference(found, conv(X).detach()) <= TOLERANCE
    assert X.is_contiguous()
