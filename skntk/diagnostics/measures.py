"""How far a network has gone from where it started, and its kernel from other kernels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from skntk.core import UnsupportedModuleError
from skntk.diagnostics.spectrum import Extremes, effective_rank, full_kernel, stacked
from skntk.finite import JacobianOperator
from skntk.finite.network import NetworkInputs, eval_mode, evaluate, private_copy
from skntk.infinite import infinite_width


def limit_kernel(module: nn.Module, X: Tensor) -> Tensor | None:
    """Analytic NTK between rows in float64: (n, n); None where there is none."""
    try:
        return torch.as_tensor(infinite_width(module).gram(X.double().cpu()))
    except UnsupportedModuleError:
        return None


def relative_distance(A: Tensor, B: Tensor) -> float:
    r""":math:`\|A - B\|_F / \|B\|_F`."""
    return float((A - B).norm() / B.norm())


def distance_to_limit(K: Tensor, limit: Tensor) -> float:
    r""":math:`\|\Theta - I_k \otimes \Theta_\infty\|_F / \|I_k \otimes \Theta_\infty\|_F`.

    Parameters
    ----------
    K : Tensor of shape (n, n, k, k)
        Empirical kernel.
    limit : Tensor of shape (n, n)
        Its limit, in which outputs are independent.
    """
    eye = torch.eye(K.shape[2], dtype=K.dtype)
    return relative_distance(K, limit[:, :, None, None] * eye)


def distance_of_shapes(K: Tensor, other: Tensor) -> float:
    """Relative distance of two kernels (n, n, k, k), each divided by its trace."""
    traces = [torch.einsum("iipp->", A) for A in (K, other)]
    return relative_distance(K / traces[0], other / traces[1])


def alignment(K: Tensor, Z: Tensor) -> float:
    r"""Centered kernel-target alignment, in [0, 1] (Cortes, Mohri & Rostamizadeh 2012, def. 4).

    :math:`\langle K_c, Z_c Z_c^T \rangle_F / (\|K_c\|_F \|Z_c Z_c^T\|_F)`, with the kernel averaged
    over outputs.

    Parameters
    ----------
    K : Tensor of shape (n, n, k, k)
        Kernel.
    Z : Tensor of shape (n, k)
        Targets.

    Examples
    --------
    >>> import torch
    >>> from skntk.diagnostics.measures import alignment
    >>> z = torch.tensor([[1.0], [-1.0], [2.0]], dtype=torch.float64)
    >>> round(alignment((z @ z.T)[:, :, None, None], z), 12)
    1.0
    """
    mean = torch.einsum("ijpp->ij", K) / K.shape[2]
    centered = mean - mean.mean(0) - mean.mean(1, keepdim=True) + mean.mean()
    Z = Z - Z.mean(0)
    targets = Z @ Z.T
    return float((centered * targets).sum() / (centered.norm() * targets.norm()))


def parameter_vector(module: nn.Module) -> Tensor:
    """Parameters that require gradients, in float64, as one vector."""
    free = [p.detach().double().reshape(-1) for p in module.parameters() if p.requires_grad]
    return torch.cat(free)


def outputs_of(module: nn.Module, X: Tensor) -> Tensor:
    """The network's function in eval mode, in float64 on the CPU: (n, k)."""
    with torch.no_grad(), eval_mode(module):
        return evaluate(module, NetworkInputs.of(X, module)).double().cpu()


class Departure:
    """How far a network in training is from its start, on some rows.

    Parameters
    ----------
    module : torch.nn.Module
        The network at initialization; what is needed of it is kept.
    X : Tensor
        n rows.
    Z : Tensor of shape (n, k)
        Their targets.
    reference : Tensor of shape (n, n, k, k), optional
        Kernel that stands for the limit where there is no analytic one, up to a factor.
    """

    def __init__(
        self, module: nn.Module, X: Tensor, Z: Tensor, reference: Tensor | None = None
    ) -> None:
        self.X, self.Z, self.reference = X, Z, reference
        self.kernel = full_kernel(module, X)
        self.limit = limit_kernel(module, X) if reference is None else None
        self.J = JacobianOperator(module, X, dtype="float64")
        self.w, self.f = parameter_vector(module), outputs_of(self.J.module, X)

    def measure(self, module: nn.Module) -> dict[str, Any]:
        """All measures of the network as it is now."""
        module = private_copy(module, torch.float64)  # rounding is no departure
        K = full_kernel(module, self.X)
        eigenvalues = torch.linalg.eigvalsh(stacked(K))
        extremes = Extremes.of(float(eigenvalues[0]), float(eigenvalues[-1]), len(eigenvalues))
        move = parameter_vector(module) - self.w
        start = float(self.w.norm())
        return {
            "kernel_change": relative_distance(K, self.kernel),
            "limit_distance": self._limit_distance(K),
            "parameter_movement": float(move.norm()) / start if start else float("nan"),
            "linearization_error": self._linearization_error(module, move),
            "alignment": alignment(K, self.Z),
            "smallest_eigenvalue": extremes.smallest,
            "largest_eigenvalue": extremes.largest,
            "effective_rank": effective_rank(eigenvalues),
            "singular": extremes.singular,
        }

    def _limit_distance(self, K: Tensor) -> float:
        if self.limit is not None:
            return distance_to_limit(K, self.limit)
        return float("nan") if self.reference is None else distance_of_shapes(K, self.reference)

    def _linearization_error(self, module: nn.Module, move: Tensor) -> float:
        r""":math:`\|f(w) - f(w_0) - J_0 (w - w_0)\| / \|f(w) - f(w_0)\|`; 0 at the start."""
        change = outputs_of(module, self.X) - self.f
        if not bool(change.any()):
            return 0.0
        return float((change - self.J.jvp(move).cpu()).norm() / change.norm())
