"""What finds the prior precision, and checks of arguments that scikit-learn's do not reach."""

from __future__ import annotations

from numbers import Integral
from typing import Any

import numpy as np


def chosen_criterion(estimator: Any, X_val: Any, y_val: Any) -> str:
    """Return "validation", "marginal_likelihood" or "none", with "auto" resolved.

    Parameters
    ----------
    estimator : LaplaceEstimator
        Its parameters.
    X_val, y_val : array-like or None
        Rows for validation, if they are given.

    Raises
    ------
    ValueError
        If these contradict each other.
    """
    if not isinstance(estimator.prior_precision, str):
        positive(estimator.prior_precision, "prior_precision")
    if (X_val is None) != (y_val is None):
        raise ValueError("X_val and y_val belong together: pass both, or none.")
    criterion = _criterion(estimator, X_val is not None)
    _check_validation(estimator, criterion, X_val is not None)
    if estimator.online and (estimator.prefit or criterion != "marginal_likelihood"):
        raise ValueError(
            "online=True tunes by the marginal likelihood while the network is trained: it needs "
            "prefit=False and prior_precision='marginal_likelihood'."
        )
    if estimator.online and estimator.prior_structure == "parameter":
        raise ValueError(
            "online=True trains with one weight decay for each parameter tensor, so that "
            "prior_structure must be 'scalar' or 'layer'."
        )
    if estimator.prior_structure == "parameter" and estimator.curvature == "kron":
        raise ValueError(
            "prior_structure='parameter' needs coordinates that are parameters; with "
            "curvature='kron' pass 'layer' or 'scalar', or take curvature='diag' or 'full'."
        )
    return criterion


def _criterion(estimator: Any, given: bool) -> str:
    asked = estimator.prior_precision
    if not isinstance(asked, str):
        return "none"
    if asked != "auto":
        return asked
    alone = estimator._holds_out and not estimator.prefit and not estimator.online
    return "validation" if _one(estimator) and (given or alone) else "marginal_likelihood"


def _one(estimator: Any) -> bool:
    """Whether there is one prior precision, which is what rows are held out for."""
    return estimator.prior_structure == "scalar"


def _check_validation(estimator: Any, criterion: str, given: bool) -> None:
    validated = criterion == "validation"
    if (validated or given) and not _one(estimator):
        raise ValueError(
            "validation rows find one prior precision, but prior_structure="
            f"{estimator.prior_structure!r}; pass 'scalar', or tune by 'marginal_likelihood', "
            "without X_val."
        )
    if given and not validated:
        raise ValueError(
            "X_val is used by prior_precision='validation' or 'auto', not "
            f"{estimator.prior_precision!r}; leave it out."
        )
    if validated and estimator.prefit and not given:
        raise ValueError(
            "prior_precision='validation' with prefit=True needs rows that the network was not "
            "trained on: pass X_val and y_val to fit, or tune by 'marginal_likelihood'."
        )


def row_weights(row_weight: Any, n: int, prefit: bool) -> np.ndarray:
    """Weights (n,) of the rows, all 1 by default.

    Raises
    ------
    ValueError
        If they are given for a network that is trained here, or are no positive numbers (n,).
    """
    if row_weight is None:
        return np.ones(n)
    if not prefit:
        raise ValueError(
            "row_weight needs prefit=True: networks are trained on all rows alike. Train the "
            "network as the weights ask for, and pass it."
        )
    weights = np.array(row_weight, dtype=np.float64)
    if weights.shape != (n,):
        raise ValueError(f"row_weight has shape {weights.shape}; wanted ({n},).")
    if not (np.isfinite(weights) & (weights > 0)).all():
        raise ValueError(
            "row_weight must be positive and finite: a row's noise variance is divided by it. "
            "Leave out rows that shall not count."
        )
    return weights


def positive(values: Any, name: str) -> np.ndarray:
    """Positive numbers as an array.

    Raises
    ------
    ValueError
        If they are none.
    """
    try:
        found = np.array(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name}={values!r} must be a number, or numbers.") from error
    if not (np.isfinite(found) & (found > 0)).all():
        raise ValueError(f"{name} must be positive and finite, is {found.tolist()}.")
    return found


def per_output(values: Any, k: int, name: str) -> np.ndarray:
    """One positive number, or one for each output, as (k,)."""
    found = positive(values, name)
    if found.ndim == 0:
        found = np.full(k, float(found))
    if found.shape != (k,):
        raise ValueError(f"{name} has shape {found.shape}; pass one number, or {k}.")
    return found


def whole(number: Any, name: str) -> int:
    """A positive integer."""
    if not isinstance(number, Integral) or number < 1:
        raise ValueError(f"{name}={number!r} must be an integer of at least 1.")
    return int(number)
