"""How a finite network is called: its inputs, its mode, its parameters, its outputs as a matrix."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from skntk.core import as_tensor

#: Which parameters are meant: names of parameters or of submodules, or a test of a name.
ParameterFilter = Sequence[str] | Callable[[str], bool] | None

_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
_LOOKUPS = (nn.Embedding, nn.EmbeddingBag)


class NetworkInputs:
    """Rows of a network's input: one tensor, or several as a tuple or a dict.

    Parameters
    ----------
    values : Tensor, tuple of Tensor, or dict of str to Tensor
        A tuple is passed as positional arguments, a dict as keyword arguments. All have the same
        first axis.
    """

    def __init__(self, values: Any) -> None:
        self.values = values

    @classmethod
    def of(cls, X: Any, module: nn.Module, name: str = "X") -> NetworkInputs:
        """Convert arrays to tensors of the module's dtype and device.

        Integers stay integers if the module looks them up in an embedding.

        Raises
        ------
        ValueError
            If an array is empty, not finite, or has another number of rows than its neighbours.
        """
        if isinstance(X, NetworkInputs):
            return X
        like = reference_tensor(module)
        lookup = any(isinstance(m, _LOOKUPS) for m in module.modules())

        def convert(value: Any, name: str) -> Tensor:
            tensor = value if isinstance(value, Tensor) else None
            kind = "" if tensor is not None else np.asarray(value).dtype.kind
            if lookup and kind in ("i", "u", "b"):
                tensor = torch.tensor(np.asarray(value, dtype=bool if kind == "b" else np.int64))
            if tensor is not None and lookup and not tensor.is_floating_point():
                converted = tensor.to(like.device)
            else:
                converted = as_tensor(value, dtype=like.dtype, device=like.device, name=name)
            if converted.ndim == 0 or 0 in converted.shape:
                raise ValueError(
                    f"{name} has shape {tuple(converted.shape)}; it must not be empty."
                )
            return converted.detach()

        if isinstance(X, dict):
            made: Any = {key: convert(value, f"{name}[{key!r}]") for key, value in X.items()}
            tensors = list(made.values())
        elif isinstance(X, tuple):
            made = tuple(convert(value, f"{name}[{i}]") for i, value in enumerate(X))
            tensors = list(made)
        else:
            made = convert(X, name)
            tensors = [made]
        rows = {len(t) for t in tensors}
        if len(rows) != 1:
            raise ValueError(f"{name} has inputs of {sorted(rows)} rows; all must have as many.")
        return cls(made)

    @property
    def tensors(self) -> list[Tensor]:
        """All tensors, in order."""
        if isinstance(self.values, dict):
            return list(self.values.values())
        return list(self.values) if isinstance(self.values, tuple) else [self.values]

    def __len__(self) -> int:
        return len(self.tensors[0])

    def __getitem__(self, rows: Any) -> NetworkInputs:
        if isinstance(self.values, dict):
            return NetworkInputs({key: value[rows] for key, value in self.values.items()})
        if isinstance(self.values, tuple):
            return NetworkInputs(tuple(value[rows] for value in self.values))
        return NetworkInputs(self.values[rows])

    def requiring_gradients(self) -> NetworkInputs:
        """The same rows, as leaves of a graph where they are real numbers."""

        def leaf(value: Tensor) -> Tensor:
            return value.detach().clone().requires_grad_(value.is_floating_point())

        if isinstance(self.values, dict):
            return NetworkInputs({key: leaf(value) for key, value in self.values.items()})
        if isinstance(self.values, tuple):
            return NetworkInputs(tuple(leaf(value) for value in self.values))
        return NetworkInputs(leaf(self.values))

    def call(self, function: Callable[..., Any]) -> Any:
        """Call a module, or a function of the same arguments, on a copy of all rows.

        A copy, since some modules change their input in place.
        """
        if isinstance(self.values, dict):
            return function(**{key: value.clone() for key, value in self.values.items()})
        if isinstance(self.values, tuple):
            return function(*(value.clone() for value in self.values))
        return function(self.values.clone())


def reference_tensor(module: nn.Module) -> Tensor:
    """First floating parameter or buffer: where and in which dtype the module computes."""
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.is_floating_point():
            return tensor
    return torch.empty(0)


def evaluate(module: nn.Module, inputs: NetworkInputs) -> Tensor:
    """Outputs of the module as a matrix (n, k): all axes but the first are flattened.

    Raises
    ------
    ValueError
        If the module's output is no tensor with one row for each input.
    """
    found = inputs.call(module)
    if not isinstance(found, Tensor):
        raise ValueError(
            f"{type(module).__name__} returns a {type(found).__name__}; pass a module that returns "
            "one tensor of shape (n, k), or wrap it in one that picks it."
        )
    if found.ndim == 0 or len(found) != len(inputs):
        raise ValueError(
            f"{type(module).__name__} returns shape {tuple(found.shape)} for {len(inputs)} rows; "
            "the first axis must be the rows."
        )
    return found.reshape(len(found), -1)


@contextmanager
def naming_failures(module: nn.Module, inputs: NetworkInputs) -> Iterator[None]:
    """Turn errors of a module that runs for the first time on some rows to ValueErrors about it."""
    try:
        yield
    except (RuntimeError, IndexError, TypeError, AttributeError) as error:
        rows = ", ".join(f"{tuple(t.shape[1:])} and {t.dtype}" for t in inputs.tensors)
        raise ValueError(
            f"module {type(module).__name__} fails on rows of shape {rows}: {error}"
        ) from error


def rounding(outputs: Tensor) -> float:
    """By how much outputs may differ when they are computed again in another way."""
    return max(1e3 * torch.finfo(outputs.dtype).eps, 1e-6) * float(outputs.abs().max())


def named_parameters(
    module: nn.Module, parameters: ParameterFilter = None
) -> dict[str, nn.Parameter]:
    """Parameters that require gradients, and pass the filter.

    Parameters
    ----------
    module : torch.nn.Module
        Where they live; a parameter in two places has the first of its names.
    parameters : sequence of str, or callable, optional
        Names of parameters or of submodules (``"2"`` stands for ``"2.weight"`` and ``"2.bias"``),
        or a test of a name. By default all.

    Raises
    ------
    TypeError
        If it is neither names nor callable.
    ValueError
        If a name fits no parameter, or no parameter is left.
    """
    free = {name: p for name, p in module.named_parameters() if p.requires_grad}
    everything = [name for name, _ in module.named_parameters()]
    if not everything:
        raise ValueError(f"module {type(module).__name__} has no parameters.")
    if not free:
        raise ValueError(
            f"module {type(module).__name__} is frozen: none of its parameters (the first is "
            f"{everything[0]!r}) requires a gradient; call module.requires_grad_(True), or on the "
            "submodules that are meant."
        )
    if parameters is None:
        return free
    if callable(parameters):
        chosen = {name: p for name, p in free.items() if parameters(name)}
        if not chosen:
            raise ValueError(f"parameters={parameters!r} leaves none of {list(free)}.")
        return chosen
    wanted = [parameters] if isinstance(parameters, str) else parameters
    names = list(wanted) if isinstance(wanted, Iterable) else [wanted]
    if not all(isinstance(name, str) for name in names):
        raise TypeError(f"parameters={parameters!r} must be names, a test of a name, or None.")
    if not names:
        raise ValueError(f"parameters={parameters!r} names none of {everything}.")
    for name in names:
        if not any(_within(other, name) for other in everything):
            raise ValueError(f"parameters has {name!r}, which fits none of {everything}.")
    chosen = {name: p for name, p in free.items() if any(_within(name, w) for w in names)}
    if not chosen:
        raise ValueError(f"parameters={names} are all frozen; call requires_grad_(True) on them.")
    return chosen


def _within(name: str, wanted: str) -> bool:
    return name == wanted or name.startswith(wanted + ".")


def check_module(module: nn.Module) -> None:
    """Refuse what is no module, and layers that couple the rows of a batch.

    Raises
    ------
    TypeError
        If it is no module.
    ValueError
        If a BatchNorm is in training mode or keeps no running statistics.
    """
    if not isinstance(module, nn.Module):
        raise TypeError(f"module={module!r} must be a torch.nn.Module instance.")
    for path, layer in module.named_modules():
        if isinstance(layer, _BATCH_NORMS) and (layer.training or layer.running_mean is None):
            why = (
                "keeps no running statistics (track_running_stats=False)"
                if layer.running_mean is None
                else "is in training mode"
            )
            raise ValueError(
                f"{type(layer).__name__} at {path or 'the top'!r} {why}: its output for a row "
                "depends on the other rows, so the network has no Jacobian of its own for each "
                "row. Call module.eval() to use its running statistics, or use another norm."
            )


def private_copy(module: nn.Module, dtype: torch.dtype | None = None) -> nn.Module:
    """Copy in eval mode, also of modules that hold tensors which were computed."""
    memo: dict[int, Any] = {}

    def note(value: Any) -> None:
        if isinstance(value, Tensor) and not value.is_leaf:
            memo[id(value)] = value.detach().clone()
        elif isinstance(value, dict):
            for item in value.values():
                note(item)
        elif isinstance(value, (list, tuple)):
            for item in value:
                note(item)

    for layer in module.modules():
        note({name: v for name, v in vars(layer).items() if name != "_modules"})
    made = copy.deepcopy(module, memo).eval()
    return made if dtype is None else made.to(dtype)


@contextmanager
def eval_mode(module: nn.Module) -> Iterator[None]:
    """Put the module in eval mode; afterwards its modes and buffers are what they were."""
    modes = [(layer, layer.training) for layer in module.modules()]
    buffers = [
        (layer, name, buffer, buffer.detach().clone())
        for layer in module.modules()
        for name, buffer in layer.named_buffers(recurse=False)
    ]
    module.eval()
    try:
        yield
    finally:
        for layer, training in modes:
            layer.training = training
        with torch.no_grad():
            for layer, name, buffer, value in buffers:
                if getattr(layer, name) is not buffer:
                    setattr(layer, name, buffer)
                if not torch.equal(buffer, value):
                    buffer.copy_(value)
