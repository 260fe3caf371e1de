"""What a capture of one network will find, settled on a few rows before the real work."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from skntk.finite.network import NetworkInputs, evaluate
from skntk.finite.recorder import Recorder, Recording
from skntk.finite.uses import Use

#: Sizes of the two batches that are tried: an axis that differs as they do is the rows.
_FEW, _MORE = 2, 3


@dataclass(frozen=True)
class Plan:
    """How the parameters of a network are used.

    Attributes
    ----------
    names : tuple of str
        The parameters meant.
    axes : tuple of (key, int or None)
        For each recorded use, what it is, and which axis of its output is the rows; None if the
        use is not needed.
    rest : tuple of str
        Parameters that no rule explains: their Jacobian is taken by `torch.func`.
    n_outputs : int
        Outputs of the network for one row.
    """

    names: tuple[str, ...]
    axes: tuple[tuple[tuple[object, ...], int | None], ...]
    rest: tuple[str, ...]
    n_outputs: int

    @classmethod
    def of(cls, module: nn.Module, inputs: NetworkInputs, parameters: Mapping[str, Tensor]) -> Plan:
        """Run a module in eval mode on two and on three rows.

        Raises
        ------
        ValueError
            If the outputs for a row change with the other rows of the batch, if they fit no task,
            or if they do not depend on the parameters.
        """
        rows = torch.arange(_MORE) % len(inputs)
        more, recording = record(module, inputs[rows], parameters)
        few, other = record(module, inputs[rows[:_FEW]], parameters)
        _check_rows(module, few, more)
        if not more.requires_grad:
            raise ValueError(
                f"the output of {type(module).__name__} does not depend on any of its parameters "
                f"{sorted(parameters)[:3]}: is a part of it detached, or under torch.no_grad()?"
            )
        explained, reached = recording.explained(more)
        same = [u.key for u in recording.uses] == [u.key for u in other.uses]
        axes: list[int | None] = [None] * len(recording.uses)
        for i, use in enumerate(recording.uses):
            if not reached[i]:
                continue
            axis = _row_axis(other.uses[i], use) if same else None
            axes[i] = axis
            if axis is None:
                explained -= {part.name for part in use.parts}
        for i, use in enumerate(recording.uses):
            if not any(part.name in explained for part in use.parts):
                axes[i] = None
        keyed = tuple((use.key, axis) for use, axis in zip(recording.uses, axes, strict=True))
        rest = tuple(name for name in parameters if name not in explained)
        return cls(tuple(parameters), keyed, rest, more.shape[1])

    def fits(self, recording: Recording, outputs: Tensor) -> bool:
        """Whether a run has the operations that the plan was made from."""
        if len(self.rest) == len(self.names):  # nothing was planned
            return True
        if [use.key for use in recording.uses] != [key for key, _ in self.axes]:
            return False
        explained, _ = recording.explained(outputs)
        return explained.issuperset(set(self.names) - set(self.rest))

    def without_rules(self) -> Plan:
        """The same with all parameters left to `torch.func`."""
        return Plan(self.names, (), self.names, self.n_outputs)

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
    module: nn.Module, inputs: NetworkInputs, parameters: Mapping[str, Tensor]
) -> tuple[Tensor, Recording]:
    """Run a module and record the uses of its parameters; outputs are (n, k)."""
    with torch.enable_grad(), Recorder(parameters) as recorder:
        outputs = evaluate(module, inputs)
    return outputs, recorder.recording


def _row_axis(few: Use, more: Use) -> int | None:
    """The axis of a use's output that grows with the batch, if it is one and the rules fit it."""
    if len(few.shape) != len(more.shape):
        return None
    pairs = zip(few.shape, more.shape, strict=True)
    differ = [axis for axis, (a, b) in enumerate(pairs) if a != b]
    if len(differ) != 1 or (few.shape[differ[0]], more.shape[differ[0]]) != (_FEW, _MORE):
        return None
    return differ[0] if more.takes_rows_at(differ[0]) else None


def _check_rows(module: nn.Module, few: Tensor, more: Tensor) -> None:
    name = type(module).__name__
    if few.shape[1] != more.shape[1]:
        raise ValueError(f"{name} returns another number of outputs a row for other batch sizes.")
    if few.shape[1] == 0:
        raise ValueError(f"{name} returns no outputs.")
    few, more = few.detach(), more.detach()
    if not more.is_floating_point():
        raise ValueError(f"{name} returns {more.dtype}; a network's outputs must be real numbers.")
    scale = float(more.abs().max())
    tolerance = max(1e3 * torch.finfo(more.dtype).eps, 1e-6) * scale
    difference = float((more[: len(few)] - few).abs().max())
    if difference > tolerance:
        raise ValueError(
            f"{name} gives other outputs for a row when the batch has another row more (they "
            f"differ by {difference:.2g}, at outputs of size {scale:.2g}): it couples the rows of "
            "a batch, or draws random numbers in eval mode. Such a network has no Jacobian of its "
            "own for each row."
        )
