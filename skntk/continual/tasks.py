"""One task as learners see it, and the loss on the outputs that belong to its rows."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skntk.training.net import as_matrix


@dataclass(frozen=True)
class TaskRows:
    """Rows and targets.

    Attributes
    ----------
    X : Tensor of shape (n, ...)
        Inputs.
    Y : Tensor of shape (n, k)
        Targets of all outputs: numbers, or indicators of the classes; NaN where an output has
        nothing to do with a row.
    """

    X: Tensor
    Y: Tensor

    def __deepcopy__(self, memo: object) -> TaskRows:
        return self  # nothing changes it

    def __len__(self) -> int:
        return len(self.X)

    def __getitem__(self, at: Any) -> TaskRows:
        return TaskRows(self.X[at], self.Y[at])

    def __add__(self, other: TaskRows) -> TaskRows:
        return TaskRows(torch.cat([self.X, other.X]), torch.cat([self.Y, other.Y]))

    def grown(self, n_new: int, fill: float) -> TaskRows:
        """The same rows with targets for more outputs."""
        return TaskRows(self.X, F.pad(self.Y, (0, n_new), value=fill))

    @property
    def known(self) -> Tensor:
        """Which outputs belong to which rows: bool (n, k)."""
        return ~self.Y.isnan()

    @property
    def labelled(self) -> Tensor:
        """Each row's largest target, the class if they are indicators: bool (n, k)."""
        best = self.Y.nan_to_num(-math.inf).argmax(1)
        return F.one_hot(best, self.Y.shape[1]) > 0

    @property
    def columns(self) -> Tensor:
        """Outputs that belong to any of the rows."""
        return self.known.any(0).nonzero()[:, 0]

    @property
    def nbytes(self) -> int:
        """Memory of inputs and targets."""
        return self.X.nbytes + self.Y.nbytes


class HeadSquaredError(nn.Module):
    r"""Loss :math:`\frac1{2nk} \sum (f - y)^2` over the outputs that belong to the rows."""

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean over rows and outputs of half the squared error."""
        known = ~targets.isnan()
        errors = (as_matrix(outputs) - targets.nan_to_num(0.0)) * known
        return 0.5 * errors.square().sum() / known.sum()


class HeadCrossEntropy(nn.Module):
    """Cross-entropy of a softmax over the outputs that belong to the rows."""

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean over rows."""
        unknown = targets.isnan()
        log_p = as_matrix(outputs).masked_fill(unknown, -math.inf).log_softmax(1)
        log_p = log_p.masked_fill(unknown, 0.0)
        return -(targets.nan_to_num(0.0) * log_p).sum() / len(targets)
