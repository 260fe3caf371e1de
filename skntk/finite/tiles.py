"""The empirical NTK as the Gram engine sees it: tiles between blocks of captured rows."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from skntk.core import available_bytes
from skntk.finite.capture import sweep
from skntk.finite.contraction import Form, forms
from skntk.finite.network import NetworkInputs
from skntk.finite.plan import Plan

#: Matrix rows (rows times outputs) of a tile: where all captures are kept, and where they are made
#: again for each tile.
SMALL, LARGE = 724, 2048
#: Bytes that a sweep may take beside what is kept of it.
SWEEP_BYTES = 2**26
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
    ) -> None:
        self.module, self.plan, self.outputs = module, plan, outputs
        self.axes = AXES[outputs]
        self.n_outputs = 1 if outputs == "trace" else plan.n_outputs
        found = sweep(module, probe, plan)
        self.dtype, self.device = found.outputs.dtype, found.outputs.device
        made = forms(found, outputs)
        n = len(probe)
        kept = sum(form.nbytes for form in made) // n
        swept = 3 * sum(
            getattr(layer, "B", getattr(layer, "J", found.outputs)).nbytes for layer in found.layers
        )
        self._sweep_rows = max(1, SWEEP_BYTES * n // max(swept, 1))
        if budget is None:
            budget = min(DEFAULT_BUDGET, available_bytes(self.device) // 4)
        self._budget = budget
        if kept * n_rows <= budget:
            most = SMALL // self.n_outputs
        else:
            most = min(LARGE // self.n_outputs, budget // (2 * max(kept, 1)))
        self.side: int | None = max(1, most)
        self._cache: OrderedDict[tuple[int, int, int], list[Form]] = OrderedDict()
        self._kept, self._lock = 0, threading.RLock()

    def __getstate__(self) -> dict[str, object]:
        return {**vars(self), "_cache": OrderedDict(), "_kept": 0, "_lock": None}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._lock = threading.RLock()

    def forms(self, block: CapturedBlock) -> list[Form]:
        """Jacobians of a block, kept while the budget allows; the oldest go first."""
        key = id(block.of), block.start, block.stop
        with self._lock:
            if key in self._cache:
                self._cache.move_to_end(key)
                return self._cache[key]
            made = self._captured(block)
            self._kept += sum(form.nbytes for form in made)
            self._cache[key] = made
            while self._kept > self._budget and len(self._cache) > 2:
                _, oldest = self._cache.popitem(last=False)
                self._kept -= sum(form.nbytes for form in oldest)
            return made

    def _captured(self, block: CapturedBlock) -> list[Form]:
        pieces = []
        for start in range(block.start, block.stop, self._sweep_rows):
            stop = min(start + self._sweep_rows, block.stop)
            found = sweep(self.module, block.of.inputs[start:stop], self.plan)
            pieces.append(forms(found, self.outputs))
        if len(pieces) == 1:
            return pieces[0]
        return [type(same[0]).joined(same) for same in zip(*pieces, strict=True)]

    def tile(self, x1: CapturedBlock, x2: CapturedBlock) -> Tensor:
        """Kernel between two blocks: (k, r, k, c), (k, r, c) or (r, c)."""
        k = self.n_outputs
        last = (len(x2),) if self.outputs == "diagonal" else (k, len(x2))
        tile = torch.zeros((k, len(x1), *last), dtype=self.dtype, device=self.device)
        for one, two in zip(x1.forms(), x2.forms(), strict=True):
            one.add(tile, two)
        return tile[0, :, 0] if self.outputs == "trace" else tile

    def diag(self, x: CapturedBlock) -> Tensor:
        """Kernel of each row with itself: (n, k, k), (n, k) or (n,)."""
        own = sum(form.own(self.outputs == "full") for form in x.forms())
        assert isinstance(own, Tensor)
        return own[:, 0] if self.outputs == "trace" else own
