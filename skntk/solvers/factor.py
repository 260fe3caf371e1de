"""What every factorization of a regularised kernel matrix can answer."""

import math
from abc import ABC, abstractmethod
from typing import NamedTuple

import torch

from skntk.solvers import checks


class LeaveOneOut(NamedTuple):
    """Leave-one-out prediction of each target from all the others, at fixed hyperparameters.

    Attributes
    ----------
    residual : torch.Tensor
        ``y_i - f_{-i}(x_i)``, shape (n, k).
    variance : torch.Tensor
        Predictive variance of ``y_i``, its noise included, per unit of signal scale, shape (n,).
    """

    residual: torch.Tensor
    variance: torch.Tensor


class Factor(ABC):
    """A factorization of ``C = K + noise``, (n, n) and positive definite.

    A subclass gives `solve`, `half_solve`, `logdet` and `inverse_diagonal`; evidence and
    leave-one-out follow from them here, once.
    """

    @property
    @abstractmethod
    def n_samples(self) -> int:
        """Number of rows n of the matrix."""

    @abstractmethod
    def solve(self, B: torch.Tensor) -> torch.Tensor:
        """Return C⁻¹B, (n, m)."""

    @abstractmethod
    def half_solve(self, B: torch.Tensor, *, overwrite: bool = False) -> torch.Tensor:
        """Return HB, (n, m), for one fixed H with HᵀH = C⁻¹.

        A GP's posterior variance is its prior variance minus the column sums of the squares of
        ``half_solve(K_DT)``. With `overwrite` the result may take the place of `B`.
        """

    @abstractmethod
    def logdet(self) -> torch.Tensor:
        """Return log det C, a tensor without axes."""

    @abstractmethod
    def inverse_diagonal(self) -> torch.Tensor:
        """Return the diagonal of C⁻¹, (n,)."""

    def log_marginal_likelihood(self, Y: torch.Tensor) -> torch.Tensor:
        """Log density of each column of `Y` under N(0, C).

        Rasmussen and Williams (2006), eq. 2.30.

        Parameters
        ----------
        Y : torch.Tensor
            Targets, shape (n, k).

        Returns
        -------
        torch.Tensor
            Shape (k,).
        """
        checks.matrix(Y, "Y", self.n_samples)
        quadratic = self.half_solve(Y).square().sum(0)
        return -0.5 * (quadratic + self.logdet() + self.n_samples * math.log(2 * math.pi))

    def leave_one_out(self, Y: torch.Tensor) -> LeaveOneOut:
        """Predict each target from all the others, in closed form.

        With c = C⁻¹y the residual is ``c_i / (C⁻¹)_ii`` and the variance ``1 / (C⁻¹)_ii``:
        Rasmussen and Williams (2006), eq. 5.12.

        Parameters
        ----------
        Y : torch.Tensor
            Targets, shape (n, k).

        Returns
        -------
        LeaveOneOut
            ``residual`` (n, k) and ``variance`` (n,).
        """
        checks.matrix(Y, "Y", self.n_samples)
        precision = self.inverse_diagonal()
        return LeaveOneOut(self.solve(Y) / precision[:, None], 1.0 / precision)
