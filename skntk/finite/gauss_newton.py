"""Jacobians of layers in products: Gauss-Newton matrices, and covariances of outputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from skntk.finite.layers import AffineLayer, Layer
from skntk.finite.uses import per_row_products

#: Numbers that the temporaries of one product may take.
_BUDGET = 2**23


@dataclass(frozen=True)
class Outer:
    r"""A layer's Jacobian as outer products, :math:`J^p_i = B^p_i a_i^T`, or written out.

    Attributes
    ----------
    B : Tensor of shape (k, n, m) or (k, 1, m)
        Derivatives by the layer's outputs; with one row if that stands for all.
    a : Tensor of shape (n, d), or None
        Inputs; None if B is the Jacobian itself.
    """

    B: Tensor
    a: Tensor | None

    @classmethod
    def of(cls, layer: Layer) -> Outer:
        """Outer products where the layer has one position, else its Jacobian."""
        if not isinstance(layer, AffineLayer):
            (J,) = layer.jacobians().values()
            return cls(J.reshape(*J.shape[:2], -1), None)
        if layer.a.shape[1] > 1:
            return cls(per_row_products(layer.B, layer.columns()).flatten(2), None)
        B = layer.B[:, :, 0]
        return cls(B[:, :1] if layer.identity else B, layer.columns()[:, 0])

    @property
    def size(self) -> int:
        """Number of its parameters."""
        return self.B.shape[2] * (1 if self.a is None else self.a.shape[1])

    def written(self) -> Tensor:
        """The Jacobian: (k, n, size)."""
        if self.a is None:
            return self.B
        return (self.B[..., None] * self.a[:, None, :]).flatten(2)

    def rows(self, at: slice) -> Outer:
        """Some of its rows."""
        B = self.B if self.B.shape[1] == 1 else self.B[:, at]
        return Outer(B, None if self.a is None else self.a[at])

    def weighted(self, root: Tensor) -> Outer:
        r"""The Jacobian of :math:`R^T f`, given R of shape (n, k, r)."""
        if self.B.shape[1] == 1 and len(root) > 1:
            B = torch.einsum("npr,pm->rnm", root, self.B[:, 0])
        else:
            B = torch.bmm(root.mT, self.B.transpose(0, 1)).transpose(0, 1)
        return Outer(B, self.a)


def n_rows(layers: Sequence[Outer]) -> int:
    """Rows that the Jacobians are of."""
    return max(len(x.a) if x.a is not None else x.B.shape[1] for x in layers)


def gauss_newton(layers: Sequence[Outer], root: Tensor, out: Tensor) -> None:
    r"""Add :math:`\sum_i J_i^T R_i R_i^T J_i` to the upper blocks of a matrix.

    With outer products, :math:`\sum_i (B_i^T R_i R_i^T B_i) \otimes a_i a_i^T` takes one product of
    all pairs of B with all pairs of a: fewer operations than :math:`\tilde J^T \tilde J` by a
    factor of r.

    Parameters
    ----------
    layers : sequence of Outer
        Of n rows.
    root : Tensor of shape (n, k, r)
        Roots R of the loss's Hessians with respect to the outputs.
    out : Tensor of shape (P, P)
        Where to add; blocks below the diagonal ones are left as they are.
    """
    weighted = [layer.weighted(root) for layer in layers]
    ends = torch.tensor([layer.size for layer in layers]).cumsum(0).tolist()
    at = [slice(end - layer.size, end) for end, layer in zip(ends, layers, strict=True)]
    for i, one in enumerate(weighted):
        for j, two in enumerate(weighted[i:], start=i):
            block = out[at[i], at[j]]
            if one.a is None or two.a is None:
                J1, J2 = one.written().flatten(0, 1), two.written().flatten(0, 1)
                block.addmm_(J1.mT, J2)
            elif i == j:
                _add_own(block, one)
            else:
                _add_pair(block, one, two)


def gauss_newton_diagonal(layer: Outer, root: Tensor) -> Tensor:
    r"""Diagonal of :math:`\sum_i J_i^T R_i R_i^T J_i`: (m, d) of outer products, else (size,).

    Parameters
    ----------
    layer : Outer
        Of n rows.
    root : Tensor of shape (n, k, r)
        As of `gauss_newton`.
    """
    weighted = layer.weighted(root)
    if weighted.a is None:
        return weighted.B.square().sum((0, 1))
    return weighted.B.square().sum(0).mT @ weighted.a.square()


def _add_own(block: Tensor, one: Outer) -> None:
    """Add a layer's block with itself, from the pairs i >= j alone."""
    assert one.a is not None
    m, d = one.B.shape[2], one.a.shape[1]
    om, od = (torch.tril_indices(s, s, device=block.device) for s in (m, d))
    total = block.new_zeros(om.shape[1], od.shape[1])
    for rows in _chunks(len(one.a), om.shape[1] + od.shape[1] + m * m):
        B, a = one.B[:, rows], one.a[rows]
        M = torch.einsum("rnm,rnk->nmk", B, B)[:, om[0], om[1]]
        total.addmm_(M.mT, a[:, od[0]] * a[:, od[1]])
    inputs, at = _pair_index(d, block.device), _pair_index(m, block.device).view(m, m)
    four = block.view(m, d, m, d)
    for i in range(m):  # the pairs (i, j) with j >= i, each for all pairs of inputs
        pairs = total[at[i, i:]][:, inputs].view(m - i, d, d)
        four[i, :, i:] += pairs.transpose(0, 1)


def _add_pair(block: Tensor, one: Outer, two: Outer) -> None:
    assert one.a is not None
    assert two.a is not None
    m1, m2, d1, d2 = one.B.shape[2], two.B.shape[2], one.a.shape[1], two.a.shape[1]
    total = block.new_zeros(m1 * m2, d1 * d2)
    for rows in _chunks(len(one.a), m1 * m2 + d1 * d2):
        M = torch.einsum("rnm,rnk->nmk", one.B[:, rows], two.B[:, rows]).flatten(1)
        total.addmm_(M.mT, _pairs(one.a[rows], two.a[rows]))
    block += total.view(m1, m2, d1, d2).permute(0, 2, 1, 3).reshape(m1 * d1, m2 * d2)


def _pair_index(s: int, device: torch.device) -> Tensor:
    """Where (i, j) and (j, i) of s x s lie among the pairs i >= j: (s * s,)."""
    i = torch.arange(s, device=device)
    high, low = torch.maximum(i[:, None], i), torch.minimum(i[:, None], i)
    return (high * (high + 1) // 2 + low).flatten()


def _pairs(a: Tensor, b: Tensor) -> Tensor:
    return (a[:, :, None] * b[:, None, :]).flatten(1)


def _chunks(n: int, numbers: int) -> list[slice]:
    """Ranges of rows of which each takes so many numbers."""
    size = max(1, _BUDGET // max(numbers, 1))
    return [slice(s, min(s + size, n)) for s in range(0, n, size)]


class OutputCovariance:
    r"""Covariances :math:`J_i \Sigma J_i^T` of rows' outputs under a covariance of the parameters.

    Parameters
    ----------
    covariance : Tensor of shape (P, P)
        :math:`\Sigma`, symmetric.
    shapes : sequence of (m, d) or (P_l, None)
        Of each layer, as `Outer` has them.
    """

    def __init__(self, covariance: Tensor, shapes: Sequence[tuple[int, int | None]]) -> None:
        self.covariance, self.shapes = covariance, list(shapes)
        sizes = [m * (1 if d is None else d) for m, d in self.shapes]
        ends = torch.tensor(sizes).cumsum(0).tolist()
        self._at = [slice(end - size, end) for end, size in zip(ends, sizes, strict=True)]
        self._prepared: dict[tuple[int, int], Tensor] = {}

    def __getstate__(self) -> dict[str, object]:
        return {**vars(self), "_prepared": {}}

    def __call__(self, layers: Sequence[Outer]) -> Tensor:
        """Covariances (n, k, k) of the outputs of n rows, given their Jacobians."""
        k, n = layers[0].B.shape[0], n_rows(layers)
        total = self.covariance.new_zeros(n, k, k)
        for i, one in enumerate(layers):
            for j, two in enumerate(layers[: i + 1]):
                part = self._pair(i, j, one, two)
                total += part if i == j else part + part.mT
        return 0.5 * (total + total.mT)

    def _pair(self, i: int, j: int, one: Outer, two: Outer) -> Tensor:
        if one.a is None or two.a is None:
            left = one.written() @ self.covariance[self._at[i], self._at[j]]
            return torch.einsum("pnx,qnx->npq", left, two.written())
        operand = self._operand(i, j)
        m1, m2 = one.B.shape[2], two.B.shape[2]
        parts = []
        for rows in _chunks(len(one.a), sum(operand.shape) + m1 * m2):
            x, y = one.rows(rows), two.rows(rows)
            assert x.a is not None
            assert y.a is not None
            if i == j:
                od = torch.tril_indices(x.a.shape[1], x.a.shape[1], device=x.a.device)
                T = x.a[:, od[0]] * x.a[:, od[1]] @ operand
                T = T[:, _pair_index(m1, T.device)]
            else:
                T = _pairs(x.a, y.a) @ operand
            left = torch.matmul(x.B.transpose(0, 1), T.view(-1, m1, m2))
            parts.append(torch.matmul(left, y.B.transpose(0, 1).mT))
        return torch.cat(parts)

    def _operand(self, i: int, j: int) -> Tensor:
        """Block of the covariance as pairs of inputs meet it: (d d', m m'), or i >= j of each."""
        if (i, j) not in self._prepared:
            (m1, d1), (m2, d2) = self.shapes[i], self.shapes[j]
            assert d1 is not None
            assert d2 is not None
            S = self.covariance[self._at[i], self._at[j]].view(m1, d1, m2, d2).permute(1, 3, 0, 2)
            if i == j:
                om, od = (torch.tril_indices(s, s, device=S.device) for s in (m1, d1))
                # both orders of a pair of inputs at once, symmetrized over the outputs
                upper = S[od[0], od[1]][:, om[0], om[1]] + S[od[1], od[0]][:, om[0], om[1]]
                upper[od[0] == od[1]] *= 0.5
                S = upper
            else:
                S = S.reshape(d1 * d2, m1 * m2)
            self._prepared[i, j] = S.contiguous()
        return self._prepared[i, j]
