"""The empirical NTK as the Gram engine sees it: tiles between blocks of captured rows."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from skntk.core import available_bytes
from skntk.finite.assembly import Layout, LayoutError, assembled
from skntk.finite.contraction import Form
from skntk.finite.network import NetworkInputs
from skntk.finite.plan import Plan
from skntk.finite.run import Run
from skntk.gram import gram

#: Matrix rows (rows times outputs) of a tile: where it is made layer by layer and all captures are
#: kept, or where there are fewer and larger products.
SMALL, LARGE = 724, 2048
#: Bytes that a sweep may take beside what is kept of it.
SWEEP_BYTES = 2**28
#: Bytes of the largest layer's output in a sweep: of more, caches and allocators make less.
OPERATION_BYTES = 2**23
#: Most bytes of captures that are kept by default.
DEFAULT_BUDGET = 2**29

AXES = {"full": "piqj", "diagonal": "pij", "trace": "ij"}


class CapturedRows:
    """Rows whose captures are made when a tile needs them."""

    def __init__(self, tiles: EmpiricalTiles, inputs: NetworkInputs) -> None:
        self.tiles, self.inputs = tiles, inputs

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, rows: slice) -> CapturedBlock:
        start, stop, _ = rows.indices(len(self))
        return CapturedBlock(self, start, stop)


@dataclass(frozen=True)
class CapturedBlock:
    """Some of them, next to each other."""

    of: CapturedRows
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start

    def forms(self) -> list[Form]:
        """Their Jacobians."""
        return self.of.tiles.forms(self)


class BatchKernel:
    """Full kernel (k, n, k, n) of one batch after the other, while the weights change.

    Parameters
    ----------
    module : torch.nn.Module
        In eval mode when it is used.
    plan : Plan
        How its parameters are captured.
    """

    def __init__(self, module: nn.Module, plan: Plan) -> None:
        self.module, self.plan = module, plan
        self._tiles: EmpiricalTiles | None = None

    def __call__(self, inputs: NetworkInputs) -> Tensor:
        """Kernel of a batch with itself."""
        try:
            return self._gram(inputs, structured=True)
        except LayoutError:
            self._tiles = None
            return self._gram(inputs, structured=False)

    def _gram(self, inputs: NetworkInputs, structured: bool) -> Tensor:
        if self._tiles is None:
            probe, n = inputs[:2], len(inputs)
            self._tiles = EmpiricalTiles(
                self.module, self.plan, "full", probe, n, None, structured=structured
            )
        self._tiles.forget()
        return gram(self._tiles, CapturedRows(self._tiles, inputs))


class EmpiricalTiles:
    """`TileKernel` of a finite network, for one call.

    Parameters
    ----------
    module : torch.nn.Module
        In eval mode; not changed.
    plan : Plan
        How its parameters are captured.
    outputs : {"full", "diagonal", "trace"}
        Which pairs of outputs.
    probe : NetworkInputs
        A few rows, to learn the sizes from.
    n_rows : int
        Rows of all blocks, from which it follows whether all captures can be kept.
    budget : int, optional
        Bytes of captures that may be kept.
    structured : bool, default=True
        Whether to keep anything but written-out Jacobians.
    """

    compiled = False

    def __init__(
        self,
        module: nn.Module,
        plan: Plan,
        outputs: str,
        probe: NetworkInputs,
        n_rows: int,
        budget: int | None,
        *,
        structured: bool = True,
    ) -> None:
        self.module, self.plan, self.outputs = module, plan, outputs
        self.axes = AXES[outputs]
        self.n_outputs = k = 1 if outputs == "trace" else plan.n_outputs
        if len(probe) == 1:
            probe = probe[torch.tensor([0, 0])]
        run = Run.of(module, probe, plan)
        self.layout = Layout.of(run, module, outputs, structured=structured)
        self.dtype, self.device = run.outputs.dtype, run.outputs.device
        numbers = sum(use.shape.numel() for use in run.uses) // len(probe)
        swept = (4 + plan.n_outputs) * self.dtype.itemsize * max(numbers, 1)
        largest = max((use.shape.numel() for use in run.uses), default=1) // len(probe)
        fastest = OPERATION_BYTES // (self.dtype.itemsize * max(largest, 1))
        self._sweep_rows = max(2, min(SWEEP_BYTES // swept, fastest))
        if budget is None:
            budget = min(DEFAULT_BUDGET, available_bytes(self.device) // 4)
        self._budget = budget
        kept = max(self.layout.row_bytes, 1)
        most = SMALL if set(self.layout.kinds) == {"pair"} and not plan.rest else LARGE
        if kept * n_rows > budget:
            most = min(LARGE, k * (budget // (2 * kept)))
        self.side: int | None = max(1, most // k)
        self._cache: OrderedDict[tuple[int, int, int], list[Form]] = OrderedDict()
        self._kept, self._lock = 0, threading.RLock()

    def __getstate__(self) -> dict[str, object]:
        return {**vars(self), "_cache": OrderedDict(), "_kept": 0, "_lock": None}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._lock = threading.RLock()

    def forget(self) -> None:
        """Drop all captures, as when the weights have changed."""
        self._cache, self._kept = OrderedDict(), 0

    def forms(self, block: CapturedBlock) -> list[Form]:
        """Jacobians of a block, kept while the budget allows; the oldest go first."""
        key = id(block.of), block.start, block.stop
        with self._lock:
            if key in self._cache:
                self._cache.move_to_end(key)
                return self._cache[key]
            rows = block.of.inputs[block.start : block.stop]
            made = assembled(self.module, rows, self.plan, self.layout, self._sweep_rows)
            self._kept += sum(form.nbytes for form in made)
            self._cache[key] = made
            while self._kept > self._budget and len(self._cache) > 2:
                _, oldest = self._cache.popitem(last=False)
                self._kept -= sum(form.nbytes for form in oldest)
            return made

    def tile(self, x1: CapturedBlock, x2: CapturedBlock) -> Tensor:
        """Kernel between two blocks: (k, r, k, c), (k, r, c) or (r, c)."""
        k = self.n_outputs
        last = (len(x2),) if self.outputs == "diagonal" else (k, len(x2))
        tile = torch.zeros((k, len(x1), *last), dtype=self.dtype, device=self.device)
        one, two = x1.forms(), x2.forms()
        for a, b in zip(one, two, strict=True):
            a.add(tile, b)
        return tile[0, :, 0] if self.outputs == "trace" else tile

    def diag(self, x: CapturedBlock) -> Tensor:
        """Kernel of each row with itself: (n, k, k), (n, k) or (n,)."""
        shape = (len(x), *{"full": 2, "diagonal": 1, "trace": 1}[self.outputs] * (self.n_outputs,))
        own = torch.zeros(shape, dtype=self.dtype, device=self.device)
        for form in x.forms():
            own += form.own(self.outputs)
        if self.outputs == "full":
            own = 0.5 * (own + own.mT)  # to the last bit
        return own[:, 0] if self.outputs == "trace" else own
