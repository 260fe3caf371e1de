"""Two ways to evaluate a program on a tile: rule by rule, or collapsed to one short series."""

from __future__ import annotations

import torch
from torch import Tensor

from skntk.infinite.featurewise import FeaturewiseInputs
from skntk.infinite.fusing import fused
from skntk.infinite.inputs import Inputs
from skntk.infinite.program import Program
from skntk.infinite.rules import Options
from skntk.infinite.series import Series
from skntk.infinite.state import State


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

    axes = "ij"
    n_outputs = 1
    side: int | None = None

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
        return self.program.kernel(State(k1, k2, delta), self.options, self.kind)

    def tile(self, x1: Inputs, x2: Inputs) -> Tensor:
        """Kernel between two blocks of rows."""
        s = x1.pairs(x2)
        return self._run(s.k1, s.k2, s.delta)

    def diag(self, x: Inputs) -> Tensor:
        """Kernel of each row with itself."""
        return self.program.kernel(x.own(), self.options, self.kind)


class CollapsedTiles(DirectTiles):
    r"""Evaluate the whole network as one function of the angle, :math:`s(x) s(y) f(\theta)`.

    Parameters
    ----------
    program, kind, like
        As of `DirectTiles`.
    degree : float
        Degree of homogeneity: :math:`s(x) = (|x|^2 / d)^{degree / 2}`.
    size : float
        Mean square of the inputs at which f is sampled.

    Attributes
    ----------
    series : Series or None
        f; None if no series is accurate enough.
    """

    def __init__(
        self, program: Program, kind: str, like: Tensor, degree: float, size: float
    ) -> None:
        super().__init__(program, kind, like)
        self.degree = degree
        known, series = program.collapsed.get((kind, self.dtype), (None, None))
        if known != size:
            k = torch.full((1, 1), size, dtype=torch.float64, device="cpu")
            series = Series.shortest(lambda delta: self._evaluate(k, k, delta), self.dtype)
            program.collapsed[kind, self.dtype] = size, series
        self.series: Series | None = series

    def tile(self, x1: Inputs, x2: Inputs) -> Tensor:
        """Kernel between two blocks of rows."""
        assert self.series is not None
        out = self.series.between(x1, x2)
        if self.degree:
            power = self.degree / 2
            out.mul_(x1.square.pow(power)[:, None]).mul_(x2.square.pow(power)[None, :])
        return out


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
            made = CollapsedTiles(program, kind, like, degree, 1.0)
        elif equal:
            made = CollapsedTiles(program, kind, like, 0.0, (low + high) / 2)
        if made is not None and made.series is not None:
            return made
    return DirectTiles(program, kind, like, compiled=fusible)
