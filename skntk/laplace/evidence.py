r"""The marginal likelihood of Laplace's approximation, and where it is largest.

With weights w of prior precision T (diagonal), noise of scale c, curvature H and N targets,

.. math::
    \log p(y) \approx \log p(y | w) - \tfrac12 \left[ w^T T w + \log\det(H/c + T) - \log\det T
    \right]

(MacKay 1992, equation 4.6; Immer et al. 2021, equation 6). In :math:`s_g = \log\tau_g` its
derivative is :math:`(\gamma_g - \tau_g \|w_g\|^2) / 2`, with the effective number of parameters
:math:`\gamma_g`.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy.optimize
import torch
from torch import Tensor

from skntk.core import NotPositiveDefiniteError, SkntkWarning
from skntk.laplace.likelihoods import Counts
from skntk.laplace.posterior import Curvature, Posterior, by_group

#: How far the evidence that a search returns may lie below its maximum, in nats, where each
#: evaluation is costly, and where it is not.
COSTLY_TOLERANCE, TOLERANCE = 0.02, 1e-10
#: Prior precisions times noise that are tried, in units of the mean diagonal of H.
BOUNDS = 1e-9, 1e9
#: Largest relative step of a search, and how many it may make.
_LARGEST_STEP, _SMALLEST_STEP, _MOST_STEPS = 4.0, 1e-9, 60
#: How near, relatively, the smallest precision that rounding allows is approached.
_NEAR = 1e-2
#: Steps by cheaper estimates in front of a search whose evaluations are costly.
_ESTIMATES = 2
#: Share of the targets, or number of parameters, at which prior and noise cannot be told apart.
_ALL, _NONE = 0.99, 0.01


@dataclass(frozen=True)
class Evidence:
    """What the evidence is made of besides the curvature.

    Attributes
    ----------
    curvature : Curvature
        Of all rows.
    groups : Tensor of int of shape (P,)
        Which prior precision each parameter has.
    squares : Tensor of shape (G,)
        Sums of the squared weights of each.
    sizes : Tensor of shape (G,)
        Numbers of parameters of each.
    loss : float
        Sum of the negative log-likelihoods at noise scale 1, without constants.
    counts : Counts
        Of the rows.
    """

    curvature: Curvature
    groups: Tensor
    squares: Tensor
    sizes: Tensor
    loss: float
    counts: Counts

    @classmethod
    def of(cls, curvature: Curvature, structure: str, loss: float, counts: Counts) -> Evidence:
        """Collect the weights by the structure of the prior."""
        tangent = curvature.tangent
        groups = tangent.groups(structure)
        number = int(groups.max()) + 1
        w = tangent.flat(tangent.weights)
        squares = by_group(w.square(), groups, number)
        sizes = by_group(torch.ones_like(w), groups, number)
        return cls(curvature, groups, squares, sizes, loss, counts)

    @property
    def n_targets(self) -> int:
        """Rows times outputs."""
        return self.counts.rows * self.curvature.tangent.n_outputs

    def posterior(self, precision: Tensor, scale: float) -> Posterior:
        """Posterior at some hyperparameters."""
        return self.curvature.posterior(precision, self.groups, scale)

    def value(self, posterior: Posterior, precision: Tensor, scale: float) -> float:
        """Log marginal likelihood at the hyperparameters of a posterior."""
        fit = self.curvature.likelihood.log_likelihood(self.loss, scale, self.counts)
        prior = float((precision * self.squares - self.sizes * precision.log()).sum())
        return fit - 0.5 * (prior + posterior.log_det)


@dataclass(frozen=True)
class Optimum:
    """Hyperparameters, their posterior and evidence.

    Attributes
    ----------
    precision : Tensor of shape (G,)
        Prior precisions.
    scale : float
        Of the noise.
    posterior : Posterior
        At these.
    value : float
        Log marginal likelihood.
    """

    precision: Tensor
    scale: float
    posterior: Posterior
    value: float


def evaluate(evidence: Evidence, precision: Tensor, scale: float) -> Optimum:
    """Evidence at hyperparameters that are given."""
    posterior = evidence.posterior(precision, scale)
    return Optimum(precision, scale, posterior, evidence.value(posterior, precision, scale))


def maximize(
    evidence: Evidence, precision: Tensor | None, scale: float | None, *, most: int = 500
) -> Optimum:
    """Find the prior precisions and the scale of the noise, where they are not given.

    One common precision is found by a search for the zero of the derivative, which is unique:
    effective parameters decrease with the precision, and the squared weights it multiplies do not.
    Several then start from it.

    Warns
    -----
    SkntkWarning
        If the data do not tell prior and noise apart.
    """
    if precision is not None and scale is not None:
        return evaluate(evidence, precision, scale)
    found = _common(evidence, precision, scale)
    if precision is None and len(evidence.squares) > 1:
        found = _several(evidence, scale, found, most)
    _warn(evidence, scale, found)
    return found


def _common(
    evidence: Evidence, precision: Tensor | None = None, scale: float | None = None
) -> Optimum:
    r"""One factor r between prior and data, where the derivative is zero.

    H/c + T is (H + c T)/c, so that the effective number of parameters depends on c T alone. With T
    of one precision :math:`\tau = r/c`, the best noise for each r is :math:`c = (2 loss + r
    \|w\|^2) / N`; with T given, it is c that is wanted.

    Parameters
    ----------
    evidence : Evidence
        All but the hyperparameters.
    precision : Tensor of shape (G,), optional
        Prior precisions, if only the noise is wanted; then r is its scale.
    scale : float, optional
        Of the noise, if only the precision is wanted.
    """
    N, W = evidence.n_targets, float(evidence.squares.sum())
    ones = torch.ones_like(evidence.squares)

    def at(log_r: float) -> tuple[Tensor, float]:
        r = math.exp(log_r)
        if precision is not None:
            return precision, r
        c = max((2 * evidence.loss + r * W) / N, 1e-300) if scale is None else scale
        return r / c * ones, c

    def wanted(log_r: float) -> float:
        """Effective number of parameters at the maximum; it increases."""
        tau, c = at(log_r)
        return float(tau[0]) * W if precision is None else N - 2 * evidence.loss / c

    curvature = evidence.curvature
    tolerance = COSTLY_TOLERANCE if curvature.costly else TOLERANCE
    values = curvature.rough_spectrum()
    unit = float(values.mean()) or 1.0
    if precision is not None:
        unit /= float(precision.mean())
    low, high = (math.log(bound * unit) for bound in BOUNDS)
    T = 1.0 if precision is None else float(precision.mean())

    def rough(log_r: float) -> float:
        return float((values / (values + T * math.exp(log_r))).sum()) - wanted(log_r)

    def linear(gamma: float, slope: float, y: float) -> float:
        """Where the derivative is zero, if the effective parameters are linear in log r."""
        return _zero(
            lambda x: gamma + slope * (x - y) - wanted(x),
            max(low, y - _LARGEST_STEP),
            min(high, y + _LARGEST_STEP),
        )

    log_r = _zero(rough, low, high)
    for _ in range(_ESTIMATES if curvature.costly and len(evidence.squares) == 1 else 0):
        estimate = curvature.estimate(T * math.exp(log_r))
        log_r = log_r if estimate is None else linear(*estimate, log_r)
    best: Optimum | None = None
    for _ in range(_MOST_STEPS):
        try:
            best = evaluate(evidence, *at(log_r))
        except NotPositiveDefiniteError:  # lost in rounding
            if high - log_r < _NEAR:
                if best is None:
                    raise
                break
            low = log_r
            log_r = min(log_r + _LARGEST_STEP, high) if best is None else 0.5 * (low + high)
            continue
        gamma, slope = float(best.posterior.effective.sum()), best.posterior.slope
        excess = gamma - wanted(log_r)
        low, high = (log_r, high) if excess > 0 else (low, log_r)
        following = linear(gamma, slope, log_r)
        # near its maximum the evidence is a parabola, whose slope here is half the excess
        step = abs(following - log_r)
        if abs(0.25 * excess * step) < tolerance and (curvature.costly or step < _SMALLEST_STEP):
            break
        log_r = following
    assert best is not None
    return best


def _zero(decreasing: Callable[[float], float], low: float, high: float) -> float:
    """Where a function is zero, or the end of the interval that is nearest to it."""
    if decreasing(low) <= 0:
        return low
    if decreasing(high) >= 0:
        return high
    return float(scipy.optimize.brentq(decreasing, low, high, xtol=1e-10))


def _several(evidence: Evidence, scale: float | None, start: Optimum, most: int) -> Optimum:
    """Precisions of groups, from one of all, by L-BFGS in their logarithms."""
    N = evidence.n_targets
    like = evidence.squares

    def unpacked(x: np.ndarray) -> tuple[Tensor, float]:
        s = torch.as_tensor(x if scale is not None else x[:-1], dtype=like.dtype).to(like.device)
        return s.exp(), float(np.exp(x[-1])) if scale is None else scale

    def objective(x: np.ndarray) -> tuple[float, np.ndarray]:
        tau, c = unpacked(x)
        try:
            found = evaluate(evidence, tau, c)
        except NotPositiveDefiniteError:  # too small a precision: nothing to be found there
            return 1e300, np.zeros_like(x)
        gamma = found.posterior.effective
        gradient = (0.5 * (gamma - tau * evidence.squares)).cpu().numpy()
        if scale is None:
            noise = -0.5 * N + evidence.loss / c + 0.5 * float(gamma.sum())
            gradient = np.append(gradient, noise)
        return -found.value, -gradient

    x0 = start.precision.log().cpu().numpy()
    width = math.log(1e6)
    bounds = [(x - width, x + width) for x in x0]
    if scale is None:
        x0 = np.append(x0, math.log(start.scale))
        bounds.append((x0[-1] - 7, x0[-1] + 7))
    most = min(most, 50) if evidence.curvature.costly else most
    options = {"maxiter": most, "ftol": 1e-12, "gtol": 1e-5}
    found = scipy.optimize.minimize(
        objective, x0, jac=True, method="L-BFGS-B", bounds=bounds, options=options
    )
    return evaluate(evidence, *unpacked(found.x))


def _warn(evidence: Evidence, scale: float | None, found: Optimum) -> None:
    gamma, N = float(found.posterior.effective.sum()), evidence.n_targets
    if scale is None and gamma > _ALL * N:
        warnings.warn(
            f"the data do not tell prior and noise apart: {gamma:.4g} effective parameters take up "
            f"all of {N} targets, so that prior_precision_ and noise_variance_ mean little. Pass "
            "noise_variance=, train less, or take another curvature.",
            SkntkWarning,
            stacklevel=4,
        )
    elif gamma < _NONE:
        warnings.warn(
            f"the data do not determine any parameter: noise explains all of them (prior precision "
            f"{float(found.precision.mean()):.3g}). The posterior is the trained network, nearly "
            "without uncertainty; pass prior_precision=.",
            SkntkWarning,
            stacklevel=4,
        )
