"""What a capture of one network will find, settled on a few rows before the real work."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from skntk.finite.channels_last import ChannelsLast
from skntk.finite.network import NetworkInputs, evaluate, naming_failures, rounding
from skntk.finite.recorder import Recorder, Recording
from skntk.finite.uses import Affine, Use

#: Sizes of the two batches that are tried: an axis that differs as they do is the rows.
_FEW, _MORE = 2, 3


@dataclass(frozen=True)
class Plan:
    """How the parameters of a network are used.

    Attributes
    ----------
    names : tuple of str
        The parameters meant.
    uses : tuple of (key, bool, int or None)
        For each recorded use, what it is, whether the output depends on it, and which axis of its
        output is the rows; None if the use is not needed.
    rest : tuple of str
        Parameters that no rule explains: their Jacobian is taken by `torch.func`.
    n_outputs : int
        Outputs of the network for one row.
    channels_last : bool, default=False
        Whether images lie with channels last.
    """

    names: tuple[str, ...]
    uses: tuple[tuple[tuple[object, ...], bool, int | None], ...]
    rest: tuple[str, ...]
    n_outputs: int
    channels_last: bool = False

    @classmethod
    def of(cls, module: nn.Module, inputs: NetworkInputs, parameters: Mapping[str, Tensor]) -> Plan:
        """Run a module in eval mode on three rows, and on two of them in another order.

        Raises
        ------
        ValueError
            If the module fails, if the outputs for a row change with the other rows of the batch,
            if they fit no task, or if they do not depend on the parameters.
        """
        rows = torch.arange(1, 1 + _MORE) % len(inputs)
        tried = inputs[rows].requiring_gradients()
        with naming_failures(module, tried):
            more, recording = record(module, tried, parameters)
        laid_out = _channels_last(module, tried, parameters, more, recording)
        channels_last = laid_out is not None
        more, recording = laid_out or (more, recording)
        # in another order: what sorts the rows of a batch finds one of the two unsorted
        reverse = inputs[rows[:_FEW].flip(0)]
        few, other = record(module, reverse, parameters, channels_last=channels_last)
        _check_rows(module, few.flip(0), more)
        if not few.requires_grad:
            raise ValueError(
                f"the output of {type(module).__name__} does not depend on any of its parameters "
                f"{sorted(parameters)[:3]}: is a part of it detached, or under torch.no_grad()?"
            )
        explained, reached = recording.explained(more)
        alike = [u.key for u in recording.uses] == [u.key for u in other.uses]
        axes: list[int | None] = [None] * len(recording.uses)
        for i, use in enumerate(recording.uses):
            if reached[i]:
                axes[i] = _row_axis(other.uses[i], use) if alike else None
                if axes[i] is None:
                    explained -= {part.name for part in use.parts}
        mixing = _mixing(module, tried, more, recording, axes)
        if alike:
            mixing |= _mixing(module, reverse, few, other, axes)
        for i in mixing:
            explained -= {part.name for part in recording.uses[i].parts}
        for i, use in enumerate(recording.uses):
            if not any(part.name in explained for part in use.parts):
                axes[i] = None
        keys = [use.key for use in recording.uses]
        rest = tuple(name for name in parameters if name not in explained)
        uses = tuple(zip(keys, reached, axes, strict=True))
        return cls(tuple(parameters), uses, rest, more.shape[1], channels_last)

    def fits(self, recording: Recording, outputs: Tensor) -> bool:
        """Whether a run has the operations that the plan was made from."""
        if len(self.rest) == len(self.names):  # nothing was planned
            return True
        found = recording.uses
        if [use.key for use in found] != [key for key, _, _ in self.uses]:
            return False
        explained, reached = recording.explained(outputs)
        if reached != [r for _, r, _ in self.uses]:
            return False
        for use, (_, _, axis) in zip(found, self.uses, strict=True):
            if axis is not None and use.shape[axis] != len(outputs):
                return False
        return explained.issuperset(set(self.names) - set(self.rest))

    def without_rules(self) -> Plan:
        """The same with all parameters left to `torch.func`."""
        return replace(self, uses=(), rest=self.names)

    def __str__(self) -> str:
        if not self.rest:
            return f"all {len(self.names)} parameters by the capture"
        shown = ", ".join(repr(name) for name in self.rest[:5])
        more = f" and {len(self.rest) - 5} more" if len(self.rest) > 5 else ""
        return (
            f"{len(self.names) - len(self.rest)} of {len(self.names)} parameters by the capture, "
            f"by torch.func, which is slower: {shown}{more}"
        )


def record(
    module: nn.Module,
    inputs: NetworkInputs,
    parameters: Mapping[str, Tensor],
    *,
    channels_last: bool = False,
) -> tuple[Tensor, Recording]:
    """Run a module and record the uses of its parameters; outputs are (n, k)."""
    order = ChannelsLast() if channels_last else nullcontext()
    with torch.enable_grad(), Recorder(parameters) as recorder, order:
        outputs = evaluate(module, inputs)
    return outputs, recorder.recording


def _channels_last(
    module: nn.Module,
    inputs: NetworkInputs,
    parameters: Mapping[str, Tensor],
    outputs: Tensor,
    recording: Recording,
) -> tuple[Tensor, Recording] | None:
    """The same run with channels last; None without images that gain by it, or if it fails."""
    if outputs.device.type != "cpu" or outputs.dtype != torch.float32:
        return None
    convolved = [u for u in recording.uses if isinstance(u, Affine) and u.channels_first]
    if not any(len(use.shape) == 4 for use in convolved):
        return None
    try:
        found, again = record(module, inputs, parameters, channels_last=True)
    except Exception:  # whatever a module says to strides that it does not expect
        return None
    same = found.shape == outputs.shape and _differ(found.detach(), outputs.detach()) is None
    return (found, again) if same else None


def _row_axis(few: Use, more: Use) -> int | None:
    """The axis of a use's output that grows with the batch, if it is one and the rules fit it."""
    if len(few.shape) != len(more.shape):
        return None
    pairs = zip(few.shape, more.shape, strict=True)
    differ = [axis for axis, (a, b) in enumerate(pairs) if a != b]
    if len(differ) != 1 or (few.shape[differ[0]], more.shape[differ[0]]) != (_FEW, _MORE):
        return None
    return differ[0] if more.takes_rows_at(differ[0]) else None


def _mixing(
    module: nn.Module,
    inputs: NetworkInputs,
    outputs: Tensor,
    recording: Recording,
    axes: list[int | None],
) -> set[int]:
    """Uses whose rows are not those of the output, such as where a batch is reordered.

    Raises
    ------
    ValueError
        If an output depends on another row's input.
    """
    at = [i for i, axis in enumerate(axes) if axis is not None]
    given = [t for t in inputs.tensors if t.requires_grad]
    mixing: set[int] = set()
    if not (at or given):
        return mixing
    weights = torch.randn(outputs.shape[1], generator=torch.Generator().manual_seed(0))
    for row in range(len(outputs)):
        one = torch.zeros_like(outputs)
        one[row] = weights.to(one)
        wanted: list[Any] = [*(recording.edges[i] for i in at), *given]
        found = torch.autograd.grad(outputs, wanted, one, retain_graph=True, allow_unused=True)
        others = torch.arange(len(outputs)) != row
        for i, g in zip(at, found, strict=False):
            if g is None:
                continue
            axis = axes[i]
            assert axis is not None
            g = g.reshape(recording.uses[i].shape).movedim(axis, 0)
            if bool(g[others.to(g.device)].any()):
                mixing.add(i)
        for g in found[len(at) :]:
            if g is not None and bool(g[others.to(g.device)].any()):
                raise ValueError(_coupled(module, "depends on the inputs of other rows"))
    return mixing


def _coupled(module: nn.Module, how: str) -> str:
    return (
        f"the output of {type(module).__name__} for a row {how}: it couples the rows of a batch, "
        "or draws random numbers in eval mode. Such a network has no Jacobian of its own for each "
        "row."
    )


def _check_rows(module: nn.Module, few: Tensor, more: Tensor) -> None:
    name = type(module).__name__
    if few.shape[1] != more.shape[1]:
        raise ValueError(f"{name} returns another number of outputs a row for other batch sizes.")
    if few.shape[1] == 0:
        raise ValueError(f"{name} returns no outputs.")
    few, more = few.detach(), more.detach()
    if not more.is_floating_point():
        raise ValueError(f"{name} returns {more.dtype}; a network's outputs must be real numbers.")
    difference = _differ(few, more)
    if difference is not None:
        how = (
            f"changes with the other rows of the batch, by {difference:.2g} at outputs of size "
            f"{float(more.abs().max()):.2g}"
        )
        raise ValueError(_coupled(module, how))


def _differ(some: Tensor, outputs: Tensor) -> float | None:
    """By how much some of the outputs differ when found again; None if by rounding alone."""
    difference = float((outputs[: len(some)] - some).abs().max())
    return difference if difference > rounding(outputs) else None
