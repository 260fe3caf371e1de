"""The linearization is linear, tangent to the network, and a module like any other."""

import copy
import pickle

import pytest
import torch
from explicit import jacobians
from torch import nn

import skntk
import skntk.nn as snn
from skntk.finite import Centered


def moved(lin, size=0.5):
    """Move the trained parameters; return the change by name."""
    changes = {}
    with torch.no_grad():
        for name, p in lin.module.named_parameters():
            if p.requires_grad:
                changes[name] = size * torch.randn_like(p)
                p += changes[name]
    return changes


@pytest.mark.parametrize("centered", [False, True])
@pytest.mark.parametrize("conv", [False, True])
def test_is_the_first_order_expansion(centered, conv, seed):
    torch.manual_seed(seed)
    net = (
        snn.ConvNet(2, 3, depth=1, width=4, norm="batch").eval() if conv else snn.MLP(4, 3, width=8)
    )
    net = net.double()
    X = torch.randn(5, *((2, 6, 6) if conv else (4,))).double()
    lin = skntk.linearize(net, centered=centered)
    changes = moved(lin)
    J = jacobians(net, X)
    expected = 0.0 if centered else net(X)
    for name, change in changes.items():
        expected = expected + torch.einsum("kn...,...->nk", J[name], change)
    torch.testing.assert_close(lin(X), expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(lin.train()(X), expected, rtol=1e-10, atol=1e-10)
    u = torch.randn(5, 3).double()
    (lin(X) * u).sum().backward()
    for name, p in lin.module.named_parameters():
        torch.testing.assert_close(p.grad, torch.einsum("nk,kn...->...", u, J[name]))


def test_starts_at_the_network_and_leaves_it(seed):
    torch.manual_seed(seed)
    net = snn.MLP(4, 2, width=8)
    X, state = torch.randn(3, 4), copy.deepcopy(net.state_dict())
    lin = skntk.linearize(net)
    assert torch.equal(lin(X), net(X))
    assert bool((skntk.linearize(net, centered=True)(X) == 0).all())
    moved(lin)
    assert all(torch.equal(v, state[k]) for k, v in net.state_dict().items())


def test_kernel_is_that_of_the_network(seed):
    torch.manual_seed(seed)
    net, X = snn.MLP(4, 2, width=8).double(), torch.randn(3, 4).double()
    lin = skntk.linearize(net)
    moved(lin)
    torch.testing.assert_close(skntk.empirical_ntk(lin, X), skntk.empirical_ntk(net, X))


def test_some_parameters(seed):
    torch.manual_seed(seed)
    lin = skntk.linearize(snn.MLP(4, 2, width=8), parameters=["2"])
    free = [name for name, p in lin.named_parameters() if p.requires_grad]
    assert free == ["module.2.weight", "module.2.bias"]
    lin(torch.randn(3, 4)).sum().backward()
    assert lin.module[0].weight.grad is None


def test_copies_and_state(seed):
    torch.manual_seed(seed)
    lin = skntk.linearize(snn.MLP(4, 2, width=8))
    moved(lin)
    X = torch.randn(3, 4)
    for other in (copy.deepcopy(lin), pickle.loads(pickle.dumps(lin))):
        assert torch.equal(other(X), lin(X))
    fresh = skntk.linearize(snn.MLP(4, 2, width=8))
    fresh.load_state_dict(lin.state_dict())
    assert torch.equal(fresh(X), lin(X))


def test_several_inputs(seed):
    torch.manual_seed(seed)
    lin = skntk.linearize(nn.Bilinear(3, 4, 2))
    assert lin(torch.randn(5, 3), torch.randn(5, 4)).shape == (5, 2)


def test_centered(seed):
    torch.manual_seed(seed)
    net, X = snn.ConvNet(2, 3, depth=1, width=4, norm="batch").double(), torch.randn(5, 2, 6, 6)
    made = Centered(net.eval())
    X = X.double()
    assert bool((made(X) == 0).all())
    made.train()
    assert made.module.training
    assert not made.anchor.training
    made.eval()
    before = net(X)
    moved(made)
    torch.testing.assert_close(made(X), made.module(X) - before)
    K = skntk.empirical_ntk(made, X)
    torch.testing.assert_close(K, skntk.empirical_ntk(made.module, X))


def test_refused():
    with pytest.raises(ValueError, match="frozen"):
        skntk.linearize(nn.Linear(2, 1).requires_grad_(False))
    with pytest.raises(ValueError, match="BatchNorm2d at '1' is in training mode"):
        skntk.linearize(snn.ConvNet(2, norm="batch"))
