"""The Gaussian process that regression benchmarks compare with: RBF, one length scale a feature."""

import warnings

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel

TUNE_ROWS = 1000
RESTARTS = 1


def fit_tuned_gp(X: np.ndarray, y: np.ndarray, seed: int = 0) -> GaussianProcessRegressor:
    """Fit ``ConstantKernel * RBF + WhiteKernel`` on standardized inputs.

    The evidence is maximized on at most `TUNE_ROWS` random rows, from one fixed start and
    `RESTARTS` random ones; all rows are then used with the kernel found. The standard deviation
    that it predicts is that of an observation: the white noise is in the kernel.

    Parameters
    ----------
    X : (n, d)
        Standardized inputs.
    y : (n,)
        Targets, in their units.
    seed : int
        Of the choice of rows and the restarts.
    """
    kernel = ConstantKernel(1.0, (1e-3, 1e4)) * RBF(np.ones(X.shape[1]), (1e-2, 1e4)) + WhiteKernel(
        0.1, (1e-8, 1e1)
    )
    rows = np.random.default_rng(seed).permutation(len(X))[:TUNE_ROWS]
    tuned = GaussianProcessRegressor(
        kernel, normalize_y=True, n_restarts_optimizer=RESTARTS, random_state=seed
    )
    with warnings.catch_warnings():
        # a length scale at its upper bound is how an irrelevant feature is switched off
        warnings.simplefilter("ignore", ConvergenceWarning)
        tuned.fit(X[rows], y[rows])
    if len(rows) == len(X):
        return tuned
    return GaussianProcessRegressor(tuned.kernel_, optimizer=None, normalize_y=True).fit(X, y)
