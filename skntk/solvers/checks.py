"""What the solvers refuse, and the tolerances that they share."""

from typing import Any

import torch

from skntk.core.errors import KernelOverflowError

# How far a matrix may miss being positive semi-definite, relative to its mean diagonal, before it
# is refused: the largest jitter that Cholesky tries, and the most negative eigenvalue clipped at 0.
INDEFINITE_LIMIT = 1e-4
EPS = torch.finfo(torch.float64).eps
_CHUNK = 2**22  # entries looked at together


def gram(K: torch.Tensor, name: str = "K") -> torch.Tensor:
    """Check a Gram matrix (n, n): float64, square, not empty, finite; return it detached.

    Symmetry is the caller's word: the solvers read one triangle.

    Raises
    ------
    TypeError
        If `K` is not a float64 tensor.
    ValueError
        If `K` is empty, not square, or holds NaN.
    KernelOverflowError
        If `K` holds an infinity.
    """
    matrix(K, name)
    n = K.shape[0]
    if K.shape != (n, n) or n == 0:
        raise ValueError(
            f"{name} has shape {tuple(K.shape)}; pass a square matrix with at least one row."
        )
    K = K.detach()
    # One sum tells whether to look closer: a NaN or an infinity survives it.
    if not torch.isfinite(K.sum()):
        rows = max(1, _CHUNK // n)
        for start in range(0, n, rows):
            _entries_finite(K[start : start + rows], start, name)
    return K


def _entries_finite(block: torch.Tensor, start: int, name: str) -> None:
    bad = (~torch.isfinite(block)).nonzero()
    if not len(bad):
        return
    i, j = bad[0].tolist()
    entry = f"{name}[{start + i}, {j}]"
    if torch.isnan(block[i, j]):
        raise ValueError(f"{entry} is NaN; the kernel or its input is undefined there.")
    raise KernelOverflowError(
        f"{entry} is infinite: the kernel overflowed. Scale the input or lower weight_std."
    )


def matrix(B: torch.Tensor, name: str, rows: int | None = None) -> torch.Tensor:
    """Check that `B` is a float64 matrix with `rows` rows.

    Raises
    ------
    TypeError
        If `B` is not a float64 tensor.
    ValueError
        If `B` has not two axes, or another number of rows.
    """
    if not isinstance(B, torch.Tensor) or B.dtype != torch.float64:
        kind = B.dtype if isinstance(B, torch.Tensor) else type(B).__name__
        raise TypeError(f"{name} is {kind}; pass a torch.float64 tensor.")
    if B.ndim != 2 or (rows is not None and B.shape[0] != rows):
        wanted = "(n, m)" if rows is None else f"({rows}, m)"
        raise ValueError(f"{name} has shape {tuple(B.shape)}; pass {wanted}.")
    return B


def nonnegative(
    values: Any, name: str, device: torch.device, *, positive: bool = False, inf: bool = False
) -> torch.Tensor:
    """Convert numbers to a float64 tensor on `device`, each >= 0 (> 0 if `positive`), no NaN.

    Raises
    ------
    ValueError
        If a value is negative, NaN, infinite where `inf` is false, or 0 where `positive` is true.
    """
    tensor = torch.as_tensor(values, dtype=torch.float64, device=device).detach()
    ok = (tensor > 0) if positive else (tensor >= 0)
    if not inf:
        ok = ok & torch.isfinite(tensor)
    if not bool(ok.all()):
        worst = tensor[~ok].reshape(-1)[0].item()
        allowed = "positive" if positive else "non-negative"
        raise ValueError(f"{name} holds {worst}; pass {'' if inf else 'finite '}{allowed} numbers.")
    return tensor
