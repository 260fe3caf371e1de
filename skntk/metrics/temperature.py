"""Temperature scaling, the baseline that other ways to calibrate must beat."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
from scipy.optimize import brentq
from scipy.special import softmax
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_consistent_length, check_is_fitted, column_or_1d

from skntk.core import SkntkWarning
from skntk.metrics.probabilities import check_probabilities, check_rows

#: Least and largest temperature that is tried.
_COLDEST, _HOTTEST = 0.01, 100.0


class TemperatureScaling(ClassifierMixin, BaseEstimator):
    """A fitted classifier whose logits are divided by one number, chosen on held-out rows.

    The probabilities become ``softmax(log(p) / T)``, which is the same as dividing the logits by T.
    T minimizes the negative log-likelihood of the held-out rows, between 0.01 and 100. The order of
    the classes, and so the prediction, stays what it was.

    The classifier is used as it stands and never fitted; a clone keeps it, and its parameters
    cannot be set from here.

    Parameters
    ----------
    estimator : classifier
        Fitted, with ``predict_proba``.

    Attributes
    ----------
    temperature_ : float
        T: above 1 if the classifier was too sure, below 1 if not sure enough.
    classes_ : ndarray of shape (n_classes,)
        Class labels, of the classifier.
    n_features_in_ : int
        Number of features, if the classifier has it.

    References
    ----------
    Guo et al. (2017), "On calibration of modern neural networks", section 4.2, equation 9.

    Examples
    --------
    Naive Bayes counts correlated features twice, and is too sure:

    >>> from sklearn.datasets import load_breast_cancer
    >>> from sklearn.naive_bayes import GaussianNB
    >>> from skntk.metrics import TemperatureScaling, negative_log_likelihood
    >>> X, y = load_breast_cancer(return_X_y=True)
    >>> model = GaussianNB().fit(X[:200], y[:200])
    >>> scaled = TemperatureScaling(model).fit(X[200:400], y[200:400])
    >>> scaled.temperature_ > 1
    True
    >>> before, after = (
    ...     negative_log_likelihood(y[400:], m.predict_proba(X[400:])) for m in (model, scaled)
    ... )
    >>> after < before
    True
    """

    def __init__(self, estimator: Any) -> None:
        self.estimator = estimator

    def fit(self, X: Any, y: Any) -> TemperatureScaling:
        """Choose the temperature.

        Parameters
        ----------
        X : array-like of shape (n, d)
            Rows that the classifier was not trained on.
        y : array-like of shape (n,)
            Their labels; classes may be missing.

        Returns
        -------
        TemperatureScaling
            Itself.

        Raises
        ------
        NotFittedError
            If the classifier is not fitted.
        TypeError
            If it has no ``predict_proba``.
        ValueError
            If `y` holds a label that the classifier does not know, or the lengths differ.

        Warns
        -----
        SkntkWarning
            If the best temperature is a bound of the search, or every temperature is as good.
        """
        check_is_fitted(
            self.estimator,
            msg="this %(name)s is not fitted yet: fit it on training rows first, then "
            "TemperatureScaling on others.",
        )
        if not hasattr(self.estimator, "predict_proba"):
            name = type(self.estimator).__name__
            raise TypeError(f"{name} has no predict_proba, which TemperatureScaling needs.")
        y = column_or_1d(y)
        check_consistent_length(X, y)
        check_classification_targets(y)
        self.classes_ = np.asarray(self.estimator.classes_)
        strangers = np.setdiff1d(y, self.classes_)
        if strangers.size:
            raise ValueError(
                f"y holds {strangers.tolist()}, which the classifier was not trained on: it knows "
                f"{self.classes_.tolist()}."
            )
        if hasattr(self.estimator, "n_features_in_"):
            self.n_features_in_ = self.estimator.n_features_in_
        proba = self.estimator.predict_proba(X)
        codes, _ = check_probabilities(y, proba, self.classes_)
        self.temperature_ = _best_temperature(_logits(proba), codes)
        return self

    def predict_proba(self, X: Any) -> np.ndarray:
        """Probabilities at the chosen temperature.

        Parameters
        ----------
        X : array-like of shape (n, d)
            Rows.

        Returns
        -------
        ndarray of shape (n, n_classes)
            Columns in the order of ``classes_``.
        """
        check_is_fitted(self, "temperature_")
        return softmax(_logits(self.estimator.predict_proba(X)) / self.temperature_, axis=1)

    def predict(self, X: Any) -> np.ndarray:
        """The most probable class, whatever the temperature.

        Parameters
        ----------
        X : array-like of shape (n, d)
            Rows.

        Returns
        -------
        ndarray of shape (n,)
            Class labels.
        """
        check_is_fitted(self, "temperature_")
        return self.classes_[np.argmax(self.estimator.predict_proba(X), axis=1)]

    def set_params(self, **params: Any) -> TemperatureScaling:
        """Set `estimator`.

        Parameters
        ----------
        **params : dict
            No other name than "estimator".

        Returns
        -------
        TemperatureScaling
            Itself.

        Raises
        ------
        ValueError
            At parameters of the classifier, which is fitted with those it has.
        """
        nested = [name for name in params if name.startswith("estimator__")]
        if nested:
            raise ValueError(
                f"the classifier is already fitted, {', '.join(nested)} cannot be set."
            )
        return super().set_params(**params)

    def __sklearn_clone__(self) -> TemperatureScaling:
        return type(self)(self.estimator)  # scikit-learn would clone the classifier, unfitted


def _logits(proba: Any) -> np.ndarray:
    """Log-probabilities less the largest of their row, (n, k).

    A probability of 0 counts as the least positive normal number of its precision.
    """
    proba = np.asarray(proba)
    precision = proba.dtype if proba.dtype.kind == "f" else np.float64
    logits = np.log(np.maximum(check_rows(proba), np.finfo(precision).tiny))
    return logits - logits.max(axis=1, keepdims=True)


def _best_temperature(logits: np.ndarray, codes: np.ndarray) -> float:
    """Minimizer of the negative log-likelihood, a convex function of 1/T: where its slope is 0."""
    truth = logits[np.arange(len(codes)), codes]

    def slope(log_temperature: float) -> float:
        # d NLL / d(1/T): the logit expected under the scaled probabilities, less the truth's.
        P = softmax(logits / math.exp(log_temperature), axis=1)
        return float(((P * logits).sum(axis=1) - truth).mean())

    coldest, hottest = math.log(_COLDEST), math.log(_HOTTEST)
    cools, heats = slope(coldest) <= 0, slope(hottest) >= 0
    if cools and heats:
        _warn("every temperature is as good: all classes of a row are equally probable. It is 1.")
        return 1.0
    if cools:
        sure = "nearly uniform" if truth.any() else "all right"
        _warn(
            f"the temperature is {_COLDEST:g}, the least that is tried, and the likelihood still "
            f"rises there: on the held-out rows the predictions are {sure}. Hold out more rows."
        )
        return _COLDEST
    if heats:
        _warn(
            f"the temperature is {_HOTTEST:g}, the largest that is tried: the uniform distribution "
            "is as likely as what the classifier says of the held-out rows. See whether their "
            "labels fit the training labels."
        )
        return _HOTTEST
    return math.exp(brentq(slope, coldest, hottest, xtol=1e-12))


def _warn(message: str) -> None:
    warnings.warn(message, SkntkWarning, stacklevel=4)
