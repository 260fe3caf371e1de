"""Small streams of tasks for the tests."""

from dataclasses import dataclass

import numpy as np


@dataclass
class Task:
    """What `evaluate` asks of a task."""

    name: str
    X: np.ndarray
    y: np.ndarray
    X_test: np.ndarray
    y_test: np.ndarray


def regression(seed, n_tasks=3, n=8, d=5, k=2):
    """Tasks with random rows and targets."""
    rng = np.random.default_rng(seed)

    def rows():
        X = rng.standard_normal((n, d))
        return X, rng.standard_normal((n, k)) if k > 1 else rng.standard_normal(n)

    return [Task(f"t{i}", *rows(), *rows()) for i in range(n_tasks)]


def classes(seed, n_tasks=3, n=12, d=5, per_task=2, shared=False):
    """Tasks with clusters as classes: the same ones in all, or others in each."""
    rng = np.random.default_rng(seed)
    tasks = []
    for i in range(n_tasks):
        labels = np.arange(per_task) + (0 if shared else i * per_task)
        centres = rng.standard_normal((per_task, d))

        def rows(labels=labels, centres=centres):
            y = np.resize(labels, n)
            return centres[y - labels[0]] + 0.3 * rng.standard_normal((n, d)), y

        tasks.append(Task(f"t{i}", *rows(), *rows()))
    return tasks
