r"""Random tangent features of a layer, kept as factors and never multiplied out.

A weight between unit i of a layer and unit j of the one below has the feature
:math:`\sigma_w \delta_i(x) h_j(x)`: a backward signal times a forward signal. Units are taken in
small groups, all pairs within a group, so that a feature costs a product of small matrices rather
than memory.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import torch
from torch import Tensor

#: Units of a group: all pairs within it are features of the weights between two hidden layers.
GROUP = 8


@dataclass(frozen=True)
class Half:
    """Numbers in half precision, times a common power of two that keeps them in its range.

    Attributes
    ----------
    data : Tensor of float16
        The numbers, scaled.
    scale : float
        What they are multiplied by.
    """

    data: Tensor
    scale: float

    @classmethod
    def of(cls, x: Tensor) -> Half:
        """Round `x`; each number is kept to a relative 5e-4, or 1e-7 in all."""
        largest = float(x.abs().amax()) if x.numel() else 0.0
        if not math.isfinite(largest):
            raise FloatingPointError(
                f"a signal of the network is {largest}: scale the inputs, or lower weight_std."
            )
        scale = 2.0 ** (math.floor(math.log2(largest)) - 14) if largest > 0 else 1.0
        if 2.0**-14 <= scale <= 1:
            scale = 1.0  # in range as they are
        return cls((x / scale if scale != 1 else x).half().contiguous(), scale)

    @property
    def nbytes(self) -> int:
        """Bytes that it takes to keep."""
        return self.data.numel() * 2

    def __getitem__(self, units: slice) -> Half:
        return Half(self.data[..., units, :], self.scale)

    def into(self, place: Tensor, rows: Tensor | None) -> None:
        """Write the numbers in float32, at some rows of the last axis or all, into a place."""
        data = self.data if rows is None else self.data.index_select(-1, rows)
        place.copy_(data.view(place.shape))
        if self.scale != 1:
            place.mul_(self.scale)


@dataclass(frozen=True)
class Plain:
    """Numbers as they are, with the same face as `Half`.

    Attributes
    ----------
    data : Tensor of float32
        The numbers.
    """

    data: Tensor
    nbytes = 0  # inputs, which lie there anyway, or test rows, which are not kept

    def __getitem__(self, units: slice) -> Plain:
        return Plain(self.data[..., units, :])

    def into(self, place: Tensor, rows: Tensor | None) -> None:
        """Write the numbers, at some rows of the last axis or all, into a place."""
        data = self.data if rows is None else self.data.index_select(-1, rows)
        place.copy_(data.view(place.shape))


Signal = Half | Plain


@dataclass(frozen=True)
class Layer:
    r"""Signals of one layer's weight and bias, for a block of units.

    Attributes
    ----------
    delta : Signal of shape (c, N, n), or None
        Backward signals :math:`\delta` for c outputs; None for the readout, whose feature for one
        output concerns that output alone.
    h : Signal of shape (M, n), or None
        Forward signals that enter the layer, times :math:`\sigma_w`; None if there is no weight, or
        `delta` is its whole feature.
    bias_std : float or None
        :math:`\sigma_b`; None if there is no bias.
    columns : Tensor of int of shape (d', ), optional
        If `h` is the network's input: its columns that are not zero in all training rows.
    """

    delta: Signal | None
    h: Signal | None
    bias_std: float | None
    columns: Tensor | None = None

    @property
    def is_input(self) -> bool:
        """Whether it reads the network's input."""
        return self.columns is not None

    @property
    def nbytes(self) -> int:
        """Bytes that it takes to keep."""
        return sum(s.nbytes for s in (self.delta, self.h) if s is not None)


@dataclass(frozen=True)
class Chunk:
    r"""Features of one layer that are dealt with at one time: B x A products in each of g groups.

    Arrays over features have the shape (g, B, S, A): S runs, which share the features but not the
    residuals.

    Attributes
    ----------
    delta : Signal of shape (c, g A, n), or None
        As in `Layer`; None for the readout, where g is 1 and A is the number of outputs.
    h : Signal of shape (g M, n), or None
        As in `Layer`.
    groups : int
        g.
    outputs : int
        c.
    bias_std : float or None
        As in `Layer`; the bias is the last of the B columns.
    share : float
        Of the weight's features in all of them (1 except for columns that are always zero).
    """

    delta: Signal | None
    h: Signal | None
    groups: int
    outputs: int
    bias_std: float | None
    share: float = 1.0

    @functools.cached_property
    def shape(self) -> tuple[int, int, int]:
        """The sizes g, B and A."""
        units = self.outputs if self.delta is None else self.delta.data.shape[-2]
        weights = 0 if self.h is None else self.h.data.shape[-2] // self.groups
        lone = self.h is None and self.bias_std is None  # delta is the whole feature
        return self.groups, weights + lone + (self.bias_std is not None), units // self.groups

    @functools.cached_property
    def measure(self) -> Tensor:
        """What each of the B columns counts in the mean over features: (B, 1, 1)."""
        g, B, A = self.shape
        units = 1 if self.delta is None else g * A
        weights = B - (self.bias_std is not None)
        counts = [self.share / (units * max(weights, 1))] * weights
        if self.bias_std is not None:
            counts.append(1.0 / units)
        signal = self.delta if self.delta is not None else self.h
        assert signal is not None
        return torch.tensor(counts, device=signal.data.device, dtype=torch.float32).view(-1, 1, 1)

    def load(self, rows: Tensor | None) -> Values:
        """Signals at some rows, or all, ready for products."""
        signal = self.delta if self.delta is not None else self.h
        assert signal is not None
        g, B, A = self.shape
        data = signal.data
        n = data.shape[-1] if rows is None else len(rows)
        right = torch.empty(g, B, n, device=data.device, dtype=torch.float32)
        if self.h is not None:
            weights = B - (self.bias_std is not None)
            self.h.into(right[:, :weights], rows)
        if self.bias_std is not None:
            right[:, -1] = self.bias_std
        elif self.h is None:
            right.fill_(1.0)
        if self.delta is None:
            return Values(None, right)
        left = torch.empty(self.outputs, g, A, n, device=data.device, dtype=torch.float32)
        self.delta.into(left, rows)
        return Values(left, right)


@dataclass(frozen=True)
class Values:
    r"""Features of a chunk at n rows, as factors.

    Attributes
    ----------
    left : Tensor of shape (c, g, A, n), or None
        :math:`\delta`; None stands for the identity over outputs.
    right : Tensor of shape (g, B, n)
        :math:`\sigma_w h`, and :math:`\sigma_b` in the last column if there is a bias.
    """

    left: Tensor | None
    right: Tensor

    def squared(self) -> Values:
        """Squares of all features, as factors."""
        left = None if self.left is None else self.left.square()
        return Values(left, self.right.square())

    def gradient(self, r: Tensor) -> Tensor:
        r""":math:`\sum_{ic} r(i,c) \psi_c(x_i)` for r of shape (S, c, n): (g, B, S, A)."""
        g, B, n = self.right.shape
        S, c = r.shape[:2]
        if self.left is None:
            return (self.right @ r.reshape(S * c, n).mT).view(1, B, S, c)
        weighted = self.left[0].unsqueeze(1) * r[:, 0].view(1, S, 1, n)
        for i in range(1, c):
            weighted.addcmul_(self.left[i].unsqueeze(1), r[:, i].view(1, S, 1, n))
        # the smaller factor first is up to twice as fast
        return torch.bmm(self.right, weighted.view(g, -1, n).mT).view(g, B, S, -1)

    def output(self, w: Tensor) -> Tensor:
        r""":math:`\sum_\omega w(\omega) \psi_c(x_i; \omega)` for w (g, B, S, A): (S, c, n)."""
        g, B, S, A = w.shape
        P = torch.bmm(w.reshape(g, B, S * A).mT, self.right).view(g, S, A, -1)
        if self.left is None:
            return P[0]
        *others, last = (left.unsqueeze(1) for left in self.left)
        return torch.stack([*(_summed(P * left) for left in others), _summed(P.mul_(last))], 1)


def _summed(P: Tensor) -> Tensor:
    """Sum of (g, S, A, n) over g and A; one axis at a time is ten times as fast as both."""
    return P[0].sum(1) if len(P) == 1 else P.sum(0).sum(1)


def chunks(layers: list[Layer], first: int, parts: int, n_columns: int) -> list[Chunk]:
    """Cut a block of units into chunks of all layers.

    Parameters
    ----------
    layers : list of Layer
        Signals of the block.
    first : int
        Column of the input that the first chunk begins with; chunks take turns.
    parts : int
        How many.
    n_columns : int
        Columns of the input that each chunk looks at.
    """
    c = next((len(x.delta.data) for x in layers if x.delta is not None), 1)
    return [
        _chunk(layer, i, parts, first + i * n_columns, n_columns, c)
        for i in range(parts)
        for layer in layers
    ]


def _chunk(layer: Layer, i: int, parts: int, first: int, n_columns: int, c: int) -> Chunk:
    delta, h, bias = layer.delta, layer.h, layer.bias_std
    if delta is None:
        assert h is not None
        # without hidden layers each chunk has the whole input
        return Chunk(None, h if layer.columns is not None else _part(h, i, parts), 1, c, bias)
    some = _part(delta, i, parts)
    if h is None:
        return Chunk(some, None, 1, c, bias)
    if layer.columns is None:
        return Chunk(some, _part(h, i, parts), some.data.shape[-2] // GROUP, c, bias)
    d, total = len(layer.columns), h.data.shape[-2]
    if d == 0:
        return Chunk(some, None, 1, c, bias, share=0.0)
    at = torch.arange(first, first + min(n_columns, d), device=layer.columns.device) % d
    return Chunk(some, Plain(h.data[layer.columns[at]]), 1, c, bias, share=d / total)


def _part(signal: Signal, i: int, parts: int) -> Signal:
    size = signal.data.shape[-2] // parts
    return signal[slice(i * size, (i + 1) * size)]
