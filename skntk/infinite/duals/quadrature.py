"""Dual of any elementwise function, by a Hermite series whose error is known."""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from skntk.core.errors import SkntkWarning, UnsupportedModuleError
from skntk.infinite.duals.base import Dual
from skntk.infinite.duals.polynomial import hermite_series
from skntk.infinite.state import State, safe_sqrt

#: Largest degree of the series, half-width of the integrals, panels on each side of 0, their order.
MAX_DEGREE, REACH, PANELS, ORDER = 240, 13.0, 32, 20
#: Degrees to begin with.
FEW_DEGREES = 48
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


@dataclass(frozen=True)
class _Series:
    """A function of m signals in normalized Hermite polynomials.

    Attributes
    ----------
    coefficients : Tensor of shape (m, degrees)
        Expansion at each variance.
    moment : Tensor of shape (m,)
        Second moments.
    edge : Tensor of shape (m,)
        Share of the moment in the outermost panels: an estimate of what lies beyond them.
    """

    coefficients: Tensor
    moment: Tensor
    edge: Tensor

    @classmethod
    def of(cls, values: Tensor, table: Tensor) -> _Series:
        """Integrate `values` (m, nodes)."""
        squares = values.square() * table[:, 0]
        moment, outer = squares.sum(1), squares[:, :ORDER].sum(1) + squares[:, -ORDER:].sum(1)
        edge = (outer / torch.where(moment > 0, moment, 1.0)).detach()
        # Most series need few degrees: the rest is computed only if these leave something out.
        series = cls(values @ table[:, :FEW_DEGREES], moment, edge)
        if series.cut(4 * torch.finfo(values.dtype).eps)[0] < FEW_DEGREES:
            return series
        return cls(values @ table, moment, edge)

    def cut(self, tol: float) -> tuple[int, float]:
        """Terms to keep, and the relative bound on what they leave out."""
        moment = self.moment.detach()[:, None]
        kept = self.coefficients.detach().square().cumsum(1)
        # A function of a zero signal may be zero: nothing is left out then.
        left = torch.where(moment > 0, 1 - kept / moment, 0.0).amax(0)
        enough = torch.nonzero(left <= tol)
        n = int(enough[0]) + 1 if len(enough) else kept.shape[1]
        return n, min(max(float(left[n - 1]), 0.0) + 10 * float(self.edge.max()), 1.0)


class QuadratureDual(Dual):
    r"""Dual of a function that has no closed form, or none that is known.

    The coefficients :math:`a_n(q) = E[\phi(\sqrt q\, x) h_n(x)]` in normalized Hermite polynomials
    are integrals in one variable, and :math:`\sigma = \sum_{n \le N} a_n(q_1) a_n(q_2) \rho^n`.
    By Parseval, what the series leaves out is at most :math:`\sqrt{r(q_1) r(q_2)}` with
    :math:`r(q) = E[\phi(\sqrt q\,x)^2] - \sum_{n \le N} a_n(q)^2`, whatever :math:`\rho`; the
    same for :math:`\phi'`. `error` is the largest such bound met so far, relative to the diagonal;
    it includes an estimate of what lies beyond the reach of the integrals, for functions that grow
    like an exponential.

    Parameters
    ----------
    function : callable
        Elementwise, tensor in and tensor out, differentiable by autograd.
    name : str
        For messages.

    Raises
    ------
    UnsupportedModuleError
        In its methods, if the function is not a number (NaN) for some input.
    """

    def __init__(self, function: Callable[[Tensor], Tensor], name: str) -> None:
        self.function, self.name = function, name
        self.error = 0.0

    def _expand(self, q: Tensor) -> tuple[_Series, _Series]:
        """Series of phi and of phi' for variances q, of any shape."""
        x, table = rule(q.dtype, q.device)
        keep = q.requires_grad
        z = safe_sqrt(q.reshape(-1, 1)) * x
        with torch.enable_grad():
            if not keep:
                z = z.detach().requires_grad_()
            value = self.function(z)
            (slope,) = torch.autograd.grad(value.sum(), z, create_graph=keep)
        if not keep:
            value, slope = value.detach(), slope.detach()
        if value.isnan().any() or slope.isnan().any():
            raise UnsupportedModuleError(
                f"the elementwise function {self.name} is not a number (NaN) for some inputs, but "
                "its input takes all real values in the limit."
            )
        return _Series.of(value, table), _Series.of(slope, table)

    def diag(self, q: Tensor) -> tuple[Tensor, Tensor]:
        """Return both second moments, integrals in one variable."""
        sigma, slope = self._expand(q)
        tol = 4 * torch.finfo(q.dtype).eps
        self._report(max(series.cut(tol)[1] for series in (sigma, slope)))
        return sigma.moment.reshape(q.shape), slope.moment.reshape(q.shape)

    def cross(self, s: State) -> tuple[State, Tensor]:
        """Sum both series at `s`, cut where they no longer change the result."""
        rho = 1 - s.delta
        tol = 4 * torch.finfo(rho.dtype).eps
        series = list(zip(self._expand(s.k1), self._expand(s.k2), strict=True))
        results = []
        for one, two in series:
            (n1, e1), (n2, e2) = one.cut(tol), two.cut(tol)
            n = max(n1, n2)
            self._report(math.sqrt(max(e1, tol) * max(e2, tol)))
            a1 = [one.coefficients[:, k].reshape(s.k1.shape) for k in range(n)]
            a2 = [two.coefficients[:, k].reshape(s.k2.shape) for k in range(n)]
            results.append(hermite_series(a1, a2, rho))
        sigma, slope = results
        one, two = series[0]
        k1, k2 = one.moment.reshape(s.k1.shape), two.moment.reshape(s.k2.shape)
        return s.with_cross(k1, k2, sigma), slope

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
