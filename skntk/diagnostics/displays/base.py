"""What the displays have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar

from skntk.diagnostics.report import Report

if TYPE_CHECKING:
    from typing_extensions import Self


class ReportDisplay(ABC):
    """Base of the displays; not used directly.

    Parameters
    ----------
    report : Report
        What is drawn.
    """

    #: The function that makes such a report.
    _make: ClassVar[Any]

    def __init__(self, report: Report) -> None:
        self.report = report

    @classmethod
    def from_estimator(
        cls, estimator: Any, X: Any, y: Any, *, ax: Any = None, **params: Any
    ) -> Self:
        """Make the report and draw it.

        Parameters
        ----------
        estimator, X, y, **params
            As of the function that makes the report.
        ax : matplotlib Axes, optional
            As of `plot`.
        """
        return cls(cls._make(estimator, X, y, **params)).plot(ax)

    @abstractmethod
    def plot(self, ax: Any = None) -> Self:
        """Draw the report.

        Parameters
        ----------
        ax : matplotlib Axes, optional
            Where to draw the main panel, `ax_`, alone; by default a new figure has all panels.

        Returns
        -------
        ReportDisplay
            Itself.
        """
