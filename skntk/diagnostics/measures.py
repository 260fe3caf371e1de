"""How far a network has gone from where it started, and its kernel from other kernels."""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import Tensor, nn

from skntk.core import UnsupportedModuleError, require
from skntk.diagnostics.spectrum import Extremes, effective_rank, full_kernel, stacked
from skntk.finite import JacobianOperator
from skntk.finite.network import NetworkInputs, eval_mode, evaluate, private_copy
from skntk.infinite import InfiniteKernel, infinite_width
from skntk.infinite.rules import Dense

#: Numbers of a parameter from which on their mean square tells how they were drawn.
_FEWEST = 16
#: Kernels that are held at one time: at the start, now, as a matrix, and its decomposition.
_MATRICES = 5


def analytic_limit(module: nn.Module, X: Tensor, n_outputs: int) -> InfiniteKernel | None:
    """The kernel of infinite width, of outputs that are independent and alike, if there is one.

    There is none if a layer has no rule, if parameters are frozen (the limit trains them all), if
    weights are not drawn as the layers draw them, for the limit is that of such weights, and if
    there are several outputs but not those of a dense layer.
    """
    if not all(p.requires_grad for p in module.parameters()) or not _drawn_as_usual(module):
        return None
    kernel = infinite_width(module)
    try:
        output = kernel.program(tuple(X.shape[1:])).output
    except UnsupportedModuleError:
        return None
    independent = n_outputs == 1 or all(isinstance(rule, Dense) for rule in output.rules)
    return kernel if independent else None


def _drawn_as_usual(module: nn.Module) -> bool:
    """Whether parameters have the mean squares that their layers' own initialization gives them.

    By more than chance explains: a mean square of n normal numbers varies by the factor
    exp(sqrt(2 / n)), and that of uniform ones by less.
    """
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(0)
        for layer in module.modules():
            if not hasattr(layer, "reset_parameters"):
                continue
            again: Any = copy.deepcopy(layer)
            again.reset_parameters()
            usual = dict(again.named_parameters(recurse=False))
            for name, parameter in layer.named_parameters(recurse=False):
                n = parameter.numel()
                found, expected = (float(p.square().mean()) for p in (parameter, usual[name]))
                if n < _FEWEST or found == expected:
                    continue
                both = found * expected > 0
                if not both or abs(math.log(found / expected)) > 6 * math.sqrt(4 / n):
                    return False
    return True


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
    """

    def __init__(self, module: nn.Module, X: Tensor, Z: Tensor) -> None:
        self.X, self.Z = X, Z
        n, k = Z.shape
        require(
            _MATRICES * 8 * (n * k) ** 2,
            f"comparing kernels of {n} rows and {k} outputs",
            "Compare them on fewer rows: pass a smaller n_rows.",
        )
        self.kernel = full_kernel(module, X)
        limit = analytic_limit(module, X, Z.shape[1])
        self.limit = None if limit is None else torch.as_tensor(limit.gram(X.double().cpu()))
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
            "limit_distance": math.nan if self.limit is None else distance_to_limit(K, self.limit),
            "parameter_movement": float(move.norm()) / start if start else math.nan,
            "linearization_error": self._linearization_error(module, move),
            "alignment": alignment(K, self.Z),
            "smallest_eigenvalue": extremes.smallest,
            "largest_eigenvalue": extremes.largest,
            "effective_rank": effective_rank(eigenvalues),
            "singular": extremes.singular,
        }

    def _linearization_error(self, module: nn.Module, move: Tensor) -> float:
        r""":math:`\|f(w) - f(w_0) - J_0 (w - w_0)\| / \|f(w) - f(w_0)\|`; 0 at the start."""
        change = outputs_of(module, self.X) - self.f
        if not bool(change.any()):
            return 0.0
        return float((change - self.J.jvp(move).cpu()).norm() / change.norm())
