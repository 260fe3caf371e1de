"""The full posterior in the space of the weights."""

from __future__ import annotations

from functools import cached_property
from typing import Any, final

import numpy as np
import scipy.linalg
import torch
from torch import Tensor

from skntk.core import require
from skntk.finite.gauss_newton import Outer, OutputCovariance, gauss_newton
from skntk.laplace.likelihoods import Likelihood
from skntk.laplace.posterior import Curvature, Posterior, by_group, normal, require_precision
from skntk.laplace.tangent import Rows, Tangent
from skntk.solvers import CholeskyFactor, cholesky
from skntk.solvers.backends import POTRF_MAX_ROWS, mirror_

#: Rows of the blocks whose eigenvalues stand for those of the whole.
_BLOCK = 128
REMEDY = (
    "Pass curvature='kron' or 'diag', or a subset of the parameters, such as "
    "parameters='last_layer'."
)


@final
class DenseCurvature(Curvature):
    """The whole matrix H (P, P)."""

    costly = True

    def __init__(self, tangent: Tangent, likelihood: Likelihood) -> None:
        super().__init__(tangent, likelihood)
        P = tangent.n_parameters
        like = next(iter(tangent.weights.values()))
        what = f"the full posterior of {P} parameters"
        require(3 * like.element_size() * P * P, what, REMEDY, like.device)
        self.H = like.new_zeros(P, P)  # blocks below the diagonal ones are not read

    def add(self, rows: Rows, weights: Tensor) -> None:
        """Add the rows' Gauss-Newton matrix."""
        root = self.likelihood.root(rows.outputs, weights)
        gauss_newton([Outer.of(layer) for layer in rows.layers], root, self.H)

    def posterior(self, precision: Tensor, groups: Tensor, scale: float) -> DensePosterior:
        """Factor the precision."""
        A = self.H / scale
        A.diagonal().add_(precision[groups])
        factor = cholesky(mirror_(A), 0.0, overwrite=True)
        require_precision(factor.jitter, float(precision.min()))
        return DensePosterior(self.tangent, factor, precision, groups)

    def estimate(self, ridge: float) -> tuple[float, float] | None:
        """In single precision, in half the time; None where that does not do."""
        if self.H.device.type != "cpu" or len(self.H) > POTRF_MAX_ROWS:
            return None
        A = self.H.float().numpy()
        np.fill_diagonal(A, A.diagonal() + np.float32(ridge))
        _, failed = scipy.linalg.lapack.spotrf(A.T, lower=1, clean=0, overwrite_a=1)
        if failed:
            return None
        scipy.linalg.lapack.spotri(A.T, lower=1, overwrite_c=1)
        share = ridge * A.diagonal().astype(np.float64)
        if not np.isfinite(share).all():
            return None
        # of the triangle that holds the inverse
        S = np.triu(A, 1)
        squares = 2 * float(np.vdot(S, S)) + float(np.square(A.diagonal(), dtype=np.float64).sum())
        return float((1 - share).sum()), ridge**2 * squares - float(share.sum())

    def state(self) -> dict[str, Any]:
        """H."""
        return {"H": self.H.clone()}

    def load(self, state: dict[str, Any]) -> None:
        """H."""
        self.H = state["H"].clone()

    def rough_spectrum(self) -> Tensor:
        """Eigenvalues of blocks along its diagonal."""
        starts = range(0, len(self.H), _BLOCK)
        found = [
            torch.linalg.eigvalsh(self.H[s : s + _BLOCK, s : s + _BLOCK], UPLO="U") for s in starts
        ]
        return torch.cat(found).clamp_min(0)


@final
class DensePosterior(Posterior):
    r"""Covariance :math:`\Sigma` (P, P) of the weights.

    Parameters
    ----------
    tangent : Tangent
        The network.
    factor : CholeskyFactor
        Of the precision.
    precision, groups : Tensor
        Of the prior, as of `Curvature.posterior`.
    """

    def __init__(
        self, tangent: Tangent, factor: CholeskyFactor, precision: Tensor, groups: Tensor
    ) -> None:
        super().__init__(tangent)
        self._factor, self._precision, self._groups = factor, precision, groups
        self.log_det = float(factor.logdet())

    @cached_property
    def weights_covariance(self) -> Tensor:
        r""":math:`\Sigma`, made when it is first asked for."""
        return self._factor.inverse()

    @cached_property
    def _outputs(self) -> OutputCovariance:
        probe = [Outer.of(layer) for layer in self.tangent.layers]
        shapes = [(x.B.shape[2], None if x.a is None else x.a.shape[1]) for x in probe]
        return OutputCovariance(self.weights_covariance, shapes)

    @cached_property
    def effective(self) -> Tensor:
        """From the diagonal of the covariance."""
        T = self._precision[self._groups]
        each = 1 - T * self.weights_covariance.diagonal()
        return by_group(each, self._groups, len(self._precision))

    @cached_property
    def slope(self) -> float:
        r""":math:`tr(T \Sigma T \Sigma) - tr(T \Sigma)`."""
        S, T = self.weights_covariance, self._precision[self._groups]
        if len(self._precision) == 1:
            squares = T[0].square() * torch.linalg.matrix_norm(S).square()
        else:
            squares = (S.square() @ T) @ T
        return float(squares - (T * S.diagonal()).sum())

    def covariance_of(self, rows: Rows) -> Tensor:
        r""":math:`J_i \Sigma J_i^T` of each row."""
        return self._outputs([Outer.of(layer) for layer in rows.layers])

    def joint(self, X: Tensor) -> Tensor:
        r""":math:`J \Sigma J^T` of all rows."""
        J = self.tangent.written(X)
        k, n, _ = J.shape
        J = J.flatten(0, 1)
        return (J @ self.weights_covariance @ J.mT).view(k, n, k, n)

    def draw(self, n: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Draw through the factor of the precision."""
        z = normal((n, self._factor.n_samples), generator, self._precision)
        return self.tangent.by_name(self._factor.precision_root(z))
