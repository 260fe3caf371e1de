"""Two ways to evaluate a program on a tile: rule by rule, or collapsed to a series in the angle."""

from __future__ import annotations

import math

import numpy as np
import scipy.fft
import torch
from torch import Tensor

from skntk.infinite.featurewise import FeaturewiseInputs
from skntk.infinite.fusing import fused
from skntk.infinite.inputs import Inputs, angles
from skntk.infinite.program import Program
from skntk.infinite.rules import Options
from skntk.infinite.state import State

#: Relative accuracy of a collapsed kernel, and the nodes at which its function is sampled.
COLLAPSE_TOL = {torch.float32: 1e-7, torch.float64: 2e-14}
NODES = 160


def read(state: State, kind: str) -> Tensor:
    """Kernel of one kind from a program's result, with all axes of its pairs."""
    shape = torch.broadcast_tensors(state.k1, state.k2, state.delta)[0].shape
    out = state.nngp if kind == "nngp" else state.tangent
    return torch.zeros_like(state.delta).expand(shape) if out is None else out.expand(shape)


class DirectTiles:
    """Run the program on each tile.

    Parameters
    ----------
    program : Program
        The network.
    kind : {"ntk", "nngp"}
        Which kernel.
    like : Tensor
        Gives dtype and device.
    options : Options, optional
        Hyperparameters that replace those of the program.
    compiled : bool, default=False
        Whether to fuse the program with ``torch.compile``.
    """

    def __init__(
        self,
        program: Program,
        kind: str,
        like: Tensor,
        options: Options | None = None,
        compiled: bool = False,
    ) -> None:
        self.program, self.kind = program, kind
        self.options = options or Options(with_ntk=kind == "ntk")
        self.dtype, self.device, self.compiled = like.dtype, like.device, compiled
        self._run = self._evaluate
        if compiled:  # kept with the program: compiling takes longer than most matrices
            self._run = program.compiled.setdefault(kind, fused(self._evaluate))

    def _evaluate(self, k1: Tensor, k2: Tensor, delta: Tensor) -> Tensor:
        return read(self.program.run(State(k1, k2, delta), self.options), self.kind)

    def tile(self, x1: Inputs, x2: Inputs) -> Tensor:
        """Kernel between two blocks of rows."""
        s = x1.pairs(x2)
        return self._run(s.k1, s.k2, s.delta)

    def diag(self, x: Inputs) -> Tensor:
        """Kernel of each row with itself."""
        return read(self.program.run(x.own(), self.options), self.kind)


class CollapsedTiles(DirectTiles):
    r"""Evaluate the whole network as one function of the angle, :math:`s(x) s(y) f(\theta)`.

    Parameters
    ----------
    program, kind, like, compiled
        As of `DirectTiles`.
    degree : float
        Degree of homogeneity: :math:`s(x) = (|x|^2 / d)^{degree / 2}`.
    size : float
        Mean square of the inputs at which f is sampled.
    """

    def __init__(
        self,
        program: Program,
        kind: str,
        like: Tensor,
        degree: float,
        size: float,
        compiled: bool = False,
    ) -> None:
        super().__init__(program, kind, like)
        self.degree, self.compiled = degree, compiled
        self.coefficients = self._fit(size)

    def _fit(self, size: float) -> list[float] | None:
        """Chebyshev coefficients of f on [0, pi], or None if they do not fall off fast enough."""
        nodes = np.pi * np.arange(NODES + 1) / NODES
        delta = torch.as_tensor(2 * np.sin(np.pi * (1 + np.cos(nodes)) / 4) ** 2)
        k = torch.full((1,), size, dtype=torch.float64)
        values = read(self.program.run(State(k, k, delta), self.options), self.kind).numpy()
        coefficients = scipy.fft.dct(values, type=1) / NODES
        coefficients[[0, -1]] /= 2
        scale = np.abs(values).max()
        tail = np.cumsum(np.abs(coefficients[::-1]))[::-1]
        tol = COLLAPSE_TOL[self.dtype]
        enough = np.flatnonzero(tail <= tol * scale)
        if not np.isfinite(scale) or scale == 0 or len(enough) == 0:
            return None
        if enough[0] > NODES // 2:
            return None
        return [float(c) for c in coefficients[: max(int(enough[0]), 2)]]

    def _clenshaw(self, theta: Tensor) -> Tensor:
        """Sum the series in place, two passes a degree."""
        assert self.coefficients is not None
        twice = theta.mul_(4 / math.pi).sub_(2)  # 2 t with t in [-1, 1]
        *rest, last = self.coefficients
        b1, b2 = torch.full_like(twice, last), torch.zeros_like(twice)
        scalar = twice.new_tensor(rest)
        for c in reversed(scalar[1:]):
            torch.sub(c, b2, out=b2)
            b1, b2 = b2.addcmul_(twice, b1), b1
        return torch.sub(scalar[0], b2, out=b2).addcmul_(twice, b1, value=0.5)

    def tile(self, x1: Inputs, x2: Inputs) -> Tensor:
        """Kernel between two blocks of rows."""
        theta = angles(x1.unit, x2.unit)
        if self.compiled:
            out = _fused_clenshaw(theta, theta.new_tensor(self.coefficients))
        else:
            out = self._clenshaw(theta)
        if self.degree:
            power = self.degree / 2
            out.mul_(x1.square.pow(power)[:, None]).mul_(x2.square.pow(power)[None, :])
        return out


def clenshaw(theta: Tensor, coefficients: Tensor) -> Tensor:
    """Sum of a Chebyshev series in ``2 theta / pi - 1``, out of place, for a compiler to fuse."""
    twice = theta * (4 / math.pi) - 2
    first, *rest = coefficients.unbind()
    b1, b2 = torch.zeros_like(twice) + rest[-1], torch.zeros_like(twice)
    for c in reversed(rest[:-1]):
        b1, b2 = twice * b1 + (c - b2), b1
    return 0.5 * twice * b1 + (first - b2)


def tiles(
    program: Program,
    kind: str,
    blocks: list[Inputs | FeaturewiseInputs],
    *,
    compiled: bool,
    collapse: bool = True,
) -> DirectTiles:
    """Return the collapsed evaluation where it is exact to rounding, else the direct one."""
    like = blocks[0].square
    # The length of a series depends on the values in a tile, which a compiler would take as fixed.
    fusible = compiled and not program.series
    if collapse and all(isinstance(x, Inputs) for x in blocks):
        sizes = torch.cat([x.square for x in blocks])
        low, high = (float(v) for v in torch.aminmax(sizes)) if len(sizes) else (0.0, 0.0)
        degree = program.degree
        equal = low > 0 and high - low <= 8 * torch.finfo(like.dtype).eps * high
        made = None
        if degree is not None and (degree > 0 or low > 0):
            made = CollapsedTiles(program, kind, like, degree, 1.0, compiled)
        elif equal:
            made = CollapsedTiles(program, kind, like, 0.0, (low + high) / 2, compiled)
        if made is not None and made.coefficients is not None:
            return made
    return DirectTiles(program, kind, like, compiled=fusible)


_fused_clenshaw = fused(clenshaw)
