"""`evaluate`: learn a stream of tasks, and score all of them after each."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from numbers import Integral
from typing import Any, Protocol

import numpy as np
import pandas as pd
from sklearn.base import clone, is_classifier
from sklearn.utils import check_random_state

from skntk.continual import metrics
from skntk.continual.base import ContinualEstimator


class Task(Protocol):
    """What a task of a stream has; `skntk.datasets.StreamTask` is one."""

    name: str
    X: np.ndarray
    y: np.ndarray
    X_test: np.ndarray
    y_test: np.ndarray


@dataclass(frozen=True, eq=False)
class ContinualReport:
    """What came of a stream of T tasks.

    Attributes
    ----------
    name : str
        Of the method.
    tasks : list
        Names of the tasks.
    scores : ndarray of shape (T, T)
        ``scores[i, j]`` is the test score on task j after task i was learnt: accuracy, or R². NaN
        where a task has no outputs yet (``heads="multi"``, or classes that are yet to come).
    baseline : ndarray of shape (T,)
        Test scores of the untrained network.
    distances : ndarray of shape (T,)
        Distance of the weights from their start after each task.
    losses : ndarray of shape (T,)
        Training loss of each task in its last epoch; NaN in closed form.
    memory : ndarray of int of shape (T,)
        Bytes that are kept of earlier tasks after each.
    seconds : ndarray of shape (T,)
        Time that each task took to learn.
    score_name : str
        "accuracy" or "R²".
    estimator : ContinualNTK or ContinualNTKRegressor
        After the last task.
    """

    name: str
    tasks: list[Hashable]
    scores: np.ndarray = field(repr=False)
    baseline: np.ndarray = field(repr=False)
    distances: np.ndarray = field(repr=False)
    losses: np.ndarray = field(repr=False)
    memory: np.ndarray = field(repr=False)
    seconds: np.ndarray = field(repr=False)
    score_name: str
    estimator: ContinualEstimator = field(repr=False)

    @property
    def average_score(self) -> float:
        """Mean score over all tasks at the end: `metrics.average_score`."""
        return metrics.average_score(self.scores)

    @property
    def average_forgetting(self) -> float:
        """Mean fall from each task's best score to its last: `metrics.average_forgetting`."""
        return metrics.average_forgetting(self.scores)

    @property
    def backward_transfer(self) -> float:
        """Mean change of each task's score since it was learnt: `metrics.backward_transfer`."""
        return metrics.backward_transfer(self.scores)

    @property
    def forward_transfer(self) -> float:
        """Mean gain on each task before it is learnt; NaN where that has no outputs."""
        if np.isnan(np.diagonal(self.scores, 1)).any():
            return float("nan")
        return metrics.forward_transfer(self.scores, self.baseline)

    @property
    def learning_score(self) -> float:
        """Mean score of each task when it has just been learnt: `metrics.learning_score`."""
        return metrics.learning_score(self.scores)

    @property
    def frame(self) -> pd.DataFrame:
        """The scores, with the names of the tasks."""
        after, task = (pd.Index(self.tasks, name=n, tupleize_cols=False) for n in ("after", "task"))
        return pd.DataFrame(self.scores, index=after, columns=task)

    @property
    def summary(self) -> pd.Series:
        """All metrics, the distance moved, and what it took."""
        values = {
            "average score": self.average_score,
            "average forgetting": self.average_forgetting,
            "backward transfer": self.backward_transfer,
            "forward transfer": self.forward_transfer,
            "learning score": self.learning_score,
            "distance moved": self.distances[-1],
            "memory, MiB": self.memory[-1] / 2**20,
            "seconds": self.seconds.sum(),
        }
        return pd.Series(values, name=self.name)


def evaluate(
    estimator: ContinualEstimator, tasks: Sequence[Task], *, name: str | None = None
) -> ContinualReport:
    """Learn a stream of tasks, and score all of them after each.

    With `checkpoint` set on the estimator, a run that was stopped goes on where it was. With
    ``heads="single"`` a classifier is told the classes of the whole stream at the first task.

    Parameters
    ----------
    estimator : ContinualNTK or ContinualNTKRegressor
        A clone of it learns.
    tasks : sequence of skntk.datasets.StreamTask
        Or of anything with ``name, X, y, X_test, y_test``.
    name : str, optional
        For tables and pictures; by default the method.

    Returns
    -------
    ContinualReport

    Raises
    ------
    ValueError
        If there is no task, two have one name, or a task of regression has one test row.
    TypeError
        If `estimator` or a task is something else.

    Examples
    --------
    >>> from skntk import ContinualNTK
    >>> from skntk.continual import evaluate
    >>> from skntk.datasets import rotated_tasks
    >>> tasks = rotated_tasks("digits", n_tasks=2, step=30, random_state=0)
    >>> report = evaluate(ContinualNTK("ogd", width=32, max_epochs=2, random_state=0), tasks)
    >>> report.scores.shape, report.average_forgetting < 0.3
    ((2, 2), True)
    """
    tasks = list(tasks)
    names = check_stream(estimator, tasks)
    few = [i for i, task in enumerate(tasks) if len(task.y_test) < 2]
    if few and not is_classifier(estimator):
        raise ValueError(f"tasks {few} have one test row, or none; R² needs two or more.")
    model = seeded_clone(estimator)
    multi = model.heads == "multi"
    columns: dict[str, list[float]] = {k: [] for k in ("distances", "losses", "memory", "seconds")}
    scores = np.full((len(tasks), len(tasks)), np.nan)
    for i, task in enumerate(tasks):
        model.partial_fit(task.X, task.y, task=task.name, **first_call(model, tasks, i))
        columns["seconds"].append(model._learnt.seconds[-1])
        columns["distances"].append(model.distances_[-1])
        columns["memory"].append(model.memory_["bytes"])
        epochs = model.losses_[-1] if model.losses_ else []
        columns["losses"].append(epochs[-1] if epochs else np.nan)
        for j, other in enumerate(tasks):
            if j <= i or _has_outputs(model, other):
                scores[i, j] = model.score(other.X_test, other.y_test, task=_if(multi, other.name))
    return ContinualReport(
        name=name or model.method,
        tasks=names,
        scores=scores,
        baseline=_untrained(model, tasks),
        score_name="accuracy" if is_classifier(model) else "R²",
        estimator=model,
        **{k: np.array(v) for k, v in columns.items()},
    )


def check_stream(estimator: Any, tasks: Sequence[Task]) -> list[Hashable]:
    """Names of the tasks; refuse none, the same name twice, and what is no continual estimator."""
    if not isinstance(estimator, ContinualEstimator):
        raise TypeError(
            f"estimator is a {type(estimator).__name__}; pass a ContinualNTK or "
            "ContinualNTKRegressor, and tasks whose rows are transformed already."
        )
    for i, task in enumerate(tasks):
        lacking = [a for a in Task.__annotations__ if not hasattr(task, a)]
        if lacking:
            raise TypeError(
                f"tasks[{i}] is a {type(task).__name__} without {', '.join(lacking)}; a task has "
                f"{', '.join(Task.__annotations__)}, as skntk.datasets.StreamTask does."
            )
    names: list[Hashable] = [task.name for task in tasks]
    if not names:
        raise ValueError("tasks is empty; pass at least one task.")
    twice = sorted({str(n) for n in names if names.count(n) > 1})
    if twice:
        raise ValueError(f"tasks has the names {twice} twice; each task needs a name of its own.")
    return names


def seeded_clone(estimator: ContinualEstimator) -> ContinualEstimator:
    """Return a clone whose own clones have the same weights: its seed is an integer."""
    model = clone(estimator)
    if not isinstance(model.random_state, Integral) and model.checkpoint is None:
        seed = int(check_random_state(model.random_state).randint(2**31 - 1))
        model.set_params(random_state=seed)
    return model


def _has_outputs(model: Any, task: Task) -> bool:
    """Whether a task that is yet to come could be predicted."""
    if model.heads == "incremental":
        return bool(np.isin(task.y_test, model.classes_).all())
    return bool(model.heads == "single")


def _if(multi: bool, name: str) -> str | None:
    return name if multi else None


def first_call(model: Any, tasks: Sequence[Task], i: int) -> dict[str, Any]:
    """Argument `classes` of the i-th call: all of the stream, where all tasks share the outputs."""
    if i or not is_classifier(model) or model.heads != "single":
        return {}
    return {"classes": np.unique(np.concatenate([np.unique(task.y) for task in tasks]))}


def _untrained(estimator: ContinualEstimator, tasks: Sequence[Task]) -> np.ndarray:
    """Scores of the same network without any training."""
    model = clone(estimator)
    model.set_params(
        method="sgd", max_epochs=0, training_time=0.0, learning_rate=1.0, checkpoint=None, verbose=0
    )
    for i, task in enumerate(tasks):
        model.partial_fit(task.X, task.y, task=task.name, **first_call(model, tasks, i))
    return np.array([model.score(t.X_test, t.y_test, task=t.name) for t in tasks])
