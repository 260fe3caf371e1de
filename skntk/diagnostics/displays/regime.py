"""Picture of a `KernelRegimeReport`."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from skntk.diagnostics.displays.base import ReportDisplay
from skntk.diagnostics.displays.style import (
    from_zero,
    legend,
    line_style,
    log_widths,
    nudged,
    panels,
)
from skntk.diagnostics.laws import Estimate, PowerLaw
from skntk.diagnostics.regime import KernelRegimeReport, kernel_regime_report
from skntk.diagnostics.regime_verdict import by_width, law_of

if TYPE_CHECKING:
    from typing_extensions import Self

#: What is drawn over the width, at which end of training, and its name.
_SHOWN = (
    ("kernel_change", -1, "kernel change"),
    ("linearization_error", -1, "linearization error"),
    ("limit_distance", 0, "distance from the {reference}, at the start"),
    ("parameter_movement", -1, "parameter movement"),
)

_ENDS = ("mean", "low", "high")


class KernelRegimeDisplay(ReportDisplay):
    """How far training takes a network from its kernel, over width and over training time.

    Parameters
    ----------
    report : KernelRegimeReport
        What `kernel_regime_report` returned.

    Attributes
    ----------
    ax_ : matplotlib Axes
        The panel over the width.
    axes_ : list of matplotlib Axes
        All panels.
    figure_ : matplotlib Figure
        The figure.

    Examples
    --------
    >>> import matplotlib; matplotlib.use("agg")
    >>> import numpy as np
    >>> from skntk import NetworkRegressor
    >>> from skntk.diagnostics import KernelRegimeDisplay
    >>> rng = np.random.default_rng(0)
    >>> X, y = rng.standard_normal((8, 3)), rng.standard_normal(8)
    >>> net = NetworkRegressor(depth=1, optimizer="gd", max_epochs=3)
    >>> display = KernelRegimeDisplay.from_estimator(net, X, y, widths=[8, 32], n_seeds=2)
    >>> len(display.axes_)
    3
    """

    report: KernelRegimeReport
    _make = staticmethod(kernel_regime_report)

    def plot(self, ax: Any = None) -> Self:
        """Draw the report, or in the given axes its main panel, `ax_`, alone."""
        self.figure_, self.axes_ = panels(ax, 3)
        self.ax_ = self.axes_[0]
        self._over_width(self.ax_)
        if ax is None:
            self._over_time(self.axes_[1], "kernel_change", "relative change of the kernel")
            self._over_time(self.axes_[2], "alignment", "alignment of kernel and targets")
        return self

    def _over_width(self, ax: Any) -> None:
        report = self.report
        widths = sorted(report.runs.width.unique())
        good = report.runs[report.runs.status == "ok"]
        epochs = sorted(good.epoch.unique())
        for i, (quantity, end, name) in enumerate(_SHOWN if epochs else ()):
            at = good[good.epoch == epochs[end]]
            found = {w: e for w, e in by_width(at, quantity).items() if e.n and e.mean > 0}
            if found:
                label = name.format(reference=report.reference.split(" (")[0])
                self._points(ax, i, label, found, law_of(at, quantity))
        ax.axhline(report.tolerance, color="0.5", linewidth=1, label="tolerance")
        ax.axvline(report.width, color="0.8", linewidth=6, zorder=0)
        log_widths(ax, widths)
        ax.set_yscale("log")
        ax.set_ylabel("relative size (95 % interval over seeds)")
        answer = {True: "in", False: "not in", None: "undecided whether in"}
        ax.set_title(f"Width {report.width}: {answer[report.in_kernel_regime]} the kernel regime")
        legend(ax)

    def _points(
        self, ax: Any, i: int, label: str, found: dict[int, Estimate], law: PowerLaw
    ) -> None:
        """Intervals at the widths, and the law through them where there is one."""
        x = nudged(list(found), i, len(_SHOWN))
        means, lows, highs = ([getattr(e, k) for e in found.values()] for k in _ENDS)
        bars = np.stack([np.subtract(means, lows), np.subtract(highs, means)])
        style = line_style(i)
        if math.isfinite(law.exponent):
            label = f"{label}: width$^{{{law.exponent:.2f}}}$"
            line = {"color": style["color"], "linestyle": style["linestyle"], "linewidth": 1.0}
            ax.plot(x, [law.at(width)[0] for width in found], **line)
            ax.errorbar(x, means, bars, **style | {"linestyle": "none"})
        else:
            ax.errorbar(x, means, bars, **style)
        del style["capsize"]
        ax.plot([], [], label=label, **style)

    def _over_time(self, ax: Any, quantity: str, label: str) -> None:
        summary, runs = self.report.summary, self.report.runs
        good = runs[runs.status == "ok"]
        found = summary[summary.quantity == quantity]
        widths = sorted(found.width.unique())
        for i, width in enumerate(widths):
            at = found[found.width == width].sort_values("epoch")
            style = line_style(i)
            style["linewidth"] = 2.2 if width == self.report.width else 1.3
            for _, run in good[good.width == width].groupby("seed"):
                ax.plot(run.epoch, run[quantity], color="0.8", linewidth=0.8, zorder=0)
            ax.errorbar(at.epoch, at["mean"], at.standard_error, label=f"width {width}", **style)
        from_zero(ax, found.epoch.max() if len(found) else 1, "epochs of training")
        ax.set_ylim(0, 1.05 * ax.get_ylim()[1])
        ax.set_ylabel("mean ± standard error (each run in grey)")
        ax.set_title(label[0].upper() + label[1:] + " over training")
        legend(ax)
