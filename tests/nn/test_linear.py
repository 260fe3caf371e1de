"""The affine layer in its three parametrizations."""

import copy
import math
import pickle

import pytest
import torch
from torch import nn

import skntk.nn as snn

PARAMETRIZATIONS = ("ntk", "standard", "mup")


@pytest.mark.parametrize("parametrization", PARAMETRIZATIONS)
@pytest.mark.parametrize("shape", [(300, 200), (200, 300), (400, 1)])
def test_scale_of_the_function_at_initialization(parametrization, shape, seed):
    """Outputs have variance weight_std^2 |x|^2 / m + bias_std^2; the muP readout n / m of it."""
    torch.manual_seed(seed)
    m, n = shape
    x = torch.randn(1, m, dtype=torch.float64)
    options = {"weight_std": 1.3, "bias_std": 0.4, "parametrization": parametrization}
    draws = torch.cat(
        [snn.Linear(m, n, **options).double()(x).flatten() for _ in range(1200 // n + 1)]
    ).detach()
    expected = 1.3**2 * float(x.square().mean())
    if parametrization == "mup" and n < m:
        expected *= n / m
    expected += 0.4**2
    # The variance of k Gaussian draws scatters by sqrt(2 / k) of itself.
    assert float(draws.square().mean()) == pytest.approx(
        expected, rel=5 * math.sqrt(2 / len(draws))
    )


def test_formulas():
    x = torch.randn(3, 4)
    for parametrization, weight, bias in (
        ("ntk", 1.4 / 2, 0.1),
        ("standard", 1.0, 1.0),
        ("mup", math.sqrt(5 / 4), math.sqrt(5)),
    ):
        layer = snn.Linear(4, 5, weight_std=1.4, bias_std=0.1, parametrization=parametrization)
        expected = weight * x @ layer.weight.T + bias * layer.bias
        torch.testing.assert_close(layer(x), expected)


def test_without_bias():
    layer = snn.Linear(4, 5, bias=False)
    assert layer.bias is None
    assert "bias" not in layer.state_dict()
    assert not layer(torch.zeros(2, 4)).any()


def test_last_axis():
    assert snn.Linear(4, 5)(torch.zeros(2, 3, 4)).shape == (2, 3, 5)


def test_states_and_copies():
    layer = snn.Linear(4, 5, weight_std=1.4, bias_std=0.1, parametrization="standard")
    x = torch.randn(2, 4)
    for again in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        torch.testing.assert_close(again(x), layer(x))
        assert again.extra_repr() == layer.extra_repr()
    other = snn.Linear(4, 5, weight_std=1.4, bias_std=0.1, parametrization="standard")
    other.load_state_dict(layer.state_dict())
    torch.testing.assert_close(other(x), layer(x))


def test_reset_draws_anew():
    layer = snn.Linear(4, 5)
    before = layer.weight.detach().clone()
    layer.reset_parameters()
    assert not torch.equal(before, layer.weight)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"in_features": 0}, "in_features=0 must be an integer of at least 1"),
        ({"out_features": 2.5}, "out_features=2.5 must be an integer"),
        ({"weight_std": -1.0}, "weight_std=-1.0 must be a finite number of at least 0"),
        ({"bias_std": math.nan}, "bias_std=nan must be a finite number"),
        ({"weight_std": math.inf}, "weight_std=inf must be a finite number"),
        ({"parametrization": "NTK"}, "parametrization='NTK' must be one of"),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        snn.Linear(**{"in_features": 3, "out_features": 2, **options})


def test_mlp():
    net = snn.MLP(3, 2, depth=2, width=5.0, activation="erf", bias_std=0.0)
    kinds = [type(m) for m in net]
    assert kinds == [snn.Linear, snn.Erf, snn.Linear, snn.Erf, snn.Linear]
    assert [m.out_features for m in net if isinstance(m, snn.Linear)] == [5, 5, 2]
    assert net[1] is not net[3]
    assert net(torch.zeros(4, 3)).shape == (4, 2)
    assert len(snn.MLP(3, depth=0)) == 1
    act = nn.LeakyReLU(0.3)
    made = snn.MLP(3, depth=1, activation=act)[1]
    assert made is not act
    assert made.negative_slope == 0.3


@pytest.mark.parametrize("depth", [-1, 1.5])
def test_mlp_depth(depth):
    with pytest.raises(ValueError, match=f"depth={depth} must be an integer of at least 0"):
        snn.MLP(3, depth=depth)
