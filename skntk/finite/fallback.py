"""Jacobians of single rows by `torch.func`: for any module and parameter, without rules."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call, jacrev, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from skntk.finite.network import NetworkInputs, evaluate

#: About how many numbers of a Jacobian are computed at one time.
_NUMBERS = 2**24


def row_jacobians(
    module: nn.Module, inputs: NetworkInputs, names: Sequence[str]
) -> dict[str, Tensor]:
    """Jacobian of each row with respect to some parameters.

    Where `torch.func.vmap` cannot run the module, rows are taken one by one.

    Parameters
    ----------
    module : torch.nn.Module
        In eval mode.
    inputs : NetworkInputs
        n rows.
    names : sequence of str
        Parameters.

    Returns
    -------
    dict of str to Tensor of shape (k, n, *shape)
    """
    live = dict(module.named_parameters())
    parameters = {name: live[name].detach() for name in names}

    def outputs(chosen: dict[str, Tensor], row: object) -> Tensor:
        def call(*args: object, **kwargs: object) -> Tensor:
            return functional_call(module, chosen, args, kwargs)

        one = NetworkInputs(_mapped(row, lambda t: t.unsqueeze(0)))
        return one.call(call).reshape(-1)

    size = sum(p.numel() for p in parameters.values())
    mapped = vmap(jacrev(outputs), in_dims=(None, 0), chunk_size=max(1, _NUMBERS // max(size, 1)))
    try:
        with sdpa_kernel(SDPBackend.MATH):  # the fused attention kernels cannot be mapped
            found = mapped(parameters, inputs.values)
        return {name: J.detach().transpose(0, 1) for name, J in found.items()}
    except (RuntimeError, NotImplementedError, ValueError, TypeError):
        return _row_by_row(module, inputs, {name: live[name] for name in names})


def _row_by_row(
    module: nn.Module, inputs: NetworkInputs, parameters: dict[str, Tensor]
) -> dict[str, Tensor]:
    """As `row_jacobians`, by one backward pass for each row and output."""
    tensors = list(parameters.values())
    found: list[list[tuple[Tensor, ...]]] = []
    for i in range(len(inputs)):
        with torch.enable_grad():
            # two copies: some modules drop an axis of length one
            f = evaluate(module, inputs[[i, i]])[0]
        rows = []
        for p in range(len(f)):
            grads = torch.autograd.grad(
                f[p], tensors, retain_graph=True, allow_unused=True, materialize_grads=True
            )
            rows.append(grads)
        found.append(rows)
    return {
        name: torch.stack([torch.stack([row[p][i] for row in found]) for p in range(len(found[0]))])
        for i, name in enumerate(parameters)
    }


def _mapped(values: object, function: object) -> object:
    if isinstance(values, dict):
        return {key: function(value) for key, value in values.items()}  # type: ignore[operator]
    if isinstance(values, tuple):
        return tuple(function(value) for value in values)  # type: ignore[operator]
    return function(values)  # type: ignore[operator]
