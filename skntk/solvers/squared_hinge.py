"""Squared-hinge machine: Newton's method on the set of rows inside the margin."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from skntk.solvers.cholesky import cholesky

MAX_STEPS = 15


class HingeSolution(NamedTuple):
    """A squared-hinge machine on its training rows.

    Attributes
    ----------
    dual : Tensor of shape (n,)
        Coefficients: the machine is ``K dual``. Zero outside the margin.
    leave_one_out : Tensor of shape (n,)
        Value at each row of the machine trained without it, to first order.
    active : Tensor of shape (n,)
        Rows inside the margin.
    """

    dual: Tensor
    leave_one_out: Tensor
    active: Tensor


def squared_hinge(
    K: Tensor, t: Tensor, noise: Tensor, active: Tensor | None = None
) -> HingeSolution:
    r"""Minimize :math:`\sum_i \max(0, 1 - t_i f_i)^2 / \nu_i + f^\top K^{-1} f` over f = K a.

    On the rows S with :math:`t_i f_i < 1` this is ridge regression on their labels, so Newton's
    method (Chapelle 2007, "Training a support vector machine in the primal", section 4) solves
    :math:`(K_{SS} + \nu_S) a_S = t_S` until S no longer changes. Leaving out a row of S changes
    its value as in ridge regression, if S itself stays as it is; any other row has no influence.

    Parameters
    ----------
    K : Tensor of shape (n, n)
        Kernel, positive semi-definite; add 1 to all entries for a bias.
    t : Tensor of shape (n,)
        Labels -1 and 1.
    noise : Tensor of shape (n,)
        :math:`\nu`, positive: a ridge for each row.
    active : Tensor of shape (n,), optional
        Rows to start from; by default all.

    Returns
    -------
    HingeSolution

    Examples
    --------
    >>> import torch
    >>> from skntk.solvers import squared_hinge
    >>> K, t = torch.eye(2, dtype=torch.float64), torch.tensor([1.0, -1.0], dtype=torch.float64)
    >>> squared_hinge(K, t, torch.ones(2, dtype=torch.float64)).dual
    tensor([ 0.5000, -0.5000], dtype=torch.float64)
    """
    if active is None or not bool(active.any()):
        active = torch.ones_like(t, dtype=torch.bool)
    best: tuple[float, Tensor, Tensor, Tensor] | None = None
    for _ in range(MAX_STEPS):
        rows = torch.nonzero(active)[:, 0]
        factor = cholesky(K[rows][:, rows], noise[rows], overwrite=True)
        dual = factor.solve(t[rows, None])[:, 0]
        f = K[:, rows] @ dual
        gap = (1 - t * f).clamp_min(0)
        loss = float((gap.square() / noise).sum() + dual @ f[rows])
        inside = gap > 1e-9
        improved = best is None or loss < best[0]
        if improved:
            best = (loss, rows, dual, f)
        if not improved or bool((inside == active).all()) or not bool(inside.any()):
            break
        active = inside
    assert best is not None
    _, rows, dual, f = best
    factor = cholesky(K[rows][:, rows], noise[rows], overwrite=True)
    left_out = f.clone()
    left_out[rows] = t[rows] - dual / factor.inverse_diagonal()
    full = torch.zeros_like(t)
    full[rows] = dual
    active = torch.zeros_like(t, dtype=torch.bool)
    active[rows] = True
    return HingeSolution(full, left_out, active)
