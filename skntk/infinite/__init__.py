"""Analytic limits of infinitely wide networks."""

from skntk.infinite.kernel import InfiniteKernel, infinite_width

__all__ = ["InfiniteKernel", "infinite_width"]
