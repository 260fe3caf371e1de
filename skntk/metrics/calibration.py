"""How far predicted class probabilities are from what happens."""

from numbers import Integral

import numpy as np
from numpy.typing import ArrayLike

from skntk.metrics.probabilities import check_probabilities


def expected_calibration_error(
    y_true: ArrayLike, proba: ArrayLike, n_bins: int = 15, labels: ArrayLike | None = None
) -> float:
    """Expected calibration error of the predicted class (Guo et al. 2017, eq. 3).

    Samples are sorted into bins of equal width by their confidence, the largest probability of the
    row; the result is the mean over samples of ``|accuracy - confidence|`` of their bin. A
    confidence on the border of two bins belongs to the lower one.

    Parameters
    ----------
    y_true : array-like of shape (n,)
        True labels.
    proba : array-like of shape (n, k)
        Predicted probabilities, columns in the order of `labels`.
    n_bins : int, default=15
        Number of bins on [0, 1].
    labels : array-like of shape (k,), optional
        The label of each column, an estimator's ``classes_``; by default the sorted labels in
        `y_true`, which must then all occur there.

    Returns
    -------
    float
        Between 0 (calibrated) and 1.

    Raises
    ------
    ValueError
        If the shapes do not fit, `proba` does not hold probabilities, `y_true` holds a label that
        is not in `labels`, or `n_bins` is not a positive integer.

    Examples
    --------
    Two predictions at confidence 0.8, one of them right:

    >>> from skntk.metrics import expected_calibration_error
    >>> round(expected_calibration_error([0, 1], [[0.8, 0.2], [0.8, 0.2]]), 3)
    0.3
    """
    return mean_gap(*reliability_bins(y_true, proba, n_bins, labels))


def reliability_bins(
    y_true: ArrayLike, proba: ArrayLike, n_bins: int, labels: ArrayLike | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows, accuracy and mean confidence of each bin, (n_bins,); NaN where a bin has no row."""
    if not isinstance(n_bins, Integral) or n_bins < 1:
        raise ValueError(f"n_bins={n_bins!r} must be a positive integer.")
    codes, P = check_probabilities(y_true, proba, labels)
    confidence = P.max(axis=1)
    correct = P.argmax(axis=1) == codes
    bins = np.clip(np.ceil(confidence * n_bins).astype(np.intp) - 1, 0, n_bins - 1)
    counts = np.bincount(bins, minlength=n_bins)
    rows = np.where(counts == 0, np.nan, counts)
    right, sure = (np.bincount(bins, weights=w, minlength=n_bins) for w in (correct, confidence))
    return counts, right / rows, sure / rows


def mean_gap(counts: np.ndarray, accuracy: np.ndarray, confidence: np.ndarray) -> float:
    """Mean over rows of ``|accuracy - confidence|`` of their bin (Guo et al. 2017, eq. 3)."""
    return float(np.nansum(counts * np.abs(accuracy - confidence)) / counts.sum())


def brier_score(y_true: ArrayLike, proba: ArrayLike, labels: ArrayLike | None = None) -> float:
    """Brier score over all classes (Brier 1950, eq. 2): mean of ``sum_c (p_c - [y = c])**2``.

    For two classes this is twice the score that only counts the positive class.

    Parameters
    ----------
    y_true : array-like of shape (n,)
        True labels.
    proba : array-like of shape (n, k)
        Predicted probabilities, columns in the order of `labels`.
    labels : array-like of shape (k,), optional
        The label of each column, an estimator's ``classes_``; by default the sorted labels in
        `y_true`, which must then all occur there.

    Returns
    -------
    float
        Between 0 (sure and right) and 2 (sure and wrong).

    Raises
    ------
    ValueError
        If the shapes do not fit, `proba` does not hold probabilities, or `y_true` holds a label
        that is not in `labels`.

    Examples
    --------
    >>> from skntk.metrics import brier_score
    >>> round(brier_score(["no", "yes"], [[0.9, 0.1], [0.4, 0.6]]), 3)
    0.17
    """
    codes, P = check_probabilities(y_true, proba, labels)
    truth = np.eye(P.shape[1])[codes]
    return float(((P - truth) ** 2).sum(axis=1).mean())
