"""Picture of a `DisconnectReport`."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from skntk.diagnostics.disconnect import DisconnectReport, disconnect_report
from skntk.diagnostics.displays.base import ReportDisplay
from skntk.diagnostics.displays.style import legend, line_style, panels

if TYPE_CHECKING:
    from typing_extensions import Self

_READINGS = {
    "full": "trained network",
    "linearized": "its linearization",
    "kernel": "its kernel machine",
    "limit": "limit of infinite width",
}
_DIFFERENCES = {
    "feature_learning": "feature learning: trained − linearized",
    "optimizer": "optimizer: linearized − kernel",
    "finite_width": "finite width: kernel − limit",
    "total": "total: trained − limit",
}


class DisconnectDisplay(ReportDisplay):
    """Scores of four readings of a network, and the differences between neighbours.

    Parameters
    ----------
    report : DisconnectReport
        What `disconnect_report` returned.

    Attributes
    ----------
    ax_ : matplotlib Axes
        The panel of the differences.
    axes_ : list of matplotlib Axes
        All panels.
    figure_ : matplotlib Figure
        The figure.

    Examples
    --------
    >>> import matplotlib; matplotlib.use("agg")
    >>> import numpy as np
    >>> from skntk import NetworkRegressor
    >>> from skntk.diagnostics import DisconnectDisplay
    >>> rng = np.random.default_rng(0)
    >>> X, y = rng.standard_normal((20, 3)), rng.standard_normal(20)
    >>> net = NetworkRegressor(depth=1, width=32, optimizer="gd", max_epochs=3)
    >>> display = DisconnectDisplay.from_estimator(net, X, y, n_seeds=2)
    >>> len(display.axes_)
    2
    """

    report: DisconnectReport
    _make = staticmethod(disconnect_report)

    def plot(self, ax: Any = None) -> Self:
        """Draw the report, or in the given axes its main panel, `ax_`, alone."""
        self.figure_, self.axes_ = panels(ax, 2, (6.0, 5.0))
        self.ax_ = self.axes_[-1]
        if ax is None:
            self._scores(self.axes_[0])
        self._differences(self.ax_)
        return self

    def _scores(self, ax: Any) -> None:
        self._bars(ax, self.report.scores, "reading", _READINGS)
        constant = self.report.runs.constant.mean()
        if math.isfinite(constant):
            label = "constant prediction"
            ax.axhline(constant, color="0.6", linewidth=4, zorder=0, label=label)
        self._within(ax, 0)
        ax.set_ylabel(f"test {self._score} (95 % interval)")
        ax.set_title("Four readings of one network")
        legend(ax)

    def _differences(self, ax: Any) -> None:
        report = self.report
        ax.axhspan(-report.margin, report.margin, color="0.9", zorder=0)
        ax.axhline(0, color="black", linewidth=0.8)
        self._bars(ax, report.summary, "difference", _DIFFERENCES)
        self._within(ax, -1)
        ax.set_ylabel(f"difference of test {self._score} (95 % interval)")
        ax.set_title(f"What stands between them (grey: up to {report.margin:g})")
        legend(ax)

    def _bars(self, ax: Any, frame: Any, key: str, names: dict[str, str]) -> None:
        """Points with their intervals, side by side at each width."""
        widths = list(dict.fromkeys(None if w != w else w for w in frame.width))
        for i, (value, name) in enumerate(names.items()):
            found = frame[frame[key] == value]
            if found["mean"].isna().all():
                continue
            x = np.arange(len(widths)) + 0.14 * (i - (len(names) - 1) / 2)
            bars = np.stack([found["mean"] - found.low, found.high - found["mean"]])
            style = line_style(i) | {"linestyle": "none", "markersize": 7}
            ax.errorbar(x, found["mean"], bars, label=name, **style)
        if (self.report.summary.finding == "no limit").any():
            ax.text(0.99, 0.98, "no analytic limit", transform=ax.transAxes, ha="right", va="top")
        labels = ["as it stands" if w is None else f"{w:g}" for w in widths]
        ax.set_xticks(range(len(widths)), labels)
        ax.set_xlim(-0.6, len(widths) - 0.4)
        ax.set_xlabel("width (units of a hidden layer)")
        ax.grid(axis="y", color="0.92", zorder=0)

    def _within(self, ax: Any, least: float) -> None:
        """Show no more of an interval than what a score can be."""
        low, high = ax.get_ylim()
        if self.report.score == "accuracy":
            ax.set_ylim(max(low, least - 0.02), min(high, 1.02))
        elif least == 0:
            ax.set_ylim(low, min(high, 1.02))

    @property
    def _score(self) -> str:
        return {"R^2": "$R^2$"}.get(self.report.score, self.report.score)
