"""Frozen features that a network would have had to learn: infinitely many random ones hold them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from sklearn.utils import check_random_state
from torch import Tensor, nn

from skntk.core import as_tensor, like_input
from skntk.nn import activation as make_activation

#: Random directions that are drawn at one time.
_BATCH = 2**16


def select_features(
    X: Any,
    direction: Any,
    n_features: int,
    *,
    n_selected: int = 1,
    activation: str | nn.Module = "relu",
    random_state: Any = None,
) -> Any:
    r"""Imitate a learned feature by a few frozen random ones, chosen by their weights.

    A trained network may have moved a unit's weights to a direction u that the task calls for:
    :math:`\phi(u \cdot x)`. Of infinitely many random units :math:`\phi(w_i \cdot x)`, never
    trained, some have weights as near to u as one likes, and a readout that puts its mass on these
    has the same feature: no feature needs to be learned, only selected (Sernau 2024). The mean
    of the `n_selected` nearest among `n_features` is returned. Its error is proportional to the
    angle between them and u, which falls as :math:`N^{-1/(d-1)}` in d dimensions: the argument is
    one of existence, and in many dimensions no finite number gets there.

    Parameters
    ----------
    X : array-like or Tensor of shape (n, d)
        Rows.
    direction : array-like of shape (d,)
        u; its length counts, too: the directions that are drawn are given the same.
    n_features : int
        How many random directions are drawn, uniformly on the sphere.
    n_selected : int, default=1
        How many of them are selected.
    activation : str or torch.nn.Module, default="relu"
        :math:`\phi`.
    random_state : int, RandomState or None, default=None
        For the directions.

    Returns
    -------
    ndarray or Tensor of shape (n,)
        The imitated feature at each row.

    Raises
    ------
    ValueError
        If `direction` is 0 or has another length than rows have, or more are to be selected than
        are drawn.

    Examples
    --------
    >>> import numpy as np
    >>> from skntk.adam import select_features
    >>> X = np.random.default_rng(0).normal(size=(100, 3))
    >>> learned = np.maximum(X @ [0.0, 0.6, 0.8], 0)
    >>> apart = [
    ...     np.abs(select_features(X, [0.0, 0.6, 0.8], n, random_state=0) - learned).mean()
    ...     for n in (100, 10_000)
    ... ]
    >>> bool(apart[1] < 0.2 * apart[0])
    True
    """
    x = as_tensor(X, name="X")
    u = torch.as_tensor(np.asarray(direction, dtype=float)).to(x)
    if x.ndim != 2 or u.shape != x.shape[1:] or not 0 < float(u.norm()) < math.inf:
        raise ValueError(
            f"direction has shape {tuple(u.shape)} and X {tuple(x.shape)}; pass (d,) and (n, d), "
            "and a direction that is not 0."
        )
    if not 1 <= n_selected <= n_features:
        raise ValueError(
            f"n_selected={n_selected} must be between 1 and n_features={n_features}, of which they "
            "are selected."
        )
    W = _nearest(u, n_features, n_selected, check_random_state(random_state))
    return like_input(make_activation(activation)(x @ W.T).mean(1), X)


def _nearest(u: Tensor, n_features: int, n_selected: int, rng: np.random.RandomState) -> Tensor:
    """Directions (n_selected, d), as long as u and nearest to it among random ones."""
    best = u.new_empty(0, len(u))
    for start in range(0, n_features, _BATCH):
        drawn = rng.normal(size=(min(_BATCH, n_features - start), len(u)))
        W = torch.as_tensor(drawn).to(u)
        pool = torch.cat([best, W * (u.norm() / W.norm(dim=1, keepdim=True))])
        best = pool[(pool @ u).topk(min(n_selected, len(pool))).indices]
    return best
