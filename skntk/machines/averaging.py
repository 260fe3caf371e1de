"""Leave-one-out averages of classification machines over kernels and ridges."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import minimize_scalar
from torch import Tensor

from skntk.machines.tuning import mean_diagonal
from skntk.solvers import Spectral, squared_hinge

#: Machines whose leave-one-out score is within so many standard errors of the best are averaged.
WITHIN = 0.5
#: Kernels that the margin machine is trained on, and its ridges, fewer where they cost much.
MARGIN_KERNELS, MARGIN_WORK = 2, 3000


@dataclass(frozen=True)
class Average:
    """Average of machines of one loss, as coefficients of each kernel.

    Attributes
    ----------
    dual : list of Tensor of shape (n, C)
        Coefficients for each kernel.
    constant : Tensor of shape (C,)
        Added to the sum over kernels.
    left_out : Tensor of shape (n, C)
        Leave-one-out scores of the average.
    best : tuple of (int, int)
        Kernel and ridge with the best score.
    errors : Tensor of shape (kernels, A)
        Mean leave-one-out Brier score of each machine.
    shares : list of float
        Weight of each kernel, that its network's function at initialization has.
    """

    dual: list[Tensor]
    constant: Tensor
    left_out: Tensor
    best: tuple[int, int]
    errors: Tensor
    shares: list[float]


def near_best(errors: Tensor, weights: Tensor, within: float = WITHIN) -> Tensor:
    """Uniform weights of the candidates (..., n) within some standard errors of the best.

    The standard error is that of the difference from the best, over rows.
    """
    total = weights.sum()
    share = weights / total
    mean = (errors * share).sum(-1)
    difference = errors - errors.reshape(-1, len(weights))[mean.argmin()]
    spread = ((difference - (difference * share).sum(-1, keepdim=True)).square() * share).sum(-1)
    keep = (difference * share).sum(-1) <= within * (spread / total).sqrt() + 1e-12
    return keep.to(errors.dtype) / keep.sum()


def ridge_average(
    spectra: list[Spectral],
    ridges: Tensor,
    Y: Tensor,
    weights: Tensor,
    left: Tensor,
    starts: list[Tensor],
) -> Average:
    r"""Average kernel ridge regressions on one-hot labels.

    Leave-one-out is exact with the mean of the labels taken without the row as well: with
    :math:`C = (K + \alpha W^{-1})^{-1}`, the residual is
    :math:`r_i = [C(y - \bar y_{-i} 1)]_i / C_{ii}`. A row of which the weight
    :math:`w_i - l_i` stays has
    :math:`r_i / (1 + (1 / C_{ii} - \alpha / w_i) (w_i - l_i) / \alpha)`.

    Parameters
    ----------
    spectra : list of Spectral
        Decompositions of the kernels.
    ridges : Tensor of shape (kernels, A)
        Absolute ridges.
    Y : Tensor of shape (n, C)
        One-hot labels.
    weights : Tensor of shape (n,)
        Weights.
    left : Tensor of shape (n,)
        How much of its weight each row loses when it is left out.
    starts : list of Tensor of shape (n, C)
        Function of each kernel's network at initialization, from which it is trained.

    Returns
    -------
    Average
    """
    total = weights.sum()
    left_out, duals, constants = [], [], []
    for spectral, alphas, start in zip(spectra, ridges, starts, strict=True):
        Z = Y - start
        mean = (weights[:, None] * Z).sum(0) / total
        without = total * mean - left[:, None] * Z
        without = without / (total - left).clamp_min(1e-12 * total)[:, None]
        targets = torch.cat([Z, torch.ones_like(Z[:, :1])], 1)
        c = spectral.coefficients(targets, alphas)
        precision = spectral.inverse_diagonal(alphas)[..., None]
        noise = alphas[:, None, None] / weights[:, None]
        stays = (1 / precision - noise) * (weights - left)[:, None] / alphas[:, None, None]
        left_out.append(Y - (c[..., :-1] - without * c[..., -1:]) / precision / (1 + stays))
        duals.append(c[..., :-1] - mean * c[..., -1:])
        constants.append(mean.expand(len(alphas), -1))
    scores = torch.stack(left_out)
    errors = (scores - Y).square().sum(-1)
    return _average(scores, errors, duals, torch.zeros_like(Y[0]), constants, weights)


def margin_average(
    grams: list[Tensor],
    ridges: Tensor,
    Y: Tensor,
    weights: Tensor,
    left: Tensor,
    starts: list[Tensor],
    ridge_machines: Average,
) -> Average:
    """Average one-against-rest squared-hinge machines, on the kernels that suit ridge best.

    Parameters
    ----------
    grams : list of Tensor of shape (n, n)
        The kernels.
    ridges, Y, weights, left, starts
        As of `ridge_average`.
    ridge_machines : Average
        What that has found.

    Returns
    -------
    Average
        With empty coefficients for kernels that were not used.
    """
    n, C = Y.shape
    binary = C == 2
    heavy = n * (1 if binary else C) > MARGIN_WORK
    order = ridge_machines.errors.amin(1).argsort()[: 1 if heavy else MARGIN_KERNELS].tolist()
    steps = list(range(ridges.shape[1]))[:: 2 if heavy else 1]
    classes = range(1 if binary else C)
    units = [mean_diagonal(grams[m].diagonal(), weights) for m in order]
    scores = torch.empty(len(order), len(steps), n, C, dtype=Y.dtype, device=Y.device)
    duals = [torch.zeros(len(steps), n, C, dtype=Y.dtype, device=Y.device) for _ in order]
    for q, m in enumerate(order):
        K = grams[m] + units[q]  # a bias of the size of the kernel
        for c in classes:
            t = 2 * Y[:, c] - 1
            active = t * (2 * ridge_machines.left_out[:, c] - 1) < 1
            for j in reversed(range(len(steps))):
                ridge = ridges[m, steps[j]]
                solution = squared_hinge(
                    K,
                    t,
                    ridge / weights,
                    active,
                    ridge / (weights - left),
                    margin_start(starts[m], c),
                )
                active = solution.active
                scores[q, j, :, c], duals[q][j, :, c] = solution.leave_one_out, solution.dual
    if binary:
        scores[..., 1] = -scores[..., 0]
        for dual in duals:
            dual[..., 1] = -dual[..., 0]
    scores = (1 + scores) / 2
    errors = (scores.clamp(0, 1) - Y).square().sum(-1)
    constants = [d.sum(1) * u / 2 for d, u in zip(duals, units, strict=True)]
    half = torch.full_like(Y[0], 0.5)
    made = _average(scores, errors, [d / 2 for d in duals], half, constants, weights)
    spread, shares = [torch.zeros_like(Y) for _ in grams], [0.0] * len(grams)
    for q, m in enumerate(order):
        spread[m], shares[m] = made.dual[q], made.shares[q]
    best = (order[made.best[0]], steps[made.best[1]])
    return Average(spread, made.constant, made.left_out, best, made.errors, shares)


def margin_start(start: Tensor, c: int) -> Tensor:
    """Value from which a margin machine of class c starts, given the network's outputs (n, C).

    The machine tells a class from the rest by -1 and 1, twice as far apart as the network's 0 and
    1; of two classes there is one machine, whose start is half the difference of the outputs.
    """
    if start.shape[1] == 2:
        return start[:, c] - start[:, 1 - c]
    return 2 * start[:, c]


def _average(
    scores: Tensor,
    errors: Tensor,
    duals: list[Tensor],
    constant: Tensor,
    constants: list[Tensor],
    weights: Tensor,
) -> Average:
    share = near_best(errors, weights)
    mean = (errors * weights).mean(-1)
    best = divmod(int(mean.argmin()), mean.shape[1])
    dual = [torch.tensordot(s, d, 1) for s, d in zip(share, duals, strict=True)]
    for s, c in zip(share, constants, strict=True):
        constant = constant + torch.tensordot(s, c, 1)
    left_out = torch.tensordot(share, scores, 2)
    return Average(dual, constant, left_out, best, mean, share.sum(1).tolist())


def stack(ridge: Tensor, margin: Tensor, Y: Tensor, weights: Tensor) -> float:
    """Share of the margin machine by the leave-one-out Brier score of the mixture.

    Of eleven shares, the smallest within one standard error of the best (Breiman et al. 1984,
    section 3.4.3).

    Parameters
    ----------
    ridge, margin : Tensor of shape (n, C)
        Leave-one-out scores of both.
    Y : Tensor of shape (n, C)
        One-hot labels.
    weights : Tensor of shape (n,)
        Weights of the rows.

    Returns
    -------
    float
        In [0, 1].
    """
    shares = [i / 10 for i in range(11)]
    mixtures = [torch.lerp(ridge, margin, share).clamp(0, 1) for share in shares]
    errors = torch.stack([(F - Y).square().sum(1) for F in mixtures])
    return shares[int(near_best(errors, weights, within=1.0).nonzero()[0])]


def temperature(scores: Tensor, labels: np.ndarray, weights: np.ndarray) -> float:
    """Inverse temperature of a softmax that minimizes the leave-one-out log loss.

    A weak prior around 4, the scale at which one-hot scores are confident, keeps it finite where
    all rows are predicted right.
    """
    F = scores.cpu().numpy()
    F = F - F.max(1, keepdims=True)
    rows = np.arange(len(F))

    def loss(log_beta: float) -> float:
        z = np.exp(log_beta) * F
        log_likelihood = z[rows, labels] - np.log(np.exp(z).sum(1))
        return float(-(weights * log_likelihood).sum() + 0.5 * (log_beta - np.log(4.0)) ** 2)

    return float(np.exp(minimize_scalar(loss, bounds=(-2.0, 4.0), method="bounded").x))
