"""A function of the angle between two inputs as a short polynomial in a suitable variable."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy.fft
import torch
from numpy.polynomial import chebyshev
from torch import Tensor

from skntk.infinite.inputs import Inputs, angles, complement

#: Relative accuracy, and the nodes at which a function is sampled; twice as many as terms allowed.
TOL = {torch.float32: 1e-7, torch.float64: 2e-14}
NODES = 128
#: Peaks that are tried, see `Variable`.
PEAKS = (3.0, 1.0, 0.3, 0.1, 0.03, 0.01, 3e-3, 1e-3)
#: Sum of the sizes of a polynomial's coefficients, relative to its largest value, up to which
#: Horner's scheme loses next to nothing to rounding.
STABLE = 8.0
#: What the logarithm of an angle costs, in terms of a series.
_LOG = 8


@dataclass(frozen=True)
class Variable:
    r"""What a series is a polynomial in, scaled to [-1, 1].

    Kernels of activations with a kink are singular at coincidence as functions of the cosine, but
    not of the angle; smooth ones need no angle. As a network gets deeper they fall off from an ever
    narrower peak at coincidence, which the logarithm spreads out.

    Attributes
    ----------
    angular : bool
        Whether it is made of the angle rather than of one minus its cosine.
    peak : float or None
        p, for the logarithm of one plus that over p; None for no logarithm.
    """

    angular: bool
    peak: float | None = None

    @property
    def _top(self) -> float:
        return math.pi if self.angular else 2.0

    def deltas(self, t: np.ndarray) -> np.ndarray:
        """One minus the cosine at values t of the variable."""
        share = (1 + t) / 2
        if self.peak is not None:
            share = np.expm1(share * math.log1p(self._top / self.peak)) * self.peak / self._top
        share = share.clip(0, 1)
        return 2 * np.sin(share * (math.pi / 2)) ** 2 if self.angular else 2 * share

    def between(self, x1: Inputs, x2: Inputs) -> Tensor:
        """Its value for all pairs of rows: (n1, n2)."""
        out = (angles if self.angular else complement)(x1.unit, x2.unit)
        if self.peak is None:
            return out.mul_(2 / self._top).sub_(1)
        scale = 2 / math.log1p(self._top / self.peak)
        return out.mul_(1 / self.peak).log1p_().mul_(scale).sub_(1)


VARIABLES = (
    Variable(True),
    *(Variable(angular, peak) for angular in (False, True) for peak in PEAKS),
)


@dataclass(frozen=True)
class Series:
    """Polynomial in a variable; made by `shortest`.

    Attributes
    ----------
    variable : Variable
        Its variable.
    coefficients : tuple of float
        Those of powers, or of Chebyshev polynomials.
    powers : bool
        Which.
    """

    variable: Variable
    coefficients: tuple[float, ...]
    powers: bool

    @classmethod
    def shortest(cls, function: Callable[[Tensor], Tensor], dtype: torch.dtype) -> Series | None:
        """The cheapest one that is accurate to rounding, or None if there is none.

        Parameters
        ----------
        function : callable
            Takes one minus the cosine of the angle, a float64 tensor, to values.
        dtype : torch.dtype
            In which the series will be summed.
        """
        t = np.cos(np.pi * np.arange(NODES + 1) / NODES)
        deltas = np.stack([variable.deltas(t) for variable in VARIABLES])
        values = function(torch.from_numpy(deltas)).numpy()
        scale = np.abs(values).max()
        if not np.isfinite(scale) or scale == 0:
            return None
        coefficients = scipy.fft.dct(values, type=1) / NODES
        coefficients[:, [0, -1]] /= 2
        tail = np.cumsum(np.abs(coefficients[:, ::-1]), axis=1)[:, ::-1]
        lengths = (tail > TOL[dtype] * scale).sum(1).clip(min=1)
        logs = np.array([_LOG * (v.angular and v.peak is not None) for v in VARIABLES])
        best, cheapest = None, math.inf
        for i in np.argsort(lengths + logs):
            if lengths[i] > NODES // 2 or lengths[i] + logs[i] >= cheapest:
                continue
            row = coefficients[i, : lengths[i]]
            powers = chebyshev.cheb2poly(row)
            stable = bool(np.abs(powers).sum() <= STABLE * scale)
            cost = (1 if stable else 2) * lengths[i] + logs[i]
            if cost < cheapest:
                kept = tuple((powers if stable else row).tolist())
                best, cheapest = cls(VARIABLES[i], kept, stable), cost
        return best

    def between(self, x1: Inputs, x2: Inputs) -> Tensor:
        """Values for all pairs of rows: (n1, n2)."""
        t = self.variable.between(x1, x2)
        *rest, last = t.new_tensor(self.coefficients)
        out = torch.zeros_like(t).add_(last)
        if self.powers:
            for c in reversed(rest):
                torch.addcmul(c, t, out, out=out)
            return out
        before = torch.zeros_like(t)  # Clenshaw: b_k = c_k + 2 t b_(k+1) - b_(k+2)
        for k, c in reversed(list(enumerate(rest))):
            torch.sub(c, before, out=before)
            out, before = before.addcmul_(t, out, value=2.0 if k else 1.0), out
        return out
