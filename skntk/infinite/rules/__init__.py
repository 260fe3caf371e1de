"""One rule for each family of layers."""

from skntk.infinite.rules.activation import Activation
from skntk.infinite.rules.base import Concatenation, Input, Options, Rule, Signal
from skntk.infinite.rules.combine import Dropout, Product
from skntk.infinite.rules.dense import Dense
from skntk.infinite.rules.norm import Norm

__all__ = [
    "Activation",
    "Concatenation",
    "Dense",
    "Dropout",
    "Input",
    "Norm",
    "Options",
    "Product",
    "Rule",
    "Signal",
]
