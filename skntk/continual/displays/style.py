"""What the displays have in common: matrices over tasks, and how many tasks have a tick."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from skntk.core.plotting import plain

#: Most tasks whose numbers are written into the cells of a matrix.
_MOST_NUMBERS = 12
#: Most tasks that have a tick or a marker each.
_MOST_TICKS = 15
#: Longest name of a task that is written out.
_LONGEST = 18
#: Greys of the lowest and of the highest value: a blank cell is whiter than both.
_GREYS = ("0.95", "0.1")
#: From where between them white has more contrast than black.
_DARK = 0.58


def every(number: int) -> int:
    """Of so many tasks, each how many-th has a tick."""
    return -(-number // _MOST_TICKS)


def task_names(tasks: Sequence[Any] | None, number: int) -> list[str]:
    """What is written for each of the tasks; of a long name, its beginning and its end.

    Raises
    ------
    ValueError
        If there are not as many names as tasks.
    """
    names = [str(task) for task in (range(number) if tasks is None else tasks)]
    if len(names) != number:
        raise ValueError(f"tasks has {len(names)} elements; wanted {number}, one for each task.")
    half = (_LONGEST - 1) // 2
    return [
        plain(name if len(name) <= _LONGEST else f"{name[:half]}…{name[-half:]}") for name in names
    ]


def matrix_size(number: int) -> tuple[float, float]:
    """Width and height of a figure of a matrix, in inches."""
    side = min(max(2.7 + 0.4 * number, 4.0), 6.5)
    return side + 0.7, side


def heatmap(
    ax: Any, matrix: np.ndarray, names: list[str], limits: tuple[float, float], label: str
) -> None:
    """Draw a matrix over tasks in grey, with the numbers where they fit; NaN is left blank."""
    from matplotlib.colors import LinearSegmentedColormap

    low, high = limits
    greys = LinearSegmentedColormap.from_list("greys", _GREYS).with_extremes(bad="white")
    image = ax.imshow(np.ma.masked_invalid(matrix), cmap=greys, vmin=low, vmax=high)
    ax.figure.colorbar(image, ax=ax, label=label, shrink=0.8)
    if len(matrix) <= _MOST_NUMBERS:
        _numbers(ax, matrix, limits)
    shown = range(0, len(names), every(len(names)))
    labels = [names[i] for i in shown]
    ax.set_yticks(shown, labels, fontsize=8)
    crowded = len(labels) * max(map(len, labels)) > 30
    slanted = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"} if crowded else {}
    ax.set_xticks(shown, labels, fontsize=8, **slanted)


def _numbers(ax: Any, matrix: np.ndarray, limits: tuple[float, float]) -> None:
    """Write each number into its cell, white on what is dark."""
    low, high = limits
    box = ax.get_window_extent()
    cell = 0.8 * min(box.width, box.height) / len(matrix) * 72 / ax.figure.dpi  # points
    for (i, j), value in np.ndenumerate(matrix):
        if np.isfinite(value):
            text = f"{value:.2f}" if abs(value) < 100 else f"{value:.0e}"
            color = "white" if value - low > _DARK * (high - low) else "black"
            size = min(9.0, 1.5 * cell / len(text))
            ax.text(j, i, text, ha="center", va="center", color=color, fontsize=size)
