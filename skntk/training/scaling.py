"""Adam with rates for each tensor, under which networks have a limit of infinite width."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor, nn

from skntk.finite import Centered, Linearized, last_layer
from skntk.nn.parametrization import Affine
from skntk.training.preconditioners import tangent_module

#: Of `torch.optim.Adam`.
EPS = 1e-8


def tensor_groups(module: nn.Module, X: Tensor, rate: float) -> list[tuple[str, dict[str, Any]]]:
    r"""Names of parameters and their options of Adam, as skorch takes them.

    In the NTK parametrization, a tensor of p = fan-in times fan-out parameters takes the rate
    :math:`\eta / \sqrt p` and :math:`\varepsilon / \sqrt p`, where the readout's fan-out counts 1:
    then each tensor's share of a step is of one size at every width, with the limit of
    `skntk.AdamNTKRegressor` (Yang & Littwin 2023).

    Parameters
    ----------
    module : torch.nn.Module
        What is trained.
    X : Tensor of shape (n, ...)
        Rows, a few of which are run.
    rate : float
        :math:`\eta`.

    Raises
    ------
    ValueError
        If the layers are not those of `skntk.nn` in the NTK parametrization.
    """
    net = tangent_module(module)
    wrapped = isinstance(module, (Centered, Linearized))
    inner = module.module if wrapped else net
    assert isinstance(inner, nn.Module)
    check_ntk_parametrized(inner, "optimizer='scaled_adam'")
    readout = last_layer(inner, X[:2])
    prefix = "module." if wrapped else ""
    groups = []
    for name, parameter in inner.named_parameters():
        if parameter.requires_grad:
            fan_out = parameter.shape[0] if name in readout else 1
            root = math.sqrt(parameter.numel() / fan_out)
            groups.append((prefix + name, {"lr": rate / root, "eps": EPS / root}))
    return groups


def check_ntk_parametrized(module: nn.Module, what: str) -> None:
    """Raise ValueError unless all parameters are of `skntk.nn` layers in the NTK parametrization.

    Parameters
    ----------
    module : torch.nn.Module
        The network.
    what : str
        What needs them, for the message.
    """
    known = {
        id(p)
        for m in module.modules()
        if isinstance(m, Affine) and m.parametrization == "ntk"
        for p in m.parameters(recurse=False)
    }
    other = [name for name, p in module.named_parameters() if id(p) not in known]
    if other:
        raise ValueError(
            f"module {type(module).__name__} has parameters {other[:3]} that are not those of "
            f"skntk.nn layers with parametrization='ntk', for which alone {what} is defined: build "
            "it from these."
        )
