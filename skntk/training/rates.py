"""The largest learning rate at which gradient descent is stable, from the empirical NTK."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from skntk.finite import EmpiricalKernel
from skntk.finite.network import NetworkInputs, evaluate
from skntk.nn.parametrization import Affine

#: Matrix rows of the kernel that it is read from.
_MATRIX_ROWS = 1024


def is_ntk_parametrized(module: nn.Module) -> bool:
    """Whether all `skntk.nn` layers, of which there are some, are in the NTK parametrization."""
    kinds = [m.parametrization for m in module.modules() if isinstance(m, Affine)]
    return bool(kinds) and all(kind == "ntk" for kind in kinds)


def stable_rate(
    module: nn.Module,
    X: Tensor,
    batch_size: int,
    *,
    categorical: bool,
    known: Tensor | None = None,
) -> float:
    """Inverse of the loss's largest curvature at the current weights.

    Parameters
    ----------
    module : torch.nn.Module
        The network; it is set to eval mode.
    X : Tensor of shape (n, ...)
        Rows in random order, of which the first stand for all.
    batch_size : int
        Rows of a step.
    categorical : bool
        Whether the loss is the cross-entropy, at equal probabilities, rather than half the mean
        squared error.
    known : Tensor of bool of shape (n, k), optional
        The outputs of each row that the loss is of; by default all.
    """
    with torch.no_grad():
        outputs = evaluate(module.eval(), NetworkInputs(X[:2])).shape[1]
    some = X[: max(2, _MATRIX_ROWS // outputs)]
    K = EmpiricalKernel(module).gram(some).double()
    n = len(K)
    mask = K.new_ones(n, outputs) if known is None else known[:n].to(K)
    counts = mask.sum(1)
    # The loss is the mean over rows, or over all numbers. Its Hessian by a row's outputs is P times
    # that: of squared error, P is the identity; of the cross-entropy, at equal probabilities, it
    # takes away the mean of the outputs.
    P = torch.diag_embed(mask)
    if categorical:
        several = (counts > 1).to(K)[:, None, None]
        P = P - several * mask[:, :, None] * mask[:, None] / counts[:, None, None]
    share = counts if categorical else counts.mean().expand(n)
    P = P / share.sqrt()[:, None, None]
    K = torch.einsum("ipr,ijrs,jsq->piqj", P, K, P)
    curvature = float(torch.linalg.eigvalsh(K.flatten(2).flatten(0, 1))[-1]) / n
    if batch_size < len(X):  # all of it may lie in a batch, if not more than in one row
        own = float((torch.einsum("pipi->i", K) * share / counts).max())
        curvature = min(curvature * len(X) / batch_size, own)
    return 1.0 / max(curvature, 1e-12)
