"""Every rule of the capture against explicit Jacobians, and that it was the rule that gave them."""

import pytest
import torch
from explicit import call, contracted, difference, drawn, jacobians, parameter, rows, tokens
from networks import CASES, PATHS, A, L, P, made
from torch import nn

import skntk.nn as snn
from skntk.finite import assembly, capture, empirical_ntk, tiles

TOLERANCE = 1e-12


@pytest.fixture(autouse=True)
def random(seed):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


def check(module, X, kinds, capsys):
    """Jacobians and kernels, by rules alone."""
    expected = jacobians(module, X)
    found = capture(module, X, verbose=1)
    name = type(module).__name__
    said = f"[skntk] {name}: all {len(expected)} parameters by the capture\n"
    assert capsys.readouterr().out == said
    assert {type(layer).__name__ for layer in found.layers} == kinds
    assert not found.outputs.requires_grad
    assert difference(found.outputs, call(module, X).detach()) <= TOLERANCE
    J = found.jacobians()
    assert set(J) == set(expected)
    for name, value in expected.items():
        assert difference(J[name], value) <= TOLERANCE, name
        assert not J[name].requires_grad
    for outputs in ("full", "diagonal", "trace"):
        K = empirical_ntk(module, X, outputs=outputs)
        assert difference(K, contracted(expected, expected, outputs)) <= TOLERANCE, outputs


# torch says that an even kernel needs a copy.
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
@pytest.mark.parametrize("n", [1, 5])
@pytest.mark.parametrize("name", CASES)
def test_rule(name, n, capsys):
    check(*made(name, n), capsys)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case[2] != {P}])
def test_without_written_out_jacobians(name, monkeypatch):
    """Products of inputs and of output Jacobians, also where Jacobians would be cheaper."""

    def cheapest(layer, k, outputs):
        return "pair" if type(layer).__name__ in (A, L) else "flat"

    monkeypatch.setattr(assembly, "_cheapest", cheapest)
    module, X, _ = made(name, 5)
    J = jacobians(module, X)
    for outputs in ("full", "diagonal", "trace"):
        expected = contracted(J, J, outputs)
        K = empirical_ntk(module, X, outputs=outputs)
        assert difference(K, expected) <= TOLERANCE, outputs
    K = empirical_ntk(module, X, X[:3], outputs, memory_budget=1000)
    assert difference(K, expected[:, :3]) <= TOLERANCE


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
@pytest.mark.parametrize("few", [0, 1000])
@pytest.mark.parametrize("name", [name for name, case in CASES.items() if A in case[2]])
def test_written_out_jacobians(name, few, monkeypatch):
    """Of all outputs by one product, or output by output, and in sweeps of two rows."""
    monkeypatch.setattr(assembly, "_cheapest", lambda layer, k, outputs: "flat")
    monkeypatch.setattr(assembly, "_common", lambda layer: False)
    monkeypatch.setattr(assembly, "_FEW_INPUTS", few)
    monkeypatch.setattr(tiles, "OPERATION_BYTES", 1)
    module, X, _ = made(name, 5)
    J = jacobians(module, X)
    for outputs in ("full", "diagonal", "trace"):
        K = empirical_ntk(module, X, outputs=outputs)
        assert difference(K, contracted(J, J, outputs)) <= TOLERANCE, outputs


@pytest.mark.parametrize("name", ["linear 3-D", "conv2d, two", "rows on the second axis"])
@pytest.mark.parametrize("n", [2, 3, 4, 6])
def test_sizes_that_coincide(name, n, capsys):
    """As many rows as features, positions, channels or outputs, and as the plan tries."""
    check(*made(name, n), capsys)


def test_all_sizes_equal(capsys):
    net = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.LayerNorm(3), nn.Linear(3, 3))
    check(drawn(net), rows(3, 3)(3), {A, P}, capsys)
    make = PATHS["rows on the second axis"][0]
    net = make()
    net.a, net.b, net.n, net.c = nn.Linear(3, 3), nn.Linear(3, 3), nn.LayerNorm(3), nn.Linear(3, 3)
    net.p, net.s = parameter(3, 1, 3), parameter(3)
    check(drawn(net), rows(3, 3)(3), {A, P}, capsys)


@pytest.mark.parametrize("n", [1, 4])
def test_several_inputs(n, capsys):
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.e = nn.Linear(4, 3), nn.Linear(2, 3), nn.Embedding(5, 3)

        def forward(self, x, tokens, scale=None):
            f = self.a(x) * self.e(tokens).tanh().mean(1)
            return f if scale is None else f * scale

    net = drawn(Two())
    net.b = None
    x, i = rows(4)(n), tokens(5, 2)(n)
    check(net, (x, i), {A, L}, capsys)
    check(net, {"tokens": i, "x": x}, {A, L}, capsys)
    check(net, {"x": x, "scale": rows(1)(n), "tokens": i}, {A, L}, capsys)


def test_identical_rows(capsys):
    module, X, kinds = made("mlp", 5)
    check(module, X[:1].expand(5, -1), kinds, capsys)


def test_layers_of_a_capture():
    """What the layers hold, for those who use them directly."""
    net = drawn(nn.Sequential(snn.Conv1d(2, 3, 2, weight_std=1.5, bias_std=0.5), nn.Flatten()))
    found = capture(net, rows(2, 4)(5))
    (layer,) = found.layers
    assert (layer.weight, layer.bias) == ("0.weight", "0.bias")
    assert layer.weight_scale == pytest.approx(1.5 / 2)
    assert layer.bias_scale == 0.5
    assert layer.a.shape == (5, 3, 4)  # rows, positions, channels x kernel
    assert layer.B.shape == (9, 5, 3, 3)  # outputs, rows, positions, channels
    assert layer.shapes == {"0.weight": (3, 2, 2), "0.bias": (3,)}


@pytest.mark.parametrize(
    ("parameters", "names"),
    [
        ("0", ["0.weight", "0.bias"]),
        (["0.bias", "2"], ["0.bias", "2.weight", "2.bias"]),
        (["2.weight"], ["2.weight"]),
        (lambda name: name.endswith("bias"), ["0.bias", "2.bias"]),
    ],
)
def test_parameters(parameters, names, capsys):
    module, X, _ = made("mlp", 4)
    expected = jacobians(module, X)
    J = capture(module, X, parameters=parameters, verbose=1).jacobians()
    assert f"all {len(names)} parameters" in capsys.readouterr().out
    assert set(J) == set(names)
    for name in names:
        assert difference(J[name], expected[name]) <= TOLERANCE


def test_one_of_two_shared_modules_is_meant(capsys):
    """A shared weight has one name, and all its uses count."""
    module, X, _ = made("weights of two modules", 4)
    J = capture(module, X, parameters=["a.weight"], verbose=1).jacobians()
    assert "all 1 parameters" in capsys.readouterr().out
    assert difference(J["a.weight"], jacobians(module, X)["a.weight"]) <= TOLERANCE
