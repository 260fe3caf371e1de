"""The full posterior in the space of the training outputs, by the empirical kernel."""

from __future__ import annotations

import math
from functools import cached_property
from typing import Any, final

import torch
from torch import Tensor

from skntk.core import require
from skntk.laplace.dense import REMEDY
from skntk.laplace.likelihoods import Likelihood
from skntk.laplace.posterior import Curvature, Posterior, normal, require_precision
from skntk.laplace.tangent import Rows, Tangent
from skntk.solvers import CholeskyFactor, cholesky

#: Numbers that the kernel between a block of test rows and all training rows may take.
_BUDGET = 2**24


@final
class FunctionSpaceCurvature(Curvature):
    r"""Kernel :math:`\tilde K = R^T J J^T R` (n r, n r) of the training rows, not of the weights.

    H has its eigenvalues, and zeros. All rows have one prior precision.
    """

    costly = True
    captures = False

    def __init__(self, tangent: Tangent, likelihood: Likelihood) -> None:
        super().__init__(tangent.in_double(), likelihood)
        self.kernel = self.tangent.kernel()
        self._inputs: list[Tensor] = []
        self._roots: list[Tensor] = []
        self._made: Tensor | None = None

    def add(self, rows: Rows, weights: Tensor) -> None:
        """Keep the rows."""
        self._inputs.append(rows.inputs)
        self._roots.append(self.likelihood.root(rows.outputs, weights))
        self._made = None

    @property
    def inputs(self) -> Tensor:
        """All rows seen."""
        return torch.cat(self._inputs)

    @property
    def root(self) -> Tensor:
        """Roots (n, k, r) of the Hessians."""
        return torch.cat(self._roots)

    def gram(self) -> Tensor:
        r""":math:`\tilde K`, computed once."""
        if self._made is None:
            X, R = self.inputs, self.root
            n, k, r = R.shape
            what = f"the full posterior of {n} rows x {k} outputs"
            require(8 * 3 * (n * k) ** 2, what, REMEDY, R.device)
            K = self.kernel.gram(X)  # (n, n, k, k)
            half = torch.einsum("ijpq,jqb->ijpb", K, R)
            del K
            K = torch.einsum("ipa,ijpb->iajb", R, half).reshape(n * r, n * r)
            self._made = K
        return self._made

    def posterior(self, precision: Tensor, groups: Tensor, scale: float) -> FunctionSpacePosterior:
        """Factor the kernel and its ridge, the prior precision times the noise's scale."""
        if len(precision) > 1:
            raise ValueError("The function space has one prior precision for all parameters.")
        tau = float(precision[0])
        ridge = tau * scale
        K = self.gram()
        factor = cholesky(K, ridge)
        eps = torch.finfo(K.dtype).eps
        require_precision(max(factor.jitter, eps * float(K.diagonal().max())) / scale, tau)
        found = FunctionSpacePosterior(self, factor, tau, scale)
        P, N = self.tangent.n_parameters, len(K)
        # det(H/c + t I) = t^(P - N) det(K/c + t I) = t^(P - N) c^-N det(K + t c I)
        log_tau = math.log(tau)
        found.log_det = (P - N) * log_tau - N * math.log(scale) + float(factor.logdet())
        return found

    def state(self) -> dict[str, Any]:
        """The rows."""
        return {"inputs": self.inputs, "root": self.root}

    def load(self, state: dict[str, Any]) -> None:
        """The rows."""
        self._inputs, self._roots, self._made = [state["inputs"]], [state["root"]], None

    def rough_spectrum(self) -> Tensor:
        """The diagonal of the kernel."""
        return self.gram().diagonal()

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_made": None}


@final
class FunctionSpacePosterior(Posterior):
    r"""Posterior :math:`\Sigma = (I - J^T R (\tilde K + \tau c I)^{-1} R^T J) / \tau`.

    Parameters
    ----------
    curvature : FunctionSpaceCurvature
        The training rows.
    factor : CholeskyFactor
        Of :math:`\tilde K + \tau c I`.
    tau, scale : float
        Prior precision, and scale c of the noise.
    """

    captures = False

    def __init__(
        self, curvature: FunctionSpaceCurvature, factor: CholeskyFactor, tau: float, scale: float
    ) -> None:
        super().__init__(curvature.tangent)
        self._inputs, self._root = curvature.inputs, curvature.root
        self._kernel, self._factor = curvature.kernel, factor
        self._tau, self._scale = tau, scale

    @cached_property
    def _inverse(self) -> Tensor:
        return self._factor.inverse()

    @cached_property
    def effective(self) -> Tensor:
        """From the trace of the inverse."""
        return (len(self._inverse) - self._tau * self._scale * self._inverse.trace())[None]

    @cached_property
    def slope(self) -> float:
        """From the norm of the inverse."""
        ridge, inverse = self._tau * self._scale, self._inverse
        return float(ridge**2 * inverse.square().sum() - ridge * inverse.trace())

    def covariance_of(self, rows: Rows) -> Tensor:
        """Prior covariance less what the training rows say."""
        X = rows.inputs
        n, k, _ = self._root.shape
        size = max(1, _BUDGET // (n * k * k))
        found = []
        for start in range(0, len(X), size):
            some = X[start : start + size]
            Z = self._half(some)  # (n r, m k)
            Z = Z.view(len(Z), len(some), k)
            found.append(self._kernel.diag(some) - torch.einsum("zmp,zmq->mpq", Z, Z))
        return torch.cat(found) / self._tau

    def joint(self, X: Tensor) -> Tensor:
        """Prior covariance less what the training rows say."""
        k, m = self.tangent.n_outputs, len(X)
        Z = self._half(X)
        K = self._kernel.gram(X).permute(0, 2, 1, 3).reshape(m * k, m * k)
        found = (K - Z.mT @ Z).view(m, k, m, k).permute(1, 0, 3, 2) / self._tau
        return 0.5 * (found + found.permute(2, 3, 0, 1))

    def covariance_by(self, J: Tensor) -> Tensor:
        """Covariance (..., q, q) of outputs whose Jacobian (..., q, P) is given.

        Differentiable in it; the Jacobian of the training rows is written out.
        """
        J_train = torch.einsum("pnx,npr->nrx", self.tangent.written(self._inputs), self._root)
        half = self._factor.half_solve(J_train.flatten(0, 1) @ J.flatten(0, -2).mT)
        half = half.unflatten(1, J.shape[:-1]).movedim(0, -2)  # (..., n r, q)
        return (J @ J.mT - half.mT @ half) / self._tau

    def draw(self, n: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Draw from the prior, and correct by what the training rows say (Matheron's rule)."""
        tangent, root = self.tangent, self._root
        moves = tangent.by_name(normal((n, tangent.n_parameters), generator, root))
        moves = {name: move / self._tau**0.5 for name, move in moves.items()}
        noise = normal((n, self._factor.n_samples), generator, root) * self._scale**0.5
        seen = torch.stack(list(tangent.moved(self._inputs, moves)))  # (s, n, k)
        seen = torch.einsum("snp,npr->snr", seen, root).flatten(1) + noise
        dual = self._factor.solve(seen.mT.contiguous()).mT.reshape(n, *root.shape[::2])
        dual = torch.einsum("snr,npr->snp", dual, root)
        for s in range(n):
            for name, back in tangent.pulled(self._inputs, dual[s]).items():
                moves[name][s] -= back
        return moves

    def _half(self, X: Tensor) -> Tensor:
        r""":math:`L^{-1} R^T K(X_{train}, X)`: (n r, m k)."""
        K = self._kernel.gram(self._inputs, X)  # (n, m, k, k)
        _, m, k, _ = K.shape
        K = torch.einsum("npr,nmpq->nrmq", self._root, K).reshape(-1, m * k)
        return self._factor.half_solve(K, overwrite=True)
