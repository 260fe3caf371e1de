"""How probable the truth was under predicted distributions."""

import numpy as np
from numpy.typing import ArrayLike

from skntk.metrics.probabilities import check_probabilities


def gaussian_log_likelihood(y: ArrayLike, mean: ArrayLike, std: ArrayLike) -> float:
    """Mean log density of `y` under independent normal predictions, in nats.

    ``log N(y; mean, std²) = -(log 2π)/2 - log std - ((y - mean)/std)²/2``, summed over outputs and
    averaged over samples. Tables that report a negative log-likelihood show minus this number.

    Parameters
    ----------
    y : array-like of shape (n,) or (n, k)
        True values.
    mean : array-like, of the shape of `y`
        Predicted means.
    std : float or array-like of the shape of `y`
        Predicted standard deviations of `y`, noise included, positive.

    Returns
    -------
    float
        The mean log-likelihood of one sample; larger is better.

    Raises
    ------
    ValueError
        If the shapes differ (nothing is broadcast but a single `std`), a number is not finite, or a
        standard deviation is not positive.

    Examples
    --------
    >>> from skntk.metrics import gaussian_log_likelihood
    >>> round(gaussian_log_likelihood([0.0, 1.0], [0.0, 0.0], 1.0), 4)
    -1.1689
    """
    y, mean, std = (np.asarray(a, dtype=np.float64) for a in (y, mean, std))
    if std.ndim == 0:
        std = np.full(y.shape, std)
    if y.ndim not in (1, 2) or y.size == 0 or not y.shape == mean.shape == std.shape:
        raise ValueError(
            f"y has shape {y.shape}, mean {mean.shape} and std {std.shape}; wanted (n,) or (n, k), "
            "n > 0, the same for all three."
        )
    if not all(np.isfinite(a).all() for a in (y, mean, std)):
        raise ValueError("y, mean and std must be finite.")
    if std.min() <= 0:
        raise ValueError(f"std must be positive, its smallest value is {std.min():.3g}.")
    z = (y - mean) / std
    log_density = -0.5 * np.log(2 * np.pi) - np.log(std) - 0.5 * z**2
    return float(log_density.sum() / len(y))


def negative_log_likelihood(
    y_true: ArrayLike, proba: ArrayLike, labels: ArrayLike | None = None
) -> float:
    """Mean negative log probability of the true class, in nats.

    ``-(1/n) sum_i log p_i[y_i]`` (Guo et al. 2017, section 2, divided by n); its expectation is
    least for the true probabilities. A truth of probability exactly 0 makes it infinite: nothing is
    clipped.

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
        Between 0 (sure and right) and infinity; smaller is better. The uniform prediction has
        ``log(k)``.

    Raises
    ------
    ValueError
        If the shapes do not fit, `proba` does not hold probabilities, or `y_true` holds a label
        that is not in `labels`.

    References
    ----------
    Guo et al. (2017), "On calibration of modern neural networks".

    Examples
    --------
    >>> from skntk.metrics import negative_log_likelihood
    >>> round(negative_log_likelihood(["no", "yes"], [[0.5, 0.5], [0.75, 0.25]]), 4)
    1.0397
    """
    codes, P = check_probabilities(y_true, proba, labels)
    with np.errstate(divide="ignore"):  # log 0 = -inf is the answer
        return float(-np.log(P[np.arange(len(P)), codes]).mean())
