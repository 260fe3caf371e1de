"""How an operation's output depends on a parameter, and what follows for a network's Jacobian."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Part:
    """A parameter as it enters an operation: `scale` times the tensor of that name."""

    name: str
    scale: float
    shape: tuple[int, ...]


class Use(ABC):
    """One use of one or two parameters.

    Attributes
    ----------
    shape : torch.Size
        Of the operation's output.
    axis : int
        Which axis of the output is the rows; set once it is known.
    """

    #: Arguments that the operation may have changed in place.
    changed: tuple[Tensor, ...] = ()

    def __init__(self, shape: torch.Size) -> None:
        self.shape, self.axis = shape, 0

    @property
    @abstractmethod
    def parts(self) -> list[Part]:
        """The parameters."""

    @property
    def key(self) -> tuple[object, ...]:
        """What two runs of the same network have in common."""
        return (type(self), *((part.name, part.scale) for part in self.parts))

    def takes_rows_at(self, axis: int) -> bool:
        """Whether the rows may lie on that axis of the output."""
        return True

    @abstractmethod
    def jacobian(self, part: Part, B: Tensor) -> Tensor:
        """Contribution to the Jacobian of a parameter.

        Parameters
        ----------
        part : Part
            One of `parts`.
        B : Tensor of shape (k, *shape)
            Derivatives of the network's k outputs with respect to the operation's output.

        Returns
        -------
        Tensor of shape (k, n, *part.shape)
        """

    def rows_first(self, B: Tensor) -> Tensor:
        """Move the rows of (k, *shape) to the second axis."""
        return B.movedim(1 + self.axis, 1)


class Affine(Use):
    """Matrix product and bias, at one or several positions: linear layers and convolutions.

    Parameters
    ----------
    weight, bias : Part or None
        The parameters; None if not tracked.
    shape : torch.Size
        Of the output.
    inputs : callable
        Returns the input: (..., d), or (n, S, d) with `channels_first`.
    transposed : bool
        Whether the weight is (d, m) rather than (m, d).
    channels_first : bool
        Whether the output is (n, m, *positions) rather than (..., m).
    """

    def __init__(
        self,
        weight: Part | None,
        bias: Part | None,
        shape: torch.Size,
        inputs: Callable[[], Tensor],
        *,
        transposed: bool = False,
        channels_first: bool = False,
    ) -> None:
        super().__init__(shape)
        self.weight, self.bias, self._inputs = weight, bias, inputs
        self.transposed, self.channels_first = transposed, channels_first

    @property
    def key(self) -> tuple[object, ...]:
        return (*super().key, self.weight is None, self.transposed)

    @property
    def parts(self) -> list[Part]:
        return [part for part in (self.weight, self.bias) if part is not None]

    def takes_rows_at(self, axis: int) -> bool:
        return axis == 0 if self.channels_first else axis < len(self.shape) - 1

    def inputs(self) -> Tensor:
        """Input `a`: (n, S, d)."""
        a = self._inputs()
        if self.channels_first:
            return a
        a = a.movedim(self.axis, 0)
        return a.reshape(len(a), -1, a.shape[-1])

    def outputs(self, B: Tensor) -> Tensor:
        """Output Jacobian: (k, *shape) to (k, n, S, m)."""
        if self.channels_first:
            return B.flatten(3).transpose(2, 3)
        B = self.rows_first(B)
        return B.reshape(*B.shape[:2], -1, B.shape[-1])

    def jacobian(self, part: Part, B: Tensor) -> Tensor:
        B = self.outputs(B)
        if part is self.bias:
            return part.scale * B.sum(2)
        J = part.scale * per_row_products(B, self.inputs())
        if self.transposed:
            J = J.transpose(2, 3)
        return J.reshape(*J.shape[:2], *part.shape)


class Lookup(Use):
    """Rows of a table, chosen by integers.

    Parameters
    ----------
    table : Part
        The parameter, (v, m).
    shape : torch.Size
        Of the output.
    indices : Tensor of int, of the output's shape without the last axis
        Which rows.
    unused : int or None
        A row that is not trained.
    """

    def __init__(self, table: Part, shape: torch.Size, indices: Tensor, unused: int | None) -> None:
        super().__init__(shape)
        self.table, self._indices, self._unused = table, indices, unused

    @property
    def parts(self) -> list[Part]:
        return [self.table]

    def takes_rows_at(self, axis: int) -> bool:
        return axis < len(self.shape) - 1

    def indices(self) -> Tensor:
        """Chosen rows: (n, S)."""
        found = self._indices.movedim(self.axis, 0)
        return found.reshape(len(found), -1)

    def outputs(self, B: Tensor) -> Tensor:
        """Output Jacobian (k, n, S, m), zero where the row is not trained."""
        B = self.rows_first(B)
        B = B.reshape(*B.shape[:2], -1, B.shape[-1])
        if self._unused is not None:
            B = B * (self.indices() != self._unused).to(B.dtype)[..., None]
        return B

    def jacobian(self, part: Part, B: Tensor) -> Tensor:
        B = self.outputs(B)
        J = B.new_zeros(*B.shape[:2], *part.shape)
        at = self.indices()[None, :, :, None].expand(B.shape)
        return J.scatter_add_(2, at, part.scale * B)


class Elementwise(Use):
    """Output = sum of factor * parameter, broadcast, and terms without parameters.

    Parameters
    ----------
    parts : sequence of (Part, callable or None, tuple of int)
        Each parameter, its factor (None is one) and the shape in which it is broadcast.
    shape : torch.Size
        Of the output.
    changed : tuple of Tensor
        As of `Use`.
    """

    def __init__(
        self,
        parts: Sequence[tuple[Part, Callable[[], Tensor] | None, tuple[int, ...]]],
        shape: torch.Size,
        changed: tuple[Tensor, ...] = (),
    ) -> None:
        super().__init__(shape)
        self._terms, self.changed = list(parts), changed
        self._factors: dict[str, Tensor] = {}

    @property
    def parts(self) -> list[Part]:
        return [part for part, _, _ in self._terms]

    def takes_rows_at(self, axis: int) -> bool:
        return all(view[axis] == 1 for _, _, view in self._terms)

    def jacobian(self, part: Part, B: Tensor) -> Tensor:
        factor, view = next((f, v) for p, f, v in self._terms if p is part)
        if factor is not None:
            if part.name not in self._factors:
                self._factors[part.name] = factor()
            B = B * self._factors[part.name]
        B = self.rows_first(B)
        view = (*view[: self.axis], *view[self.axis + 1 :])  # without the rows
        summed = [2 + i for i, size in enumerate(view) if size == 1 and B.shape[2 + i] > 1]
        if summed:
            B = B.sum(summed, keepdim=True)
        return part.scale * B.reshape(*B.shape[:2], *part.shape)


def per_row_products(B: Tensor, a: Tensor) -> Tensor:
    """Sum over positions of outer products: (k, n, S, m), (n, S, d) to (k, n, m, d)."""
    if a.shape[1] == 1:
        return B.transpose(2, 3) * a
    return torch.stack([torch.bmm(Bp.transpose(1, 2), a) for Bp in B])


def same_padding(kernel: Sequence[int], dilation: Sequence[int]) -> tuple[tuple[int, int], ...]:
    """Amounts before and after each axis under ``padding="same"``."""
    totals = [d * (size - 1) for size, d in zip(kernel, dilation, strict=True)]
    return tuple((total // 2, total - total // 2) for total in totals)


def convolution(
    x: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int],
    pads: Sequence[tuple[int, int]],
    dilation: Sequence[int],
) -> Tensor:
    """Windows that a convolution sees: (n, C, *spatial) to (n, S, C * prod(kernel))."""
    x = x.contiguous()  # rows of pixels are copied, whatever order the images have
    if any(any(p) for p in pads):
        x = F.pad(x, [p for pair in reversed(pads) for p in pair])
    n, dims = len(x), len(kernel)
    for axis, (size, step, gap) in enumerate(zip(kernel, stride, dilation, strict=True)):
        x = (
            x.unfold(2 + axis, gap * (size - 1) + 1, step)[..., ::gap]
            if gap > 1
            else x.unfold(2 + axis, size, step)
        )
    # (n, C, *positions, *kernel) to (n, C, *kernel, *positions): columns last lie together
    order = (0, 1, *range(2 + dims, 2 + 2 * dims), *range(2, 2 + dims))
    width = x.shape[1] * math.prod(kernel)
    return x.permute(order).reshape(n, width, -1).transpose(1, 2)
