"""The regularized kernel system of a regressor, solved: coefficients, evidence and posterior."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from skntk.machines.base import Evaluated
from skntk.solvers import (
    Factor,
    Spectral,
    cholesky,
    ensemble_covariance,
    readout_ensemble_covariance,
)

#: Added to a singular kernel without a ridge, relative to its largest eigenvalue.
JITTER = 1e-12


class Solution:
    r"""Coefficients of standardized targets, and what else can be said of unseen rows.

    Parameters
    ----------
    kernel : Evaluated
        The kernel.
    X, Z, weights : Tensor of shape (n, d), (n, k), (n,)
        Training rows, standardized targets, weights. A finite network's function at initialization
        is subtracted from the targets.
    ridges : Tensor of shape (k,)
        Absolute ridge of each output.
    time : float
        Training time for all rows together; infinite for ridge regression.
    by_cholesky : bool
        Whether to factorize, which needs one ridge and infinite time, rather than decompose.
    spectral : Spectral, optional
        Decomposition of the kernel of these rows, if there is one already.

    Attributes
    ----------
    dual : Tensor of shape (n, k)
        Coefficients.
    jitter : float
        What had to be added to the diagonal beyond the ridges.
    factors : list of Factor
        Of the regularized kernel, one for each distinct ridge.
    factor_at : list of int
        Which of these each output has.
    """

    def __init__(
        self,
        kernel: Evaluated,
        X: Tensor,
        Z: Tensor,
        weights: Tensor,
        ridges: Tensor,
        *,
        time: float,
        by_cholesky: bool,
        spectral: Spectral | None = None,
    ) -> None:
        Z = Z - kernel.function(X)
        self.kernel, self.X, self.Z, self.weights, self.time = kernel, X, Z, weights, time
        self.jitter, self._spectral = 0.0, spectral
        self.factors: list[Factor]
        if by_cholesky and spectral is None:
            factor = cholesky(kernel.gram(X), float(ridges[0]) / weights, overwrite=True)
            self.factors, self.factor_at = [factor], [0] * Z.shape[1]
            self.jitter = factor.jitter
            self.ridges = ridges + self.jitter
            self.dual = factor.solve(Z)
        else:
            spectral = self.decomposition
            lowest, highest = spectral.eigenvalues[[0, -1]].tolist()
            if lowest + float(ridges.min()) <= torch.finfo(Z.dtype).eps * highest:
                self.jitter = JITTER * highest
            self.ridges = ridges + self.jitter
            distinct, at = torch.unique(self.ridges, return_inverse=True)
            self.factors = [spectral.at(float(ridge)) for ridge in distinct]
            self.factor_at = at.tolist()
            self.dual = self.flow([time])[0]

    def mean(self, X: Tensor, cross: Tensor, dual: Tensor) -> Tensor:
        """Standardized predictions (..., m, k) at rows X, from their kernel with the training rows.

        The function at initialization of a finite network is part of them.
        """
        return cross @ dual + self.kernel.function(X)

    @property
    def decomposition(self) -> Spectral:
        """Eigendecomposition of the training kernel, made when it is first needed."""
        if self._spectral is None:
            K = self.kernel.gram(self.X)
            self._spectral = Spectral.from_gram(K, self.weights, overwrite=True)
        return self._spectral

    def flow(self, times: Iterable[float]) -> Tensor:
        """Coefficients (T, n, k) of the targets under gradient flow."""
        return self.decomposition.time_coefficients(self.Z, list(times), self.ridges)

    def log_marginal_likelihood(self, scale: Tensor) -> float:
        """Evidence of the standardized targets at signal variances (k,), summed over outputs."""
        n, total = len(self.Z), 0.0
        for j, s in enumerate(scale.clamp_min(torch.finfo(scale.dtype).tiny)):
            factor = self.factors[self.factor_at[j]]
            unit = factor.log_marginal_likelihood(self.Z[:, j : j + 1] / s.sqrt())
            total += float(unit) - 0.5 * n * float(s.log())
        return total

    def posterior(self, X: Tensor, cross: Tensor, *, full: bool) -> Tensor:
        """Posterior of the Gaussian process, per unit of signal variance; consumes `cross`.

        Parameters
        ----------
        X : Tensor of shape (m, d)
            Test rows.
        cross : Tensor of shape (m, n)
            Their kernel with the training rows.
        full : bool
            Whether to return covariances rather than variances.

        Returns
        -------
        Tensor of shape (m, k), or (m, m, k) with `full`
        """
        prior = self.kernel.gram(X) if full else self.kernel.diag(X)
        made = []
        for factor in self.factors:
            half = factor.half_solve(cross.T, overwrite=len(self.factors) == 1)
            if full:
                covariance = prior - half.T @ half
                covariance = 0.5 * (covariance + covariance.T)
                covariance.diagonal().clamp_(min=0.0)
                made.append(covariance)
            else:
                made.append((prior - half.square_().sum(0)).clamp_min(0.0))
        return torch.stack([made[i] for i in self.factor_at], -1)

    def ensemble(self, X: Tensor, cross: Tensor, *, full: bool) -> Tensor:
        """Spread of trained networks over initializations (Lee et al. 2019, equations 15, 16).

        Parameters and results are those of `posterior`. All outputs must have the same ridge.
        """
        k, kernel, spectral = self.Z.shape[1], self.kernel, self.decomposition
        own = kernel.gram(X, kind="nngp") if full else kernel.diag(X, kind="nngp")
        time, alpha = self.time, float(self.ridges[0])
        if kernel.choice.kind == "nngp":
            spread = readout_ensemble_covariance(
                spectral, cross, own, time=time, alpha=alpha, n_outputs=k
            )
        else:
            among = kernel.gram(self.X, kind="nngp")
            between = kernel.gram(X, self.X, kind="nngp")
            spread = ensemble_covariance(
                spectral, cross, among, between, own, time=time, alpha=alpha, n_outputs=k
            )
        return spread[..., None].expand(*spread.shape, k)
