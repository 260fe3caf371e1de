"""What every display needs: matplotlib when something is drawn, and lines told apart."""

from typing import Any

#: Line, marker and its filling of the first, second, ... thing that is drawn.
_LINES = ("-", "--", ":", "-.")
_MARKERS = ("o", "s", "^", "D", "v", "P")
_FILLS = ("black", "white", "0.6", "black", "white", "0.6")


def pyplot() -> Any:
    """``matplotlib.pyplot``, imported now.

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
    return plt


def line_style(i: int) -> dict[str, Any]:
    """Style of the i-th line, which differs from its neighbours without color."""
    return {
        "color": "black",
        "linestyle": _LINES[i % len(_LINES)],
        "marker": _MARKERS[i % len(_MARKERS)],
        "markerfacecolor": _FILLS[i % len(_FILLS)],
        "markersize": 6,
        "linewidth": 1.3,
    }


def legend(ax: Any) -> None:
    """Legend under the panel, in two columns where they fit; in it where nothing makes room."""
    handles, labels = ax.get_legend_handles_labels()
    if ax.figure.get_layout_engine() is None:
        ax.legend(handles, labels, fontsize=8, handlelength=3.5)
        return
    below = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.16), "frameon": False}
    columns = 1 if len(labels) < 3 or max(map(len, labels)) > 34 else 2
    ax.legend(handles, labels, fontsize=8, handlelength=3.5, ncols=columns, **below)


def plain(name: str) -> str:
    """A name as it is, where matplotlib would take what is between dollars for mathematics."""
    return name.replace("$", r"\$")
