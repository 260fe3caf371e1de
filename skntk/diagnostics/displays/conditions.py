"""Picture of a `NaturalGradientReport`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from skntk.core.plotting import plain
from skntk.diagnostics.conditions import (
    FLOOR,
    NaturalGradientReport,
    natural_gradient_conditions,
)
from skntk.diagnostics.displays.base import ReportDisplay
from skntk.diagnostics.displays.style import (
    from_zero,
    legend,
    line_style,
    log_widths,
    nudged,
    panels,
)

if TYPE_CHECKING:
    from typing_extensions import Self


class NaturalGradientDisplay(ReportDisplay):
    """The condition on the Jacobian over width and along training, and how fast training is.

    Parameters
    ----------
    report : NaturalGradientReport
        What `natural_gradient_conditions` returned.

    Attributes
    ----------
    ax_ : matplotlib Axes
        The panel of C', over the width if there are several, else along training.
    axes_ : list of matplotlib Axes
        All panels.
    figure_ : matplotlib Figure
        The figure.

    Examples
    --------
    >>> import matplotlib; matplotlib.use("agg")
    >>> import numpy as np
    >>> from skntk import NetworkRegressor
    >>> from skntk.diagnostics import NaturalGradientDisplay
    >>> rng = np.random.default_rng(0)
    >>> X, y = rng.standard_normal((6, 3)), rng.standard_normal(6)
    >>> net = NetworkRegressor(depth=1, width=32, max_epochs=3)
    >>> display = NaturalGradientDisplay.from_estimator(net, X, y, optimizers=["gd"], n_seeds=2)
    >>> display.ax_.get_xlabel()
    'steps'
    """

    report: NaturalGradientReport
    _make = staticmethod(natural_gradient_conditions)

    def plot(self, ax: Any = None) -> Self:
        """Draw the report, or in the given axes its main panel, `ax_`, alone."""
        several = self.report.runs.width.nunique() > 1
        self.figure_, self.axes_ = panels(ax, 3 if several else 2)
        self.ax_ = self.axes_[0]
        draw = [self._over_width] if several else []
        draw += [self._along, self._residual]
        for panel, method in zip(self.axes_, draw, strict=False):
            method(panel)
        return self

    @property
    def _names(self) -> list[str]:
        return list(self.report.summary.optimizer.unique())

    @property
    def _widest(self) -> pd.DataFrame:
        """Rows of the widest networks that measured something."""
        runs = self.report.runs
        if runs.width.notna().any():
            runs = runs[runs.width == runs.width.max()]
        return runs[runs.c_prime.notna()]

    def _over_width(self, ax: Any) -> None:
        summary = self.report.summary
        found = summary[np.isfinite(summary.c_prime.astype(float))]
        for i, name in enumerate(self._names):
            own = found[found.optimizer == name].sort_values("width")
            x = nudged(own.width, i, len(self._names))
            _errorbar(ax, i, name, x, own.c_prime, own.c_prime_error)
        log_widths(ax, sorted(summary.width.unique()))
        self._limit(ax, found.c_prime)
        ax.set_title("Largest C' of a training, over width")

    def _along(self, ax: Any) -> None:
        rows = self._widest
        rows = rows[np.isfinite(rows.c_prime) & (rows.step > 0) & (rows.c_prime > 0)]
        for i, name in enumerate(self._names):
            steps = rows[rows.optimizer == name].groupby("step").c_prime
            _errorbar(ax, i, name, steps.mean().index, steps.mean(), steps.sem())
        if len(rows):
            ax.set_xscale("log")
        ax.set_xlabel("steps")
        self._limit(ax, rows.c_prime)
        ax.set_title(f"C' along training{self._at()}")

    def _limit(self, ax: Any, shown: pd.Series) -> None:
        """Axis of C', with what is allowed in grey."""
        lowest, highest = (min(shown), max(shown)) if len(shown) else (0.5, 0.5)
        ax.set_yscale("log")
        ax.set_ylim(0.6 * min(lowest, 0.2), 2 * max(highest, 0.5))
        ax.axhspan(0, 0.5, color="0.92", zorder=0)
        ax.axhline(0.5, color="black", linewidth=0.8)
        ax.annotate(
            "allowed",
            (0.98, 0.5),
            xycoords=("axes fraction", "data"),
            xytext=(0, -11),
            textcoords="offset points",
            ha="right",
            fontsize=8,
        )
        ax.set_ylabel(r"$C' = 3\, \|J - J_0\| / \sqrt{\lambda_{\min}}$  (± standard error)")
        singular = self.report.runs.singular.eq(True).any()
        legend(ax, "J J$^T$ is singular: C' is infinite" if singular else "no run to show")

    def _residual(self, ax: Any) -> None:
        rows = self._widest
        for i, name in enumerate(self._names):
            found = rows[rows.optimizer == name]
            if not (found.step > 0).any():
                continue
            steps = np.log10(found.residual.clip(FLOOR)).groupby(found.step)
            _errorbar(ax, i, name, steps.mean().index, 10 ** steps.mean(), None)
        k = np.arange(0, rows.step.max() + 1) if len(rows) else np.zeros(0)
        for promised in self.report.summary.promised_factor.dropna().unique() if len(k) else ():
            bound = promised ** k.astype(float)
            shown = bound > FLOOR
            label = rf"promised: ${promised:g}^{{\mathrm{{steps}}}}$"
            ax.plot(k[shown], bound[shown], color="0.6", linewidth=4, zorder=0, label=label)
        from_zero(ax, rows.step.max() if len(rows) else 1, "steps")
        if len(rows):
            ax.set_yscale("log")
        ax.set_ylabel(r"squared residual  $\|f - y\|^2 / \|f_0 - y\|^2$")
        ax.set_title(f"How fast they train{self._at()}")
        legend(ax)

    def _at(self) -> str:
        width = self.report.runs.width
        return f", width {width.max():g}" if width.notna().any() else ""


def _errorbar(ax: Any, i: int, name: str, x: Any, y: Any, error: Any) -> None:
    """The i-th line, if there is something to draw."""
    if len(y):
        ax.errorbar(x, y, error, label=plain(name), **line_style(i))
