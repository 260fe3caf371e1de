r"""Jacobians of a block of rows in the form that makes their products cheap.

The kernel between two blocks is a sum over layers, and for a layer the sum over all pairs of
positions (s, t) of :math:`(a_{is} \cdot a_{jt}) (B^p_{is} \cdot B^q_{jt})` (`Pair` and
`LookupPair`), or the product of Jacobians that have been written out (`Flat`). Which is cheaper
follows from the sizes. The trace over outputs is the case of one output whose B are those of all
outputs side by side, so there are two kinds of tiles: all pairs of outputs (k, r, k, c), or equal
ones (k, r, c).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from skntk.finite.capture import AffineLayer, Capture, LookupLayer, PlainLayer

#: How many multiplications of a matrix product take as long as one elementwise operation.
_ELEMENTWISE = 16


class Form(ABC):
    """The Jacobian of a block of rows with respect to one or more parameters."""

    @abstractmethod
    def add(self, tile: Tensor, other: Form) -> None:
        """Add the product with another block to a tile, (k, r, k, c) or (k, r, c)."""

    @abstractmethod
    def own(self, full: bool) -> Tensor:
        """Product of each row with itself: (n, k, k), or (n, k)."""

    @property
    @abstractmethod
    def nbytes(self) -> int:
        """Memory that it takes."""

    @staticmethod
    @abstractmethod
    def joined(pieces: Sequence[Any]) -> Form:
        """Blocks of rows that follow each other as one."""


@dataclass(frozen=True)
class Pair(Form):
    """A layer as inputs (n, S, d) and output Jacobians (k, n, S, m)."""

    a: Tensor
    B: Tensor

    def _inputs(self, other: Form) -> Tensor:
        """Products of inputs (r, S, c, T)."""
        assert isinstance(other, Pair)
        A = self.a.flatten(0, 1) @ other.a.flatten(0, 1).T
        return A.view(*self.a.shape[:2], *other.a.shape[:2])

    def add(self, tile: Tensor, other: Form) -> None:
        assert isinstance(other, Pair | LookupPair)
        A = self._inputs(other)
        B, C = self.B, other.B
        if tile.ndim == 3:
            for p in range(len(B)):
                _add_pairs(tile[p], B[p], C[p : p + 1], A)
        elif A.shape[1] == A.shape[3] == 1:
            G = B.flatten(0, 2) @ C.flatten(0, 2).T
            tile.addcmul_(G.view(tile.shape), A[:, 0, None, :, 0])
        else:
            for p in range(len(B)):
                _add_pairs(tile[p], B[p], C, A)

    def own(self, full: bool) -> Tensor:
        A = self._own_inputs()
        if full:
            AC = torch.einsum("nst,qntm->qnsm", A, self.B)
            return torch.einsum("pnsm,qnsm->npq", self.B, AC)
        return torch.einsum("nst,pnsm,pntm->np", A, self.B, self.B)

    def _own_inputs(self) -> Tensor:
        """Products of inputs at all pairs of positions of a row: (n, S, S)."""
        return self.a @ self.a.mT

    @property
    def nbytes(self) -> int:
        return self.a.nbytes + self.B.nbytes

    @staticmethod
    def joined(pieces: Sequence[Pair]) -> Pair:
        return Pair(torch.cat([p.a for p in pieces]), torch.cat([p.B for p in pieces], 1))


@dataclass(frozen=True)
class LookupPair(Form):
    """An embedding as indices (n, S) and scaled output Jacobians (k, n, S, m)."""

    indices: Tensor
    B: Tensor

    def _inputs(self, other: Form) -> Tensor:
        assert isinstance(other, LookupPair)
        same = self.indices[:, :, None, None] == other.indices
        return same.to(self.B.dtype)

    add = Pair.add
    own = Pair.own

    def _own_inputs(self) -> Tensor:
        return (self.indices[:, :, None] == self.indices[:, None, :]).to(self.B.dtype)

    @property
    def nbytes(self) -> int:
        return self.indices.nbytes + self.B.nbytes

    @staticmethod
    def joined(pieces: Sequence[LookupPair]) -> LookupPair:
        indices = torch.cat([p.indices for p in pieces])
        return LookupPair(indices, torch.cat([p.B for p in pieces], 1))


@dataclass(frozen=True)
class Flat(Form):
    """Jacobians that are written out: (k, n, P)."""

    J: Tensor

    def add(self, tile: Tensor, other: Form) -> None:
        assert isinstance(other, Flat)
        if tile.ndim == 3:
            tile.baddbmm_(self.J, other.J.mT)
        else:
            sides = tile.shape[0] * tile.shape[1], tile.shape[2] * tile.shape[3]
            tile.view(sides).addmm_(self.J.flatten(0, 1), other.J.flatten(0, 1).T)

    def own(self, full: bool) -> Tensor:
        if full:
            return torch.einsum("pnx,qnx->npq", self.J, self.J)
        return self.J.square().sum(2).T

    @property
    def nbytes(self) -> int:
        return self.J.nbytes

    @staticmethod
    def joined(pieces: Sequence[Flat]) -> Flat:
        return Flat(torch.cat([p.J for p in pieces], 1))


def _add_pairs(tile: Tensor, B: Tensor, C: Tensor, A: Tensor) -> None:
    """Add to (r, k, c), or (r, c), the sum over positions of A (r, S, c, T) and B C."""
    G = B.flatten(0, 1) @ C.flatten(0, 2).T
    r, S, c, T = A.shape
    products = G.view(r, S, len(C), c, T).mul_(A[:, :, None])
    tile += products.sum((1, 4)).view(tile.shape)


def forms(found: Capture, outputs: str) -> list[Form]:
    """Turn a capture into forms for `outputs`; all written-out Jacobians are joined into one."""
    k = found.outputs.shape[1]
    made: list[Form] = []
    flat: list[Tensor] = []
    for layer in found.layers:
        if not isinstance(layer, PlainLayer) and paired(layer, outputs):
            made.append(_pair(layer, outputs))
        else:
            flat += [J.reshape(*J.shape[:2], -1) for J in layer.jacobians().values()]
    if flat:
        J = flat[0].contiguous() if len(flat) == 1 else torch.cat(flat, 2)
        if outputs == "trace":
            J = J.transpose(0, 1).reshape(1, len(found.outputs), -1) / math.sqrt(k)
        made.append(Flat(J))
    return made


def paired(layer: AffineLayer | LookupLayer, outputs: str) -> bool:
    """Whether the products of a layer are cheaper from pairs of positions than from Jacobians."""
    k, _, S, m = layer.B.shape
    if isinstance(layer, LookupLayer):
        products, columns = 0, layer.shapes[layer.weight][0]
    else:
        products = layer.a.shape[2] * (layer.weight is not None)
        columns = products + (layer.bias is not None)
    entries = k**2 if outputs == "full" else k
    elementwise = _ELEMENTWISE * (1 if outputs == "trace" else entries)
    pairs = S**2 * (products + entries * m + elementwise)
    return pairs < entries * m * columns


def _pair(layer: AffineLayer | LookupLayer, outputs: str) -> Form:
    B = layer.B
    if outputs == "trace":  # as one output
        k, n, S, m = B.shape
        B = B.permute(1, 2, 0, 3).reshape(1, n, S, k * m) / math.sqrt(k)
    if isinstance(layer, LookupLayer):
        return LookupPair(layer.indices, layer.weight_scale * B)
    return Pair(layer.columns(), B.contiguous())
