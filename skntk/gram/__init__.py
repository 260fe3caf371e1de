"""Kernel matrices, tile by tile."""

from skntk.gram.engine import TileKernel, gram

__all__ = ["TileKernel", "gram"]
