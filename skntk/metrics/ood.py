"""Whether a predictor is less sure of rows that are not from its distribution."""

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import entr
from sklearn.metrics import roc_auc_score

from skntk.metrics.probabilities import check_rows


def predictive_entropy(proba: ArrayLike) -> np.ndarray:
    """Entropy of each row of predicted probabilities, ``-sum_c p_c log p_c``, in nats.

    A class of probability 0 adds nothing (Shannon 1948, section 6).

    Parameters
    ----------
    proba : array-like of shape (n, k)
        Predicted probabilities.

    Returns
    -------
    ndarray of shape (n,)
        Between 0 (sure) and ``log(k)`` (uniform).

    Raises
    ------
    ValueError
        If `proba` does not hold probabilities.

    References
    ----------
    Shannon (1948), "A mathematical theory of communication".

    Examples
    --------
    >>> from skntk.metrics import predictive_entropy
    >>> predictive_entropy([[1.0, 0.0], [0.5, 0.5]]).round(4)
    array([0.    , 0.6931])
    """
    return entr(check_rows(proba)).sum(axis=1)


def ood_auroc(score_in: ArrayLike, score_out: ArrayLike) -> float:
    """Area under the ROC curve of telling out-of-distribution rows by their uncertainty.

    It is the probability that a row from outside has the larger score of a random pair, where a tie
    counts half (Hanley & McNeil 1982): 0.5 is chance. Hendrycks & Gimpel (2017) measure detectors
    of foreign rows so.

    Parameters
    ----------
    score_in : array-like of shape (n_in,)
        An uncertainty of each row from the distribution of the training rows, larger where less
        sure, such as `predictive_entropy`.
    score_out : array-like of shape (n_out,)
        The same uncertainty of rows from elsewhere.

    Returns
    -------
    float
        Between 0 and 1; 1 if every row from outside is less sure than every row from inside.

    Raises
    ------
    ValueError
        If the scores are not two non-empty vectors of finite numbers.

    References
    ----------
    Hanley & McNeil (1982), "The meaning and use of the area under a receiver operating
    characteristic (ROC) curve"; Hendrycks & Gimpel (2017), "A baseline for detecting misclassified
    and out-of-distribution examples in neural networks".

    Examples
    --------
    Three of the four pairs are in order:

    >>> from skntk.metrics import ood_auroc
    >>> ood_auroc([0.1, 0.4], [0.3, 0.5])
    0.75
    """
    inside, outside = check_scores(score_in, "score_in"), check_scores(score_out, "score_out")
    is_out = np.repeat([0, 1], [len(inside), len(outside)])
    return float(roc_auc_score(is_out, np.concatenate([inside, outside])))


def check_scores(score: ArrayLike, name: str) -> np.ndarray:
    """Return the scores in float64, (n,)."""
    checked = np.asarray(score, dtype=np.float64)
    if checked.ndim != 1 or checked.size == 0:
        raise ValueError(f"{name} has shape {checked.shape}; wanted (n,) with n > 0.")
    if not np.isfinite(checked).all():
        raise ValueError(f"{name} must hold finite numbers.")
    return checked
