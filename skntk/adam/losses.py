"""Losses of outputs, and their derivatives."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Loss:
    """Mean over rows of a loss of c outputs.

    Attributes
    ----------
    targets : Tensor of shape (c, n)
        Numbers, or indicators of the classes.
    cross_entropy : bool
        The cross-entropy of a softmax of the outputs; else half the squared error, its mean over
        rows and outputs.
    """

    targets: Tensor
    cross_entropy: bool

    def residual(self, f: Tensor, rows: Tensor) -> Tensor:
        """Derivative by the outputs f of shape (S, c, b) at some rows."""
        y = self.targets[:, rows]
        if self.cross_entropy:
            return (f.softmax(1) - y) / len(rows)
        return (f - y) / y.numel()

    def value(self, f: Tensor, rows: Tensor) -> Tensor:
        """The loss at some rows: (S,)."""
        y = self.targets[:, rows]
        if self.cross_entropy:
            return -(f.log_softmax(1) * y).sum(1).mean(1)
        return 0.5 * (f - y).square().mean((1, 2))

    @property
    def curvature(self) -> float:
        """Largest second derivative by one row's outputs where they are 0, times the rows."""
        return 1.0 / len(self.targets)  # of the cross-entropy, at equal probabilities
