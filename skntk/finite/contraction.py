r"""Jacobians of a block of rows in the form that makes their products cheap.

The kernel between two blocks is a sum over layers, and for a layer the sum over all pairs of
positions (s, t) of :math:`(a_{is} \cdot a_{jt}) (B^p_{is} \cdot B^q_{jt})` (`Pair` and
`LookupPair`), or the product of Jacobians that have been written out (`Flat`). Where all outputs
have the same output Jacobian up to factors, :math:`B^p = r^p \circ B`, one of them does (`Scaled`:
Novak et al. 2022, section 3.4, call it constant block-diagonal structure).

Tiles are (k, r, k, c) for all pairs of outputs, (k, r, c) for equal ones; the trace over outputs is
the case k = 1, where B are those of all outputs side by side.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

#: Rows of a block on the diagonal that is not halved further.
_BLOCK = 256


class Form(ABC):
    """The Jacobian of a block of rows with respect to one or more parameters."""

    @abstractmethod
    def add(self, tile: Tensor, other: Form) -> None:
        """Add the product with another block to a tile, (k, r, k, c) or (k, r, c)."""

    @abstractmethod
    def own(self, outputs: str) -> Tensor:
        """Product of each row with itself: (n, k, k) if `outputs` is "full", else (n, k)."""

    @property
    @abstractmethod
    def nbytes(self) -> int:
        """Memory that it takes."""


class _Positions(Form):
    """What pairs of positions have in common: inputs of some kind, and B (k, n, S, m)."""

    B: Tensor

    @abstractmethod
    def _inputs(self, other: Form, row: int | None) -> Tensor:
        """Products of inputs (n, S) with all of another block (c, T), or with one row (T,)."""

    def add(self, tile: Tensor, other: Form) -> None:
        assert isinstance(other, _Positions)
        B, C = self.B, other.B
        k, r, S, m = B.shape
        if S == C.shape[2] == 1:
            A = self._inputs(other, None).view(r, -1)
            if tile.ndim == 3:
                tile.addcmul_(B[:, :, 0] @ C[:, :, 0].mT, A)
            else:
                G = B.flatten(0, 2) @ C.flatten(0, 2).T
                tile.addcmul_(G.view(tile.shape), A[:, None])
            return
        rows = B.transpose(0, 1)
        for j in range(C.shape[1]):  # (A C_j) first: positions squared times k, not times k squared
            A = self._inputs(other, j).view(r * S, -1)
            C_j = C[:, j].transpose(0, 1)
            X = (A @ C_j.flatten(1)).view(r, S, k, m)
            if tile.ndim == 3:
                tile[:, :, j] += torch.einsum("rksm,rskm->kr", rows, X)
            else:
                X = X.transpose(1, 2).reshape(r, k, S * m)
                tile[:, :, :, j] += (rows.reshape(r, k, S * m) @ X.mT).transpose(0, 1)

    def own(self, outputs: str) -> Tensor:
        A = self._own_inputs()
        AC = torch.einsum("nst,qntm->qnsm", A, self.B)
        if outputs == "full":
            return torch.einsum("pnsm,qnsm->npq", self.B, AC)
        return torch.einsum("pnsm,pnsm->np", self.B, AC)

    @abstractmethod
    def _own_inputs(self) -> Tensor:
        """Products of inputs at all pairs of positions of a row: (n, S, S)."""


@dataclass(frozen=True)
class Pair(_Positions):
    """A layer as inputs (n, S, d) and output Jacobians (k, n, S, m)."""

    a: Tensor
    B: Tensor

    def _inputs(self, other: Form, row: int | None) -> Tensor:
        assert isinstance(other, Pair)
        columns = other.a if row is None else other.a[row]
        return self.a.flatten(0, 1) @ columns.reshape(-1, columns.shape[-1]).T

    def _own_inputs(self) -> Tensor:
        return self.a @ self.a.mT

    @property
    def nbytes(self) -> int:
        return self.a.nbytes + self.B.nbytes


@dataclass(frozen=True)
class LookupPair(_Positions):
    """An embedding as indices (n, S) and output Jacobians (k, n, S, m)."""

    indices: Tensor
    B: Tensor

    def _inputs(self, other: Form, row: int | None) -> Tensor:
        assert isinstance(other, LookupPair)
        columns = other.indices if row is None else other.indices[row]
        return (self.indices.reshape(-1, 1) == columns.reshape(1, -1)).to(self.B.dtype)

    def _own_inputs(self) -> Tensor:
        return (self.indices[:, :, None] == self.indices[:, None, :]).to(self.B.dtype)

    @property
    def nbytes(self) -> int:
        return self.indices.nbytes + self.B.nbytes


@dataclass(frozen=True)
class Scaled(Form):
    """A layer of which output p has the Jacobian ``r[p, :, None] * M[i]``: (k, m), (n, m, D)."""

    r: Tensor
    M: Tensor

    def add(self, tile: Tensor, other: Form) -> None:
        assert isinstance(other, Scaled)
        k, m = self.r.shape
        G = torch.bmm(self.M.transpose(0, 1), other.M.permute(1, 2, 0))
        rows, columns = G.shape[1:]
        if tile.ndim == 4 and tile.shape[0] == k:
            weights = (self.r[:, None] * other.r).view(k * k, m)
            products = (weights @ G.view(m, -1)).view(k, k, rows, columns)
            tile += products.transpose(1, 2)
            return
        weights = self.r * other.r
        weights = weights if tile.ndim == 3 else weights.sum(0, keepdim=True)
        tile += (weights @ G.view(m, -1)).view(tile.shape)

    def own(self, outputs: str) -> Tensor:
        squares = self.M.square().sum(2)
        if outputs == "full":
            return torch.einsum("pc,qc,nc->npq", self.r, self.r, squares)
        each = squares @ self.r.square().T
        return each if outputs == "diagonal" else each.sum(1, keepdim=True)

    @property
    def nbytes(self) -> int:
        return self.r.nbytes + self.M.nbytes


@dataclass(frozen=True)
class Flat(Form):
    """Jacobians that are written out: (n, k, P)."""

    J: Tensor

    def add(self, tile: Tensor, other: Form) -> None:
        assert isinstance(other, Flat)
        n, k, P = self.J.shape
        if tile.ndim == 3:
            tile += torch.bmm(self.J.transpose(0, 1), other.J.permute(1, 2, 0))
            return
        one, two = self.J.view(n * k, P), other.J.view(-1, P)
        products = _square(one) if other is self else one @ two.T
        tile += products.view(n, k, -1, k).permute(1, 0, 3, 2)

    def own(self, outputs: str) -> Tensor:
        if outputs == "full":
            return self.J @ self.J.mT
        return self.J.square().sum(2)

    @property
    def nbytes(self) -> int:
        return self.J.nbytes


def _square(J: Tensor) -> Tensor:
    """Product (N, N) of a matrix (N, P) with its transpose, block by block below the diagonal."""
    out = J.new_empty(len(J), len(J))

    def fill(a: int, b: int) -> None:
        if b - a <= _BLOCK:
            torch.mm(J[a:b], J[a:b].T, out=out[a:b, a:b])
            return
        m = (a + b) // 2
        fill(a, m)
        fill(m, b)
        torch.mm(J[m:b], J[a:m].T, out=out[m:b, a:m])
        out[a:m, m:b] = out[m:b, a:m].T

    fill(0, len(J))
    return out
