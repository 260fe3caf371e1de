"""How lines are told apart without color, and where panels go."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

#: Line, marker, its filling and grey level of the first, second, ... thing that is drawn.
_LINES = ("-", "--", ":", "-.")
_MARKERS = ("o", "s", "^", "D", "v", "P")
_FILLS = ("black", "white", "0.6", "black", "white", "0.6")


def line_style(i: int) -> dict[str, Any]:
    """Style of the i-th line."""
    return {
        "color": "black",
        "linestyle": _LINES[i % len(_LINES)],
        "marker": _MARKERS[i % len(_MARKERS)],
        "markerfacecolor": _FILLS[i % len(_FILLS)],
        "markersize": 6,
        "linewidth": 1.3,
        "capsize": 3,
    }


def panels(ax: Any, number: int, size: tuple[float, float] = (5.0, 4.8)) -> tuple[Any, list[Any]]:
    """Figure and axes to draw in: those given, of which there is one, or `number` new ones.

    Raises
    ------
    ImportError
        If matplotlib is not installed.
    """
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError(
            "displays need matplotlib: install it, or skntk with its extra: pip install "
            "'skntk[plot]'."
        ) from error
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
    handles, labels = ax.get_legend_handles_labels()
    if handles:
        below = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.16), "frameon": False}
        columns = 1 if len(labels) < 3 or max(map(len, labels)) > 34 else 2
        ax.legend(handles, labels, fontsize=8, handlelength=3.5, ncols=columns, **below)
    else:
        ax.text(0.5, 0.9, otherwise, transform=ax.transAxes, ha="center", va="center")
