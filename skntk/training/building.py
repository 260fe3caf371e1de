"""The module that an estimator trains: drawn, placed, checked, and in its regime."""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import Tensor, nn

from skntk.finite import Centered, linearize
from skntk.finite.network import check_module, named_parameters
from skntk.machines.networks import check_outputs, drawn_mlp


def drawn_network(params: Any, X: Tensor, n_outputs: int, seed: int, width: int) -> nn.Module:
    """Return the default network for some rows, of any axes.

    Parameters
    ----------
    params : estimator
        Has `depth`, `activation`, `weight_std`, `bias_std` and `parametrization`.
    X : Tensor of shape (n, ...)
        Rows.
    n_outputs, seed, width : int
        Of the network.
    """
    names = ("depth", "activation", "weight_std", "bias_std", "parametrization")
    chosen = {name: getattr(params, name) for name in names}
    module = drawn_mlp(math.prod(X.shape[1:]), n_outputs, seed, width=width, **chosen)
    return module if X.ndim == 2 else nn.Sequential(nn.Flatten(), *module)


def placed(
    module: nn.Module,
    X: Tensor,
    n_outputs: int,
    what: str,
    device: torch.device,
    dtype: torch.dtype,
) -> nn.Module:
    """Return the module where and in what it computes.

    Raises
    ------
    ValueError
        If it does not run on the rows, has another number of outputs than `what` needs, or is
        frozen.
    """
    module = module.to(device, dtype)
    check_outputs(module, X.to(device), n_outputs, what)
    named_parameters(module)
    return module


def in_regime(module: nn.Module, regime: str, centered: bool, drawn: bool) -> nn.Module:
    """Return the module as it is trained: itself, centred, or its linearization.

    Parameters
    ----------
    module : torch.nn.Module
        The network.
    regime : {"full", "linearized"}
        Whether to linearize it.
    centered : bool
        Whether its function at initialization counts as zero.
    drawn : bool
        Whether it is the instance of a class, which is in training mode for no reason.
    """
    if regime == "linearized":
        return linearize(module.eval() if drawn else module, centered=centered)
    if centered:
        check_module(copy.deepcopy(module).train())  # as it will be, unlike its start
        return Centered(module)
    return module
