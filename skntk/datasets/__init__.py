"""Data sets behind one face, and streams of tasks made from them.

Data sets are scikit-learn's built-in ones, and archives in a directory.
"""

from skntk.datasets.dataset import Dataset, Split, Task
from skntk.datasets.loading import load, names
from skntk.datasets.stream_task import StreamTask, blurred
from skntk.datasets.streams import drifting_tasks, permuted_tasks, rotated_tasks, split_tasks

__all__ = [
    "Dataset",
    "Split",
    "StreamTask",
    "Task",
    "blurred",
    "drifting_tasks",
    "load",
    "names",
    "permuted_tasks",
    "rotated_tasks",
    "split_tasks",
]
