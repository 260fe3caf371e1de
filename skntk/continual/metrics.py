"""How well tasks are learnt, kept and helped when they are learnt one after another.

All take a matrix `scores` of shape (T, T): ``scores[i, j]`` is the score on task j after the tasks
0, ..., i were learnt in this order, the R of Lopez-Paz & Ranzato (2017), section 2. The score is an
accuracy, an R², or any other of which more is better. What a metric does not use may be NaN.

References
----------
Lopez-Paz & Ranzato (2017), "Gradient episodic memory for continual learning"; Chaudhry et al.
(2018), "Riemannian walk for incremental learning: understanding forgetting and intransigence";
Riemer et al. (2019), "Learning to learn without forgetting by maximizing transfer and minimizing
interference".
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike


def average_score(scores: ArrayLike) -> float:
    """Mean over tasks of the last score, ``sum_j R[T-1, j] / T`` (Lopez-Paz & Ranzato 2017, eq. 2).

    Parameters
    ----------
    scores : array-like of shape (T, T)
        ``scores[i, j]`` of task j after the tasks 0, ..., i; its last row is used.

    Returns
    -------
    float
        The "average accuracy".

    Raises
    ------
    ValueError
        If `scores` is not square, is empty, or lacks a number in its last row.

    Examples
    --------
    >>> from skntk.continual.metrics import average_score
    >>> average_score([[1.0, 0.25], [0.5, 1.0]])
    0.75
    """
    R = check_score_matrix(scores)
    last = len(R) - 1
    return float(_entries(R, last, np.arange(len(R))).mean())


def learning_score(scores: ArrayLike) -> float:
    """Mean over tasks of the score right after the task was learnt, ``sum_j R[j, j] / T``.

    It is the "learning accuracy" of Riemer et al. (2019), section 5.

    Parameters
    ----------
    scores : array-like of shape (T, T)
        ``scores[i, j]`` of task j after the tasks 0, ..., i; its diagonal is used.

    Returns
    -------
    float
        What `average_score` would be if nothing that is learnt later mattered.

    Raises
    ------
    ValueError
        If `scores` is not square, is empty, or lacks a number on its diagonal.

    Examples
    --------
    >>> from skntk.continual.metrics import learning_score
    >>> learning_score([[1.0, 0.25], [0.5, 0.75]])
    0.875
    """
    R = check_score_matrix(scores)
    tasks = np.arange(len(R))
    return float(_entries(R, tasks, tasks).mean())


def average_over_time(scores: ArrayLike) -> np.ndarray:
    """Mean over the tasks learnt so far, ``sum_{j <= i} R[i, j] / (i + 1)``, after each task i.

    The last of them is the `average_score`.

    Parameters
    ----------
    scores : array-like of shape (T, T)
        ``scores[i, j]`` of task j after the tasks 0, ..., i; its diagonal and what is below are
        used.

    Returns
    -------
    ndarray of shape (T,)
        The mean after 1, ..., T tasks.

    Raises
    ------
    ValueError
        If `scores` is not square, is empty, or lacks a number on or below its diagonal.

    Examples
    --------
    >>> from skntk.continual.metrics import average_over_time
    >>> average_over_time([[1.0, float("nan")], [0.5, 1.0]])
    array([1.  , 0.75])
    """
    R = check_score_matrix(scores)
    learnt = np.tril_indices(len(R))
    _entries(R, *learnt)
    return np.array([R[i, : i + 1].mean() for i in range(len(R))])


def forgetting_by_task(scores: ArrayLike) -> np.ndarray:
    """What was lost of the best score of each task (Chaudhry et al. 2018, section 3).

    For task j it is ``max_{j <= l < T-1} R[l, j] - R[T-1, j]``, the f of the paper; negative if the
    task was never better than at the end.

    Parameters
    ----------
    scores : array-like of shape (T, T)
        ``scores[i, j]`` of task j after the tasks 0, ..., i; its diagonal and what is below are
        used, all but the last number.

    Returns
    -------
    ndarray of shape (T - 1,)
        Of all tasks but the last, which nothing came after; empty if there is one task.

    Raises
    ------
    ValueError
        If `scores` is not square, is empty, or lacks a number that is used.

    Examples
    --------
    The first task was best after the second one:

    >>> from skntk.continual.metrics import forgetting_by_task
    >>> forgetting_by_task([[0.75, 0, 0], [1, 0.75, 0], [0.5, 0.5, 1]])
    array([0.5 , 0.25])
    """
    R = check_score_matrix(scores)
    last = len(R) - 1
    before = np.tril(np.ones((last, last), dtype=bool))  # R[l, j] with j <= l < T-1
    _entries(R, *np.nonzero(before))
    final = _entries(R, last, np.arange(last))
    if not last:
        return np.empty(0)
    return np.where(before, R[:last, :last], -np.inf).max(axis=0) - final


def average_forgetting(scores: ArrayLike) -> float:
    """Mean of `forgetting_by_task`, the F of Chaudhry et al. (2018), section 3.

    It is at least the negative of `backward_transfer`, and equal to it if each task was best, of
    the times before the last task, right after it was learnt.

    Parameters
    ----------
    scores : array-like of shape (T, T)
        As of `forgetting_by_task`.

    Returns
    -------
    float
        NaN if there is one task.

    Raises
    ------
    ValueError
        As of `forgetting_by_task`.

    Examples
    --------
    >>> from skntk.continual.metrics import average_forgetting
    >>> average_forgetting([[0.75, 0, 0], [1, 0.75, 0], [0.5, 0.5, 1]])
    0.375
    """
    return _mean(forgetting_by_task(scores))


def backward_transfer(scores: ArrayLike) -> float:
    """How later tasks changed earlier ones (Lopez-Paz & Ranzato 2017, eq. 3).

    It is ``sum_{j < T-1} (R[T-1, j] - R[j, j]) / (T - 1)``: negative where tasks are forgotten.
    Other libraries call its negative, the score right after a task was learnt minus the last one,
    forgetting (avalanche's ``StreamForgetting``).

    Parameters
    ----------
    scores : array-like of shape (T, T)
        ``scores[i, j]`` of task j after the tasks 0, ..., i; its diagonal and its last row are
        used, all but the last number.

    Returns
    -------
    float
        NaN if there is one task.

    Raises
    ------
    ValueError
        If `scores` is not square, is empty, or lacks a number that is used.

    Examples
    --------
    >>> from skntk.continual.metrics import backward_transfer
    >>> backward_transfer([[0.75, 0, 0], [1, 0.75, 0], [0.5, 0.5, 1]])
    -0.25
    """
    R = check_score_matrix(scores)
    last = len(R) - 1
    tasks = np.arange(last)
    return _mean(_entries(R, last, tasks) - _entries(R, tasks, tasks))


def forward_transfer(scores: ArrayLike, baseline: ArrayLike) -> float:
    """How earlier tasks help those not yet learnt (Lopez-Paz & Ranzato 2017, eq. 4).

    It is ``sum_{j > 0} (R[j-1, j] - b[j]) / (T - 1)``.

    Parameters
    ----------
    scores : array-like of shape (T, T)
        ``scores[i, j]`` of task j after the tasks 0, ..., i; the diagonal above the main one is
        used.
    baseline : array-like of shape (T,)
        The b: score on each task of the untrained network; the first is not used.

    Returns
    -------
    float
        NaN if there is one task.

    Raises
    ------
    ValueError
        If `scores` is not square, is empty, or lacks a number right above its diagonal, or
        `baseline` has another length or lacks a number that is used.

    Examples
    --------
    >>> from skntk.continual.metrics import forward_transfer
    >>> forward_transfer([[1.0, 0.75], [0.5, 1.0]], baseline=[0.5, 0.5])
    0.25
    """
    R = check_score_matrix(scores)
    b = np.asarray(baseline, dtype=np.float64)
    if b.shape != (len(R),):
        raise ValueError(
            f"baseline has shape {b.shape}; wanted ({len(R)},), a score for each task of scores."
        )
    tasks = np.arange(1, len(R))
    return _mean(_entries(R, tasks - 1, tasks) - _entries(b, tasks, name="baseline"))


def check_score_matrix(scores: ArrayLike, name: str = "scores") -> np.ndarray:
    """Return the scores in float64, (T, T) with T > 0."""
    checked = np.asarray(scores, dtype=np.float64)
    if checked.ndim != 2 or checked.shape[0] != checked.shape[1] or checked.size == 0:
        raise ValueError(
            f"{name} has shape {checked.shape}; wanted (T, T) with T > 0: {name}[i, j] is of task "
            "j after the tasks 0, ..., i."
        )
    return checked


def _entries(values: np.ndarray, *index: np.ndarray | int, name: str = "scores") -> np.ndarray:
    """The entries at an index, which must be finite."""
    found = values[index]
    bad = ~np.isfinite(found)
    if bad.any():
        where = ", ".join(str(np.broadcast_to(k, found.shape)[bad][0]) for k in index)
        raise ValueError(
            f"{name}[{where}] is {found[bad][0]}; it must be finite, as all that this metric uses."
        )
    return found


def _mean(terms: np.ndarray) -> float:
    """Mean of a term for each task that counts; NaN if none does."""
    return float(terms.mean()) if len(terms) else float("nan")
