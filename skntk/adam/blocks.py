"""All features: drawn block by block, kept while memory allows, drawn again beyond it."""

from __future__ import annotations

import math
from typing import Any, Protocol

import numpy as np
from torch import Tensor

from skntk.adam.features import GROUP, Chunk, Layer, chunks

#: Features are split into so many groups, which also train on their own: their spread is the error.
REPLICAS = 8
#: Numbers of a signal that are dealt with at one time: what a processor's cache holds, or a GPU.
_TILE = {"cpu": 2**18, "cuda": 2**25}


class Sampler(Protocol):
    """Draws the signals of one block.

    Attributes
    ----------
    n_units : int
        Units of a block's widest layer.
    """

    n_units: int

    def draw(self, seed: int, rows: Tensor | None = None) -> list[Layer]:
        """Signals of training rows, or of others."""


class Blocks:
    """Features in blocks of equal size.

    Parameters
    ----------
    sampler : Sampler
        Draws them.
    n_blocks : int
        How many, a multiple of `REPLICAS`.
    seed : int
        From which the seeds of the blocks are made.
    n_rows : int
        Training rows.
    budget : int
        Bytes that kept blocks may take.
    """

    def __init__(
        self,
        sampler: Sampler,
        n_blocks: int,
        seed: int,
        n_rows: int,
        budget: int,
    ) -> None:
        self.sampler, self.n_blocks, self.budget = sampler, n_blocks, budget
        children = np.random.SeedSequence(seed).generate_state(n_blocks, np.uint32)
        self.seeds = [int(child) for child in children]
        self._kept: dict[int, list[Chunk]] = {}
        self.nbytes, self._full = 0, False
        first = sampler.draw(self.seeds[0])
        self.parts = parts_of(first, n_rows)
        self._cut_and_kept(0, first)

    def __len__(self) -> int:
        return self.n_blocks

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_kept": {}, "nbytes": 0, "_full": False}  # they can be drawn again

    def chunks(self, k: int, rows: Tensor | None = None) -> list[Chunk]:
        """Features of block k in chunks: of the training rows, or of others."""
        if rows is not None:
            return self._cut(k, self.sampler.draw(self.seeds[k], rows))
        if k in self._kept:
            return self._kept[k]
        return self._cut_and_kept(k, self.sampler.draw(self.seeds[k]))

    def _cut_and_kept(self, k: int, layers: list[Layer]) -> list[Chunk]:
        """Features of block k in chunks, which are kept if they fit."""
        made, nbytes = self._cut(k, layers), sum(layer.nbytes for layer in layers)
        self._full = self._full or self.nbytes + nbytes > self.budget
        if not self._full:
            self._kept[k] = made
            self.nbytes += nbytes
        return made

    def _cut(self, k: int, layers: list[Layer]) -> list[Chunk]:
        d = next((len(x.columns) for x in layers if x.columns is not None), 0)
        n_columns = max(GROUP, math.ceil(2 * d * REPLICAS / self.n_chunks))
        # the blocks of a group take turns, so that each group sees all columns alike
        turn = (k // REPLICAS) * self.parts * n_columns + self.replica(k) * math.ceil(d / REPLICAS)
        return chunks(layers, turn, self.parts, n_columns)

    @property
    def n_chunks(self) -> int:
        """Into how many chunks each layer's features are cut."""
        return self.n_blocks * self.parts

    def replica(self, k: int) -> int:
        """Which group block k belongs to."""
        return k % REPLICAS


def parts_of(layers: list[Layer], n_rows: int) -> int:
    """Into how many chunks to cut a block, so that a chunk's signals stay in a cache."""
    device = next(s.data.device for x in layers for s in (x.delta, x.h) if s is not None)
    signals = [
        x.h if x.delta is None else x.delta for x in layers if x.delta is not None or not x.is_input
    ]
    units = [s.data.shape[-2] for s in signals if s is not None]
    parts, tile = 1, _TILE[device.type] // max(n_rows, 1)
    while units and all(N % (2 * parts * GROUP) == 0 for N in units) and max(units) > parts * tile:
        parts *= 2
    return parts
