"""Squared-hinge machine: Newton's method on the set of rows inside the margin."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from skntk.solvers.cholesky import cholesky

#: Newton steps; a few suffice, and 50 do where the ridge is near rounding.
MAX_STEPS = 50


class HingeSolution(NamedTuple):
    """A squared-hinge machine on its training rows.

    Attributes
    ----------
    dual : Tensor of shape (n,)
        Coefficients: the machine is ``K dual``, beside its offset. Zero outside the margin.
    leave_one_out : Tensor of shape (n,)
        Value at each row of the machine trained without it, to first order.
    active : Tensor of shape (n,)
        Rows inside the margin.
    """

    dual: Tensor
    leave_one_out: Tensor
    active: Tensor


def squared_hinge(
    K: Tensor,
    t: Tensor,
    noise: Tensor,
    active: Tensor | None = None,
    kept_noise: Tensor | None = None,
    offset: Tensor | None = None,
) -> HingeSolution:
    r"""Minimize :math:`\sum_i \max(0, 1 - t_i f_i)^2 / \nu_i + f^\top K^{-1} f` over f = K a.

    On the rows S with :math:`t_i f_i < 1` this is ridge regression on their labels, so Newton's
    method (Chapelle 2007, "Training a support vector machine in the primal", section 4) solves
    :math:`(K_{SS} + \nu_S) a_S = t_S` until S no longer changes; a step that overshoots is halved.
    Leaving out a row of S changes its value as in ridge regression, if S itself stays as it is;
    any other row has no influence.

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
    kept_noise : Tensor of shape (n,), optional
        The ridge of each row when it is left out, larger than `noise`; by default infinite. A row
        that stands for w equal ones, with :math:`\nu = \alpha / w`, keeps
        :math:`\alpha / (w - 1)` when one of them is left out.

    offset : Tensor of shape (n,), optional
        What is added to f in the loss, by default 0: the machine is ``offset + K dual``, and the
        labels that ridge regression sees are :math:`t - offset`.

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

    start = torch.zeros_like(t) if offset is None else offset

    def objective(dual: Tensor, f: Tensor) -> float:
        return float(((1 - t * f).clamp_min(0).square() / noise).sum() + dual @ (f - start))

    at: tuple[float, Tensor, Tensor] | None = None  # objective, coefficients, values
    for _ in range(MAX_STEPS):
        rows = torch.nonzero(active)[:, 0]
        dual, f = torch.zeros_like(t), start
        if len(rows):  # else the offset alone is beyond the margin everywhere
            whole = len(rows) == len(t)
            K_SS = K if whole else K.index_select(0, rows).index_select(1, rows)
            factor = cholesky(K_SS, noise[rows], overwrite=not whole)
            del K_SS
            dual[rows] = factor.solve((t - start)[rows, None])[:, 0]
            f = start + K @ dual
        loss = objective(dual, f)
        inside = t * f < 1
        if torch.equal(inside, active):
            break
        if at is not None:
            best, dual_0, f_0 = at
            residual = dual_0 - t * (1 - t * f_0).clamp_min(0) / noise
            slope, step = 2 * float(residual @ (f - f_0)), 1.0
            if not slope < -1e-13 * best:
                break
            goal, f_goal = dual, f
            while loss > best + 1e-4 * step * slope and step > 1e-6:
                step /= 2
                dual, f = torch.lerp(dual_0, goal, step), torch.lerp(f_0, f_goal, step)
                loss = objective(dual, f)
            inside = t * f < 1
        at, active = (loss, dual, f), inside
    if not len(rows):
        return HingeSolution(dual, f.clone(), torch.zeros_like(active))
    stays = 0.0 if kept_noise is None else 1 / kept_noise[rows]
    precision = factor.inverse_diagonal()
    left_out = f.clone()
    change = dual[rows] / precision
    left_out[rows] = t[rows] - change / (1 + (1 / precision - noise[rows]) * stays)
    return HingeSolution(dual, left_out, torch.zeros_like(active).index_fill_(0, rows, True))
