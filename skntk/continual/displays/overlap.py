"""Picture of what tasks have in common, and of the forgetting that follows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from skntk.continual.displays.style import heatmap, task_names
from skntk.continual.metrics import check_score_matrix
from skntk.core.plotting import pyplot

if TYPE_CHECKING:
    from typing_extensions import Self

#: How far rounding may take an overlap out of [0, 1].
_ROUNDING = 1e-6


class OverlapDisplay:
    """How much tasks have in common, and whether the predicted forgetting is what is observed.

    The left panel has the overlap of each two tasks, the right one the observed forgetting against
    the predicted; where they are equal is the grey line.

    Parameters
    ----------
    overlap : array-like of shape (T, T)
        From 0 (nothing in common) to 1; NaN is left blank.
    predicted : array-like of shape (n,)
        Forgetting as predicted.
    observed : array-like of shape (n,)
        Forgetting as observed, in the same unit.
    tasks : sequence of length T, optional
        Names of the tasks; by default 0, ..., T - 1.

    Attributes
    ----------
    ax_ : matplotlib Axes
        The panel of the overlap.
    axes_ : list of matplotlib Axes
        All panels.
    figure_ : matplotlib Figure
        The figure.

    Examples
    --------
    >>> import matplotlib; matplotlib.use("agg")
    >>> from skntk.continual.displays import OverlapDisplay
    >>> display = OverlapDisplay([[1.0, 0.5], [0.5, 1.0]], [0.2], [0.25]).plot()
    >>> display.axes_[1].lines[-1].get_xydata().tolist()
    [[0.2, 0.25]]
    """

    def __init__(
        self,
        overlap: ArrayLike,
        predicted: ArrayLike,
        observed: ArrayLike,
        *,
        tasks: Sequence[Any] | None = None,
    ) -> None:
        self.overlap = overlap
        self.predicted = predicted
        self.observed = observed
        self.tasks = tasks

    @classmethod
    def from_report(cls, report: Any, *, ax: Any = None) -> Self:
        """Draw the ``overlap`` of a report, and its forgetting.

        Parameters
        ----------
        report : object
            Has attributes ``overlap``, ``predicted``, ``observed`` and ``tasks``.
        ax : matplotlib Axes, optional
            As of `plot`.

        Returns
        -------
        OverlapDisplay
            Drawn.

        Raises
        ------
        ValueError
            As of `plot`.
        """
        return cls(report.overlap, report.predicted, report.observed, tasks=report.tasks).plot(ax)

    def plot(self, ax: Any = None) -> Self:
        """Draw the overlap and the forgetting.

        Parameters
        ----------
        ax : matplotlib Axes, optional
            Where to draw the overlap alone; by default a new figure has both panels. One of your
            own has room for names with ``layout="constrained"``.

        Returns
        -------
        OverlapDisplay
            Itself.

        Raises
        ------
        ValueError
            If `overlap` is not square, is empty or has a number outside [0, 1], `predicted` and
            `observed` are not two vectors of one length of finite numbers, or `tasks` has another
            length.
        ImportError
            If matplotlib is not installed.
        """
        overlap = check_score_matrix(self.overlap, "overlap")
        low, high = np.nanmin(overlap, initial=0), np.nanmax(overlap, initial=1)
        if low < -_ROUNDING or high > 1 + _ROUNDING:
            raise ValueError(f"overlap has numbers from {low:g} to {high:g}; wanted 0 to 1.")
        predicted, observed = (
            np.asarray(values, dtype=np.float64) for values in (self.predicted, self.observed)
        )
        if predicted.ndim != 1 or predicted.shape != observed.shape:
            raise ValueError(
                f"predicted has shape {predicted.shape} and observed {observed.shape}; wanted (n,) "
                "of both."
            )
        if not (np.isfinite(predicted).all() and np.isfinite(observed).all()):
            raise ValueError("predicted and observed must hold finite numbers.")
        names = task_names(self.tasks, len(overlap))
        plt = pyplot()
        if ax is None:
            self.figure_, axes = plt.subplots(1, 2, figsize=(10.5, 4.8), layout="constrained")
            self.axes_ = list(axes)
            _equality(self.axes_[1], predicted, observed)
        else:
            self.figure_, self.axes_ = ax.figure, [ax]
        self.ax_ = self.axes_[0]
        heatmap(self.ax_, overlap, names, (0, 1), "overlap")
        self.ax_.set_xlabel("task")
        self.ax_.set_ylabel("task")
        self.ax_.set_title("What the tasks have in common")
        return self


def _equality(ax: Any, predicted: np.ndarray, observed: np.ndarray) -> None:
    """Observed against predicted, on equal axes that show 0."""
    both = np.concatenate([predicted, observed])
    low, high = both.min(initial=0), both.max(initial=0)
    margin = 0.05 * (high - low) or 0.05
    ends = [low - margin, high + margin]
    ax.plot(ends, ends, color="0.7", linewidth=4, zorder=1)
    ax.plot(predicted, observed, "o", color="black", markerfacecolor="0.6", markersize=6)
    ax.set_xlim(ends)
    ax.set_ylim(ends)
    ax.set_aspect("equal")
    ax.set_xlabel("predicted forgetting")
    ax.set_ylabel("observed forgetting")
    ax.set_title("Forgetting (grey: as predicted)")
    ax.grid(color="0.92")
    ax.set_axisbelow(True)
