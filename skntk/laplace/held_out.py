"""Rows that are held out, and the prior precision that predicts them best."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from skntk.laplace.evidence import Evidence

#: Prior precisions that are tried: every third, then the neighbours of the best.
GRID = np.logspace(-4, 4, 25)
#: Rows that are held out at the least, or a third if there are not so many.
HELD_OUT = 50


def hold_out(strata: list[np.ndarray], fraction: float, rng: np.random.Generator) -> np.ndarray:
    """Which rows are held out: (n,) of bool.

    Parameters
    ----------
    strata : list of ndarray of int
        Rows of which the same share is held out, and at least one is not.
    fraction : float
        The share, at the least.
    rng : numpy.random.Generator
        For the choice.

    Raises
    ------
    ValueError
        If no row can be spared.
    """
    n = sum(map(len, strata))
    share = max(fraction, min(HELD_OUT / n, 1 / 3))
    out = np.zeros(n, dtype=bool)
    for rows in strata:
        number = min(round(share * len(rows)), len(rows) - 1)
        out[rng.permutation(rows)[:number]] = True
    if not out.any():
        raise ValueError(
            f"rows are held out to find prior_precision, but with n_samples={n} none can be "
            "spared; pass prior_precision='marginal_likelihood', or a number."
        )
    return out


def best_precision(
    evidence: Evidence, scale: float, X: Tensor, score: Callable[[Tensor], float]
) -> tuple[Tensor, np.ndarray]:
    """Prior precision (1,) with the largest score, and the scores on the grid.

    Parameters
    ----------
    evidence : Evidence
        Makes the posteriors.
    scale : float
        Of the noise.
    X : Tensor
        Held out rows.
    score : callable
        Log-likelihood of their targets, given the variances of the outputs.

    Raises
    ------
    ValueError
        If no score is finite.
    """
    scores = np.full(len(GRID), np.nan)

    def try_at(places: list[int]) -> None:
        found = evidence.curvature.variances(X, GRID[places], evidence.groups, scale)
        for i, variance in zip(places, found, strict=True):
            value = score(variance)
            scores[i] = value if np.isfinite(value) else np.nan

    try_at(list(range(0, len(GRID), 3)))
    if np.isnan(scores).all():
        raise ValueError(
            "no prior precision gives the validation rows a finite log-likelihood: look for "
            "targets far from the predictions, or inputs that are not scaled, or pass "
            "prior_precision as a number."
        )
    best = int(np.nanargmax(scores))
    try_at([i for i in range(best - 2, best + 3) if i % 3 and 0 <= i < len(GRID)])
    return torch.full_like(evidence.squares, GRID[int(np.nanargmax(scores))]), scores
