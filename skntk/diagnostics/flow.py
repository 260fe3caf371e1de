"""Gradient flow with a constant kernel of all pairs of outputs: the lazy network without steps."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from scipy.optimize import brentq
from torch import Tensor

from skntk.core import require
from skntk.diagnostics.spectrum import stacked
from skntk.finite import EmpiricalKernel
from skntk.infinite import InfiniteKernel
from skntk.solvers import Spectral

#: Exponent of a decay that has come to its end; part of that time in which nothing happens.
_LATE, _EARLY = 60.0, 1e-20
#: Numbers of a kernel between test and training rows that are held at one time.
_NUMBERS = 2**24


@dataclass(frozen=True)
class PairKernel:
    """The kernel of all pairs of outputs of a network, finite or infinitely wide.

    Attributes
    ----------
    kernel : EmpiricalKernel or InfiniteKernel
        The first with ``outputs="full"``; in the second outputs are independent and alike.
    """

    kernel: EmpiricalKernel | InfiniteKernel

    @property
    def pairs(self) -> bool:
        """Whether outputs have kernels of their own, so that rows stand once for each output."""
        return isinstance(self.kernel, EmpiricalKernel)

    def gram(self, X: Tensor, Y: Tensor | None = None) -> Tensor:
        """Matrix in float64 on the CPU: (k n, k m), output by output, or (n, m)."""
        X, Y = X.double(), None if Y is None else Y.double()
        K = torch.as_tensor(self.kernel.gram(X, Y)).cpu()
        return stacked(K) if self.pairs else K

    def as_columns(self, F: Tensor) -> Tensor:
        """What the matrix is applied to: (k n, 1) or (n, k) of a function's values (n, k)."""
        return F.T.reshape(-1, 1) if self.pairs else F

    def as_rows(self, F: Tensor, n_outputs: int) -> Tensor:
        """Values (n, k) of a function from such columns."""
        return F.reshape(n_outputs, -1).T if self.pairs else F


class FlowMachine:
    r"""Network in the kernel regime, trained by gradient flow.

    The loss is :math:`\frac1{2nk} \sum (f - y)^2`.

    Parameters
    ----------
    kernel : PairKernel
        Its constant kernel.
    X : Tensor
        n training rows.
    start : Tensor of shape (n, k)
        The function there before training.
    Z : Tensor of shape (n, k)
        Targets.

    References
    ----------
    Lee et al. (2019), equations 8 and 9.
    """

    def __init__(self, kernel: PairKernel, X: Tensor, start: Tensor, Z: Tensor) -> None:
        self.kernel, self.X = kernel, X
        n, self.k = Z.shape
        size = n * self.k if kernel.pairs else n
        require(
            3 * 8 * size**2,
            f"the kernel machine of {n} rows and {self.k} outputs",
            "Train on fewer rows: pass train_size.",
        )
        self._gap = kernel.as_columns((Z - start).double())
        self._spectral = Spectral.from_gram(kernel.gram(X), overwrite=True)
        along = self._spectral.eigenvectors.T @ self._gap
        self._numbers = n * self.k  # in the loss
        self._energy = along.square().sum(1) / (2 * self._numbers)
        self._rates = self._spectral.eigenvalues / self._numbers

    def loss(self, time: float) -> float:
        """Loss on the training rows at a time."""
        if time == math.inf:
            time = self._end
        return float((self._energy * torch.exp(-2 * self._rates * time)).sum())

    def time_of(self, loss: float) -> float:
        """When the loss has come down to a value: 0 if it starts below, infinite if never."""
        if loss <= self.loss(math.inf):
            return math.inf
        if loss >= self.loss(_EARLY * self._end):
            return 0.0
        low, high = math.log(_EARLY * self._end), math.log(self._end)
        tiny = sys.float_info.min
        logarithm = brentq(lambda t: math.log(max(self.loss(math.exp(t)), tiny) / loss), low, high)
        return math.exp(logarithm)

    @property
    def _end(self) -> float:
        """A time at which all that can be learned has been."""
        resolution = len(self._rates) * torch.finfo(torch.float64).eps * self._rates[-1]
        learned = self._rates[self._rates > resolution]
        return _LATE / float(learned.min()) if len(learned) else 1.0

    def predict(self, X: Tensor, start: Tensor, time: float) -> Tensor:
        """The function at other rows after a time: (m, k), given what it was before training."""
        time = min(time, self._end)
        n_outputs = 1 if self.kernel.pairs else self.k
        dual = self._spectral.time_coefficients(self._gap, [time], 0.0, n_outputs)[0]
        moved = [
            self.kernel.as_rows(self.kernel.gram(X[rows], self.X) @ dual, self.k)
            for rows in self._blocks(len(X))
        ]
        return start.double() + torch.cat(moved)

    def _blocks(self, m: int) -> Iterator[slice]:
        size = max(1, _NUMBERS // (len(self._gap) * (self.k if self.kernel.pairs else 1)))
        return (slice(a, a + size) for a in range(0, m, size))
