"""Data sets behind one face: scikit-learn's built-in ones, and archives in a directory."""

from skntk.datasets.dataset import Dataset, Split, Task
from skntk.datasets.loading import load, names

__all__ = ["Dataset", "Split", "Task", "load", "names"]
