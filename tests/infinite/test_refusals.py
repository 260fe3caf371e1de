"""What has no limit is refused by name and place, and nothing else is raised."""

import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from written import Written

import skntk
import skntk.nn as snn
from skntk.core import UnsupportedModuleError

X = np.random.default_rng(0).normal(size=(5, 4))


def linear(m=4, n=4, **options):
    return snn.Linear(m, n, **options)


def sequence(*modules):
    return nn.Sequential(linear(), *modules)


def written(function, **modules):
    return Written(function, a=linear(), b=linear(), c=linear(), **modules)


CASES = {
    "batch norm": (sequence(nn.BatchNorm1d(4)), "at '1': BatchNorm1d has no infinite-width rule"),
    "softmax": (sequence(nn.ReLU(), nn.Softmax(1)), "at '2': Softmax"),
    "learned slope": (sequence(nn.PReLU()), "at '1': PReLU"),
    "nested": (nn.Sequential(linear(), nn.Sequential(nn.ReLU(), nn.GLU())), "at '1.1': GLU"),
    "recurrent": (nn.Sequential(nn.LSTM(4, 3)), "at '0': LSTM"),
    "two inputs": (written(lambda m, x: m.d(x, x), d=nn.Bilinear(4, 4, 2)), "at 'd': Bilinear"),
    "muP": (sequence(linear(parametrization="mup")), "at '1': .* muP"),
    "drops all": (sequence(nn.Dropout(1.0)), r"at '1': Dropout\(p=1.0\) drops everything"),
    "alpha dropout": (sequence(nn.AlphaDropout(0.3)), "at '1': AlphaDropout"),
    "other dropout": (sequence(nn.Dropout1d(0.3)), "at '1': Dropout1d"),
    "shared": (
        written(lambda m, x: m.b(torch.relu(m.b(torch.relu(m.a(x)))))),
        "at 'b': Linear is called on two different inputs",
    ),
    "shared, other order": (
        written(
            lambda m, x: m.d(torch.cat([m.a(x), m.b(x)], 1)) + m.d(torch.cat([m.b(x), m.a(x)], 1)),
            d=linear(8),
        ),
        "at 'd': Linear is called on two different inputs",
    ),
    "shared norm": (
        written(lambda m, x: m.n(m.b(torch.relu(m.n(m.a(x))))), n=nn.LayerNorm(4)),
        "at 'n': LayerNorm is called on two different inputs",
    ),
    "branch": (
        written(lambda m, x: m.a(x) if m.b(x).sum() > 0 else x),
        "branches on the values of a tensor",
    ),
    "number": (written(lambda m, x: m.a(x) * float(x.sum())), "takes one as a number"),
    "integer": (written(lambda m, x: m.a(x) * int(x[0, 0])), "takes one as a number"),
    "item": (written(lambda m, x: m.a(x) * x.sum().item()), "at the top of the module: 'item'"),
    "parameter": (
        written(lambda m, x: m.a(x) * m.scale, scale=nn.Parameter(torch.ones(4))),
        "a parameter, a buffer or a constant",
    ),
    "gate": (
        written(lambda m, x: m.a(x) * torch.sigmoid(m.scale), scale=nn.Parameter(torch.ones(4))),
        "a parameter, a buffer or a constant",
    ),
    "constant": (
        written(lambda m, x: m.a(x) + torch.ones(4)),
        "a parameter, a buffer or a constant",
    ),
    "functional layer": (
        written(lambda m, x: F.linear(x, m.a.weight)),
        "'linear' has no infinite-width rule",
    ),
    "two activations": (
        written(lambda m, x: m.c(torch.relu(m.a(x)) + torch.relu(m.b(x)))),
        "means over features are not 0",
    ),
    "activation and input": (
        written(lambda m, x: m.c(x + torch.relu(m.a(x)))),
        "means over features are not 0",
    ),
    "functions of one layer at two places": (
        written(lambda m, x: m.c(torch.relu(m.a(x) + m.b(x)) + m.a(x))),
        "depend on the same layer's weights",
    ),
    "activation of a sum of activations": (
        written(lambda m, x: m.c(torch.relu(m.b(torch.relu(m.a(x))) + torch.relu(m.a(x))))),
        "not Gaussian in the limit",
    ),
    "activation of a product": (
        written(lambda m, x: m.c(torch.relu(m.a(x) * m.b(x)))),
        "relu is applied to a signal that is not Gaussian",
    ),
    "activation of dropout": (sequence(nn.Dropout(0.5), nn.ReLU()), "ReLU is applied to a signal"),
    "activation of the input": (nn.Sequential(nn.ReLU(), linear()), "ReLU is applied to a signal"),
    "two signals": (
        written(lambda m, x: m.c(torch.maximum(m.a(x), m.b(x)))),
        "maximum is applied to a signal",
    ),
    "norm of the input": (
        nn.Sequential(nn.LayerNorm(4), linear()),
        "at '0': LayerNorm of a signal",
    ),
    "norm of an activation": (
        sequence(nn.ReLU(), nn.LayerNorm(4)),
        "at '2': LayerNorm of a signal",
    ),
    "norm of a concatenation": (
        written(lambda m, x: m.n(torch.cat([m.a(x), m.b(x)], 1)), n=nn.RMSNorm(8)),
        "RMSNorm right after a concatenation",
    ),
    "gain in a sum": (
        written(lambda m, x: m.c(torch.relu(m.n(m.a(x)) + m.b(x))), n=nn.LayerNorm(4)),
        "a normalization has a trained gain",
    ),
    "gain in a norm of a sum": (
        written(
            lambda m, x: m.c(torch.relu(m.o(m.n(m.a(x)) + m.b(x)))),
            n=nn.RMSNorm(4),
            o=nn.RMSNorm(4, elementwise_affine=False),
        ),
        "a normalization has a trained gain",
    ),
    "other axis": (
        written(lambda m, x: m.c(torch.cat([m.a(x), m.b(x)], dim=0))),
        "concatenation along axis 0",
    ),
    "pooling": (written(lambda m, x: m.a(x).mean(dim=1)), "'mean' has no infinite-width rule"),
    "transposed": (written(lambda m, x: m.c(m.a(x).t().t())), "'t' has no infinite-width rule"),
    "part": (written(lambda m, x: m.c(m.d(x)[:, :4]), d=linear(4, 8)), "'getitem' has no"),
    "detached": (written(lambda m, x: m.c(m.a(x).detach())), "'detach' has no infinite-width rule"),
    "nothing": (written(lambda m, x: m.a(x) - m.a(x)), "0 everywhere"),
    "tuple": (written(lambda m, x: (m.a(x), x)), "must return one tensor"),
    "no input": (written(lambda m, x: m.scale, scale=nn.Parameter(torch.ones(4))), "one tensor"),
    "reparametrized": (
        sequence(nn.utils.parametrizations.weight_norm(nn.Linear(4, 4))),
        "_weight_norm|reparametrized",
    ),
    "lazy": (nn.Sequential(nn.LazyLinear(3)), "lazy layers"),
    "reshaped": (
        written(lambda m, x: m.a(m.b(x).reshape(-1, 2, 2).flatten(1))),
        "only the input can be flattened",
    ),
    "fails": (written(lambda m, x: m.a(x) @ m.b(x)), "'matmul' fails on its input"),
    "not a number": (written(lambda m, x: m.c(torch.log1p(m.a(x)))), r"log1p.* \(NaN\)"),
}


@pytest.mark.parametrize("name", CASES)
def test_refused_by_name_and_place(name):
    module, message = CASES[name]
    with pytest.raises(UnsupportedModuleError, match=message):
        skntk.infinite_width(module)(X)


@pytest.mark.parametrize("layer", [nn.Conv1d(1, 2, 3), nn.MaxPool1d(2), nn.BatchNorm1d(1)])
def test_layers_over_positions(layer):
    with pytest.raises(UnsupportedModuleError, match=f"at '0': {type(layer).__name__} has no"):
        skntk.infinite_width(nn.Sequential(layer, nn.Flatten()))(X[:, None])


def test_dense_layer_over_positions():
    with pytest.raises(UnsupportedModuleError, match=r"at '0'.*\(n, 3, 4\).*flatten the input"):
        skntk.infinite_width(nn.Sequential(linear(), nn.Flatten()))(np.ones((2, 3, 4)))


def test_refusal_is_a_not_implemented_error_and_repeats():
    kernel = skntk.infinite_width(sequence(nn.Softmax(1)))
    for _ in range(2):
        with pytest.raises(NotImplementedError):
            kernel(X)


def test_not_a_module():
    for wrong in (nn.ReLU, "relu", None):
        with pytest.raises(TypeError, match=re.escape(f"module={wrong!r}")):
            skntk.infinite_width(wrong)
