"""Dual of any elementwise function, by a Hermite series whose error is known."""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from skntk.core.errors import SkntkWarning
from skntk.infinite.duals.base import Dual
from skntk.infinite.duals.polynomial import hermite_series
from skntk.infinite.state import State

#: Largest degree of the series, half-width of the integrals, panels on each side of 0, their order.
MAX_DEGREE, REACH, PANELS, ORDER = 240, 13.0, 32, 40
#: Above this relative error a kernel warns.
WARN_ABOVE = 1e-6


@functools.lru_cache(maxsize=4)
def rule(dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    r"""Nodes (m,), and weighted normalized Hermite functions (m, degrees).

    Composite Gauss-Legendre under the normal density, with a panel boundary at 0, where most
    activations have their kink: spectral accuracy where the function is smooth on each side.
    """
    points, weights = np.polynomial.legendre.leggauss(ORDER)
    edges = np.linspace(-REACH, REACH, 2 * PANELS + 1)
    half = np.diff(edges)[:, None] / 2
    x = (edges[:-1, None] + half * (1 + points)).ravel()
    # h_n(x) = He_n(x) sqrt(density) / sqrt(n!) stays bounded where He_n overflows.
    h = np.empty((x.size, MAX_DEGREE + 1))
    h[:, 0] = np.exp(-(x**2) / 4) / (2 * math.pi) ** 0.25
    h[:, 1] = x * h[:, 0]
    for n in range(1, MAX_DEGREE):
        h[:, n + 1] = (x * h[:, n] - math.sqrt(n) * h[:, n - 1]) / math.sqrt(n + 1)
    table = h * (h[:, :1] * (half * weights).ravel()[:, None])
    return (
        torch.tensor(x, dtype=dtype, device=device),
        torch.tensor(table, dtype=dtype, device=device),
    )


class QuadratureDual(Dual):
    r"""Dual of a function that has no closed form, or none that is known.

    The coefficients :math:`a_n(q) = E[\phi(\sqrt q\, x) h_n(x)]` in normalized Hermite polynomials
    are integrals in one variable, and :math:`\sigma = \sum_{n \le N} a_n(q_1) a_n(q_2) \rho^n`.
    By Parseval, what the series leaves out is at most :math:`\sqrt{r(q_1) r(q_2)}` with
    :math:`r(q) = E[\phi(\sqrt q\,x)^2] - \sum_{n \le N} a_n(q)^2`, whatever :math:`\rho`; the
    same for :math:`\phi'`. `error` is the largest such bound met so far, relative to the diagonal.

    Parameters
    ----------
    function : callable
        Elementwise, tensor in and tensor out, differentiable by autograd.
    name : str
        For messages.
    """

    def __init__(self, function: Callable[[Tensor], Tensor], name: str) -> None:
        self.function, self.name = function, name
        self.error = 0.0

    def _coefficients(self, q: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return a_n, b_n (q.numel(), degrees) of phi and phi', and their second moments."""
        x, table = rule(q.dtype, q.device)
        keep = q.requires_grad
        z = q.reshape(-1, 1).sqrt() * x
        with torch.enable_grad():
            if not keep:
                z = z.detach().requires_grad_()
            value = self.function(z)
            (slope,) = torch.autograd.grad(value.sum(), z, create_graph=keep)
        if not keep:
            value, slope = value.detach(), slope.detach()
        density = table[:, 0]
        return value @ table, slope @ table, value.square() @ density, slope.square() @ density

    @staticmethod
    def _cut(coefficients: Tensor, moment: Tensor, tol: float) -> tuple[int, float]:
        """Terms to keep, and the relative bound on what they leave out."""
        kept = coefficients.detach().square().cumsum(1)
        left = (1 - kept / moment.detach().clamp_min(1e-300)[:, None]).amax(0)
        enough = torch.nonzero(left <= tol)
        n = int(enough[0]) + 1 if len(enough) else coefficients.shape[1]
        return n, max(float(left[n - 1]), 0.0)

    def diag(self, q: Tensor) -> tuple[Tensor, Tensor]:
        """Return both second moments, integrals in one variable."""
        _, _, sigma, slope = self._coefficients(q)
        return sigma.reshape(q.shape), slope.reshape(q.shape)

    def cross(self, s: State) -> tuple[State, Tensor]:
        """Sum both series at `s`, cut where they no longer change the result."""
        rho = 1 - s.delta
        tol = 4 * torch.finfo(rho.dtype).eps
        one, two = self._coefficients(s.k1), self._coefficients(s.k2)
        results = []
        for c1, c2, m1, m2 in ((one[0], two[0], one[2], two[2]), (one[1], two[1], one[3], two[3])):
            (n1, e1), (n2, e2) = self._cut(c1, m1, tol), self._cut(c2, m2, tol)
            n = max(n1, n2)
            self._report(math.sqrt(max(e1, tol) * max(e2, tol)))
            a1 = [c1[:, k].reshape(s.k1.shape) for k in range(n)]
            a2 = [c2[:, k].reshape(s.k2.shape) for k in range(n)]
            results.append(hermite_series(a1, a2, rho))
        sigma, slope = results
        return s.with_cross(one[2].reshape(s.k1.shape), two[2].reshape(s.k2.shape), sigma), slope

    def _report(self, error: float) -> None:
        if error > WARN_ABOVE >= self.error:
            warnings.warn(
                f"the kernel of the elementwise function {self.name} is accurate to {error:.1e} "
                "relative to its diagonal: its Hermite series converges slowly. A smooth function, "
                "or smaller weight_std and bias_std, converges faster.",
                SkntkWarning,
                stacklevel=2,
            )
        self.error = max(self.error, error)


def gain_function(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Return the function x phi'(x)."""

    def gained(z: Tensor) -> Tensor:
        with torch.enable_grad():
            x = z if z.requires_grad else z.detach().requires_grad_()
            (slope,) = torch.autograd.grad(function(x).sum(), x, create_graph=True)
        return x * slope

    return gained
