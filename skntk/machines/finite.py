"""The kernel of a finite network behind the face that the machines use."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from skntk.finite import EmpiricalKernel


class FiniteKernel:
    """Empirical kernel of one network, averaged over outputs, and its function.

    Parameters
    ----------
    module : torch.nn.Module
        The network; a copy is kept.
    centered : bool
        Whether its function at the current weights counts as zero.

    Examples
    --------
    >>> import torch
    >>> from skntk.machines.finite import FiniteKernel
    >>> kernel = FiniteKernel(torch.nn.Linear(2, 1, dtype=torch.float64), centered=True)
    >>> kernel.gram(torch.eye(2, dtype=torch.float64))
    tensor([[2., 1.],
            [1., 2.]], dtype=torch.float64)
    """

    def __init__(self, module: nn.Module, centered: bool) -> None:
        self.module, self.centered = module, centered
        self._kernels: dict[tuple[str, torch.dtype], EmpiricalKernel] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_kernels": {}}

    def _kernel(self, kind: str, like: Tensor) -> EmpiricalKernel:
        if (kind, like.dtype) not in self._kernels:
            parameters = None if kind == "ntk" else [_last_layer(self.module)]
            module = self.module.to(like.device)
            self._kernels[kind, like.dtype] = EmpiricalKernel(
                module, "trace", parameters=parameters, dtype=like.dtype
            )
        return self._kernels[kind, like.dtype]

    def gram(
        self, X: Tensor, Y: Tensor | None = None, *, kind: str = "ntk", n_jobs: int | None = None
    ) -> Tensor:
        """Return the kernel between rows: (n, m)."""
        return self._kernel(kind, X).gram(X, Y, n_jobs=n_jobs)

    def diag(self, X: Tensor, kind: str = "ntk") -> Tensor:
        """Return the kernel of each row with itself: (n,)."""
        return self._kernel(kind, X).diag(X)

    def function(self, X: Tensor) -> Tensor | None:
        """Return the network's outputs (n, k); None if they count as zero."""
        return None if self.centered else self._kernel("ntk", X).function(X)


def _last_layer(module: nn.Module) -> str:
    """Name of the last submodule with parameters of its own: the readout."""
    named = [name for name, layer in module.named_modules() if list(layer.parameters(False))]
    if named[-1] == "":
        raise ValueError(
            f"kind='nngp' needs a readout layer, which {type(module).__name__} has not: its "
            "parameters belong to the module itself. Pass kind='ntk'."
        )
    return named[-1]
