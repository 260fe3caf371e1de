"""Networks that get more outputs when more classes or tasks come."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

import skntk.nn as snn
from skntk.finite import last_layer


def grow_readout(modules: Sequence[nn.Module], X: Tensor, n_new: int, seed: int) -> list[str]:
    """Add outputs to networks of one architecture, in place, with the same new weights in each.

    Parameters
    ----------
    modules : sequence of torch.nn.Module
        The networks.
    X : Tensor of shape (n, ...)
        Some rows.
    n_new : int
        How many outputs.
    seed : int
        Of the new weights, which are drawn as the layer draws its own.

    Returns
    -------
    list of str
        Names of the parameters that have got more rows.

    Raises
    ------
    ValueError
        If the last layer is no linear one.
    """
    names = _readout(modules[0], X)
    path = names[0].rpartition(".")[0]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        fresh = _like(modules[0].get_submodule(path), n_new)
    for module in modules:
        layer: Any = module.get_submodule(path)
        layer.out_features += n_new
        for name, parameter in list(layer.named_parameters(recurse=False)):
            new = getattr(fresh, name).detach().to(parameter)
            grown = nn.Parameter(torch.cat([parameter.detach(), new]), parameter.requires_grad)
            setattr(layer, name, grown)
    return names


def _readout(module: nn.Module, X: Tensor) -> list[str]:
    name = type(module).__name__
    try:
        names = last_layer(module, X[:2])
    except ValueError as error:
        raise ValueError(
            f"module {name} cannot get more outputs for classes or tasks that are new: {error}"
        ) from error
    paths = {parameter.rpartition(".")[0] for parameter in names}
    layer = module.get_submodule(next(iter(paths)))
    if len(paths) > 1 or type(layer) not in (nn.Linear, snn.Linear):
        raise ValueError(
            f"module {name} cannot get more outputs for classes or tasks that are new: they come "
            f"from {', '.join(names)}, which is not one torch.nn.Linear or skntk.nn.Linear. End "
            "the network with one, or pass all classes at the first call."
        )
    return names


def _like(layer: nn.Module, n_outputs: int) -> nn.Module:
    """Draw a layer with as many outputs."""
    bias = layer.bias is not None
    if isinstance(layer, snn.Linear):
        return snn.Linear(
            layer.in_features,
            n_outputs,
            bias,
            weight_std=layer.weight_std,
            bias_std=layer.bias_std,
            parametrization=layer.parametrization,
        )
    assert isinstance(layer, nn.Linear)
    return nn.Linear(layer.in_features, n_outputs, bias)
