"""Eigenvalues of empirical kernels and distances of Jacobians, none of which is formed."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigsh
from torch import Tensor, nn

from skntk.core import available_bytes
from skntk.finite import EmpiricalKernel, JacobianOperator

SOLVERS = ("auto", "dense", "lanczos")
#: Lanczos vectors that are kept; matrices that a decomposition takes.
_VECTORS, _MATRICES = 64, 3


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
    """Empirical NTK of all pairs of outputs in float64: (n, n, k, k)."""
    K = EmpiricalKernel(module, "full", dtype="float64").gram(X)
    return torch.as_tensor(K).cpu()


def kernel_extremes(
    module: nn.Module, X: Any, n_outputs: int, *, solver: str = "auto", tol: float = 1e-10
) -> Extremes:
    r"""Smallest and largest eigenvalue of :math:`J J^T`.

    Parameters
    ----------
    module : torch.nn.Module
        The network, with `n_outputs` outputs.
    X : Tensor
        n rows.
    n_outputs : int
        k.
    solver : {"auto", "dense", "lanczos"}, default="auto"
        Decompose the kernel matrix of n k rows, which "auto" does where it fits in half of the
        memory at hand; or iterate on products with the Jacobian, which takes far longer.
    tol : float, default=1e-10
        Relative error of an eigenvalue at which Lanczos stops; what it then has is at least the
        smallest eigenvalue, and at most the largest.

    Raises
    ------
    RuntimeError
        If Lanczos does not converge.

    Examples
    --------
    >>> import torch
    >>> from skntk.diagnostics.spectrum import kernel_extremes
    >>> net = torch.nn.Linear(2, 1, bias=False, dtype=torch.float64)
    >>> kernel_extremes(net, torch.tensor([[1.0, 0.0], [0.0, 3.0]]), 1)
    Extremes(smallest=1.0, largest=9.0, singular=False)
    """
    size = len(X) * n_outputs
    fits = _MATRICES * 8 * size**2 < available_bytes() // 2
    if solver == "dense" or (solver == "auto" and fits) or size < 3:
        values = torch.linalg.eigvalsh(stacked(full_kernel(module, X)))
        return Extremes.of(float(values[0]), float(values[-1]), size)
    operator = JacobianOperator(module, X, dtype="float64").ntk()
    largest = _eigenvalue(operator, "LA", tol)
    return Extremes.of(_eigenvalue(operator, "SA", tol), largest, size)


def jacobian_distance(one: JacobianOperator, two: JacobianOperator, tol: float = 1e-10) -> float:
    r"""Spectral norm :math:`\|J_1 - J_2\|_2`, by Lanczos on products with both.

    Parameters
    ----------
    one, two : JacobianOperator
        Of the same rows, in float64.
    tol : float, default=1e-10
        Relative error of the squared norm at which Lanczos stops; what it has is never above it.

    Examples
    --------
    >>> import torch
    >>> from skntk.finite import JacobianOperator
    >>> from skntk.diagnostics.spectrum import jacobian_distance
    >>> net = torch.nn.Linear(2, 1, bias=False, dtype=torch.float64)
    >>> X = torch.tensor([[3.0, 4.0]])
    >>> J = JacobianOperator(net, X)
    >>> jacobian_distance(J, JacobianOperator(net, torch.zeros(1, 2)))
    5.0
    """
    difference = one - two
    size = difference.shape[0]
    if size == 1:
        return float(np.linalg.norm(difference.H @ np.ones(1)))
    with np.errstate(over="ignore", invalid="ignore"):  # of a network that diverges
        probe = float(np.abs(difference @ (difference.H @ _start(size))).max())
    if probe == 0 or not np.isfinite(probe):
        return probe if probe == 0 else np.inf
    return float(np.sqrt(max(_eigenvalue(difference @ difference.H, "LA", tol), 0.0)))


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
