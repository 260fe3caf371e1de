"""Columns of few distinct values, read as categories: one indicator a value."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

#: A column of categories has at most so many values, and at least so many rows for each of them.
MOST_VALUES, ROWS_PER_VALUE = 16, 4
#: How far, in the smallest distance between values, a value may be off to be recognized.
TOLERANCE = 1e-3
#: Standard deviation below which a column that is almost constant is not scaled up further.
SPREAD = 1e-2


@dataclass(frozen=True)
class Categories:
    """Columns of X that are read as categories, and how.

    A column of at least 3 and at most 16 distinct values, each of which occurs 4 times on average,
    becomes one indicator a value, centred and divided by one number such that together they have
    variance 1, as a standardized column has. A value is recognized despite rounding; one that was
    not seen is none of them.

    Attributes
    ----------
    values : dict of int to Tensor of shape (m,)
        Distinct values of each such column.
    means : dict of int to Tensor of shape (m,)
        Their weighted frequencies.
    n_features : int
        Columns of X.
    """

    values: dict[int, Tensor]
    means: dict[int, Tensor]
    n_features: int

    @classmethod
    def of(cls, X: Tensor, weights: Tensor) -> Categories:
        """Read the training rows (n, d) and their weights (n,)."""
        values, means = {}, {}
        for j in range(X.shape[1]):
            found, which = torch.unique(X[:, j], return_inverse=True)
            if 3 <= len(found) <= min(MOST_VALUES, len(X) // ROWS_PER_VALUE):
                sums = torch.bincount(which, weights, minlength=len(found))
                values[j], means[j] = found, sums / weights.sum()
        return cls(values, means, X.shape[1])

    @property
    def width(self) -> int:
        """Columns after encoding."""
        return self.n_features + sum(len(v) - 1 for v in self.values.values())

    def encode(self, X: Tensor) -> Tensor:
        """Replace the columns of categories by indicators: (n, d) to (n, width).

        All columns are multiplied by ``sqrt(width / d)``, for a network divides by its fan-in.
        """
        columns = []
        for j in range(self.n_features):
            x = X[:, j : j + 1]
            if j in self.values:
                values, mean = self.values[j].to(x), self.means[j].to(x)
                spread = (mean * (1 - mean)).sum().sqrt().clamp_min(SPREAD)
                near = (x - values).abs() <= TOLERANCE * values.diff().min()
                x = (near.to(x.dtype) - mean) / spread
            columns.append(x)
        return torch.cat(columns, 1) * math.sqrt(self.width / self.n_features)
