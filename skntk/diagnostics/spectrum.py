"""Eigenvalues of empirical kernels and distances of Jacobians, none of which is formed."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigsh
from torch import Tensor, nn

from skntk.core import available_bytes, require
from skntk.finite import EmpiricalKernel, JacobianOperator

SOLVERS = ("auto", "dense", "lanczos")
#: Lanczos vectors that are kept; matrices that a decomposition takes.
_VECTORS, _MATRICES = 64, 6
#: Part of a kernel below which a difference of kernels has lost more than eight digits.
_CANCELLED = 1e-6


class Extremes(NamedTuple):
    r"""Smallest and largest eigenvalue of a positive semi-definite matrix.

    Attributes
    ----------
    smallest : float
        0 if the matrix is singular to rounding: if what was computed does not exceed
        ``size * eps * largest``.
    largest : float
    singular : bool
    """

    smallest: float
    largest: float
    singular: bool

    @classmethod
    def of(cls, smallest: float, largest: float, size: int) -> Extremes:
        """Tell a singular matrix by the resolution of float64."""
        singular = not smallest > size * np.finfo(float).eps * largest
        return cls(0.0 if singular else float(smallest), float(largest), singular)


def stacked(K: Tensor) -> Tensor:
    """Kernel of all pairs of outputs (n, m, k, k) as a matrix (k n, k m), output by output."""
    n, m, k, _ = K.shape
    return K.permute(2, 0, 3, 1).reshape(k * n, k * m)


def full_kernel(module: nn.Module, X: Any) -> Tensor:
    """Empirical NTK of all pairs of outputs in float64 on the CPU: (n, n, k, k)."""
    return torch.as_tensor(EmpiricalKernel(module, "full", dtype="float64").gram(X)).cpu()


class StartJacobian:
    r"""Jacobian :math:`J_0` of a network's outputs at all rows, and how far others are from it.

    It is not formed: in memory are kernels of n k rows and columns ("dense"), or vectors
    ("lanczos").

    Parameters
    ----------
    module : torch.nn.Module
        The network, with `n_outputs` outputs; a copy is kept.
    X : Tensor
        n rows.
    n_outputs : int
        k.
    solver : {"auto", "dense", "lanczos"}, default="auto"
        Decompose kernel matrices, which "auto" does where they fit in half of the memory at hand;
        or iterate on products with the Jacobian, which takes far longer.
    tol : float, default=1e-10
        Relative error of an eigenvalue at which Lanczos stops; what it then has is at least the
        smallest eigenvalue, and at most the largest.

    Attributes
    ----------
    extremes : Extremes
        Smallest and largest eigenvalue of :math:`J_0 J_0^T`.

    Raises
    ------
    RuntimeError
        If Lanczos does not converge.

    Examples
    --------
    >>> import torch
    >>> from skntk.diagnostics.spectrum import StartJacobian
    >>> net = torch.nn.Sequential(torch.nn.Linear(2, 1, bias=False), torch.nn.Tanh()).double()
    >>> _ = torch.nn.init.zeros_(net[0].weight)
    >>> start = StartJacobian(net, torch.tensor([[1.0, 0.0], [0.0, 3.0]]), 1)
    >>> start.extremes
    Extremes(smallest=1.0, largest=9.0, singular=False)
    >>> _ = torch.nn.init.constant_(net[0].weight, 100.0)  # where tanh is flat
    >>> start.distance(net)
    3.0
    """

    def __init__(
        self,
        module: nn.Module,
        X: Tensor,
        n_outputs: int,
        *,
        solver: str = "auto",
        tol: float = 1e-10,
    ) -> None:
        self.X, self.tol, self.size = X, tol, len(X) * n_outputs
        fits = _MATRICES * 8 * self.size**2 < available_bytes() // 2
        self.dense = solver == "dense" or (solver == "auto" and fits) or self.size < 3
        self._kernel = EmpiricalKernel(module, "full", dtype="float64")
        if self.dense:
            require(
                _MATRICES * 8 * self.size**2,
                f"kernels of {len(X)} rows and {n_outputs} outputs",
                "Pass solver='lanczos'.",
            )
            self._K = self._matrix(self._kernel.gram(X))
            values = torch.linalg.eigvalsh(self._K)
            smallest, largest = float(values[0]), float(values[-1])
        else:
            ntk = JacobianOperator(module, X, dtype="float64").ntk()
            largest, smallest = _eigenvalue(ntk, "LA", tol), _eigenvalue(ntk, "SA", tol)
        self.extremes = Extremes.of(smallest, largest, self.size)

    def distance(self, module: nn.Module) -> float:
        r"""Spectral norm :math:`\|J - J_0\|_2` of the difference from another network's Jacobian.

        Never above the exact one but for rounding; infinite if it overflows.
        """
        if self.dense:
            kernel = EmpiricalKernel(module, "full", dtype="float64")
            K = self._matrix(kernel.gram(self.X))
            cross = self._matrix(kernel.between(self._kernel, self.X))
            squared = K + self._K - cross - cross.T
            largest = float(torch.linalg.eigvalsh(squared)[-1])
            if largest > _CANCELLED * float(self._K.abs().max()):
                return largest**0.5
        one, two = (
            JacobianOperator(m, self.X, dtype="float64") for m in (module, self._kernel.module)
        )
        return _norm(one - two, self.tol)

    @staticmethod
    def _matrix(K: Any) -> Tensor:
        return stacked(torch.as_tensor(K).cpu())


def _norm(difference: LinearOperator, tol: float) -> float:
    size = difference.shape[0]
    with np.errstate(over="ignore", invalid="ignore"):  # of a network that diverges
        probe = float(np.abs(difference @ (difference.H @ _start(size))).max())
    if probe == 0 or not np.isfinite(probe):
        return probe if probe == 0 else np.inf
    if size < 3:
        rows = np.stack([difference.H @ e for e in np.eye(size)])
        return float(np.linalg.norm(rows, 2))
    return _eigenvalue(difference @ difference.H, "LA", tol) ** 0.5


def effective_rank(eigenvalues: Tensor) -> float:
    """Exponential of the entropy of the eigenvalues' shares (Roy & Vetterli 2007, definition 1).

    Examples
    --------
    >>> import torch
    >>> from skntk.diagnostics.spectrum import effective_rank
    >>> effective_rank(torch.tensor([0.0, 2.0, 2.0]))
    2.0
    """
    positive = eigenvalues.double().clamp_min(0)
    shares = positive / positive.sum()
    return float(torch.special.entr(shares).sum().exp())


def _start(size: int) -> np.ndarray:
    """The vector that every iteration starts from, so that results do not depend on the last."""
    return np.random.default_rng(0).standard_normal(size)


def _eigenvalue(operator: LinearOperator, which: str, tol: float) -> float:
    size = operator.shape[0]
    try:
        found = eigsh(
            operator,
            k=1,
            which=which,
            tol=tol,
            ncv=min(size, _VECTORS if which == "SA" else 20),
            v0=_start(size),
            return_eigenvectors=False,
        )
    except ArpackNoConvergence as error:
        end = {"SA": "smallest", "LA": "largest"}[which]
        raise RuntimeError(
            f"Lanczos did not find the {end} eigenvalue of a kernel of {size} rows to the relative "
            f"error {tol:g}: raise tol, or decompose the kernel by solver='dense', or use fewer "
            "rows."
        ) from error
    return float(found[0])
