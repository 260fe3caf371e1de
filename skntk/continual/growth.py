"""Networks that get more outputs when more classes or tasks come."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

import skntk.nn as snn
from skntk.finite import last_layer
from skntk.finite.network import NetworkInputs, eval_mode, evaluate, rounding


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
        If the last layer is no linear one, or the outputs that there were change.
    """
    names, inputs = _readout(modules[0], X), NetworkInputs(X[:2])
    with torch.no_grad(), eval_mode(modules[0]):
        before = evaluate(modules[0], inputs)
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
    with torch.no_grad(), eval_mode(modules[0]):
        try:
            after = evaluate(modules[0], inputs)
        except (RuntimeError, ValueError) as error:
            raise _cannot_grow(modules[0], f"what follows {path!r} fails: {error}") from error
    if after.shape[1] != before.shape[1] + n_new:
        raise _cannot_grow(modules[0], f"what follows {path!r} drops some of its outputs")
    if not (after[:, : before.shape[1]] - before).abs().max() <= rounding(before):
        raise _cannot_grow(modules[0], f"what follows {path!r} mixes its outputs")
    return names


def _cannot_grow(module: nn.Module, why: str) -> ValueError:
    return ValueError(
        f"module {type(module).__name__} cannot get more outputs for classes or tasks that are "
        f"new: {why}. End the network with one torch.nn.Linear or skntk.nn.Linear, or pass all "
        "classes at the first call."
    )


def _readout(module: nn.Module, X: Tensor) -> list[str]:
    try:
        names = last_layer(module, X[:2])
    except ValueError as error:
        raise _cannot_grow(module, str(error).rstrip(".")) from error
    paths = {parameter.rpartition(".")[0] for parameter in names}
    layer = module.get_submodule(next(iter(paths)))
    if len(paths) > 1 or type(layer) not in (nn.Linear, snn.Linear):
        raise _cannot_grow(module, f"they come from {', '.join(names)}")
    if getattr(layer, "parametrization", None) == "mup":
        raise _cannot_grow(module, "parametrization='mup' scales a layer by its number of outputs")
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
