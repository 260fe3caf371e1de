"""Continual learning: tasks in sequence, by networks and in the kernel regime."""

from skntk.continual.classifier import ContinualNTK

__all__ = ["ContinualNTK"]
