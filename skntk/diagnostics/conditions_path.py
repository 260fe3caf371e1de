"""The conditions of Zhang, Martens & Grosse (2019) along the path of one network."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor, nn

from skntk.diagnostics.measures import outputs_of, parameter_vector
from skntk.diagnostics.spectrum import StartJacobian


class ConditionsPath:
    """The conditions along the path of one network.

    Parameters
    ----------
    module : torch.nn.Module
        The network at initialization.
    X : Tensor
        n rows.
    Z : Tensor of shape (n, k)
        Their targets.
    centered : bool
        Whether its function at initialization is subtracted.
    solver, tol
        As of `natural_gradient_conditions`.
    """

    def __init__(
        self, module: nn.Module, X: Tensor, Z: Tensor, centered: bool, solver: str, tol: float
    ) -> None:
        self.X = X
        f = outputs_of(module, X)
        self.aim = Z + f if centered else Z
        self.first = float((f - self.aim).square().sum())
        self.start = StartJacobian(module, X, Z.shape[1], solver=solver, tol=tol)
        self.w = parameter_vector(module)
        self.root = math.sqrt(self.start.extremes.smallest)
        radius = 3 * math.sqrt(self.first)
        self.radius = radius / self.root if self.root else math.inf

    def at(self, module: nn.Module) -> dict[str, Any]:
        """What is known at the present parameters."""
        moved = float((parameter_vector(module) - self.w).norm())
        residual = float((outputs_of(module, self.X) - self.aim).square().sum())
        apart = 0.0 if moved == 0 else self.start.distance(module)
        return {
            "smallest_eigenvalue": self.start.extremes.smallest,
            "singular": self.start.extremes.singular,
            "c_prime": 3 * apart / self.root if self.root else math.inf,
            "distance": moved / self.radius if self.radius else math.inf * moved if moved else 0.0,
            "radius": self.radius,
            "residual": residual / self.first if self.first else 0.0,
        }
