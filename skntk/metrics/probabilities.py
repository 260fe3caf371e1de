"""What an array of predicted probabilities must be."""

import numpy as np
from numpy.typing import ArrayLike


def check_rows(proba: ArrayLike) -> np.ndarray:
    """Return the probabilities in float64, (n, k); each row must sum to 1 to half the digits."""
    P = np.asarray(proba)
    if P.ndim != 2 or P.size == 0:
        raise ValueError(f"proba has shape {P.shape}; wanted (n, k) with n > 0.")
    precision = P.dtype if P.dtype in (np.float16, np.float32) else np.float64
    P = P.astype(np.float64)
    if not np.isfinite(P).all() or P.min() < 0 or P.max() > 1:
        raise ValueError("proba must hold finite numbers between 0 and 1.")
    worst = np.abs(P.sum(axis=1) - 1).max()
    if worst > np.sqrt(np.finfo(precision).eps):
        raise ValueError(f"each row of proba must sum to 1; one is off by {worst:.2g}.")
    return P


def label_codes(y: np.ndarray, classes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return where each label stands among the classes, (n,), and the labels that do not."""
    order = np.argsort(classes)
    ranks = np.searchsorted(classes[order], y)
    codes = order[np.minimum(ranks, len(order) - 1)]
    return codes, np.unique(y[classes[codes] != y])


def check_probabilities(
    y_true: ArrayLike, proba: ArrayLike, labels: ArrayLike | None
) -> tuple[np.ndarray, np.ndarray]:
    """Return the column number of each true label, (n,), and the probabilities, (n, k)."""
    y, P = np.asarray(y_true), np.asarray(proba)
    if y.ndim != 1 or P.ndim != 2 or len(y) != len(P) or len(y) == 0:
        raise ValueError(
            f"y_true has shape {y.shape} and proba {P.shape}; wanted (n,) and (n, k) with n > 0."
        )
    P = check_rows(P)
    classes = np.unique(y) if labels is None else np.asarray(labels)
    if classes.shape != (P.shape[1],):
        raise ValueError(
            f"proba has {P.shape[1]} columns for {classes.size} labels; pass labels=, one for each "
            "column (an estimator's classes_)."
        )
    codes, strangers = label_codes(y, classes)
    if strangers.size:
        raise ValueError(
            f"y_true holds {strangers.tolist()}, which labels={classes.tolist()} lacks."
        )
    return codes, P
