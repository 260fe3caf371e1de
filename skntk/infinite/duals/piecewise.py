"""Arc-cosine duals: two-slope rectifiers (ReLU, leaky ReLU, abs) and the sign."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from skntk.infinite.angle import angle
from skntk.infinite.duals.base import Dual
from skntk.infinite.state import State, any_zero, safe_sqrt, spare


def angle_of(delta: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Angle whose cosine is 1 - delta, accurate at small angles, its sine and its cosine."""
    cosine, both = 1 - delta, 2 - delta
    sine = safe_sqrt(torch.mul(both, delta, out=spare(both)))
    return angle(sine, cosine), sine, cosine


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
        self.size, self.even = even + odd, odd == 0
        self.bend = 2 / math.pi * even / self.size if self.size else 0.0

    def diag(self, q: Tensor) -> tuple[Tensor, Tensor]:
        """Return both expectations at angle 0, or at a right angle for a zero signal."""
        slope = torch.full_like(q, self.size)
        slope = slope.where(q > 0, self.size * (1 - self.bend * math.pi / 2))
        return self.size * q, slope

    def cross(self, s: State) -> tuple[State, Tensor]:
        """Apply the formulas above to `s`."""
        # An even function takes antipodal signals for coincident ones: there, too, delta is small.
        opposite = s.delta > 1 if self.even else None
        delta = s.delta if opposite is None else torch.where(opposite, 2 - s.delta, s.delta)
        theta, sine, cosine = angle_of(delta)
        slope = torch.rsub(theta, self.size, alpha=self.size * self.bend)
        if opposite is not None:
            slope = torch.where(opposite, -slope, slope)
        bent = torch.addcmul(sine, theta, cosine, value=-1, out=spare(sine))
        # At least 0 despite rounding, and 1 at a zero signal.
        delta = torch.sub(delta, bent, alpha=self.bend, out=spare(bent))
        delta = torch.clamp_min(delta, 0, out=spare(delta))
        for k in (s.k1, s.k2):
            if any_zero(k):
                delta = torch.maximum(delta, (k == 0).to(k.dtype))
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
        delta = (2 / math.pi) * angle_of(s.delta)[0]
        return State(self.diag(s.k1)[0], self.diag(s.k2)[0], delta), torch.zeros_like(s.delta)

    def gain_dual(self) -> Dual:
        """Return the dual of 0."""
        return RectifierDual(0.0, 0.0)
