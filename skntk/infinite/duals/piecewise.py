"""Arc-cosine duals: two-slope rectifiers (ReLU, leaky ReLU, abs) and the sign."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from skntk.infinite.duals.base import Dual
from skntk.infinite.state import State, safe_sqrt


def half_angle(delta: Tensor) -> Tensor:
    """Half of the angle whose cosine is 1 - delta; accurate at small angles, gradient masked."""
    if not delta.requires_grad:
        return torch.asin((0.5 * delta).sqrt().clamp(max=1.0))
    inside = (delta > 0) & (delta < 2)
    theta = torch.asin((0.5 * torch.where(inside, delta, 1.0)).sqrt())
    return torch.where(inside, theta, torch.where(delta > 0, math.pi / 2, 0.0))


class RectifierDual(Dual):
    r"""Dual of :math:`\phi(x) = a \min(x, 0) + b \max(x, 0)` (Cho & Saul 2009, order 1).

    With :math:`m^2 = (a + b)^2 / 4`, :math:`h^2 = (b - a)^2 / 4` and
    :math:`g = \frac{2}{\pi} \frac{h^2}{m^2 + h^2}`, at the angle :math:`\theta` of the pair,

    .. math::

        \rho' = \rho + g (\sin\theta - \theta \cos\theta), \qquad
        \dot\sigma = (m^2 + h^2)(1 - g\,\theta), \qquad \sigma(q) = (m^2 + h^2)\, q.

    Parameters
    ----------
    a, b : float
        Slopes left and right of zero.
    """

    degree = 1.0

    def __init__(self, a: float, b: float) -> None:
        even, odd = (b - a) ** 2 / 4, (a + b) ** 2 / 4
        self.size = even + odd
        self.bend = 2 / math.pi * even / self.size if self.size else 0.0

    def diag(self, q: Tensor) -> tuple[Tensor, Tensor]:
        """Return both expectations at angle 0, or at a right angle for a zero signal."""
        slope = torch.where(q > 0, self.size, self.size * (1 - self.bend * math.pi / 2))
        return self.size * q, slope

    def cross(self, s: State) -> tuple[State, Tensor]:
        """Apply the formulas above to `s`."""
        theta = 2 * half_angle(s.delta)
        sine = safe_sqrt(s.delta * (2 - s.delta))
        delta = (s.delta - self.bend * (sine - theta * (1 - s.delta))).clamp_min(0)
        slope = self.size * (1 - self.bend * theta)
        return State(self.size * s.k1, self.size * s.k2, delta), slope

    def gain_dual(self) -> Dual:
        """Return itself: x phi'(x) = phi(x) for a homogeneous function (Euler)."""
        return self


class SignDual(Dual):
    r"""Dual of the sign: :math:`\sigma = 1 - 2\theta/\pi`; its derivative is taken as 0."""

    degree = 0.0

    def diag(self, q: Tensor) -> tuple[Tensor, Tensor]:
        """Return 1 (0 for a zero signal) and 0."""
        return (q > 0).to(q.dtype), torch.zeros_like(q)

    def cross(self, s: State) -> tuple[State, Tensor]:
        """Apply the formula above to `s`."""
        delta = (4 / math.pi) * half_angle(s.delta)
        return State(self.diag(s.k1)[0], self.diag(s.k2)[0], delta), torch.zeros_like(s.delta)

    def gain_dual(self) -> Dual:
        """Return the dual of 0."""
        return RectifierDual(0.0, 0.0)
