"""Cholesky factorization of a regularised kernel matrix, in place, with its jitter reported."""

from dataclasses import dataclass, field
from typing import Any, final

import torch

from skntk.core.errors import NotPositiveDefiniteError
from skntk.core.memory import require
from skntk.solvers import backends, checks
from skntk.solvers.factor import Factor

# Tried in this order, relative to the mean diagonal of K.
JITTERS = (0.0, 1e-10, 1e-9, 1e-8, 1e-7, 1e-6, 1e-5, checks.INDEFINITE_LIMIT)
_BLOCK = 256


@final
@dataclass(frozen=True, eq=False)
class CholeskyFactor(Factor):
    """Triangular factor of ``C = K + noise + jitter``; made by `cholesky`.

    Attributes
    ----------
    jitter : float
        Variance added to the diagonal beyond the noise, in the units of K; 0.0 if none was needed.
    """

    _R: torch.Tensor = field(repr=False)  # RᵀR = C in the upper triangle; what is below is not read
    jitter: float

    @property
    def n_samples(self) -> int:
        """Number of rows n of the matrix."""
        return len(self._R)

    @property
    def pivots(self) -> torch.Tensor:
        """Variance of each row given those before it, (n,): small where C is nearly singular."""
        return self._R.diagonal().square()

    def solve(self, B: torch.Tensor) -> torch.Tensor:
        """Return C⁻¹B, (n, m)."""
        B = self.half_solve(B)
        return backends.for_device(B.device).solve_triangular_(self._R, B, transpose=False)

    def half_solve(self, B: torch.Tensor, *, overwrite: bool = False) -> torch.Tensor:
        """Return L⁻¹B, (n, m), where LLᵀ = C; differentiable in B.

        Parameters
        ----------
        B : torch.Tensor
            Shape (n, m).
        overwrite : bool, default=False
            Work in the memory of `B`, if it is contiguous in either order.
        """
        checks.matrix(B, "B", self.n_samples)
        if B.requires_grad:
            return torch.linalg.solve_triangular(self._R.mT, B, upper=False)
        contiguous = B.is_contiguous() or B.mT.is_contiguous()
        if not (overwrite and contiguous):
            layout = torch.preserve_format if contiguous else torch.contiguous_format
            B = B.clone(memory_format=layout)
        return backends.for_device(B.device).solve_triangular_(self._R, B.detach(), transpose=True)

    def inverse(self, *, overwrite: bool = False) -> torch.Tensor:
        """Return C⁻¹, (n, n); with `overwrite` in the memory of the factor, which is given up."""
        R = self._R if overwrite else self._R.clone()
        return backends.for_device(R.device).inverse_(R)

    def precision_root(self, Z: torch.Tensor) -> torch.Tensor:
        """Return Z L⁻¹, (m, n): rows of covariance C⁻¹ from rows (m, n) of independent numbers."""
        checks.matrix(Z.mT, "Z", self.n_samples)
        B = Z.mT.clone(memory_format=torch.contiguous_format)
        return backends.for_device(B.device).solve_triangular_(self._R, B, transpose=False).mT

    def logdet(self) -> torch.Tensor:
        """Return log det C, a tensor without axes."""
        return 2.0 * self._R.diagonal().log().sum()

    def inverse_diagonal(self) -> torch.Tensor:
        """Return the diagonal of C⁻¹, (n,), in n³/3 flops and O(n) memory beyond the factor.

        ``(C⁻¹)_jj`` is the squared length of column j of L⁻¹. Columns are made a block at a time
        by forward substitution with blocks, all of it GEMMs on views of the factor.
        """
        R, n, b = self._R, self.n_samples, _BLOCK
        blocks = [(j, min(j + b, n)) for j in range(0, n, b)]
        eye = torch.eye(min(b, n), dtype=R.dtype, device=R.device)
        inverse = [
            torch.linalg.solve_triangular(R[j:e, j:e].mT, eye[: e - j, : e - j], upper=False)
            for j, e in blocks
        ]
        result = R.new_empty(n)
        for first, (j, e) in enumerate(blocks):
            columns = R.new_empty(n - j, e - j)
            columns[: e - j] = inverse[first]
            for row in range(first + 1, len(blocks)):
                i, f = blocks[row]
                above = R[j:i, i:f].mT @ columns[: i - j]
                columns[i - j : f - j] = (inverse[row] @ above).neg_()
            result[j:e] = columns.square_().sum(0)
        return result


def cholesky(K: torch.Tensor, noise: Any, *, overwrite: bool = False) -> CholeskyFactor:
    """Factor ``C = K + diag(noise)``, with jitter where the matrix is singular to rounding.

    A pivot is a conditional variance; one within n eps of its diagonal entry cannot be told from
    0, and counts as a failure. Then jitter is tried, 1e-10 to 1e-4 times the mean diagonal of `K`.

    Parameters
    ----------
    K : torch.Tensor
        Symmetric Gram matrix, shape (n, n), float64.
    noise : float or array-like
        Noise variance in the units of `K`, one number or shape (n,), each >= 0.
    overwrite : bool, default=False
        Give up `K`: the factor takes its memory (if `K` is contiguous), so that nothing of size
        n² is allocated. Only its strictly lower or strictly upper triangle is then what it was.

    Returns
    -------
    CholeskyFactor
        On the device of `K`.

    Raises
    ------
    NotPositiveDefiniteError
        If the largest jitter does not help. `K` is then as it was.
    ValueError
        If shapes do not fit, `K` holds NaN, or a noise is negative or not finite.
    KernelOverflowError
        If `K` holds an infinity.
    MemoryBudgetError
        If a copy of `K` is needed and does not fit.

    References
    ----------
    Rasmussen and Williams (2006), Gaussian Processes for Machine Learning, algorithm 2.1.

    Examples
    --------
    >>> import torch
    >>> from skntk.solvers import cholesky
    >>> K = torch.tensor([[2.0, 1.0], [1.0, 2.0]], dtype=torch.float64)
    >>> factor = cholesky(K, noise=1.0)
    >>> factor.solve(torch.tensor([[4.0], [4.0]], dtype=torch.float64)).round(decimals=6)
    tensor([[1.],
            [1.]], dtype=torch.float64)
    >>> factor.jitter
    0.0
    """
    K = checks.gram(K)
    n = len(K)
    noise = checks.nonnegative(noise, "noise", K.device)
    if noise.shape not in ((), (n,)):
        raise ValueError(f"noise has shape {tuple(noise.shape)}; pass one number or ({n},).")
    C = K if K.is_contiguous() else K.mT
    if not (overwrite and C.is_contiguous()):
        require(C.nbytes, "the Cholesky factor", "Use fewer rows.", K.device)
        C = C.clone(memory_format=torch.contiguous_format)
    diagonal = K.diagonal().clone()
    scale = max(float((diagonal / n).sum()), 0.0)  # the mean of large numbers may overflow
    for relative in JITTERS if scale else JITTERS[:1]:
        jitter = relative * scale
        wanted = diagonal + noise + jitter
        C.diagonal().copy_(wanted)
        failed = backends.for_device(K.device).cholesky_(C)
        if not failed and bool((C.diagonal().square() > n * checks.EPS * wanted).all()):
            return CholeskyFactor(C, jitter)
        _restore(C, diagonal)
    raise NotPositiveDefiniteError(
        f"K + noise ({n} x {n}) is not positive definite, even with a jitter of "
        f"{checks.INDEFINITE_LIMIT:g} of its mean diagonal {scale:.3g}: raise alpha."
    )


def _restore(C: torch.Tensor, diagonal: torch.Tensor) -> None:
    """Write the untouched lower triangle of a symmetric matrix over its upper one."""
    for j in range(0, len(C), _BLOCK):
        e = min(j + _BLOCK, len(C))
        lower = C[j:e, j:e].tril(-1)
        C[j:e, j:e] = lower + lower.mT
        C[j:e, e:] = C[e:, j:e].mT
    C.diagonal().copy_(diagonal)
