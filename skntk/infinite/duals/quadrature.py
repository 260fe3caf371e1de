"""Dual of any elementwise function, by a Hermite series whose error is known."""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from skntk.core.errors import SkntkWarning, UnsupportedModuleError
from skntk.gram import check_finite
from skntk.infinite.duals.base import Dual
from skntk.infinite.duals.polynomial import hermite_series
from skntk.infinite.state import State, safe_sqrt

#: Largest degree of the series, half-width of the integrals, panels on each side of 0, their order.
MAX_DEGREE, REACH, PANELS, ORDER = 400, 13.0, 32, 20
#: Degrees that are tried in turn.
DEGREES = (48, 144, MAX_DEGREE + 1)
#: Above this relative error a kernel warns.
WARN_ABOVE = 1e-6


@functools.lru_cache(maxsize=4)
def rule(device: torch.device) -> tuple[Tensor, Tensor]:
    r"""Nodes (m,), and weighted normalized Hermite functions (m, degrees), in float64.

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
    with torch.inference_mode(False):  # kept, also for those who differentiate
        return torch.tensor(x, device=device), torch.tensor(table, device=device)


@dataclass(frozen=True)
class _Series:
    """A function of m signals in normalized Hermite polynomials.

    Attributes
    ----------
    coefficients : Tensor of shape (degrees, m)
        Expansion at each variance, as far as it matters.
    moment : Tensor of shape (m,)
        Second moments.
    error : float
        What is left out, relative to the moment: the remainder by Parseval (a bound), and
        estimates of what lies beyond the outermost panels and of what panels do not resolve.
    """

    coefficients: Tensor
    moment: Tensor
    error: float

    @classmethod
    def of(cls, values: Tensor, table: Tensor, tol: float) -> _Series:
        """Expand `values` (m, nodes) to a remainder of `tol`, or as far as the table goes."""
        panels = (values.square() * table[:, 0]).unflatten(1, (-1, ORDER)).sum(2)
        moment = panels.sum(1)
        beyond = 10 * (panels[:, 0] + panels[:, -1]).detach()
        # A function of a zero signal may be zero: nothing is left out then.
        per_moment = (1 / torch.where(moment > 0, moment, math.inf)).detach()
        for degrees in DEGREES:
            coefficients = (values @ table[:, :degrees]).T
            kept = coefficients.detach().square().cumsum(0) * per_moment
            left = ((per_moment > 0) * (1 - kept)).amax(1)
            enough = torch.nonzero(left <= tol)
            if len(enough):
                break
        n = int(enough[0]) + 1 if len(enough) else len(coefficients)
        missed = ((beyond + _unresolved(values.detach(), table)) * per_moment).max()
        error = max(float(left[n - 1]), 0.0) + float(missed)
        return cls(coefficients[:n].contiguous(), moment, min(error, 1.0))


def _unresolved(values: Tensor, table: Tensor) -> Tensor:
    """Estimate of the error of second moments (m,): high Legendre coefficients of each panel.

    They vanish where the function is smooth, and not in a panel with a kink or a jump inside.
    """
    points, weights = np.polynomial.legendre.leggauss(ORDER)
    degrees = np.arange(ORDER - 4, ORDER)
    basis = np.polynomial.legendre.legvander(points, ORDER - 1)[:, degrees]
    project = table.new_tensor(weights[:, None] * basis * (degrees + 0.5))
    high = (values.square().unflatten(1, (-1, ORDER)) @ project).abs().amax(2)
    return 4 * high @ table[:, 0].unflatten(0, (-1, ORDER)).sum(1)


class QuadratureDual(Dual):
    r"""Dual of a function that has no closed form, or none that is known.

    The coefficients :math:`a_n(q) = E[\phi(\sqrt q\, x) h_n(x)]` in normalized Hermite polynomials
    are integrals in one variable, and :math:`\sigma = \sum_{n \le N} a_n(q_1) a_n(q_2) \rho^n`.
    By Parseval, what the series leaves out is at most :math:`\sqrt{r(q_1) r(q_2)}` with
    :math:`r(q) = E[\phi(\sqrt q\,x)^2] - \sum_{n \le N} a_n(q)^2`, whatever :math:`\rho`; the
    same for :math:`\phi'`. `error` is the largest such bound met so far, relative to the diagonal;
    it includes estimates of what the integrals miss: for functions that grow like an exponential,
    and for those with kinks or jumps elsewhere than at 0.

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
        x, table = rule(q.device)
        keep = q.requires_grad
        z = safe_sqrt(q.reshape(-1, 1)).double() * x
        with torch.inference_mode(False), torch.enable_grad():
            if not keep:
                z = z.detach().clone().requires_grad_()
            value = self.function(z)
            (slope,) = torch.autograd.grad(value.sum(), z, create_graph=keep)
        if not keep:
            value, slope = value.detach(), slope.detach()
        if value.isnan().any() or slope.isnan().any():
            check_finite(q)
            raise UnsupportedModuleError(
                f"the elementwise function {self.name} is not a number (NaN) for some inputs, but "
                "its input takes all real values in the limit."
            )
        tol = 4 * torch.finfo(q.dtype).eps
        both = _Series.of(value, table, tol), _Series.of(slope, table, tol)
        self._report(max(tol, *(series.error for series in both)))
        return both

    def diag(self, q: Tensor) -> tuple[Tensor, Tensor]:
        """Return both second moments, integrals in one variable."""
        sigma, slope = (series.moment.to(q.dtype).reshape(q.shape) for series in self._expand(q))
        return sigma, slope

    def cross(self, s: State) -> tuple[State, Tensor]:
        """Sum both series at `s`."""
        # Both inputs at once, for as many degrees of either as the other one needs.
        series = self._expand(torch.cat([s.k1.flatten(), s.k2.flatten()]))
        moments, one, two = zip(*(self._parts(one, s) for one in series), strict=True)
        sigma, slope = (hermite_series(a, b, 1 - s.delta) for a, b in zip(one, two, strict=True))
        k1, k2 = moments[0]
        # Correlations are relative to the same partial sums: that of coincident signals is 1.
        a, b = one[0].square().sum(0), two[0].square().sum(0)
        return replace(s.with_cross(a, b, sigma, slope), k1=k1, k2=k2), slope

    @staticmethod
    def _parts(series: _Series, s: State) -> tuple[tuple[Tensor, Tensor], Tensor, Tensor]:
        """Moments and coefficients of both inputs, in the shapes of their variances."""
        n = s.k1.numel()
        k = series.moment.to(s.k1.dtype)
        a = series.coefficients.to(s.k1.dtype)
        moments = k[:n].reshape(s.k1.shape), k[n:].reshape(s.k2.shape)
        return moments, a[:, :n].reshape(-1, *s.k1.shape), a[:, n:].reshape(-1, *s.k2.shape)

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
