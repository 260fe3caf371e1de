"""Kernel matrices, tile by tile."""

from skntk.gram.engine import TileKernel, check_finite, diagonal, gram

__all__ = ["TileKernel", "check_finite", "diagonal", "gram"]
