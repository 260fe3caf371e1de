"""Jacobians of single rows by `torch.func`: for any module and parameter, without rules."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, jacrev, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from skntk.finite.network import NetworkInputs, evaluate, private_copy, rounding

#: About how many numbers of a Jacobian are computed at one time.
_NUMBERS = 2**24


def row_jacobians(
    module: nn.Module, inputs: NetworkInputs, names: Sequence[str], outputs: Tensor
) -> dict[str, Tensor]:
    """Jacobian of each row with respect to some parameters.

    Where `torch.func.vmap` cannot run the module, or finds another function for a row alone than
    for a row among others, rows are taken one by one.

    Parameters
    ----------
    module : torch.nn.Module
        In eval mode.
    inputs : NetworkInputs
        n rows.
    names : sequence of str
        Parameters.
    outputs : Tensor of shape (n, k)
        What the module returns for these rows together.

    Returns
    -------
    dict of str to Tensor of shape (k, n, *shape)

    Raises
    ------
    ValueError
        If the outputs for a row depend on the others.
    """
    module = private_copy(module)  # some modules keep tensors of the transform in attributes
    live = dict(module.named_parameters())
    parameters = {name: live[name].detach() for name in names}

    def alone(chosen: dict[str, Tensor], row: Any) -> tuple[Tensor, Tensor]:
        def call(*args: Any, **kwargs: Any) -> Tensor:
            return functional_call(module, chosen, args, kwargs)

        one = NetworkInputs(_mapped(row, lambda t: t.unsqueeze(0)))
        found = one.call(call).reshape(-1)
        return found, found

    size = sum(p.numel() for p in parameters.values())
    each = jacrev(alone, has_aux=True)
    mapped = vmap(each, in_dims=(None, 0), chunk_size=max(1, _NUMBERS // max(size, 1)))
    try:
        # The fused attention kernels cannot be mapped; what is mapped slowly is warned about.
        with sdpa_kernel(SDPBackend.MATH), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "There is a performance drop")
            found, values = mapped(parameters, inputs.values)
    except Exception:  # whatever a module says to tensors of a transform; rows alone tell
        values = None
    right = (
        values is not None
        and values.shape == outputs.shape
        and _close(values, outputs)
        and jacobians_agree(module, inputs, {name: live[name] for name in names}, found)
    )
    if not right:
        return _row_by_row(module, inputs, {name: live[name] for name in names}, outputs)
    return {name: J.detach().transpose(0, 1) for name, J in found.items()}


def jacobians_agree(
    module: nn.Module,
    inputs: NetworkInputs,
    parameters: Mapping[str, Tensor],
    found: dict[str, Tensor],
) -> bool:
    """Whether Jacobians (n, k, *shape) give the gradients that a backward pass of the batch does.

    Some operations have a wrong batching rule: PReLU's, where rows are as many as outputs.
    """
    with torch.enable_grad():
        outputs = evaluate(module, inputs)
    generator = torch.Generator().manual_seed(0)
    u = torch.randn(outputs.shape, generator=generator).to(outputs)
    gradients = torch.autograd.grad(
        outputs, list(parameters.values()), u, allow_unused=True, materialize_grads=True
    )
    for gradient, J in zip(gradients, found.values(), strict=True):
        size = float(J.detach().abs().amax()) * u.numel() ** 0.5
        error = float((gradient - torch.einsum("nk,nk...->...", u, J.detach())).abs().amax())
        if error > 1e4 * torch.finfo(u.dtype).eps * size:
            return False
    return True


def _close(values: Tensor, outputs: Tensor) -> bool:
    return not bool(((values - outputs).abs() > rounding(outputs)).any())


def _row_by_row(
    module: nn.Module, inputs: NetworkInputs, parameters: dict[str, Tensor], outputs: Tensor
) -> dict[str, Tensor]:
    """As `row_jacobians`, by one backward pass for each row and output."""
    tensors = list(parameters.values())
    found: list[list[tuple[Tensor, ...]]] = []
    for i in range(len(inputs)):
        with torch.enable_grad():
            # two copies: some modules drop an axis of length one
            f = evaluate(module, inputs[[i, i]])[0]
        if not _close(f.detach(), outputs[i]):
            raise ValueError(
                f"{type(module).__name__} gives other outputs for row {i} alone than among "
                f"{len(inputs)} rows: it couples the rows of a batch, or draws random numbers in "
                "eval mode. Such a network has no Jacobian of its own for each row."
            )
        found.append(
            [
                torch.autograd.grad(
                    f[p], tensors, retain_graph=True, allow_unused=True, materialize_grads=True
                )
                for p in range(len(f))
            ]
        )
    return {
        name: torch.stack([torch.stack([row[p][i] for row in found]) for p in range(len(found[0]))])
        for i, name in enumerate(parameters)
    }


def _mapped(values: Any, function: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(values, dict):
        return {key: function(value) for key, value in values.items()}
    if isinstance(values, tuple):
        return tuple(function(value) for value in values)
    return function(values)
