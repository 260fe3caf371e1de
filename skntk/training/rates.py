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
    columns: Tensor | None = None,
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
    columns : Tensor of int, optional
        The outputs that the loss is of; by default all.
    """
    with torch.no_grad():
        outputs = evaluate(module.eval(), NetworkInputs(X[:2])).shape[1]
    chosen = torch.arange(outputs) if columns is None else columns
    k = len(chosen)
    kernel = EmpiricalKernel(module)
    K = kernel.gram(X[: max(2, _MATRIX_ROWS // outputs)]).double()
    K = K[:, :, chosen][:, :, :, chosen]
    # The loss's Hessian by a row's outputs is P / k: of squared error, P is the identity; of the
    # cross-entropy, at equal probabilities, it takes away the mean of the outputs.
    P = torch.eye(k, dtype=K.dtype, device=K.device)
    if categorical and k > 1:
        P -= 1 / k
    K = torch.einsum("pr,ijrs,sq->piqj", P, K, P) / k
    n = K.shape[1]
    curvature = float(torch.linalg.eigvalsh(K.flatten(2).flatten(0, 1))[-1]) / n
    if batch_size < len(X):  # all of it may lie in a batch, if not more than in one row
        own = float(torch.einsum("pipi->i", K).max())
        curvature = min(curvature * len(X) / batch_size, own)
    return 1.0 / max(curvature, 1e-12)
