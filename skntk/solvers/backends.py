"""The dense kernels under the solvers, in place: LAPACK on the CPU, torch on other devices.

On the CPU SciPy's LAPACK is the faster one here: its divide-and-conquer eigensolver takes about
half the time of torch's, its Cholesky three quarters, and both work inside the caller's memory.
The matrix convention is one for all: a C-contiguous ``C (n, n)`` whose *upper* triangle holds
``R`` with ``RᵀR = C``; to LAPACK, which reads columns, that same memory is the lower ``L = Rᵀ``.
"""

from abc import ABC, abstractmethod

import scipy.linalg
import torch

# Above this many rows the eigenvectors come from `syevr`, whose workspace is O(n) beyond the
# eigenvectors; `syevd` is a little faster and more orthogonal but wants 2 n^2 numbers more.
EVD_MAX_ROWS = 16_000
# The `dpotrf` of OpenBLAS, which SciPy brings, crashed at 20000 rows (a matrix of over 2^31 bytes).
POTRF_MAX_ROWS = 10_000
# Rows of a block of the factorization by blocks.
BLOCK = 1024


class Backend(ABC):
    """In-place factorization, triangular solve and eigendecomposition of float64 tensors."""

    @abstractmethod
    def cholesky_(self, C: torch.Tensor) -> int:
        """Factor `C` (n, n), C-contiguous, into its own upper triangle.

        The strictly lower triangle is left as it was. Returns 0, or the order of the leading
        minor that is not positive definite.
        """

    @abstractmethod
    def solve_triangular_(
        self, R: torch.Tensor, B: torch.Tensor, *, transpose: bool
    ) -> torch.Tensor:
        """Overwrite `B` (n, m), contiguous in either order, with R⁻¹B, or R⁻ᵀB if `transpose`."""

    @abstractmethod
    def inverse_(self, R: torch.Tensor) -> torch.Tensor:
        """Overwrite the factor `R` of C, as of `cholesky_`, with C⁻¹, both triangles of it."""

    @abstractmethod
    def eigh_(self, M: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Eigenvalues (n,), ascending, and eigenvectors (n, n) in columns; `M` may be destroyed."""

    @staticmethod
    @abstractmethod
    def eigh_bytes(n: int) -> int:
        """Bytes that `eigh_` allocates for n rows."""


class Lapack(Backend):
    """SciPy's LAPACK on CPU tensors, without a copy."""

    def cholesky_(self, C: torch.Tensor) -> int:
        """Factor by `dpotrf`, and by blocks above `POTRF_MAX_ROWS`."""
        if len(C) > POTRF_MAX_ROWS:
            return _cholesky_by_blocks_(C)
        _, info = scipy.linalg.lapack.dpotrf(C.numpy().T, lower=1, clean=0, overwrite_a=1)
        return int(info)

    def solve_triangular_(
        self, R: torch.Tensor, B: torch.Tensor, *, transpose: bool
    ) -> torch.Tensor:
        """Solve by `dtrsm`, from the left for columns and from the right for rows.

        One column by torch, whose threads are not left spinning afterwards.
        """
        if not B.numel():
            return B
        if B.shape[1] == 1:
            return Torch().solve_triangular_(R, B, transpose=transpose)
        L = R.numpy().T
        if B.mT.is_contiguous():
            b, side, trans = B.numpy(), 0, 0 if transpose else 1
        else:
            b, side, trans = B.numpy().T, 1, 1 if transpose else 0
        scipy.linalg.blas.dtrsm(1.0, L, b, side=side, lower=1, trans_a=trans, overwrite_b=1)
        return B

    def inverse_(self, R: torch.Tensor) -> torch.Tensor:
        """Invert by `dpotri`, and by torch above `POTRF_MAX_ROWS`."""
        if len(R) > POTRF_MAX_ROWS:
            return Torch().inverse_(R)
        scipy.linalg.lapack.dpotri(R.numpy().T, lower=1, overwrite_c=1)
        return mirror_(R)

    def eigh_(self, M: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Decompose by `dsyevd`, or `dsyevr` above `EVD_MAX_ROWS`."""
        values, vectors = scipy.linalg.eigh(
            M.numpy().T,
            lower=True,
            overwrite_a=True,
            check_finite=False,
            driver="evd" if len(M) <= EVD_MAX_ROWS else "evr",
        )
        return torch.from_numpy(values), torch.from_numpy(vectors)

    @staticmethod
    def eigh_bytes(n: int) -> int:
        """Workspace of `dsyevd`, or the eigenvectors of `dsyevr`."""
        return 8 * n * n * (2 if n <= EVD_MAX_ROWS else 1)


class Torch(Backend):
    """torch.linalg, for any device."""

    def cholesky_(self, C: torch.Tensor) -> int:
        """Factor by blocks, so that it too works in place."""
        return _cholesky_by_blocks_(C)

    def solve_triangular_(
        self, R: torch.Tensor, B: torch.Tensor, *, transpose: bool
    ) -> torch.Tensor:
        """Solve by `torch.linalg.solve_triangular`."""
        A = R.mT if transpose else R
        return B.copy_(torch.linalg.solve_triangular(A, B, upper=not transpose))

    def inverse_(self, R: torch.Tensor) -> torch.Tensor:
        """Invert by `torch.cholesky_inverse`."""
        return mirror_(R.copy_(torch.cholesky_inverse(R.triu(), upper=True)))

    def eigh_(self, M: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Decompose by `torch.linalg.eigh`."""
        values, vectors = torch.linalg.eigh(M)
        return values, vectors

    @staticmethod
    def eigh_bytes(n: int) -> int:
        """Eigenvectors and the workspace of a divide-and-conquer driver."""
        return 8 * n * n * 3


def for_device(device: torch.device) -> Backend:
    """Return the faster implementation on `device`."""
    return Lapack() if device.type == "cpu" else Torch()


def mirror_(C: torch.Tensor) -> torch.Tensor:
    """Write the upper triangle of `C` over its lower one, a block row at a time."""
    for j in range(0, len(C), BLOCK):
        e = min(j + BLOCK, len(C))
        own = C[j:e, j:e]
        own.copy_(own.triu() + own.triu(1).mT)
        C[e:, j:e] = C[j:e, e:].mT
    return C


def _cholesky_by_blocks_(C: torch.Tensor) -> int:
    """As `Backend.cholesky_`, by right-looking blocks: one GEMM a block row updates the rest."""
    n, b = len(C), BLOCK
    below = [C[j : j + b, j : j + b].tril(-1) for j in range(0, n, b)]
    failed = 0
    for j in range(0, n, b):
        e = min(j + b, n)
        upper = C[j:e, j:e].triu()
        R, info = torch.linalg.cholesky_ex(upper + upper.triu(1).mT, upper=True)
        if int(info):
            failed = j + int(info)
            break
        C[j:e, j:e] = R
        if e < n:
            C[j:e, e:] = torch.linalg.solve_triangular(R.mT, C[j:e, e:], upper=False)
        for i in range(e, n, b):
            C[i : i + b, i:].addmm_(C[j:e, i : i + b].mT, C[j:e, i:], alpha=-1.0)
    for j, lower in zip(range(0, n, b), below, strict=True):
        C[j : j + b, j : j + b].triu_().add_(lower)
    return failed
