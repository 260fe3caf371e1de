"""Pictures of calibration and of detection, in scikit-learn's manner.

They need matplotlib (``skntk[plot]``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from skntk.core.plotting import legend, line_style, plain, pyplot
from skntk.metrics.calibration import mean_gap, reliability_bins
from skntk.metrics.ood import check_scores, ood_auroc, predictive_entropy

if TYPE_CHECKING:
    from typing_extensions import Self

#: Tells the curves that a display drew, so that the next one in the same axes looks different.
_CURVE = "skntk curve"


class ReliabilityDisplay:
    """Accuracy against confidence, in bins of equal width (Guo et al. 2017, figure 1).

    A calibrated classifier is on the diagonal, one that is too sure below it. The upper panel has
    the share of rows in each bin. Several classifiers go into one picture by `ax`, the ``ax_`` of
    the first.

    Parameters
    ----------
    counts : ndarray of shape (n_bins,)
        Rows in each bin.
    accuracy : ndarray of shape (n_bins,)
        Share of them that are predicted right; NaN where there is none.
    confidence : ndarray of shape (n_bins,)
        Mean of their largest probability; NaN where there is none.
    name : str, optional
        For the legend.

    Attributes
    ----------
    ax_ : matplotlib Axes
        The panel of the accuracy.
    axes_ : list of matplotlib Axes
        All panels.
    figure_ : matplotlib Figure
        The figure.

    References
    ----------
    Guo et al. (2017), "On calibration of modern neural networks".

    Examples
    --------
    >>> import matplotlib; matplotlib.use("agg")
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.linear_model import LogisticRegression
    >>> from skntk.metrics import ReliabilityDisplay
    >>> X, y = load_iris(return_X_y=True)
    >>> model = LogisticRegression(max_iter=1000).fit(X[::2], y[::2])
    >>> display = ReliabilityDisplay.from_estimator(model, X[1::2], y[1::2], n_bins=5)
    >>> int(display.counts.sum())
    75
    """

    def __init__(
        self,
        counts: np.ndarray,
        accuracy: np.ndarray,
        confidence: np.ndarray,
        *,
        name: str | None = None,
    ) -> None:
        self.counts = counts
        self.accuracy = accuracy
        self.confidence = confidence
        self.name = name

    @property
    def ece(self) -> float:
        """The `expected_calibration_error`."""
        return mean_gap(self.counts, self.accuracy, self.confidence)

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any,
        y: ArrayLike,
        *,
        n_bins: int = 15,
        name: str | None = None,
        ax: Any = None,
    ) -> Self:
        """Predict and draw.

        Parameters
        ----------
        estimator : classifier
            Fitted, with ``predict_proba``.
        X : array-like of shape (n, d)
            Test rows.
        y : array-like of shape (n,)
            True labels.
        n_bins : int, default=15
            Number of bins on [0, 1].
        name : str, optional
            For the legend; by default the class of the estimator.
        ax : matplotlib Axes, optional
            As of `plot`.

        Returns
        -------
        ReliabilityDisplay
            Drawn.

        Raises
        ------
        ValueError
            As of `expected_calibration_error`.
        """
        return cls.from_predictions(
            y,
            estimator.predict_proba(X),
            n_bins=n_bins,
            labels=estimator.classes_,
            name=type(estimator).__name__ if name is None else name,
            ax=ax,
        )

    @classmethod
    def from_predictions(
        cls,
        y_true: ArrayLike,
        proba: ArrayLike,
        *,
        n_bins: int = 15,
        labels: ArrayLike | None = None,
        name: str | None = None,
        ax: Any = None,
    ) -> Self:
        """Draw predicted probabilities.

        Parameters
        ----------
        y_true, proba, n_bins, labels
            As of `expected_calibration_error`.
        name : str, optional
            For the legend.
        ax : matplotlib Axes, optional
            As of `plot`.

        Returns
        -------
        ReliabilityDisplay
            Drawn.

        Raises
        ------
        ValueError
            As of `expected_calibration_error`.
        """
        return cls(*reliability_bins(y_true, proba, n_bins, labels), name=name).plot(ax)

    def plot(self, ax: Any = None) -> Self:
        """Draw the bins.

        Parameters
        ----------
        ax : matplotlib Axes, optional
            Where to draw the accuracy alone; by default a new figure has both panels.

        Returns
        -------
        ReliabilityDisplay
            Itself.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        """
        plt = pyplot()
        if ax is None:
            self.figure_, axes = plt.subplots(
                2, 1, figsize=(5.0, 6.0), height_ratios=(1, 4), sharex=True, layout="constrained"
            )
            self.axes_ = list(axes)
            self._shares(self.axes_[0])
        else:
            self.figure_, self.axes_ = ax.figure, [ax]
        self.ax_ = self.axes_[-1]
        self._accuracy(self.ax_)
        return self

    def _accuracy(self, ax: Any) -> None:
        drawn = _curves(ax)
        if not drawn:
            ax.plot([0, 1], [0, 1], color="0.6", linewidth=4, zorder=1, label="calibrated")
            ax.grid(color="0.92")
            ax.set_axisbelow(True)
        some = self.counts > 0
        label = f"ECE = {self.ece:.3f}"
        label = label if self.name is None else f"{plain(self.name)} ({label})"
        x, y = self.confidence[some], self.accuracy[some]
        ax.plot(x, y, label=label, gid=_CURVE, clip_on=False, **line_style(drawn))
        ax.set_xlim(0, 1)
        ax.set_ylim(0, 1)
        ax.set_xlabel("confidence (probability of the predicted class)")
        ax.set_ylabel("accuracy")
        legend(ax)

    def _shares(self, ax: Any) -> None:
        """Bars as wide as the bins."""
        borders = np.linspace(0, 1, len(self.counts) + 1)
        shares = self.counts / self.counts.sum()
        ax.stairs(shares, borders, fill=True, facecolor="0.85")
        ax.stairs(shares, borders, color="black", linewidth=1.0)
        ax.set_ylabel("share of rows")
        if self.name is not None:
            ax.text(0.02, 0.94, plain(self.name), transform=ax.transAxes, va="top", fontsize=8)


class OODDisplay:
    """How uncertain a classifier is of rows from its distribution and of rows from elsewhere.

    Drawn are the shares of rows with at most a given uncertainty. The further the curve of the rows
    from elsewhere is to the right, the better they are told apart; the area under the ROC curve is
    in the legend.

    Parameters
    ----------
    score_in : ndarray of shape (n_in,)
        Uncertainty of the rows from the distribution.
    score_out : ndarray of shape (n_out,)
        Uncertainty of the rows from elsewhere.
    auroc : float
        Their `ood_auroc`.
    name : str, optional
        For the legend.
    score_name : str, default="uncertainty"
        What is on the horizontal axis.

    Attributes
    ----------
    ax_ : matplotlib Axes
        The panel.
    figure_ : matplotlib Figure
        The figure.

    Examples
    --------
    >>> import matplotlib; matplotlib.use("agg")
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.neighbors import KNeighborsClassifier
    >>> from skntk.metrics import OODDisplay
    >>> X, y = load_iris(return_X_y=True)
    >>> known = y < 2
    >>> model = KNeighborsClassifier(15).fit(X[known], y[known])
    >>> display = OODDisplay.from_estimator(model, X[known], X[~known])
    >>> len(display.score_out)
    50
    """

    def __init__(
        self,
        score_in: np.ndarray,
        score_out: np.ndarray,
        auroc: float,
        *,
        name: str | None = None,
        score_name: str = "uncertainty",
    ) -> None:
        self.score_in = score_in
        self.score_out = score_out
        self.auroc = auroc
        self.name = name
        self.score_name = score_name

    @classmethod
    def from_estimator(
        cls, estimator: Any, X_in: Any, X_out: Any, *, name: str | None = None, ax: Any = None
    ) -> Self:
        """Draw the `predictive_entropy` of an estimator.

        Parameters
        ----------
        estimator : classifier
            Fitted, with ``predict_proba``.
        X_in : array-like of shape (n_in, d)
            Rows from the distribution of the training rows, not trained on.
        X_out : array-like of shape (n_out, d)
            Rows from elsewhere.
        name : str, optional
            For the legend; by default the class of the estimator.
        ax : matplotlib Axes, optional
            As of `plot`.

        Returns
        -------
        OODDisplay
            Drawn.
        """
        inside, outside = (predictive_entropy(estimator.predict_proba(X)) for X in (X_in, X_out))
        return cls.from_predictions(
            inside,
            outside,
            name=type(estimator).__name__ if name is None else name,
            score_name="predictive entropy (nats)",
            ax=ax,
        )

    @classmethod
    def from_predictions(
        cls,
        score_in: ArrayLike,
        score_out: ArrayLike,
        *,
        name: str | None = None,
        score_name: str = "uncertainty",
        ax: Any = None,
    ) -> Self:
        """Draw any uncertainty.

        Parameters
        ----------
        score_in, score_out
            As of `ood_auroc`.
        name : str, optional
            For the legend.
        score_name : str, default="uncertainty"
            What is on the horizontal axis.
        ax : matplotlib Axes, optional
            As of `plot`.

        Returns
        -------
        OODDisplay
            Drawn.

        Raises
        ------
        ValueError
            As of `ood_auroc`.
        """
        auroc = ood_auroc(score_in, score_out)
        scores = check_scores(score_in, "score_in"), check_scores(score_out, "score_out")
        return cls(*scores, auroc, name=name, score_name=score_name).plot(ax)

    def plot(self, ax: Any = None) -> Self:
        """Draw the two distributions.

        Parameters
        ----------
        ax : matplotlib Axes, optional
            Where to draw; by default a new figure.

        Returns
        -------
        OODDisplay
            Itself.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        """
        plt = pyplot()
        if ax is None:
            _, ax = plt.subplots(figsize=(5.0, 4.8), layout="constrained")
        self.figure_, self.ax_ = ax.figure, ax
        drawn = _curves(ax)
        both = np.concatenate([self.score_in, self.score_out])
        of = "" if self.name is None else f"{plain(self.name)}, "
        labels = f"{of}in distribution", f"{of}out of distribution (AUROC = {self.auroc:.3f})"
        for i, score in enumerate((self.score_in, self.score_out)):
            x = np.concatenate([[both.min()], np.sort(score), [both.max()]])
            share = np.concatenate([np.arange(len(score) + 1) / len(score), [1]])
            style = line_style(drawn + i) | {"drawstyle": "steps-post", "markevery": 0.1}
            ax.plot(x, share, label=labels[i], gid=_CURVE, **style)
        ax.set_ylim(0, 1.02)
        ax.set_xlabel(plain(self.score_name))
        ax.set_ylabel("share of rows with at most this")
        ax.grid(color="0.92")
        ax.set_axisbelow(True)
        legend(ax)
        return self


def _curves(ax: Any) -> int:
    """Number of curves that displays drew in the axes."""
    return sum(line.get_gid() == _CURVE for line in ax.lines)
