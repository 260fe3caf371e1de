"""Duals as Hermite series: polynomials in closed form."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from skntk.infinite.duals.base import Dual
from skntk.infinite.state import State, safe_sqrt


def hermite_series(
    a1: Sequence[Tensor] | Tensor, a2: Sequence[Tensor] | Tensor, rho: Tensor
) -> Tensor:
    """Sum over n of ``a1[n] a2[n] rho^n``, by Horner's rule."""
    total = a1[-1] * a2[-1] * torch.ones_like(rho)
    for n in range(len(a1) - 2, -1, -1):
        if total.requires_grad or a1[n].requires_grad or a2[n].requires_grad:
            total = torch.addcmul(total * rho, a1[n], a2[n])
        else:
            total.mul_(rho).addcmul_(a1[n], a2[n])
    return total


class PolynomialDual(Dual):
    r"""Dual of :math:`\phi(x) = \sum_k \mathrm{coef}_k x^k`.

    Expanding :math:`x^k = \sum_m \frac{k!}{2^m m! (k-2m)!} He_{k-2m}(x)` gives the coefficients
    :math:`a_n(q)` of :math:`\phi(\sqrt q\, x)` in normalized Hermite polynomials, and
    :math:`\sigma = \sum_n a_n(q_1) a_n(q_2) \rho^n` (Mehler's formula).

    Parameters
    ----------
    coef : sequence of float
        Coefficients in ascending powers.
    """

    def __init__(self, coef: Sequence[float]) -> None:
        self.coef = tuple(coef)
        powers = [k for k, c in enumerate(self.coef) if c]
        self.degree = float(powers[0]) if len(powers) == 1 else None

    @staticmethod
    def _expand(coef: Sequence[float], q: Tensor) -> list[Tensor]:
        root = safe_sqrt(q)
        out = [torch.zeros_like(q) for _ in coef] or [torch.zeros_like(q)]
        for k, c in enumerate(coef):
            for m in range(k // 2 + 1 if c else 0):
                n = k - 2 * m
                count = math.factorial(k) / (2**m * math.factorial(m) * math.factorial(n))
                out[n] = out[n] + (c * count * math.sqrt(math.factorial(n))) * root**k
        return out

    @property
    def _slope_coef(self) -> list[float]:
        return [k * c for k, c in enumerate(self.coef)][1:] or [0.0]

    def diag(self, q: Tensor) -> tuple[Tensor, Tensor]:
        """Return both expectations at angle 0."""
        both = (self._expand(self.coef, q), self._expand(self._slope_coef, q))
        sigma, slope = (sum((a.square() for a in c), start=torch.zeros_like(q)) for c in both)
        return sigma, slope

    def cross(self, s: State) -> tuple[State, Tensor]:
        """Sum both series at `s`."""
        rho = 1 - s.delta
        sigma, slope = (
            hermite_series(self._expand(c, s.k1), self._expand(c, s.k2), rho)
            for c in (self.coef, self._slope_coef)
        )
        return s.with_cross(self.diag(s.k1)[0], self.diag(s.k2)[0], sigma, slope), slope

    def gain_dual(self) -> Dual:
        """Return the dual of x phi'(x), again a polynomial."""
        return PolynomialDual([k * c for k, c in enumerate(self.coef)])
