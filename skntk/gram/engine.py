"""Evaluate a kernel on all pairs of rows without a temporary of that size.

A kernel shows two things, a tile and a diagonal; this module decides which tiles, in which order
and by whom, and writes them into one matrix.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, Protocol

import joblib
import torch
from torch import Tensor

from skntk.core import KernelOverflowError, empty, require, threads_restored

#: Rows and columns of a tile: on each thread its share stays in a core's cache, or it fills a GPU.
CPU_TILE, CUDA_TILE = 362, 4096
#: Threads for which a tile is enlarged: operations on more numbers than that have enough work.
MOST_THREADS = 8
#: Rows of a diagonal that are computed together.
DIAGONAL = 2**14


class Rows(Protocol):
    """Prepared inputs: a sequence of rows that can be sliced."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: slice) -> Any: ...


class TileKernel(Protocol):
    """What the Gram engine, and every kernel in the package, agree on.

    Attributes
    ----------
    dtype : torch.dtype
        Of the tiles.
    device : torch.device
        Where they lie.
    compiled : bool
        Whether tiles are made by code that is compiled for one shape.
    axes : str
        What the axes of a tile are: "ij", rows and columns; "pij", each of several outputs with
        itself; or "piqj", all pairs of outputs.
    n_outputs : int
        Size of the axes p and q.
    side : int or None
        Rows of a tile, if the kernel knows better than the engine.
    """

    dtype: torch.dtype
    device: torch.device
    compiled: bool
    axes: str
    n_outputs: int
    side: int | None

    def tile(self, x1: Any, x2: Any) -> Tensor:
        """Kernel between two blocks of rows, with the axes `axes`."""

    def diag(self, x: Any) -> Tensor:
        """Kernel of each row with itself: (len(x),), then the axes p and q if there are any."""


def gram(kernel: TileKernel, x1: Rows, x2: Rows | None = None, *, n_jobs: int | None = None) -> Any:
    """Evaluate a kernel on all pairs of rows.

    Parameters
    ----------
    kernel : TileKernel
        What to evaluate.
    x1 : Rows
        n1 prepared rows.
    x2 : Rows, optional
        n2 prepared rows; by default `x1`, and then every pair is computed once and the diagonal is
        that of ``kernel.diag``.
    n_jobs : int, optional
        Workers of `joblib`, with its current backend (threads by default); each computes whole
        tiles on one thread. By default torch's threads share each tile.

    Returns
    -------
    Tensor of shape (n1, n2), (k, n1, n2) or (k, n1, k, n2)
        With the axes of the kernel.

    Raises
    ------
    MemoryBudgetError
        Before anything is computed, if the result does not fit in memory.
    KernelOverflowError
        If a value on the diagonal is not finite.
    """
    symmetric = x2 is None
    x2 = x1 if x2 is None else x2
    n1, n2 = len(x1), len(x2)
    size = torch.finfo(kernel.dtype).bits // 8
    axes = kernel.axes
    shape = tuple({"i": n1, "j": n2}.get(axis, kernel.n_outputs) for axis in axes)
    require(
        math.prod(shape) * size,
        f"a kernel matrix of {' x '.join(map(str, shape))} numbers of {size} bytes",
        "Use fewer rows (one block at a time)"
        + (", or dtype='float32' to halve it." if kernel.dtype == torch.float64 else "."),
        kernel.device,
    )
    diagonals = [diagonal(kernel, x) for x in ((x1,) if symmetric else (x1, x2))]
    out = empty(shape, kernel.dtype, kernel.device)
    sides = _side(kernel, n1, n_jobs), _side(kernel, n2, n_jobs)
    blocks = [
        (rows, columns)
        for rows in _slices(n1, sides[0], kernel.compiled)
        for columns in _slices(n2, sides[1], kernel.compiled)
        if not symmetric or columns.start >= rows.start
    ]

    def at(rows: slice, columns: slice) -> tuple[slice, ...]:
        return tuple({"i": rows, "j": columns}.get(axis, slice(None)) for axis in axes)

    def mirror(tile: Tensor) -> Tensor:
        return tile.permute([axes.find(axis) for axis in _mirrored(axes)])

    def compute(block: tuple[slice, slice]) -> tuple[slice, slice, Tensor]:
        rows, columns = block
        return rows, columns, kernel.tile(x1[rows], x2[columns])

    def write(rows: slice, columns: slice, tile: Tensor) -> None:
        if symmetric and rows == columns:  # to the last bit
            tile = tile.triu() + tile.triu(1).T if axes == "ij" else 0.5 * (tile + mirror(tile))
        out[at(rows, columns)] = tile
        if symmetric and rows != columns:
            out[at(columns, rows)] = mirror(tile)

    _keep_freed_memory()
    _schedule(compute, write, blocks, n_jobs)
    if symmetric:
        out.diagonal(0, axes.find("i"), axes.find("j")).copy_(diagonals[0].movedim(0, -1))
    return out


def _mirrored(axes: str) -> str:
    """Names of the axes when rows and columns, and their outputs, change places."""
    if "q" in axes:
        return axes.translate(str.maketrans("ijpq", "jiqp"))
    return axes.translate(str.maketrans("ij", "ji"))


@functools.cache
def _keep_freed_memory() -> None:
    """Let the C library reuse the memory of a tile instead of returning it to the system.

    glibc maps a large block anew each time until a larger one has been freed; the page faults of a
    tile's temporaries take as long as their arithmetic. Freeing one block of just under its limit
    of 32 MiB raises that threshold for good.
    """
    torch.empty(31 * 2**20, dtype=torch.uint8)


def _slices(n: int, side: int, whole: bool) -> list[slice]:
    """Blocks of rows; with `whole`, the last one overlaps its neighbour to be full."""
    starts = list(range(0, n, side))
    if whole:
        starts[-1] = max(n - side, 0)
    return [slice(start, min(start + side, n)) for start in starts]


def diagonal(kernel: TileKernel, x: Rows) -> Tensor:
    """Kernel of each row with itself: (len(x),) and outputs, block by block.

    Raises
    ------
    KernelOverflowError
        If a value is not finite.
    """
    n, side = len(x), DIAGONAL if kernel.side is None else _side(kernel, len(x))
    blocks = [kernel.diag(x[a : min(a + side, n)]) for a in range(0, n, side)]
    return check_finite(torch.cat(blocks) if len(blocks) > 1 else blocks[0])


def check_finite(values: Tensor) -> Tensor:
    """Return a kernel's diagonal, on which an overflow shows first.

    Raises
    ------
    KernelOverflowError
        If a value is not finite.
    """
    if not torch.isfinite(values).all():
        remedy = "" if values.dtype == torch.float64 else ", or dtype='float64'"
        raise KernelOverflowError(
            f"the kernel of an input with itself is not finite in {values.dtype}: the signal grows "
            "beyond it from layer to layer. Use a smaller weight_std or bias_std, fewer layers, "
            f"smaller inputs{remedy}."
        )
    return values


def _side(kernel: TileKernel, n: int, n_jobs: int | None = None) -> int:
    """Rows of a tile: the same for all n where code is compiled for it, else evened out."""
    threads = min(torch.get_num_threads(), MOST_THREADS) if n_jobs is None else 1
    side = round(CPU_TILE * math.sqrt(threads))
    if kernel.device.type == "cuda":
        side = CUDA_TILE
    if kernel.side is not None:
        side = kernel.side
    return min(n, side) if kernel.compiled else math.ceil(n / math.ceil(n / side))


def _schedule(
    compute: Callable[[tuple[slice, slice]], tuple[slice, slice, Tensor]],
    write: Callable[[slice, slice, Tensor], None],
    blocks: list[tuple[slice, slice]],
    n_jobs: int | None,
) -> None:
    """Compute and write all blocks, one after the other or by joblib."""
    if n_jobs is None:
        for block in blocks:
            write(*compute(block))
        return
    run = joblib.delayed(_alone)
    results = joblib.Parallel(n_jobs, prefer="threads", return_as="generator_unordered")(
        run(compute, block) for block in blocks
    )
    with threads_restored():
        for rows, columns, tile in results:
            write(rows, columns, torch.as_tensor(tile))


def _alone(compute: Callable[[tuple[slice, slice]], Any], block: tuple[slice, slice]) -> Any:
    """Compute one block on one thread of torch's."""
    if torch.get_num_threads() != 1:
        torch.set_num_threads(1)
    with torch.no_grad():  # as in the thread that asks
        return compute(block)
