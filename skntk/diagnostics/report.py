"""What all reports share: tables, a verdict, a picture, a page."""

from __future__ import annotations

import base64
import html
import io
import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from skntk.core import check_writable, write_atomically

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem;
  color: #111; }
table { border-collapse: collapse; font-size: 0.85rem; margin: 1rem 0; }
th, td { padding: 0.25rem 0.7rem; text-align: right; border-bottom: 1px solid #ddd; }
th { border-bottom: 2px solid #111; }
img { max-width: 100%; }
.table { overflow-x: auto; }
pre { white-space: pre-wrap; font: inherit; background: #f4f4f4; padding: 1rem; }
"""


@dataclass(frozen=True, repr=False, eq=False)
class Report(ABC):
    """Base of the reports; not used directly.

    Attributes
    ----------
    runs : DataFrame
        One row for each thing measured in each run, with its ``status``: "ok", or why it counts
        in no mean.
    summary : DataFrame
        Means over runs, with their uncertainty.
    verdict : str
        What it says, in words.
    title : str
        What was examined.
    """

    runs: pd.DataFrame
    summary: pd.DataFrame
    verdict: str
    title: str

    @property
    def tables(self) -> dict[str, pd.DataFrame]:
        """What the page shows, by what it is: the first is the one to look at first."""
        return {"Means over runs": self.summary, "All runs": self.runs}

    @abstractmethod
    def plot(self) -> Any:
        """Draw the report; return the display, whose ``figure_`` it is."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}: {self.title}\n\n{self.verdict}"

    def _repr_html_(self) -> str:
        return (
            f"<h3>{html.escape(self.title)}</h3><pre>{html.escape(self.verdict)}</pre>"
            f"{_table(next(iter(self.tables.values())))}"
        )

    def to_html(self, path: str | Path) -> None:
        """Write one page with the verdict, the picture and the tables; it needs no other file.

        Parameters
        ----------
        path : str or Path
            The file; it is replaced in one step.

        Raises
        ------
        ValueError
            If no file can be written there.
        """
        path = Path(path)
        check_writable(path, "path")
        picture = base64.b64encode(self.to_png()).decode()
        title = html.escape(self.title)
        page = (
            f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
            f"<style>{_STYLE}</style></head><body>\n<h1>{type(self).__name__}</h1>"
            f"<p>{title}</p>\n<pre>{html.escape(self.verdict)}</pre>\n"
            f'<img alt="{type(self).__name__}" src="data:image/png;base64,{picture}">\n'
            + "\n".join(f"<h2>{name}</h2>{_table(frame)}" for name, frame in self.tables.items())
            + "\n</body></html>\n"
        )
        write_atomically(path, page.encode())

    def to_png(self, dpi: int = 130) -> bytes:
        """Return the picture as a PNG file's content, drawn without a window.

        Parameters
        ----------
        dpi : int, default=130
            Dots per inch.
        """
        import matplotlib.pyplot as plt

        buffer = io.BytesIO()
        with plt.ioff():
            figure = self.plot().figure_
            try:
                figure.savefig(buffer, format="png", dpi=dpi)
            finally:
                plt.close(figure)
        return buffer.getvalue()


def _table(frame: pd.DataFrame) -> str:
    text = frame.to_html(index=False, border=0, float_format=lambda v: f"{v:.4g}", na_rep="")
    return f'<div class="table">{text}</div>'


def percent(value: float) -> str:
    """A share with two digits, in per cent.

    Examples
    --------
    >>> from skntk.diagnostics.report import percent
    >>> percent(0.12345), percent(0.00012), percent(3.0)
    ('12 %', '0.012 %', '300 %')
    """
    number = 100 * value
    if math.isnan(number):
        return "unknown"
    digits = f"{number:.2g}" if abs(number) < 100 else f"{number:.0f}"
    return f"{digits} %"


def with_error(mean: float, error: float) -> str:
    """A mean with its standard error, both to the digits that the error leaves.

    Examples
    --------
    >>> from skntk.diagnostics.report import with_error
    >>> with_error(568.3, 213.0), with_error(0.2312, 0.0157), with_error(235.0, 1e-13)
    ('570 ± 210', '0.231 ± 0.016', '235')
    """
    if math.isnan(mean):
        return ""
    if not error > 1e-9 * abs(mean):
        return f"{mean:.3g}"
    digits = 1 - math.floor(math.log10(error))
    return " ± ".join(f"{round(v, digits):.{max(digits, 0)}f}" for v in (mean, error))
