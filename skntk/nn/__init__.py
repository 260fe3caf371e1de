"""Layers with an explicit parametrization, elementwise functions that torch lacks, builders."""

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

__all__ = [
    "MLP",
    "ABReLU",
    "Abs",
    "Cos",
    "Erf",
    "Exp",
    "Gaussian",
    "Hermite",
    "Linear",
    "Polynomial",
    "Sign",
    "Sin",
    "activation",
    "activation_names",
]
