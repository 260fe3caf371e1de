"""The full posterior in the space of the weights."""

from __future__ import annotations

from typing import Any, final

import torch
from torch import Tensor

from skntk.core import require
from skntk.finite.gauss_newton import Outer, OutputCovariance, gauss_newton
from skntk.laplace.likelihoods import Likelihood
from skntk.laplace.posterior import Curvature, Posterior, by_group, normal
from skntk.laplace.tangent import Rows, Tangent
from skntk.solvers import cholesky
from skntk.solvers.backends import mirror_

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
        """Invert the precision."""
        T = precision[groups]
        A = self.H / scale
        A.diagonal().add_(T)
        factor = cholesky(mirror_(A), 0.0, overwrite=True)
        log_det = float(factor.logdet())
        S = factor.inverse(overwrite=True)
        found = DensePosterior(self.tangent, S)
        found.log_det = log_det
        found.effective = by_group(1 - T * S.diagonal(), groups, len(precision))
        scaled = (T * S.diagonal()).sum()
        if len(precision) == 1:
            squares = precision[0].square() * torch.linalg.matrix_norm(S).square()
        else:
            squares = (S.square() @ T) @ T
        found.slope = float(squares - scaled)
        return found

    def state(self) -> dict[str, Any]:
        """H."""
        return {"H": self.H}

    def load(self, state: dict[str, Any]) -> None:
        """H."""
        self.H = state["H"]

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
    covariance : Tensor of shape (P, P)
        Symmetric.
    """

    def __init__(self, tangent: Tangent, covariance: Tensor) -> None:
        super().__init__(tangent)
        probe = [Outer.of(layer) for layer in tangent.layers]
        shapes = [(x.B.shape[2], None if x.a is None else x.a.shape[1]) for x in probe]
        self._outputs = OutputCovariance(covariance, shapes)

    @property
    def weights_covariance(self) -> Tensor:
        r""":math:`\Sigma`."""
        return self._outputs.covariance

    def covariance(self, X: Tensor) -> Tensor:
        r""":math:`J_i \Sigma J_i^T` of each row."""
        blocks = [
            self._outputs([Outer.of(layer) for layer in rows.layers])
            for rows in self.tangent.blocks(X)
        ]
        return torch.cat(blocks)

    def joint(self, X: Tensor) -> Tensor:
        r""":math:`J \Sigma J^T` of all rows."""
        J = self.tangent.written(X)
        k, n, _ = J.shape
        J = J.flatten(0, 1)
        return (J @ self.weights_covariance @ J.mT).view(k, n, k, n)

    def draw(self, n: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Draw through a Cholesky factor of the covariance."""
        S = self.weights_covariance
        z = normal((n, len(S)), generator, S)
        return self.tangent.by_name(cholesky(S, 0.0).colour(z))
