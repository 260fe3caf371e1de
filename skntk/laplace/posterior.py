"""What every curvature structure offers: evidence terms, and the posterior of the weights."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from skntk.core import NotPositiveDefiniteError
from skntk.laplace.likelihoods import Likelihood
from skntk.laplace.tangent import Rows, Tangent, check_finite_outputs

#: Numbers of captured rows that are kept while prior precisions are tried on them.
_KEPT = 2**25


class Curvature(ABC):
    r"""Generalized Gauss-Newton matrix H of all rows seen, at noise scale 1, in some structure.

    Parameters
    ----------
    tangent : Tangent
        The network.
    likelihood : Likelihood
        Whose Hessians stand between the Jacobians.
    """

    #: Whether one evaluation costs so much that a search should make few.
    costly = False
    #: Whether the Jacobians of rows are needed when these are taken in.
    captures = True

    def __init__(self, tangent: Tangent, likelihood: Likelihood) -> None:
        self.tangent, self.likelihood = tangent, likelihood

    def take(self, X: Tensor, targets: Tensor, weights: Tensor) -> Iterator[tuple[Tensor, float]]:
        """Take in rows block by block; for each its outputs and its loss at noise scale 1.

        Raises
        ------
        TrainingDivergedError
            If outputs are not finite.
        """
        for rows in self.tangent.blocks(X, captured=self.captures):
            check_finite_outputs(rows.outputs)
            loss = self.likelihood.loss(rows.outputs, targets[rows.at], weights[rows.at])
            self.add(rows, weights[rows.at])
            yield rows.outputs, loss

    @abstractmethod
    def add(self, rows: Rows, weights: Tensor) -> None:
        """Take in rows with their weights (n,)."""

    @abstractmethod
    def posterior(self, precision: Tensor, groups: Tensor, scale: float) -> Posterior:
        """Posterior under a prior.

        Parameters
        ----------
        precision : Tensor of shape (G,)
            Prior precisions.
        groups : Tensor of int of shape (P,)
            Which of them each parameter has, in the order of `Tangent.flat`.
        scale : float
            Scale c of the noise: the precision is H / c plus the prior's.
        """

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """What was summed, as plain numbers and tensors."""

    @abstractmethod
    def load(self, state: dict[str, Any]) -> None:
        """Take the place of another, given its `state`."""

    @abstractmethod
    def rough_spectrum(self) -> Tensor:
        """Positive numbers that stand for the eigenvalues of H where a search begins."""

    def variances(
        self, X: Tensor, precisions: Iterable[float], groups: Tensor, scale: float
    ) -> Iterator[Tensor]:
        """Variances (n, k) of the outputs under one prior precision after the other.

        NaN where a precision is lost in rounding.
        """
        kept = None
        if self.captures and len(X) * self.tangent.row_numbers <= _KEPT:
            kept = list(self.tangent.blocks(X))
        for tau in precisions:
            precision = torch.full((1,), tau, dtype=torch.float64, device=groups.device)
            try:
                posterior = self.posterior(precision, groups, scale)
                yield posterior.moments(X, diagonal=True, blocks=kept)[1]
            except NotPositiveDefiniteError:
                yield X.new_full((len(X), self.tangent.n_outputs), torch.nan)

    def estimate(self, ridge: float) -> tuple[float, float] | None:
        """Effective number of parameters of H + `ridge`, and its slope, by a cheaper way.

        None where there is none. For a search to start from, not for results.
        """
        return None


class Posterior(ABC):
    r"""Normal distribution of the weights around the trained ones.

    Attributes
    ----------
    log_det : float
        :math:`\log\det(H/c + T)`, T the diagonal matrix of prior precisions.
    """

    #: Whether the Jacobians of rows are needed for their moments.
    captures = True
    log_det: float

    def __init__(self, tangent: Tangent) -> None:
        self.tangent = tangent

    @property
    @abstractmethod
    def effective(self) -> Tensor:
        r"""Effective number of parameters with each prior precision (G,).

        :math:`P_g - \tau_g tr \Sigma_{gg}` (MacKay 1992).
        """

    @property
    @abstractmethod
    def slope(self) -> float:
        """Derivative of their sum by the logarithm of a factor of all precisions."""

    @abstractmethod
    def covariance_of(self, rows: Rows) -> Tensor:
        """Covariances (n, k, k) of the outputs of each of these rows."""

    def variance_of(self, rows: Rows) -> Tensor:
        """Variances (n, k) of the outputs of these rows."""
        return self.covariance_of(rows).diagonal(dim1=1, dim2=2)

    def moments(
        self, X: Tensor, *, diagonal: bool = False, blocks: Iterable[Rows] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Outputs (n, k), and the covariances (n, k, k) of each row's, or their variances (n, k).

        In one sweep over the rows, or none if their `blocks` are there already.
        """
        if blocks is None:
            blocks = self.tangent.blocks(X, captured=self.captures)
        of = self.variance_of if diagonal else self.covariance_of
        outputs, found = zip(*((rows.outputs, of(rows)) for rows in blocks), strict=True)
        return torch.cat(outputs), torch.cat(found)

    @abstractmethod
    def joint(self, X: Tensor) -> Tensor:
        """Covariance (k, n, k, n) of all outputs of all rows."""

    @abstractmethod
    def draw(self, n: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Draw moves of the weights: by name, (n, *shape)."""


def require_precision(rounding: float, precision: float) -> None:
    """Refuse a prior precision that `rounding` of the curvature leaves nothing of.

    Raises
    ------
    NotPositiveDefiniteError
        Naming what can be told from zero.
    """
    if rounding > 0.01 * precision:
        raise NotPositiveDefiniteError(
            f"the full posterior needs a prior precision above {100 * rounding:.3g}, but "
            f"prior_precision={precision:.3g} is lost in rounding beside the curvature of the "
            "data: raise it, or the noise, or pass curvature='kron'."
        )


def normal(shape: tuple[int, ...], generator: torch.Generator, like: Tensor) -> Tensor:
    """Standard normal numbers, the same on every device."""
    return torch.randn(shape, generator=generator, dtype=like.dtype).to(like.device)


def by_group(values: Tensor, groups: Tensor, n_groups: int) -> Tensor:
    """Sums (G,) of values (P,) by group."""
    return torch.zeros(n_groups, dtype=values.dtype, device=values.device).index_add_(
        0, groups, values
    )
