"""Closed forms for erf, GELU, sine and cosine, exponential and Gaussian."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from skntk.infinite.angle import arcsine
from skntk.infinite.duals.base import Dual
from skntk.infinite.state import State, safe_sqrt


def one_minus_overlap(s: State, scale: float) -> tuple[Tensor, Tensor, Tensor]:
    r"""Return :math:`1 - o^2`, `o`, and :math:`\sqrt{w_1 w_2}` without cancellation or overflow.

    The overlap is :math:`o = c q_{12} \sqrt{w_1 w_2}` with :math:`w = 1 / (1 + c q)` and
    :math:`c` = `scale`. All terms of :math:`1 - o^2 = w_1 + w_2 (1 - w_1) + (1 - w_1)(1 - w_2)
    (1 - \rho^2)` are positive.
    """
    w1, w2 = 1 / (1 + scale * s.k1), 1 / (1 + scale * s.k2)
    c1, c2 = safe_sqrt((scale * s.k1) * w1), safe_sqrt((scale * s.k2) * w2)
    both = c1 * c2
    left = torch.addcmul(torch.addcmul(w1, w2, c1.square()), both.square(), s.delta * (2 - s.delta))
    return left, both * (1 - s.delta), w1.sqrt() * w2.sqrt()


class ErfDual(Dual):
    r"""Dual of :math:`a\,\mathrm{erf}(b x) + c` (Williams 1997): an arcsine.

    Parameters
    ----------
    a, b, c : float
        Scale of the output, of the input, and offset.
    """

    def __init__(self, a: float = 1.0, b: float = 1.0, c: float = 0.0) -> None:
        self.a, self.b, self.c = a, b, c

    def diag(self, q: Tensor) -> tuple[Tensor, Tensor]:
        """Return both expectations at angle 0."""
        p = 2 * self.b**2 * q
        sigma = self.a**2 * (2 / math.pi) * torch.atan2(p, (1 + 2 * p).sqrt()) + self.c**2
        return sigma, (self.a * self.b) ** 2 * (4 / math.pi) / (1 + 2 * p).sqrt()

    def cross(self, s: State) -> tuple[State, Tensor]:
        """Apply the arcsine, as the arctangent that stays accurate next to one."""
        left, overlap, root = one_minus_overlap(s, 2 * self.b**2)
        length = left.sqrt()
        sigma = (self.a**2 * (2 / math.pi)) * arcsine(overlap, length)
        slope = ((self.a * self.b) ** 2 * (4 / math.pi)) * root / length
        if self.c:
            sigma = sigma + self.c**2
        return s.with_cross(self.diag(s.k1)[0], self.diag(s.k2)[0], sigma, slope), slope


class GELUDual(Dual):
    r"""Dual of the exact GELU, :math:`x \Phi(x)`, by Stein's identity.

    With :math:`w_i = 1 / (1 + q_i)`, the overlap :math:`o = q_{12} \sqrt{w_1 w_2}`,
    :math:`P = \tfrac14 + \tfrac1{2\pi} \arcsin o` and
    :math:`G = \frac{1}{2 \pi} \sqrt{q_1 w_1 q_2 w_2 / (1 - o^2)}`,

    .. math::

        \sigma &= \sqrt{q_1 q_2} [\rho P + G (1 - \rho^2 + \rho^2 (w_1 + w_2))], \\
        \dot\sigma &= P + \rho\, G (w_1 + w_2 + w_1 w_2 / (1 - o^2)).
    """

    def _both(self, s: State) -> tuple[Tensor, Tensor]:
        left, overlap, root = one_minus_overlap(s, 1.0)
        rho, size = 1 - s.delta, safe_sqrt(s.k1) * safe_sqrt(s.k2)
        below = 0.25 + arcsine(overlap, left.sqrt()) / (2 * math.pi)
        density = (root * size) * left.rsqrt() / (2 * math.pi)
        w = 1 / (1 + s.k1) + 1 / (1 + s.k2)
        sigma = size * (rho * below + density * (s.delta * (2 - s.delta) + rho.square() * w))
        return sigma, below + rho * density * (w + root.square() / left)

    def diag(self, q: Tensor) -> tuple[Tensor, Tensor]:
        """Return both expectations at angle 0."""
        return self._both(State(q, q, torch.zeros_like(q)))

    def cross(self, s: State) -> tuple[State, Tensor]:
        """Apply the formulas above to `s`."""
        sigma, slope = self._both(s)
        return s.with_cross(self.diag(s.k1)[0], self.diag(s.k2)[0], sigma, slope), slope


class SinDual(Dual):
    r"""Dual of :math:`a \sin(b x + c)`; a cosine is a sine with the phase :math:`c + \pi/2`.

    Parameters
    ----------
    a, b, c : float
        Amplitude, angular frequency, phase.
    """

    def __init__(self, a: float = 1.0, b: float = 1.0, c: float = 0.0) -> None:
        self.a, self.b, self.twist = a, b, math.cos(2 * c)

    def _both(self, s: State) -> tuple[Tensor, Tensor]:
        difference, total = s.sum_of_squares
        even = torch.exp(-0.5 * self.b**2 * difference)
        odd = torch.exp(-0.5 * self.b**2 * total)
        # even - odd cancels where the covariance is small; a hyperbolic sine does not.
        size = torch.exp(-0.5 * self.b**2 * s.k1) * torch.exp(-0.5 * self.b**2 * s.k2)
        both = self.b**2 * s.nngp
        small = both.abs() < 1
        sine = 2 * size * torch.sinh(both * small)
        apart = torch.where(small, sine, even - odd)
        sigma = (0.5 * self.a**2) * (apart + (1 - self.twist) * odd)
        return sigma, (0.5 * (self.a * self.b) ** 2) * (apart + (1 + self.twist) * odd)

    def diag(self, q: Tensor) -> tuple[Tensor, Tensor]:
        """Return both expectations at angle 0."""
        return self._both(State(q, q, torch.zeros_like(q)))

    def cross(self, s: State) -> tuple[State, Tensor]:
        """Apply the characteristic function of a Gaussian to `s`."""
        sigma, slope = self._both(s)
        return s.with_cross(self.diag(s.k1)[0], self.diag(s.k2)[0], sigma, slope), slope


class ExpDual(Dual):
    r"""Dual of :math:`a \exp(b x)`: :math:`\sigma = a^2 \exp(b^2 (q_1 + q_2 + 2 q_{12}) / 2)`.

    Parameters
    ----------
    a, b : float
        Scale of the output and of the exponent.
    """

    def __init__(self, a: float = 1.0, b: float = 1.0) -> None:
        self.a, self.b = a, b

    def diag(self, q: Tensor) -> tuple[Tensor, Tensor]:
        """Return both expectations at angle 0."""
        sigma = self.a**2 * torch.exp(2 * self.b**2 * q)
        return sigma, self.b**2 * sigma

    def cross(self, s: State) -> tuple[State, Tensor]:
        """Apply the moment generating function of a Gaussian to `s`."""
        difference, total = s.sum_of_squares
        k1, k2 = self.diag(s.k1)[0], self.diag(s.k2)[0]
        slope = (self.a * self.b) ** 2 * torch.exp(0.5 * self.b**2 * total)
        delta = -torch.expm1(-0.5 * self.b**2 * difference)
        return State(k1, k2, delta), slope


class GaussianDual(Dual):
    r"""Dual of :math:`a \exp(b x^2)`, :math:`b \le 0`.

    With :math:`c = -2b`, :math:`w = 1 / (1 + c q)` and :math:`o = c q_{12} \sqrt{w_1 w_2}`,
    :math:`\sigma = a^2 \sqrt{w_1 w_2 / (1 - o^2)}` and
    :math:`\dot\sigma = c\, \sigma\, o \sqrt{w_1 w_2} / (1 - o^2)`.

    Parameters
    ----------
    a, b : float
        Height, and the coefficient of the square.
    """

    def __init__(self, a: float = 1.0, b: float = -1.0) -> None:
        self.a, self.c = a, -2.0 * b

    def _both(self, s: State) -> tuple[Tensor, Tensor]:
        left, overlap, root = one_minus_overlap(s, self.c)
        sigma = self.a**2 * (root * left.rsqrt())
        return sigma, self.c * sigma * (overlap * root / left)

    def diag(self, q: Tensor) -> tuple[Tensor, Tensor]:
        """Return both expectations at angle 0."""
        return self._both(State(q, q, torch.zeros_like(q)))

    def cross(self, s: State) -> tuple[State, Tensor]:
        """Apply the formulas above to `s`."""
        sigma, slope = self._both(s)
        return s.with_cross(self.diag(s.k1)[0], self.diag(s.k2)[0], sigma, slope), slope
