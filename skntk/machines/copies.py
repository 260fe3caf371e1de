"""Rows of X that stand there more than once, and what their targets say of the noise."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

#: How many pairs of copies weigh as much as the belief that a copy is as noisy as any other row.
PRIOR = 5.0


def row_ids(*blocks: Tensor) -> tuple[Tensor, ...]:
    """Number the rows of all blocks (n, d) such that equal rows, and only these, share a number.

    If a block is in float32 the others are compared in float32, too.

    Examples
    --------
    >>> import torch
    >>> from skntk.machines.copies import row_ids
    >>> row_ids(torch.tensor([[1.0], [2.0], [1.0]]), torch.tensor([[2.0]]))
    (tensor([0, 1, 0]), tensor([1]))
    """
    narrow = min((b.dtype for b in blocks), key=lambda dtype: torch.finfo(dtype).bits)
    rows = torch.cat([b.to(narrow) for b in blocks])
    ids = torch.unique(rows, dim=0, return_inverse=True)[1]
    return tuple(ids.split([len(b) for b in blocks]))


def scatter_of_copies(X: Tensor, Z: Tensor, weights: Tensor) -> tuple[Tensor, int]:
    """Weighted squared differences of copies from their mean, and copies beyond the first.

    Parameters
    ----------
    X, Z, weights : Tensor of shape (n, d), (n, k), (n,)
        Rows, what is known of them, weights.

    Returns
    -------
    scatter : Tensor of shape (k,)
    pairs : int
    """
    at = row_ids(X)[0]
    groups = int(at.max()) + 1
    weight = weights.new_zeros(groups).index_add_(0, at, weights)[:, None]
    mean = Z.new_zeros(groups, Z.shape[1]).index_add_(0, at, weights[:, None] * Z) / weight
    return (weights[:, None] * (Z - mean[at]).square()).sum(0), len(X) - groups


def share_of_noise(scatter: float, pairs: float, noise: float) -> float:
    """Which share of the noise differs between copies of a row; the rest belongs to the row.

    Parameters
    ----------
    scatter : float
        Squared differences of copies from their mean, summed.
    pairs : float
        How many copies there are beyond the first of each row.
    noise : float
        Variance of the noise, as it was found without a look at copies.

    Examples
    --------
    >>> from skntk.machines.copies import share_of_noise
    >>> share_of_noise(0.0, 0, 0.1), share_of_noise(0.0, 95, 0.1)
    (1.0, 0.05)
    """
    if not noise > 0:
        return 1.0
    return min(1.0, (scatter / noise + PRIOR) / (pairs + PRIOR))


class Merged(NamedTuple):
    r"""Training rows merged where they coincide in X, in order of their first appearance.

    With noise of variance :math:`\alpha / w_i`, the copies of a row say as much of the function
    as their weighted mean with the noise :math:`\alpha / \sum w_i`, and their scatter speaks of
    :math:`\alpha` alone. Copies that agree in the target are taken for one observation, of the
    largest weight among them.

    Attributes
    ----------
    rows : Tensor of shape (m,)
        Index of the first copy of each row.
    Z : Tensor of shape (m, k)
        Weighted mean of its distinct observations.
    weights : Tensor of shape (m,)
        Sum of their weights.
    log_weights : Tensor of shape (m,)
        Sum of the logarithms of their weights.
    sizes : Tensor of shape (m,)
        Number of distinct observations.
    scatter : Tensor of shape (m, k)
        Their weighted squared differences from the mean, summed.
    share : Tensor of shape (m,)
        Share of all copies in the sum of weights.
    """

    rows: Tensor
    Z: Tensor
    weights: Tensor
    log_weights: Tensor
    sizes: Tensor
    scatter: Tensor
    share: Tensor


def merge(X: Tensor, Z: Tensor, weights: Tensor) -> Merged:
    """Merge the rows (n, d) of X that are equal, given targets (n, k) and weights (n,)."""
    n = len(X)
    rows, at = _in_order(row_ids(X)[0])
    first, which = _in_order(row_ids(torch.cat([at[:, None].to(Z), Z], 1))[0])
    group, m = at[first], len(rows)

    def total(values: Tensor, index: Tensor, size: int) -> Tensor:
        return values.new_zeros(size, *values.shape[1:]).index_add_(0, index, values)

    w = weights.new_zeros(len(first)).scatter_reduce_(0, which, weights, "amax")
    weight = total(w, group, m)
    mean = total(w[:, None] * Z[first], group, m) / weight[:, None]
    apart = w[:, None] * (Z[first] - mean[group]).square()
    sizes = total(torch.ones_like(w), group, m)
    mean = torch.where(sizes[:, None] == 1, Z[rows], mean)  # free of rounding
    share = total(weights / weights.sum(), at, m) if m < n else weights / weights.sum()
    scatter = total(apart, group, m) * (sizes[:, None] > 1)
    return Merged(rows, mean, weight, total(w.log(), group, m), sizes, scatter, share)


def _in_order(ids: Tensor) -> tuple[Tensor, Tensor]:
    """First row of each number, ascending, and the rank of its number for every row."""
    n, count = len(ids), int(ids.max()) + 1
    positions = torch.arange(n, device=ids.device)
    first = torch.full((count,), n, device=ids.device).scatter_reduce_(0, ids, positions, "amin")
    first, order = first.sort()
    rank = torch.empty_like(order)
    rank[order] = torch.arange(count, device=ids.device)
    return first, rank[ids]
