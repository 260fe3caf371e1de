"""Picture of a matrix of scores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from skntk.continual.displays.style import heatmap, matrix_size, task_names
from skntk.continual.metrics import check_score_matrix
from skntk.core.plotting import plain, pyplot

if TYPE_CHECKING:
    from typing_extensions import Self


class ScoreMatrixDisplay:
    """The score on each task after each task was learnt.

    Rows are the tasks in the order in which they were learnt, columns those that were tested: down
    a column is what becomes of a task, and above the diagonal are tasks not yet learnt. What was
    not measured is blank.

    Parameters
    ----------
    scores : array-like of shape (T, T)
        ``scores[i, j]`` of task j after the tasks 0, ..., i; NaN where not measured.
    tasks : sequence of length T, optional
        Names of the tasks; by default 0, ..., T - 1.
    name : str, optional
        Of the method, for the title.
    score_name : str, default="accuracy"
        What was measured.

    Attributes
    ----------
    ax_ : matplotlib Axes
        The panel.
    figure_ : matplotlib Figure
        The figure.

    Examples
    --------
    >>> import matplotlib; matplotlib.use("agg")
    >>> from skntk.continual.displays import ScoreMatrixDisplay
    >>> scores = [[0.9, float("nan")], [0.6, 0.8]]
    >>> display = ScoreMatrixDisplay(scores, tasks=["odd", "even"]).plot()
    >>> [text.get_text() for text in display.ax_.texts]
    ['0.90', '0.60', '0.80']
    """

    def __init__(
        self,
        scores: ArrayLike,
        tasks: Sequence[Any] | None = None,
        *,
        name: str | None = None,
        score_name: str = "accuracy",
    ) -> None:
        self.scores = scores
        self.tasks = tasks
        self.name = name
        self.score_name = score_name

    @classmethod
    def from_report(cls, report: Any, *, ax: Any = None) -> Self:
        """Draw the ``scores`` of a report.

        Parameters
        ----------
        report : object
            Has attributes ``scores``, ``tasks``, ``name`` and ``score_name``.
        ax : matplotlib Axes, optional
            As of `plot`.

        Returns
        -------
        ScoreMatrixDisplay
            Drawn.

        Raises
        ------
        ValueError
            As of `plot`.
        """
        named = {"name": report.name, "score_name": report.score_name}
        return cls(report.scores, report.tasks, **named).plot(ax)

    def plot(self, ax: Any = None) -> Self:
        """Draw the matrix.

        Parameters
        ----------
        ax : matplotlib Axes, optional
            Where to draw; by default a new figure. One of your own has room for names with
            ``layout="constrained"``.

        Returns
        -------
        ScoreMatrixDisplay
            Itself.

        Raises
        ------
        ValueError
            If `scores` is not square, is empty or holds an infinite number, or `tasks` has another
            length.
        ImportError
            If matplotlib is not installed.
        """
        scores = check_score_matrix(self.scores)
        if np.isinf(scores).any():
            raise ValueError("scores holds an infinite number; wanted finite ones, or NaN.")
        names = task_names(self.tasks, len(scores))
        plt = pyplot()
        if ax is None:
            _, ax = plt.subplots(figsize=matrix_size(len(scores)), layout="constrained")
        self.figure_, self.ax_ = ax.figure, ax
        # From 0 to 1, as far as that goes: an R² may be below.
        limits = np.nanmin(scores, initial=0), np.nanmax(scores, initial=1)
        heatmap(ax, scores, names, limits, plain(self.score_name))
        ax.set_xlabel("tested on task")
        ax.set_ylabel("after learning task")
        if self.name is not None:
            ax.set_title(plain(self.name))
        return self
