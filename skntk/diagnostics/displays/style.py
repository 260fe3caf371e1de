"""How lines are told apart without color, and where panels go."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from skntk.core import plotting


def line_style(i: int) -> dict[str, Any]:
    """Style of the i-th line, with ends on its error bars."""
    return plotting.line_style(i) | {"capsize": 3}


def panels(ax: Any, number: int, size: tuple[float, float] = (5.0, 4.8)) -> tuple[Any, list[Any]]:
    """Figure and axes to draw in: those given, of which there is one, or `number` new ones.

    Raises
    ------
    ImportError
        If matplotlib is not installed.
    """
    plt = plotting.pyplot()
    if ax is not None:
        return ax.figure, [ax]
    width, height = size
    figure, axes = plt.subplots(
        1, number, figsize=(width * number, height), layout="constrained", squeeze=False
    )
    return figure, list(axes[0])


def log_widths(ax: Any, widths: Sequence[float]) -> None:
    """Logarithmic axis of widths, with a tick at each."""
    ax.set_xscale("log")
    ax.set_xlim(min(widths) / 1.4, max(widths) * 1.4)
    ax.set_xticks(widths, [f"{w:g}" for w in widths])
    ax.minorticks_off()
    ax.set_xlabel("width (units of a hidden layer)")


def nudged(x: Any, i: int, number: int) -> Any:
    """Positive positions moved a little, so that bars of several lines do not hide each other."""
    return np.asarray(x, dtype=float) * 1.03 ** (i - (number - 1) / 2)


def from_zero(ax: Any, last: float, what: str) -> None:
    """Axis of epochs or steps that shows 0, 1, ... and large numbers alike."""
    ax.set_xscale("symlog", linthresh=1)
    ax.set_xlim(-0.15, max(last, 1) * 1.3)
    ticks = [0, *(10**i for i in range(8) if 10**i <= last)]
    if last > 1.8 * ticks[-1]:
        ticks.append(int(last))
    ax.set_xticks(ticks, [str(t) for t in ticks])
    ax.minorticks_off()
    ax.set_xlabel(what)


def legend(ax: Any, otherwise: str = "no run to show") -> None:
    """Legend of what was drawn, under the panel, or a text in it if nothing was."""
    if ax.get_legend_handles_labels()[0]:
        plotting.legend(ax)
    else:
        ax.text(0.5, 0.9, otherwise, transform=ax.transAxes, ha="center", va="center")
