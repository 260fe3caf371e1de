"""Choosing a kernel and a ridge: by leave-one-out, or by the marginal likelihood."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor

from skntk.core.errors import NotPositiveDefiniteError
from skntk.infinite.featurewise import FeaturewiseInputs
from skntk.infinite.inputs import Inputs
from skntk.infinite.kernel import InfiniteKernel
from skntk.infinite.program import Program
from skntk.infinite.rules import Options
from skntk.machines.base import Evaluated, KernelChoice
from skntk.machines.copies import Merged, merge
from skntk.solvers import Spectral
from skntk.solvers.cholesky import JITTERS

#: How far the logarithm of a hyperparameter may move from where it starts.
REACH = 5.0
#: The smallest and largest ridge that the evidence may choose.
RIDGES = (1e-6, 1e3)
#: Rows of a block whose graph of operations is kept, and about how many numbers in it.
_ROWS, _NUMBERS = 256, 2**22


@dataclass(frozen=True)
class Tuned:
    """A choice and why it was made.

    Attributes
    ----------
    kernel : Evaluated
        The chosen kernel.
    alpha : float
        The ridge, relative to the weighted mean diagonal of the kernel.
    scale : Tensor of shape (k,)
        Signal variance of each output, in units of the kernel.
    spectral : Spectral or None
        Decomposition of its Gram matrix on the rows that were tuned on, copies merged.
    results : dict of str to list
        One entry per candidate kernel: what it was, its best ridge, its score.
    """

    kernel: Evaluated
    alpha: float
    scale: Tensor
    spectral: Spectral | None
    results: dict[str, list[Any]] = field(repr=False)


def mean_diagonal(diagonal: Tensor, weights: Tensor) -> float:
    """Weighted mean of a kernel's diagonal, that a ridge is relative to; 1 for a zero kernel."""
    mean = float((weights * diagonal).sum() / weights.sum())
    return mean if mean > 0 else 1.0


def loo_log_density(spectral: Spectral, data: Merged, ridges: Tensor) -> tuple[Tensor, Tensor]:
    r"""Leave-one-out log predictive density at the best signal scale (Sundararajan & Keerthi 2001).

    With residuals :math:`r_i` and variances :math:`v_i` per unit of signal scale, the density is
    largest at :math:`s^2 = \overline{r_i^2 / v_i}`, where it is
    :math:`-\tfrac12 [\log 2\pi + 1 + \log s^2 + \overline{\log v_i}]`.

    All copies of a row of X are left out together, since one that stays would give the others away,
    and are predicted jointly.

    Parameters
    ----------
    spectral : Spectral
        Decomposition of the kernel of the merged rows.
    data : Merged
        Standardized targets of these rows.
    ridges : Tensor of shape (A,)
        Absolute ridges.

    Returns
    -------
    density, scale : Tensor of shape (A, k)
        Mean log density and :math:`s^2`.
    """
    floor = torch.finfo(data.Z.dtype).tiny
    residual, variance = spectral.leave_one_out(data.Z, ridges)
    squares = residual.square() / variance[..., None] + data.scatter / ridges[:, None, None]
    logs = variance.clamp_min(floor).log() + (data.sizes - 1) * ridges[:, None].log()
    logs = logs + data.weights.log() - data.log_weights
    share = data.share / data.sizes
    scale = (squares * share[:, None]).sum(1)
    log_scale = scale.clamp_min(floor).log()
    density = math.log(2 * math.pi) + 1 + log_scale + (logs * share).sum(1)[:, None]
    return -0.5 * density, scale


def tune_loo(
    kernels: Iterable[Evaluated], alphas: np.ndarray, X: Tensor, Z: Tensor, weights: Tensor
) -> Tuned:
    """Choose kernel and ridge by the leave-one-out log predictive density.

    One eigendecomposition a kernel serves every ridge.

    Parameters
    ----------
    kernels : iterable of Evaluated
        Candidates.
    alphas : ndarray of shape (A,)
        Ridges, relative to the mean diagonal.
    X, Z, weights : Tensor of shape (n, d), (n, k), (n,)
        Training rows, standardized targets, weights of mean 1.

    Returns
    -------
    Tuned
    """
    best: Tuned | None = None
    best_score = -math.inf
    results: dict[str, list[Any]] = {"choice": [], "alpha": [], "score": []}
    relative = torch.as_tensor(alphas, dtype=torch.float64, device=Z.device)
    data = merge(X, Z, weights)
    for kernel in kernels:
        K = kernel.gram(X[data.rows])
        unit = mean_diagonal(kernel.diag(X), weights)
        spectral = Spectral.from_gram(K, data.weights, overwrite=True)
        from_start = data._replace(Z=data.Z - kernel.function(X[data.rows]))
        density, scale = loo_log_density(spectral, from_start, relative * unit)
        score, i = density.mean(1).max(0)
        results["choice"].append(kernel.choice)
        results["alpha"].append(float(relative[i]))
        results["score"].append(float(score))
        if best is None or float(score) > best_score:
            best_score = float(score)
            best = Tuned(kernel, float(relative[i]), scale[i], spectral, results)
        del K, spectral
    assert best is not None
    return best


def tune_evidence(
    kernels: Sequence[Evaluated],
    alphas: np.ndarray,
    X: Tensor,
    Z: Tensor,
    weights: Tensor,
    *,
    free: tuple[str, ...],
    rebind: Callable[[KernelChoice], Evaluated],
) -> Tuned:
    """Choose by the marginal likelihood, with gradients through the kernel.

    The evidence of every candidate at the best of `alphas` says from which of them to start; from
    there L-BFGS moves the logarithms of the free hyperparameters. The signal scale is at its
    maximum in closed form throughout (Rasmussen & Williams 2006, equation 5.9).

    Parameters
    ----------
    kernels, alphas, X, Z, weights
        As of `tune_loo`.
    free : tuple of {"alpha", "weight_std", "bias_std", "feature_scales"}
        What moves.
    rebind : callable
        Makes a kernel of a choice.

    Returns
    -------
    Tuned
    """
    results: dict[str, list[Any]] = {"choice": [], "alpha": [], "score": []}
    start, best_score = (kernels[0], 1.0), -math.inf
    for kernel in kernels:
        K = kernel.gram(X)
        unit = mean_diagonal(K.diagonal(), weights)
        spectral = Spectral.from_gram(K, weights, overwrite=True)
        evidence = spectral.profile_log_marginal_likelihood(Z, alphas * unit)[0].mean(1)
        i = int(evidence.argmax())
        results["choice"].append(kernel.choice)
        results["alpha"].append(float(alphas[i]))
        results["score"].append(float(evidence[i]))
        if results["score"][-1] > best_score:
            start, best_score = (kernel, float(alphas[i])), results["score"][-1]
        del K, spectral
    choice, alpha, score, scale = _ascend(*start, X, Z, weights, free)
    for name, value in (("choice", choice), ("alpha", alpha), ("score", score)):
        results[name].append(value)
    return Tuned(rebind(choice), alpha, scale, None, results)


def _ascend(
    kernel: Evaluated, alpha: float, X: Tensor, Z: Tensor, weights: Tensor, free: tuple[str, ...]
) -> tuple[KernelChoice, float, float, Tensor]:
    """Maximize the evidence from one candidate; return choice, ridge, evidence and scale."""
    choice, n, X = kernel.choice, len(X), kernel.encoded(X)
    low, high = (math.log(r) for r in RIDGES)
    if "alpha" in free:
        log_alpha = min(max(math.log(alpha), low), high)
    else:
        log_alpha = low = high = math.log(max(alpha, JITTERS[1]))
    X = X.double()
    names = [f for f in free if f != "alpha" and (f != "bias_std" or choice.bias_std > 0)]
    sizes = [X.shape[1] if name == "feature_scales" else 1 for name in names]
    initial = [
        np.zeros(size) if name == "feature_scales" else np.log([getattr(choice, name)])
        for name, size in zip(names, sizes, strict=True)
    ]
    theta0 = np.concatenate([[log_alpha], *initial])
    assert isinstance(kernel.network, InfiniteKernel)
    program = kernel.network.program((X.shape[1],))

    def unpack(theta: np.ndarray) -> tuple[float, dict[str, Tensor]]:
        parts = np.split(theta[1:], np.cumsum(sizes)[:-1]) if names else []
        tensors = {
            name: torch.tensor(np.exp(part), dtype=torch.float64, device=X.device)
            for name, part in zip(names, parts, strict=True)
        }
        return math.exp(theta[0]), tensors

    def objective(theta: np.ndarray) -> tuple[float, np.ndarray]:
        alpha, tensors = unpack(theta)
        value, slope_alpha, slopes = evidence_and_gradient(
            program, choice, X, Z, weights, alpha, tensors
        )
        gradient = [np.array([slope_alpha * alpha])]
        gradient += [(slopes[name] * tensors[name]).cpu().numpy() for name in names]
        return -value / n, -np.concatenate(gradient) / n

    reach = [(v - REACH, v + REACH) for v in theta0[1:]]
    bounds = [(low, high), *reach]
    solution = minimize(
        objective, theta0, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": 60}
    )
    alpha, tensors = unpack(solution.x)
    changes: dict[str, Any] = {
        name: tuple(t.tolist()) if name == "feature_scales" else float(t)
        for name, t in tensors.items()
    }
    _, scale = _profile(program, choice, X, Z, weights, alpha, tensors)
    return replace(choice, **changes), alpha, -float(solution.fun) * n, scale


def _options(kind: str, tensors: dict[str, Tensor]) -> Options:
    return Options(kind == "ntk", tensors.get("weight_std"), tensors.get("bias_std"))


def _rows(choice: KernelChoice, X: Tensor, tensors: dict[str, Tensor]) -> Any:
    made = FeaturewiseInputs if choice.embedding == "featurewise" else Inputs
    scales = tensors.get("feature_scales")
    return made.of(X if scales is None else X * scales)


def _profile(
    program: Program,
    choice: KernelChoice,
    X: Tensor,
    Z: Tensor,
    weights: Tensor,
    alpha: float,
    tensors: dict[str, Tensor],
) -> tuple[Tensor, Tensor]:
    """Cholesky factor of the regularized kernel and the best signal scale of each output."""
    with torch.no_grad():
        kind, x = choice.kind, _rows(choice, X, tensors)
        options = _options(kind, tensors)
        blocks = [
            program.kernel(x[a : a + _ROWS].pairs(x), options, kind)
            for a in range(0, len(x), _ROWS)
        ]
        K = torch.cat(blocks)
        own = program.kernel(x.own(), options, kind)
        K.diagonal().copy_(own)
        K.diagonal().add_(alpha * mean_diagonal(own, weights) / weights)
        factor, info = torch.linalg.cholesky_ex(K)
        quadratic = (Z * torch.cholesky_solve(Z, factor)).sum(0)
        if int(info) != 0 or not bool(torch.isfinite(quadratic).all()):
            raise NotPositiveDefiniteError(
                f"the {kind} of {len(Z)} rows with a ridge of {alpha:.3g} of its mean diagonal is "
                "not positive definite to rounding: raise alpha."
            )
        return factor, quadratic / len(Z)


def evidence_and_gradient(
    program: Program,
    choice: KernelChoice,
    X: Tensor,
    Z: Tensor,
    weights: Tensor,
    alpha: float,
    tensors: dict[str, Tensor],
) -> tuple[float, float, dict[str, Tensor]]:
    r"""Mean profile log marginal likelihood of the outputs, and its gradient.

    The gradient with respect to the kernel, :math:`G = \tfrac12 (\sum_j c_j c_j^\top / s_j^2 k -
    C^{-1})`, is pulled back through the program a block of rows at a time, so that no graph of
    size n^2 is kept.

    Returns
    -------
    value : float
        The evidence.
    slope_alpha : float
        Its derivative with respect to `alpha`.
    slopes : dict
        Its derivatives with respect to `tensors`.
    """
    n, k = Z.shape
    try:
        factor, scale = _profile(program, choice, X, Z, weights, alpha, tensors)
    except NotPositiveDefiniteError:
        return -1e10 * n, 0.0, {name: torch.zeros_like(t) for name, t in tensors.items()}
    scale = scale.clamp_min(torch.finfo(scale.dtype).tiny)
    logdet = 2 * factor.diagonal().log().sum()
    value = -0.5 * float((n * (1 + math.log(2 * math.pi) + scale.log()) + logdet).mean())
    c = torch.cholesky_solve(Z, factor)
    G = torch.cholesky_inverse(factor).neg_().addmm_(c / (scale * k), c.T).mul_(0.5)
    leaves = {name: t.clone().requires_grad_() for name, t in tensors.items()}
    kind = choice.kind
    with torch.enable_grad():
        x = _rows(choice, X, leaves)
        options = _options(kind, leaves)
        own = program.kernel(x.own(), options, kind)
        unit = (weights * own).sum() / weights.sum()
        noise = (G.diagonal() / weights).sum()
        slope_alpha = float(noise * unit.detach())
        if not leaves:
            return value, slope_alpha, {}
        # The diagonal of a symmetric kernel is that of `own`, and the ridge is relative to it.
        diagonal = (G.diagonal() * own).sum() + alpha * noise * unit
        total = [_pull(diagonal, leaves)]
        G.diagonal().zero_()
        wide = choice.embedding == "featurewise" and "feature_scales" in leaves
        step = max(1, min(_ROWS, _NUMBERS // (n * X.shape[1]))) if wide else _ROWS
        for a in range(0, n, step):
            x = _rows(choice, X, leaves)
            block = program.kernel(x[a : a + step].pairs(x[a:]), options, kind)
            cotangent = G[a : a + step, a:].clone()
            cotangent[:, step:] *= 2
            total.append(_pull((cotangent * block).sum(), leaves))
    slopes = {name: torch.stack([t[name] for t in total]).sum(0) for name in leaves}
    return value, slope_alpha, slopes


def _pull(value: Tensor, leaves: dict[str, Tensor]) -> dict[str, Tensor]:
    """Gradient of one term of the objective."""
    slopes = torch.autograd.grad(value, list(leaves.values()), allow_unused=True)
    return {
        name: torch.zeros_like(leaf) if slope is None else slope.detach()
        for (name, leaf), slope in zip(leaves.items(), slopes, strict=True)
    }
