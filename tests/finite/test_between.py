"""Products of the Jacobians of two networks of one architecture, against explicit Jacobians."""

import copy

import numpy as np
import pytest
import torch
from explicit import contracted, difference, drawn, jacobians, rows
from networks import CASES, A, made
from torch import nn

import skntk.nn as snn
from skntk.finite import EmpiricalKernel, assembly

TOLERANCE = 1e-12


@pytest.fixture(autouse=True)
def random(seed):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


def check(module, X):
    other = drawn(copy.deepcopy(module))
    J, K = jacobians(module, X), jacobians(other, X)
    for outputs in ("full", "diagonal", "trace"):
        one, two = (EmpiricalKernel(m, outputs) for m in (module, other))
        expected = contracted(J, K, outputs)
        assert difference(one.between(two, X), expected) <= TOLERANCE, outputs


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
@pytest.mark.parametrize("name", CASES)
def test_between(name):
    module, X, _ = made(name, 4)
    check(module, X)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
@pytest.mark.parametrize("kind", ["pair", "flat"])
@pytest.mark.parametrize("name", [name for name, case in CASES.items() if A in case[2]][::5])
def test_in_every_form(name, kind, monkeypatch):
    def cheapest(layer, k, outputs):
        return kind if type(layer).__name__ == A else "flat"

    monkeypatch.setattr(assembly, "_cheapest", cheapest)
    module, X, _ = made(name, 4)
    check(module, X)


def test_common_jacobians_with_other_factors():
    """The readouts of the two networks weigh the outputs differently."""
    check(drawn(snn.ConvNet(2, 4, depth=2, width=6)), rows(2, 6, 6)(5))


def test_without_rules():
    check(drawn(nn.Sequential(nn.Linear(3, 4), nn.Tanh(), Doubled())), rows(3)(4))


class Doubled(nn.Module):
    def __init__(self):
        super().__init__()
        self.bilinear = nn.Bilinear(4, 4, 2)

    def forward(self, x):
        return self.bilinear(x, x)


def test_the_structure_of_one_network_alone():
    """One has two readouts that are multiples, the other not: only written-out Jacobians do."""
    net = drawn(snn.ConvNet(2, 3, depth=2, width=6))
    dead = copy.deepcopy(net)
    with torch.no_grad():
        dead[-1].weight.zero_()
    X = rows(2, 6, 6)(4)
    expected = contracted(jacobians(net, X), jacobians(dead, X))
    found = EmpiricalKernel(net).between(EmpiricalKernel(dead), X)
    assert difference(found, expected) <= TOLERANCE


def test_with_itself_it_is_the_kernel():
    net, X = drawn(snn.MLP(3, 2, depth=2, width=8)), rows(3)(5)
    kernel = EmpiricalKernel(net)
    torch.testing.assert_close(kernel.between(kernel, X), kernel(X), rtol=0, atol=1e-11)


def test_arrays_and_blocks():
    net, other = (drawn(snn.MLP(3, 2, depth=2, width=8)) for _ in range(2))
    X = rows(3)(7)
    expected = contracted(jacobians(net, X), jacobians(other, X))
    one, two = (EmpiricalKernel(m, memory_budget=1) for m in (net, other))
    found = one.between(two, X.numpy())
    assert isinstance(found, np.ndarray)
    assert difference(found, expected) <= TOLERANCE


@pytest.mark.parametrize(
    "other", [snn.MLP(3, 2, width=9), snn.MLP(3, 2, depth=2, width=8), snn.Linear(3, 2)]
)
def test_other_architectures_are_refused(other):
    one = EmpiricalKernel(snn.MLP(3, 2, width=8))
    with pytest.raises(ValueError, match=r"other is for .* both must be of one architecture"):
        one.between(EmpiricalKernel(other), torch.zeros(2, 3))
    with pytest.raises(ValueError, match="outputs='trace'"):
        one.between(EmpiricalKernel(one.module, "trace"), torch.zeros(2, 3))
