"""The multilayer perceptron that every estimator uses by default."""

import copy
import itertools
import math

from torch import nn

from skntk.nn.elementwise import activation as make_activation
from skntk.nn.linear import Linear


class MLP(nn.Sequential):
    r"""Multilayer perceptron of `depth` hidden layers, all with the same scales.

    Parameters
    ----------
    in_features : int
        Number of input features.
    out_features : int, default=1
        Number of outputs.
    depth : int, default=1
        Number of hidden layers, at least 0; 0 is a linear model.
    width : int, default=512
        Units of each hidden layer.
    activation : str or torch.nn.Module, default="relu"
        A name of `activation_names` or an elementwise module, copied into each layer.
    weight_std : float, default=sqrt(2)
        Of every layer. With ReLU, sqrt(2) keeps the signal's size from layer to layer.
    bias_std : float, default=0.1
        Of every layer.
    parametrization : {"ntk", "standard", "mup"}, default="ntk"
        Of every layer, see `Linear`.

    Raises
    ------
    ValueError
        If an argument is out of its range.

    Examples
    --------
    >>> import torch, skntk.nn as snn
    >>> net = snn.MLP(4, 2, depth=3, width=16, activation="erf")
    >>> net(torch.zeros(5, 4)).shape
    torch.Size([5, 2])
    """

    def __init__(
        self,
        in_features: int,
        out_features: int = 1,
        *,
        depth: int = 1,
        width: int = 512,
        activation: str | nn.Module = "relu",
        weight_std: float = math.sqrt(2),
        bias_std: float = 0.1,
        parametrization: str = "ntk",
    ) -> None:
        if int(depth) != depth or depth < 0:
            raise ValueError(f"depth={depth!r} must be an integer of at least 0.")
        sizes = [in_features, *[width] * int(depth), out_features]
        layers: list[nn.Module] = []
        for fan_in, fan_out in itertools.pairwise(sizes):
            if layers:
                layers.append(copy.deepcopy(make_activation(activation)))
            layers.append(
                Linear(
                    fan_in,
                    fan_out,
                    weight_std=weight_std,
                    bias_std=bias_std,
                    parametrization=parametrization,
                )
            )
        super().__init__(*layers)
