"""Rows that no estimator takes, and what it says of them."""

import numpy as np
import pytest
import scipy.sparse


def changed(X, value, where=(1, 1)):
    """The rows with one other entry."""
    A = X.copy()
    A[where] = value
    return A


def bad_rows(X):
    """What X may not be: the rows, the error and a part of its message."""
    return [
        (changed(X, np.nan), ValueError, "contains NaN"),
        (changed(X, np.inf), ValueError, "infinity"),
        (X[0], ValueError, "2D array"),
        (X[:0], ValueError, "0 sample"),
        (X[:, :0], ValueError, "0 feature"),
        (X + 1j, ValueError, "[Cc]omplex"),
        (scipy.sparse.csr_matrix(X), TypeError, "[Ss]parse"),
        (np.full(X.shape, "a"), ValueError, "convert|could not"),
    ]


def check_bad_rows(estimator, X, y, data, error, message):
    """Refuse `data` in `fit`, and if rows at all in `predict`, of an estimator made by a call."""
    with pytest.raises(error, match=message):
        estimator().fit(data, y[: np.shape(data)[0]])
    if not data.shape or (np.ndim(data) == 2 and data.shape[0] and data.shape[1]):
        fitted = estimator().fit(X, y)
        with pytest.raises(error, match=message):
            fitted.predict(data)
