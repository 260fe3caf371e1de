"""Series in the angle: against the functions that they stand for, and their lengths."""

import numpy as np
import pytest
import torch

import skntk
import skntk.nn as snn
from skntk.infinite.inputs import Inputs
from skntk.infinite.series import VARIABLES, Series
from skntk.infinite.tiles import tiles

FUNCTIONS = {
    "smooth": lambda delta: (1 - delta).exp(),
    "narrow peak": lambda delta: 0.01 / (delta + 0.01),
    "angle": lambda delta: 1 - (1 - delta).clamp(-1, 1).acos(),
    "peak in the angle": lambda delta: 0.2 / ((1 - delta).clamp(-1, 1).acos() + 0.2),
    "two narrow peaks": lambda delta: 0.1 / (delta + 0.1) - 0.1 / (2.1 - delta),
}


def unit(X):
    return X / np.linalg.norm(X, axis=1, keepdims=True)


def unit_rows(d):
    """Rows with copies, near copies and antipodes."""
    X = unit(np.random.default_rng(0).standard_normal((40, d)))
    return unit(np.vstack([X, -X[:5], X[:5], X[:5] + 1e-4]))


# Functions of the angle in float32 alone: from 2 - eps, an antipode is sqrt(eps) away in the angle.
CASES = [(name, torch.float32) for name in FUNCTIONS]
CASES += [(name, torch.float64) for name in FUNCTIONS if not name.endswith("angle")]


@pytest.mark.parametrize(("name", "dtype"), CASES)
def test_series_is_its_function(name, dtype):
    f = FUNCTIONS[name]
    X = torch.as_tensor(unit_rows(3), dtype=dtype)
    made = Series.shortest(f, dtype)
    ours = made.between(Inputs.of(X), Inputs.of(X)).double()
    x = X.double()
    apart = torch.linalg.vector_norm(x[:, None] - x[None], dim=-1)
    expected = f(0.5 * apart.square())
    if name.endswith("angle"):
        theta = 2 * torch.atan2(apart, torch.linalg.vector_norm(x[:, None] + x[None], dim=-1))
        expected = 1 - theta if name == "angle" else 0.2 / (theta + 0.2)
    # Rounding of the inputs moves one minus the cosine by an epsilon; the slope is up to 100.
    tol = 100 * torch.finfo(dtype).eps
    torch.testing.assert_close(ours, expected, rtol=tol, atol=tol)


def test_the_variable_covers_all_angles():
    t = np.linspace(-1, 1, 101)
    for variable in VARIABLES:
        delta = variable.deltas(t)
        assert delta[0] == 0
        assert delta[-1] == pytest.approx(2, abs=1e-12)
        assert (np.diff(delta) > 0).all()


@pytest.mark.parametrize(
    "function",
    [
        torch.zeros_like,
        torch.log,
        lambda delta: (delta > 0.3).double(),
        lambda delta: 0.01 / (delta + 0.01) - 0.01 / (2.01 - delta),  # narrow at both ends
    ],
)
def test_no_series(function):
    assert Series.shortest(function, torch.float64) is None


@pytest.mark.parametrize(("activation", "bias_std"), [("erf", 0.1), ("relu", 0.0), ("relu", 0.1)])
def test_a_deeper_network_has_no_longer_series(activation, bias_std):
    X = torch.as_tensor(unit_rows(100), dtype=torch.float32)
    inputs = Inputs.of(X)
    for depth in (3, 10, 20, 40):
        net = snn.MLP(100, depth=depth, activation=activation, weight_std=1.4, bias_std=bias_std)
        kernel = skntk.infinite_width(net)
        made = tiles(kernel.program((100,)), "ntk", [inputs], compiled=False)
        assert made.series.powers
        assert len(made.series.coefficients) <= 20
        exact = kernel.gram(X.double(), collapse=False)
        assert (kernel.gram(X) - exact).abs().max() <= 1e-5 * exact.max()


@pytest.mark.parametrize("activation", ["sin", "cos", "erf", "gelu", "relu", "abs"])
@pytest.mark.parametrize(("depth", "weight_std"), [(1, 2.5), (2, 1.4), (4, 1.0)])
def test_float32_is_accurate_to_rounding(activation, depth, weight_std):
    X = torch.as_tensor(unit_rows(20), dtype=torch.float32)
    net = snn.MLP(20, depth=depth, activation=activation, weight_std=weight_std, bias_std=0.1)
    kernel = skntk.infinite_width(net)
    for kind in ("ntk", "nngp"):
        exact = kernel.gram(X.double(), kind=kind, collapse=False)
        error = (kernel.gram(X, kind=kind) - exact).abs().max() / exact.abs().max()
        assert error <= 2e-6
