"""Picture of how several methods forget."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from skntk.continual.displays.style import every, task_names
from skntk.continual.metrics import average_over_time
from skntk.core.plotting import legend, line_style, plain, pyplot

if TYPE_CHECKING:
    from typing_extensions import Self


class ForgettingDisplay:
    """How the scores of several methods go as tasks are learnt.

    The left panel has the mean score over the tasks learnt so far (`average_over_time`), the right
    one the score of the first task. Over several seeds, the mean and its standard error are drawn.

    Parameters
    ----------
    scores : sequence of array-like of shape (T, T) or (n_seeds, T, T)
        For each method ``scores[..., i, j]`` of task j after the tasks 0, ..., i; what is above the
        diagonal is not used.
    names : sequence of str
        Of the methods.
    tasks : sequence of length T, optional
        Names of the tasks, of which the first is written; by default 0, ..., T - 1.
    score_name : str, default="accuracy"
        What was measured.

    Attributes
    ----------
    ax_ : matplotlib Axes
        The panel of the mean score.
    axes_ : list of matplotlib Axes
        All panels.
    figure_ : matplotlib Figure
        The figure.

    Examples
    --------
    >>> import matplotlib; matplotlib.use("agg")
    >>> from skntk.continual.displays import ForgettingDisplay
    >>> scores = [[[1.0, 0.0], [0.5, 1.0]], [[1.0, 0.0], [0.75, 0.75]]]
    >>> display = ForgettingDisplay(scores, names=["plain", "penalized"]).plot()
    >>> [line.get_ydata().tolist() for line in display.axes_[1].lines]
    [[1.0, 0.5], [1.0, 0.75]]
    """

    def __init__(
        self,
        scores: Sequence[ArrayLike],
        *,
        names: Sequence[str],
        tasks: Sequence[Any] | None = None,
        score_name: str = "accuracy",
    ) -> None:
        self.scores = scores
        self.names = names
        self.tasks = tasks
        self.score_name = score_name

    @classmethod
    def from_reports(cls, reports: Sequence[Any], *, ax: Any = None) -> Self:
        """Draw the ``scores`` of reports, one for each method.

        Parameters
        ----------
        reports : sequence of objects
            Have attributes ``scores``, ``name``, ``tasks`` and ``score_name``; the last two are the
            same for all.
        ax : matplotlib Axes, optional
            As of `plot`.

        Returns
        -------
        ForgettingDisplay
            Drawn.

        Raises
        ------
        ValueError
            If there is no report, they differ in their tasks or in what was measured, or as of
            `plot`.
        """
        if not len(reports):
            raise ValueError("reports is empty; wanted one for each method.")
        tasks, score_name = list(reports[0].tasks), reports[0].score_name
        for report in reports:
            if list(report.tasks) != tasks or report.score_name != score_name:
                raise ValueError(
                    f"reports has {score_name} on the tasks {tasks} and {report.score_name} on "
                    f"{list(report.tasks)}; wanted the same tasks in the same order for all."
                )
        scores, names = [r.scores for r in reports], [r.name for r in reports]
        return cls(scores, names=names, tasks=tasks, score_name=score_name).plot(ax)

    def plot(self, ax: Any = None) -> Self:
        """Draw the methods.

        Parameters
        ----------
        ax : matplotlib Axes, optional
            Where to draw the mean score alone; by default a new figure has both panels.

        Returns
        -------
        ForgettingDisplay
            Itself.

        Raises
        ------
        ValueError
            If `scores` is empty, its elements are not of shape (T, T) or (n_seeds, T, T) with one T
            or lack a number that is used, or `names` or `tasks` has another length.
        ImportError
            If matplotlib is not installed.
        """
        methods = [_check_seeds(scores, f"scores[{i}]") for i, scores in enumerate(self.scores)]
        if not methods or len(self.names) != len(methods):
            raise ValueError(
                f"scores has {len(methods)} elements and names {len(self.names)}; wanted as many, "
                "one for each method."
            )
        numbers = {seeds.shape[1] for seeds in methods}
        if len(numbers) > 1:
            raise ValueError(
                f"scores has matrices of {sorted(numbers)} tasks; wanted the same tasks for all."
            )
        first = task_names(self.tasks, numbers.pop())[0]
        plt = pyplot()
        if ax is None:
            self.figure_, axes = plt.subplots(1, 2, figsize=(10.0, 4.8), layout="constrained")
            self.axes_ = list(axes)
        else:
            self.figure_, self.axes_ = ax.figure, [ax]
        self.ax_ = self.axes_[0]
        averages = [np.array([average_over_time(R) for R in seeds]) for seeds in methods]
        self._curves(self.ax_, averages, "Mean over the tasks learnt so far")
        if ax is None:
            firsts = [seeds[:, :, 0] for seeds in methods]
            self._curves(self.axes_[1], firsts, f"First task: {first}")
        return self

    def _curves(self, ax: Any, methods: list[np.ndarray], title: str) -> None:
        """A line for each method, of which there are (n_seeds, T) numbers."""
        number = methods[0].shape[1]
        step = every(number)
        learnt = np.arange(1, number + 1)
        for i, (name, seeds) in enumerate(zip(self.names, methods, strict=True)):
            style = line_style(i) | {"label": plain(str(name)), "markevery": step}
            mean = seeds.mean(axis=0)
            if len(seeds) == 1:
                ax.plot(learnt, mean, **style)
            else:
                error = seeds.std(axis=0, ddof=1) / np.sqrt(len(seeds))
                ax.errorbar(learnt, mean, error, errorevery=step, capsize=3, **style)
        several = any(len(seeds) > 1 for seeds in methods)
        ax.set_ylabel(plain(self.score_name) + (" (mean ± standard error)" if several else ""))
        ax.set_xlabel("tasks learnt")
        ax.set_xticks(learnt[::step])
        ax.set_xlim(0.5, number + 0.5)
        ax.set_title(title)
        ax.grid(color="0.92")
        ax.set_axisbelow(True)
        legend(ax)


def _check_seeds(scores: ArrayLike, name: str) -> np.ndarray:
    """Return the scores of a method in float64, (n_seeds, T, T)."""
    given = np.asarray(scores, dtype=np.float64)
    seeds = given[None] if given.ndim == 2 else given
    if seeds.ndim != 3 or seeds.shape[1] != seeds.shape[2] or seeds.size == 0:
        raise ValueError(
            f"{name} has shape {given.shape}; wanted (T, T) or (n_seeds, T, T), neither of them 0."
        )
    if not np.isfinite(np.tril(seeds)).all():
        raise ValueError(f"{name} must be finite on and below the diagonal.")
    return seeds
