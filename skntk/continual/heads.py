"""Which outputs of the network answer for which task and class."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Heads:
    """Tasks that were learnt, and the outputs of each; a new one is made for each task.

    Attributes
    ----------
    kind : {"single", "multi", "incremental"}
        All tasks share the outputs; each has its own; or the outputs grow with the classes.
    tasks : tuple of hashable
        Their names, in the order in which they came.
    own : tuple of tuple of int
        With "multi", the outputs of each task.
    labels : tuple
        The class of each output; None for regression.
    """

    kind: str
    tasks: tuple[Hashable, ...] = ()
    own: tuple[tuple[int, ...], ...] = ()
    labels: tuple[Any, ...] = ()

    @property
    def n_outputs(self) -> int:
        """Number of outputs."""
        return len(self.labels)

    def named(self, task: Hashable | None) -> Hashable:
        """Name of a task to learn: as given, or the next number."""
        if task is None:
            return next(i for i in range(len(self.tasks), 2**31) if i not in self.tasks)
        try:
            hash(task)
        except TypeError:
            raise ValueError(
                f"task={task!r} is a {type(task).__name__}; name one task by a number or a string, "
                "and pass the rows of one task at a time."
            ) from None
        return task

    def columns(self, task: Hashable | None) -> list[int]:
        """Outputs that answer for a task.

        Raises
        ------
        ValueError
            If there is no such task, or it must be named and is not.
        """
        known = ", ".join(map(repr, self.tasks[:10])) + (", ..." if len(self.tasks) > 10 else "")
        if task is not None:
            self.named(task)
        if task is not None and task not in self.tasks:
            raise ValueError(f"task={task!r} has not been learnt; learnt are: {known}.")
        if self.kind != "multi":
            return list(range(self.n_outputs))
        if task is None and len(self.tasks) > 1:
            raise ValueError(f"task=None, but heads='multi': say which task; learnt are: {known}.")
        return list(self.own[0 if task is None else self.tasks.index(task)])

    def with_classes(self, task: Hashable, found: np.ndarray, declared: np.ndarray | None) -> Heads:
        """Return the heads after a task with some classes.

        Parameters
        ----------
        task : hashable
            Its name.
        found : ndarray
            Classes of its rows, sorted.
        declared : ndarray or None
            Classes that it is said to have.

        Raises
        ------
        ValueError
            If there is a class that has no output and can get none.
        """
        classes = found if declared is None else np.unique(declared)
        if declared is not None and not np.isin(found, classes).all():
            strange = [c for c in found.tolist() if c not in classes.tolist()]
            raise ValueError(
                f"y has the classes {strange}, which are not among classes={classes.tolist()}."
            )
        kinds = {isinstance(c, str) for c in (*self.labels, *classes.tolist())}
        if len(kinds) > 1:
            raise ValueError(
                f"y has labels such as {classes.tolist()[0]!r}, but those of earlier tasks are "
                f"like {self.labels[0]!r}: name all classes by strings, or all by numbers."
            )
        new = [c for c in classes.tolist() if c not in self.labels]
        if self.kind == "multi":
            if task not in self.tasks:
                return self._added(task, classes.tolist())
            have = [self.labels[i] for i in self.own[self.tasks.index(task)]]
            strange = [c for c in classes.tolist() if c not in have]
            if strange:
                raise ValueError(
                    f"y has the classes {strange}, but task {task!r} has outputs for {have} alone: "
                    "give other classes a task of another name."
                )
            return self
        if self.kind == "single" and self.tasks and new:
            raise ValueError(
                f"y has the classes {new}, but the network has outputs for {list(self.labels)} "
                "alone: pass all classes= at the first call, or take heads='incremental' (classes "
                "that come later) or heads='multi' (each task its own)."
            )
        return self._added(task, new)

    def with_outputs(self, task: Hashable, n_outputs: int) -> Heads:
        """Return the heads after a task of regression with so many targets.

        Raises
        ------
        ValueError
            If the task, or with one head the first one, had another number.
        """
        if not self.tasks or (self.kind == "multi" and task not in self.tasks):
            return self._added(task, [None] * n_outputs)
        have = len(self.columns(task if self.kind == "multi" else None))
        if have != n_outputs:
            raise ValueError(f"y has {n_outputs} targets, but earlier tasks had {have}.")
        return self._added(task, [])

    def _added(self, task: Hashable, labels: Sequence[Any]) -> Heads:
        made = replace(self, labels=(*self.labels, *labels))
        if task in self.tasks:
            return made
        own = tuple(range(self.n_outputs, made.n_outputs)) if self.kind == "multi" else ()
        return replace(made, tasks=(*self.tasks, task), own=(*self.own, own))

    def empty_targets(self, task: Hashable, n: int, dtype: torch.dtype) -> Tensor:
        """Targets (n, k): zeros for the outputs of a task, NaN for others."""
        Y = torch.full((n, self.n_outputs), math.nan, dtype=dtype)
        Y[:, self.columns(task)] = 0.0
        return Y

    def indicators(self, task: Hashable, y: np.ndarray, dtype: torch.dtype) -> Tensor:
        """Targets (n, k): indicators of the classes, NaN for outputs of other tasks."""
        Y = self.empty_targets(task, len(y), dtype)
        for column in self.columns(task):
            Y[torch.as_tensor(y == self.labels[column]), column] = 1.0
        return Y
