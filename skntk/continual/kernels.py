"""Kernels as learners see them: of infinitely wide networks, and of finite ones."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from skntk.continual.growth import grow_readout
from skntk.finite import EmpiricalKernel
from skntk.finite.network import NetworkInputs, evaluate
from skntk.infinite import infinite_width


class InfiniteTaskKernel:
    """NTK of the limit, one for all outputs, which are independent; its function starts at zero.

    Parameters
    ----------
    module : torch.nn.Module
        The network whose limit is meant.
    n_outputs : int
        Number of outputs.
    """

    shared = True

    def __init__(self, module: nn.Module, n_outputs: int) -> None:
        self._kernel, self.n_outputs = infinite_width(module), n_outputs

    def gram(self, X: Tensor, Y: Tensor) -> Tensor:
        """Kernel between rows: (n, m)."""
        return self._kernel.gram(X, Y)

    def function(self, X: Tensor) -> Tensor:
        """Zeros, the mean over initializations."""
        return torch.zeros(len(X), self.n_outputs, dtype=torch.float64)

    def grow(self, X: Tensor, n_new: int, seed: int) -> None:
        """Add outputs."""
        self.n_outputs += n_new


class FiniteTaskKernel:
    """Empirical NTK of a network at its start.

    Parameters
    ----------
    module : torch.nn.Module
        The network.
    outputs : {"trace", "full"}
        One kernel for all outputs, the mean over those that there are now, or that of all pairs.
    centered : bool
        Whether the network's function counts as zero.
    """

    def __init__(self, module: nn.Module, outputs: str, centered: bool) -> None:
        self.module = module.double().eval()
        self.outputs, self.centered = outputs, centered
        self.shared = outputs == "trace"
        self._kernel = EmpiricalKernel(self.module, outputs)

    def gram(self, X: Tensor, Y: Tensor) -> Tensor:
        """Kernel between rows: (n, m) or (n, m, k, k)."""
        return self._kernel.gram(X, Y)

    def function(self, X: Tensor) -> Tensor:
        """Outputs of the network, or zeros."""
        with torch.no_grad():
            found = torch.cat(
                [evaluate(self.module, NetworkInputs(some)) for some in X.split(1024)]
            )
        return torch.zeros_like(found) if self.centered else found

    def grow(self, X: Tensor, n_new: int, seed: int) -> None:
        """Add outputs; a kernel that all share stays what it is."""
        grow_readout([self.module], X, n_new, seed)
        if not self.shared:
            self._kernel = EmpiricalKernel(self.module, self.outputs)
