"""Elementwise modules against their formulas, and the table of names."""

import copy
import math
import pickle

import numpy as np
import pytest
import scipy.special
import torch
from numpy.polynomial import hermite_e
from torch import nn

import skntk.nn as snn

x = torch.linspace(-3, 3, 41, dtype=torch.float64)
X = x.numpy()


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        (snn.Erf(1.5, 0.7, 0.3), 1.5 * scipy.special.erf(0.7 * X) + 0.3),
        (snn.Sin(2.0, 3.0, 0.5), 2 * np.sin(3 * X + 0.5)),
        (snn.Cos(2.0, 3.0, 0.5), 2 * np.cos(3 * X + 0.5)),
        (snn.Exp(0.5, 0.6), 0.5 * np.exp(0.6 * X)),
        (snn.Gaussian(1.2, -0.7), 1.2 * np.exp(-0.7 * X**2)),
        (snn.ABReLU(-0.3, 0.8), np.where(X < 0, -0.3, 0.8) * X),
        (snn.Abs(), np.abs(X)),
        (snn.Sign(), np.sign(X)),
        (snn.Polynomial([0.2, 0.7, -0.3, 0.1]), 0.2 + 0.7 * X - 0.3 * X**2 + 0.1 * X**3),
        (snn.Polynomial([2.0]), np.full_like(X, 2.0)),
    ],
    ids=lambda v: type(v).__name__ if isinstance(v, nn.Module) else "",
)
def test_formula(module, expected):
    np.testing.assert_allclose(module(x), expected, rtol=1e-13, atol=1e-14)
    for again in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert torch.equal(again(x), module(x))
    assert module(x.float()).dtype == torch.float32


@pytest.mark.parametrize("degree", range(9))
def test_hermite(degree):
    expected = hermite_e.hermeval(X, np.eye(degree + 1)[degree]) / math.sqrt(math.factorial(degree))
    np.testing.assert_allclose(snn.Hermite(degree)(x), expected, rtol=1e-10, atol=1e-10)


def test_bad_arguments():
    with pytest.raises(ValueError, match="degree=-1 must be at least 0"):
        snn.Hermite(-1)
    with pytest.raises(ValueError, match="at least one coefficient"):
        snn.Polynomial([])
    with pytest.raises(ValueError, match=r"b=0.5 must be at most 0"):
        snn.Gaussian(1.0, 0.5)


@pytest.mark.parametrize("name", snn.activation_names())
def test_names(name):
    module = snn.activation(name)
    assert isinstance(module, nn.Module)
    assert module(x).shape == x.shape
    assert snn.activation(name) is not module


def test_specifications():
    act = nn.ELU(0.5)
    assert snn.activation(act) is act
    assert isinstance(snn.activation(nn.Softplus), nn.Softplus)


def test_unknown_name():
    with pytest.raises(ValueError, match=r"activation='swish' is unknown; pass one of \['abs'"):
        snn.activation("swish")
    with pytest.raises(ValueError, match="activation='swish'"):
        snn.MLP(3, activation="swish")
    for wrong in (3, torch.relu, None):
        with pytest.raises(TypeError, match="must be a name"):
            snn.activation(wrong)
