"""`disconnect_report`: four readings of one network, and what stands between them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
from sklearn.model_selection import train_test_split

from skntk.diagnostics.disconnect_verdict import DIFFERENCES, disconnect_verdict
from skntk.diagnostics.laws import estimate, runs_needed
from skntk.diagnostics.readings import READINGS, readings
from skntk.diagnostics.recording import FAILURES, failed_status
from skntk.diagnostics.report import Report
from skntk.diagnostics.runs import Rows, Task, Unit
from skntk.diagnostics.subject import (
    Network,
    Subject,
    check_count,
    check_positive,
    draw_seed,
)

if TYPE_CHECKING:
    from skntk.diagnostics.displays import DisconnectDisplay


@dataclass(frozen=True, repr=False, eq=False)
class DisconnectReport(Report):
    """What `disconnect_report` returns.

    Attributes
    ----------
    runs : DataFrame
        One row for each run: ``width`` (None for a module as it stands), ``seed, status``; the
        scores ``full, linearized, kernel, limit``; their differences ``feature_learning,
        optimizer, finite_width`` and ``total``; of all these ``..._error``, the standard error by
        the spread over the test rows of that run alone; of differences ``..._distance``, the root
        mean square distance of the two functions at test rows, in units of what the network is
        trained on (standard deviations of the targets, or the indicators of the classes); of
        readings ``..._loss``, on the training rows; ``constant``, the score of predicting the mean
        of the training targets or their most frequent class; ``time`` of gradient flow that the
        kernel machines are trained for.
    summary : DataFrame
        One row for each width and difference: ``mean, standard_error, low, high`` over runs, with
        the ends of the 95 % interval; ``distance``; ``finding``: "none" if the interval lies within
        the margin, else "positive" or "negative" if it leaves out 0, else "undecided"; "no limit"
        or "unknown" without an interval; ``n_runs, n_failed``, and ``runs_needed`` to decide if
        mean and spread stay as they are, NaN if not even 1000 would do: a guess, of little worth
        from fewer than five runs.
    scores : DataFrame
        One row for each width and reading: ``mean, standard_error, low, high``.
    verdict : str
        What it says, in words.
    title : str
        What was examined.
    score : str
        Which score: "R^2" or "accuracy".
    margin : float
        Differences of scores up to which count as none.
    """

    scores: pd.DataFrame
    score: str
    margin: float

    @property
    def tables(self) -> dict[str, pd.DataFrame]:
        """What the page shows, by what it is: the first is the one to look at first."""
        return {
            f"Differences of test {self.score}, with 95 % intervals": self.summary,
            f"Test {self.score}, with 95 % intervals": self.scores,
            "All runs": self.runs,
        }

    def plot(self) -> DisconnectDisplay:
        """Draw the report.

        Returns
        -------
        DisconnectDisplay
        """
        from skntk.diagnostics.displays import DisconnectDisplay

        return DisconnectDisplay(self).plot()


def disconnect_report(
    module: Any,
    X: Any,
    y: Any,
    *,
    widths: Sequence[float] | None = None,
    n_seeds: int = 5,
    test_size: float | int = 0.25,
    train_size: float | int | None = None,
    margin: float = 0.02,
    cache_dir: str | Path | None = None,
    n_jobs: int | None = None,
    random_state: int = 0,
    verbose: int = 0,
    **module__params: Any,
) -> DisconnectReport:
    r"""Score four readings of one network that differ by one thing each.

    ============== ==================================================== =======================
    reading        what it is                                           differs from the next by
    ============== ==================================================== =======================
    ``full``       the network, all layers trained                      feature learning
    ``linearized`` its linearization, trained by the same optimizer     the optimizer
    ``kernel``     gradient flow with the network's tangent kernel      finite width
    ``limit``      gradient flow with the kernel of infinite width
    ============== ==================================================== =======================

    ``total`` is the difference between the first and the last.

    Everything else is the same: the rows, the initial weights, the batches, the learning rate and
    the number of epochs; squared loss, on standardized targets or the indicators of the classes,
    also for classifiers; the function at initialization, from which both kernel machines start,
    too (or zero, if the estimator is ``centered``); kernels of all pairs of outputs. Regularization
    is by training time alone: that of the flow is the learning rate times the number of steps for
    plain gradient descent; for any other optimizer, that at which the flow of ``kernel`` has the
    training loss of ``linearized``.

    Parameters
    ----------
    module : NetworkRegressor, NetworkClassifier, Pipeline or torch.nn.Module
        The network: an estimator, a pipeline that ends in one, or a module (class or instance),
        which gets an estimator's defaults (a regressor's if `y` are floating point numbers). An
        instance keeps its weights in all runs. Transformers are fitted on training rows.
    X : array-like of shape (n, d) or (n, ...)
        Rows.
    y : array-like of shape (n,) or (n, k)
        Targets.
    widths : sequence of int, optional
        Widths to compare; by default the estimator's own, or the module as it stands. `np.inf` may
        be among them: the limit is a reading at any width.
    n_seeds : int, default=5
        Runs of each width, at least 2, each with a split and initial weights of its own.
    test_size, train_size : float or int, default=0.25, None
        Of each split, as in `sklearn.model_selection.train_test_split`. The kernel machine solves
        for train_size times k numbers.
    margin : float, default=0.02
        Differences of scores up to which count as none.
    cache_dir : str or Path, optional
        Folder in which finished runs are kept; a report that was interrupted goes on there.
    n_jobs : int, optional
        Processes of joblib, each for one run; by default one run after the other.
    random_state : int, default=0
        For splits, weights and batches.
    verbose : int, default=0
        1 shows progress.
    **module__params
        ``module__*``: arguments of a module class.

    Returns
    -------
    DisconnectReport

    Raises
    ------
    TypeError
        If `module` is something else.
    ValueError
        If an argument is out of its range; if ``weight_decay`` is not 0, for which the kernel
        machines have no counterpart; if the network has a BatchNorm, which couples rows in
        training, or Dropout, which its linearization has not.
    MemoryBudgetError
        If the kernel of the training rows does not fit in memory.

    Notes
    -----
    Scores are :math:`R^2` or the accuracy on test rows. The runs' splits overlap, so intervals are
    those of Nadeau & Bengio (2003), wider than for independent data: (1 / runs + test rows over
    all others) in the place of 1 / runs. No number of runs takes them below what the rows
    allow. And a few runs that agree by chance are not believed to be exact: the variance between
    runs counts for no less than the spread over their test rows lets expect, to which, for
    accuracies, one more row that the readings disagree on is added.

    Where the network has no analytic limit, ``limit`` and what is compared with it are NaN. A run
    that diverges, or is stopped by a callback, has its status in ``runs`` and is in no mean. Each
    seed stands for one split, which all widths share, and for initial weights of its own.

    References
    ----------
    Lee et al. (2019), "Wide neural networks of any depth evolve as linear models"; Wenger, Dangel
    & Kristiadi (2023), "On the disconnect between theory and practice of neural networks"; Nadeau &
    Bengio (2003), "Inference for the generalization error", equation 10.

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn.preprocessing import StandardScaler
    >>> from skntk import NetworkRegressor
    >>> from skntk.diagnostics import disconnect_report
    >>> X, y = load_diabetes(return_X_y=True)
    >>> net = NetworkRegressor(depth=1, width=1024, activation="erf", centered=True,
    ...                        optimizer="gd", max_epochs=20)
    >>> report = disconnect_report(make_pipeline(StandardScaler(), net), X, y, n_seeds=3)
    >>> report.summary[["difference", "finding"]]
             difference finding
    0  feature_learning    none
    1         optimizer    none
    2      finite_width    none
    3             total    none
    """
    subject = Subject.of(module, y, module__params)
    sizes = subject.sizes(widths, infinite=True)
    n_seeds = check_count("n_seeds", n_seeds, 2)
    random_state = check_count("random_state", random_state, 0)
    margin = check_positive("margin", margin)
    if subject.network.weight_decay:
        raise ValueError(
            f"weight_decay={subject.network.weight_decay} has no counterpart in the kernel "
            "machines; pass 0, and regularize by max_epochs."
        )
    X, y = subject.checked(X, y)
    task = _Disconnect(subject, X, y, random_state, test_size, train_size)
    _, test = task.split(0)
    if len(test) < 2:
        raise ValueError(f"test_size={test_size!r} leaves {len(test)} test rows; at least 2.")
    units = [{"width": w, "seed": s} for w in sizes for s in range(n_seeds)]
    runs = task.runs(units, cache_dir=cache_dir, n_jobs=n_jobs, verbose=verbose)
    return _report(task, runs, sizes, len(test) / (X.shape[0] - len(test)), margin)


@dataclass(frozen=True)
class _Disconnect(Task):
    """How networks are trained and scored.

    Attributes
    ----------
    test_size, train_size
        As of `disconnect_report`.
    """

    test_size: float | int
    train_size: float | int | None

    def split(self, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Training and test rows; each class in both, where there is room for it."""
        stratify = None
        if self.subject.classifies:
            classes, labels = np.unique(np.asarray(self.y), return_inverse=True)
            counts = np.bincount(labels)
            if counts.min() < 2:
                raise ValueError(
                    f"class {classes.tolist()[counts.argmin()]!r} of y has one row, which cannot "
                    "be in both parts of a split: leave it out; or, if y are numbers that are to "
                    "be regressed, pass a NetworkRegressor, or floating point numbers."
                )
            n = len(labels)
            test = _size(self.test_size, n)
            train = n - test if self.train_size is None else _size(self.train_size, n)
            if len(counts) <= min(test, train):
                stratify = labels
        return train_test_split(
            np.arange(self.X.shape[0]),
            test_size=self.test_size,
            train_size=self.train_size,
            stratify=stratify,
            random_state=draw_seed(self.random_state, 1, seed),
        )

    def run(self, unit: Unit) -> Rows:
        """Score all readings of one network on one split."""
        try:
            return [{**unit, "status": "ok", **readings(*self._parts(unit))}]
        except FAILURES as error:
            return [{**unit, "status": failed_status(error)}]

    def _parts(self, unit: Unit) -> tuple[Subject, Network, tuple[Any, Any], tuple[Any, Any]]:
        """The network of a run, and the rows of its split as the network gets them."""
        train, test = self.split(unit["seed"])
        y, y_test = _take(self.y, train), _take(self.y, test)
        X, X_test = self.subject.prepared(_take(self.X, train), y, _take(self.X, test))
        return self.subject, self.network(unit), (X, y), (X_test, y_test)


def _report(
    task: _Disconnect,
    runs: pd.DataFrame,
    sizes: Sequence[int | None],
    overlap: float,
    margin: float,
) -> DisconnectReport:
    """Average over runs, and say what it means."""
    columns = [f"{name}{end}" for name in (*READINGS, *DIFFERENCES) for end in ("", "_error")]
    runs = runs.reindex(columns=list(dict.fromkeys([*runs.columns, "constant", *columns])))
    scores, differences = [], []
    for width in sizes:
        found = runs[runs.width.isna()] if width is None else runs[runs.width == width]
        good = found[found.status == "ok"]
        counts = {"n_runs": len(good), "n_failed": len(found) - len(good)}
        for name in READINGS:
            measured = _Measured.of(good, name, overlap)
            scores.append({"width": width, "reading": name, **measured.estimated()})
        for name in DIFFERENCES:
            measured = _Measured.of(good, name, overlap)
            row = {"width": width, "difference": name, **measured.estimated()}
            row["distance"] = good.get(f"{name}_distance", pd.Series(dtype=float)).mean()
            row["finding"] = _finding(
                row, margin, limitless=len(good) > 0 and good.limit.isna().all()
            )
            row["runs_needed"] = measured.runs_needed(margin)
            differences.append({**row, **counts})
    summary, scores = pd.DataFrame(differences), pd.DataFrame(scores)
    score = "accuracy" if task.subject.classifies else "R^2"
    good = runs[runs.status == "ok"]
    return DisconnectReport(
        runs=runs,
        summary=summary,
        verdict=disconnect_verdict(summary, scores, good.constant.mean(), score, margin),
        title=f"{task.subject.describe(loss='squared')}; {task.X.shape[0]} rows, "
        f"{runs.seed.nunique()} seeds",
        scores=scores,
        score=score,
        margin=margin,
    )


class _Measured(NamedTuple):
    """One number of each run, and its error by the test rows."""

    values: np.ndarray
    errors: np.ndarray
    overlap: float

    @classmethod
    def of(cls, good: pd.DataFrame, name: str, overlap: float) -> _Measured:
        known = good[[name, f"{name}_error"]].dropna().to_numpy(float)
        return cls(known[:, 0], known[:, 1], overlap)

    def estimated(self) -> dict[str, float]:
        found = estimate(self.values, self.overlap, self.errors)._asdict()
        return {key: found[key] for key in ("mean", "standard_error", "low", "high")}

    def runs_needed(self, margin: float) -> float:
        if len(self.values) < 2:
            return math.nan
        needed = runs_needed(self.values, margin, self.overlap, self.errors)
        return math.nan if needed is None else needed


def _finding(row: dict[str, Any], margin: float, limitless: bool = False) -> str:
    """What an interval says of a difference."""
    low, high = row["low"], row["high"]
    if math.isnan(low):
        return "no limit" if limitless and "limit" in DIFFERENCES[row["difference"]] else "unknown"
    if -margin <= low and high <= margin:
        return "none"
    if low > 0:
        return "positive"
    return "negative" if high < 0 else "undecided"


def _size(size: float | int, n: int) -> int:
    """Rows of a part, at least."""
    return int(size * n) if isinstance(size, float) else int(size)


def _take(A: Any, rows: np.ndarray) -> Any:
    return A.iloc[rows] if hasattr(A, "iloc") else A[rows]
