"""Layers with an explicit parametrization, elementwise functions that torch lacks, builders."""

from skntk.nn.conv import Conv1d, Conv2d
from skntk.nn.convnet import ConvNet
from skntk.nn.elementwise import (
    ABReLU,
    Abs,
    Cos,
    Erf,
    Exp,
    Gaussian,
    Hermite,
    Polynomial,
    Sign,
    Sin,
    activation,
    activation_names,
)
from skntk.nn.linear import Linear
from skntk.nn.mlp import MLP
from skntk.nn.wideresnet import WideResNet

__all__ = [
    "MLP",
    "ABReLU",
    "Abs",
    "Conv1d",
    "Conv2d",
    "ConvNet",
    "Cos",
    "Erf",
    "Exp",
    "Gaussian",
    "Hermite",
    "Linear",
    "Polynomial",
    "Sign",
    "Sin",
    "WideResNet",
    "activation",
    "activation_names",
]
