"""Inputs prepared once for all tiles: unit rows and mean squares, and the state of their pairs."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from skntk.infinite.state import State, safe_sqrt, spare

#: Pairs whose cosine is this close to 1 or -1 get their angle from differences of unit rows.
NEAR = 1e-3
_CHUNK = 2**22


@dataclass(frozen=True)
class Inputs:
    """Rows of X as directions and sizes.

    Attributes
    ----------
    unit : Tensor of shape (..., n, d)
        Rows of unit norm; zero rows stay zero.
    square : Tensor of shape (..., n)
        |x|^2 / d, the variance of the input's signal.
    """

    unit: Tensor
    square: Tensor

    @classmethod
    def of(cls, X: Tensor) -> Inputs:
        """Prepare rows (..., n, d)."""
        # Scaling by the largest entry keeps squares of tiny and huge entries in range.
        largest = X.detach().abs().amax(-1, keepdim=True)
        largest = torch.where(largest > 0, largest, 1.0)
        scaled = X / largest
        norm = safe_sqrt(scaled.square().sum(-1, keepdim=True))
        unit = scaled / torch.where(norm > 0, norm, 1.0)
        return cls(unit, ((norm * largest).squeeze(-1)).square() / X.shape[-1])

    def __len__(self) -> int:
        return int(self.square.shape[-1])

    def __getitem__(self, rows: slice) -> Inputs:
        return Inputs(self.unit[..., rows, :], self.square[..., rows])

    def own(self) -> State:
        """State of each row with itself: tensors of shape (..., n)."""
        return State(self.square, self.square, (self.square == 0).to(self.square.dtype), own=True)

    def pairs(self, other: Inputs) -> State:
        """State of all pairs of rows: (..., n1, n2)."""
        k1, k2 = self.square.unsqueeze(-1), other.square.unsqueeze(-2)
        return State(k1, k2, complement(self.unit, other.unit))


def complement(u: Tensor, v: Tensor) -> Tensor:
    """One minus the cosine of all pairs of unit rows, without cancellation near coincidence."""
    rho = u @ v.mT
    delta = torch.sub(rho.new_ones(()), rho, out=spare(rho))
    low, high = torch.aminmax(delta.detach())
    if low < NEAR:
        near = delta.detach() < NEAR
        delta = _replace(delta, near, 0.5 * _gather(u, v, near)[0])
    if high > 2 - NEAR:
        far = delta.detach() > 2 - NEAR
        delta = _replace(delta, far, 2 - 0.5 * _gather(u, v, far)[1])
    return delta


def angles(u: Tensor, v: Tensor) -> Tensor:
    """Angle of all pairs of unit rows in [0, pi], accurate at both ends."""
    rho = u @ v.mT
    low, high = torch.aminmax(rho)
    theta = rho.clamp_(-1.0, 1.0).acos_()
    if high > 1 - NEAR or low < NEAR - 1:
        near = (theta < math.sqrt(2 * NEAR)) | (theta > math.pi - math.sqrt(2 * NEAR))
        apart, together = _gather(u, v, near)
        theta[near] = 2 * torch.atan2(apart.sqrt(), together.sqrt())
    return theta


def _gather(u: Tensor, v: Tensor, near: Tensor) -> tuple[Tensor, Tensor]:
    """Squared norms of the differences and of the sums of the flagged pairs of rows."""
    *batch, i, j = torch.nonzero(near, as_tuple=True)
    u = u.expand(*near.shape[:-2], *u.shape[-2:])
    v = v.expand(*near.shape[:-2], *v.shape[-2:])
    step = max(_CHUNK // u.shape[-1], 1)
    apart, together = [u.new_empty(0)], [u.new_empty(0)]
    for start in range(0, len(i), step):
        part = slice(start, start + step)
        index = tuple(b[part] for b in batch)
        a, b = u[(*index, i[part])], v[(*index, j[part])]
        apart.append((a - b).square().sum(-1))
        together.append((a + b).square().sum(-1))
    return torch.cat(apart), torch.cat(together)


def _replace(target: Tensor, where: Tensor, values: Tensor) -> Tensor:
    if target.requires_grad:
        return target.masked_scatter(where, values)
    target[where] = values
    return target
