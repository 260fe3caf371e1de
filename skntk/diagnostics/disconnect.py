"""`disconnect_report`: four readings of one network, and what stands between them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from sklearn.base import clone
from sklearn.model_selection import train_test_split
from sklearn.utils.validation import check_consistent_length
from torch import Tensor

from skntk.core import KernelOverflowError, TrainingDivergedError, UnsupportedModuleError
from skntk.diagnostics.disconnect_verdict import DIFFERENCES, disconnect_verdict
from skntk.diagnostics.flow import FlowMachine, PairKernel
from skntk.diagnostics.laws import estimate, runs_needed
from skntk.diagnostics.measures import outputs_of
from skntk.diagnostics.recording import start_of, watched
from skntk.diagnostics.report import Report
from skntk.diagnostics.runs import Rows, Task, Unit
from skntk.diagnostics.subject import (
    Network,
    Subject,
    check_count,
    draw_seed,
)
from skntk.finite import EmpiricalKernel
from skntk.infinite import infinite_width
from skntk.training import NetworkClassifier

if TYPE_CHECKING:
    from skntk.diagnostics.displays import DisconnectDisplay

READINGS = ("full", "linearized", "kernel", "limit")


@dataclass(frozen=True, repr=False, eq=False)
class DisconnectReport(Report):
    """What `disconnect_report` returns.

    Attributes
    ----------
    runs : DataFrame
        One row for each run: ``width`` (None for a module as it stands), ``seed, status``; the
        scores ``full, linearized, kernel, limit``; their differences ``feature_learning,
        optimizer, finite_width``; of each difference ``..._error``, its standard error by its
        spread over the test rows of that run alone, and ``..._distance``, the root mean square
        distance of the two functions at test rows, in units of what the network is trained on
        (standard deviations of the targets, or the indicators of the classes); of each reading
        ``..._loss``, on the training rows; ``time`` of gradient flow that the kernel machines are
        trained for.
    summary : DataFrame
        One row for each width and difference: ``mean, standard_error, low, high`` over runs, with
        the ends of the 95 % interval; ``distance``; ``finding``: "positive" or "negative" if it is
        told from 0 and its mean is beyond the margin, "none" if the interval lies within the
        margin or what is told from 0 is smaller than it, else "undecided"; ``n_runs,
        n_diverged``, and ``runs_needed`` to decide, NaN if no number of runs would do.
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
        training.
    MemoryBudgetError
        If the kernel of the training rows does not fit in memory.

    Notes
    -----
    Scores are :math:`R^2` or the accuracy on test rows. The runs' splits overlap, so intervals are
    those of Nadeau & Bengio (2003), wider than for independent data: (1 / runs + test rows over
    training rows) in the place of 1 / runs. No number of runs takes them below what the rows allow.

    Where the network has no analytic limit, ``limit`` and ``finite_width`` are NaN. A run in which
    a training diverges has its status in ``runs`` and is in no mean.

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
    """
    subject = Subject.of(module, y, module__params)
    sizes = subject.sizes(widths, infinite=True)
    check_count("n_seeds", n_seeds, 2)
    check_count("random_state", random_state, 0)
    if not 0 < margin < math.inf:
        raise ValueError(f"margin={margin!r} must be a positive number, such as 0.02.")
    if subject.network.weight_decay:
        raise ValueError(
            f"weight_decay={subject.network.weight_decay} has no counterpart in the kernel "
            "machines; pass 0, and regularize by max_epochs."
        )
    X, y = _rows(X), _rows(y)
    check_consistent_length(X, y)
    task = _Disconnect(subject, X, y, random_state, test_size, train_size)
    train, test = task.split(0)
    units = [{"width": w, "seed": s} for w in sizes for s in range(n_seeds)]
    runs = task.runs(units, cache_dir=cache_dir, n_jobs=n_jobs, verbose=verbose)
    return _report(task, runs, sizes, len(test) / len(train), margin)


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
        """Training and test rows; each class in both where it has two rows at least."""
        stratify = None
        if self.subject.classifies:
            _, labels = np.unique(np.asarray(self.y), return_inverse=True)
            if np.bincount(labels).min() >= 2:
                stratify = labels
        return train_test_split(
            np.arange(len(self.X)),
            test_size=self.test_size,
            train_size=self.train_size,
            stratify=stratify,
            random_state=draw_seed(self.random_state, 1, seed),
        )

    def run(self, unit: Unit) -> Rows:
        """Score all readings of one network on one split."""
        try:
            return [{**unit, "status": "ok", **self._readings(unit)}]
        except (TrainingDivergedError, KernelOverflowError) as error:
            return [{**unit, "status": f"diverged: {error}"}]

    def _readings(self, unit: Unit) -> dict[str, float]:
        train, test = self.split(unit["seed"])
        X, X_test = self.subject.prepared(
            _take(self.X, train), _take(self.y, train), _take(self.X, test)
        )
        y, y_test = _take(self.y, train), _take(self.y, test)
        network = self.network(unit)
        if self.subject.classifies:
            network.set_params(loss="squared")
        module, inputs = start_of(network, X, y)
        full = _trained(network, "full", X, y)
        # the same rate: what suits an optimizer by default may depend on the regime
        network.set_params(learning_rate=full.net_.lr, damping=full._damping)
        linearized = _trained(network, "linearized", X, y)

        Z, test_inputs = self.subject.targets(y), full._rows(X_test)
        functions = {"full": full._forward(X_test), "linearized": linearized._forward(X_test)}
        losses = {name: _loss(net._forward(X), Z)
                  for name, net in (("full", full), ("linearized", linearized))}  # fmt: skip
        start, start_at_test = (
            torch.zeros(len(A), Z.shape[1]) if network.centered else outputs_of(module, A)
            for A in (inputs, test_inputs)
        )
        kernel = PairKernel(EmpiricalKernel(module, "full", dtype="float64"))
        machine = FlowMachine(kernel, inputs, start, Z)
        time = _time(linearized, machine, losses["linearized"])
        machines = {"kernel": machine}
        with suppress(UnsupportedModuleError):
            machines["limit"] = FlowMachine(PairKernel(infinite_width(module)), inputs, start, Z)
        for name, machine in machines.items():
            functions[name] = machine.predict(test_inputs, start_at_test, time)
            losses[name] = machine.loss(time)
        shares = {name: _shares(full, f, y_test) for name, f in functions.items()}
        return {"time": time, **_compared(functions, losses, shares)}


def _compared(
    functions: dict[str, Tensor], losses: dict[str, float], shares: dict[str, np.ndarray]
) -> dict[str, float]:
    """Scores, losses and differences of all readings, NaN where there is none."""
    found: dict[str, float] = {}
    for name in READINGS:
        found[name] = float(shares[name].mean()) if name in shares else math.nan
        found[f"{name}_loss"] = losses.get(name, math.nan)
    for name, (a, b) in DIFFERENCES.items():
        found |= {name: math.nan, f"{name}_error": math.nan, f"{name}_distance": math.nan}
        if a in functions and b in functions:
            d = shares[a] - shares[b]
            found[name] = float(d.mean())
            found[f"{name}_error"] = float(d.std(ddof=1)) / math.sqrt(len(d)) if len(d) > 1 else 0.0
            apart = functions[a].double() - functions[b].double()
            found[f"{name}_distance"] = float(apart.square().mean().sqrt())
    return found


def _trained(network: Network, regime: str, X: Any, y: Any) -> Network:
    try:
        return watched(clone(network).set_params(regime=regime)).fit(X, y)
    except TrainingDivergedError as error:
        raise TrainingDivergedError(f"{regime}: {error}") from error


def _time(linearized: Network, machine: FlowMachine, loss: float) -> float:
    """Time of gradient flow that stands for the training of the linearized network."""
    net = linearized.net_
    if linearized.optimizer == "gd" and linearized.momentum == 0:
        return float(net.lr) * len(net.history)
    return machine.time_of(loss)


def _loss(outputs: Tensor, Z: Tensor) -> float:
    return 0.5 * float((outputs.double() - Z).square().mean())


def _shares(network: Network, outputs: Tensor, y: Any) -> np.ndarray:
    """What each test row adds to the score, which is their mean: accuracy, or R^2."""
    y = np.asarray(y)
    if isinstance(network, NetworkClassifier):
        return (network.classes_[outputs.argmax(1).numpy()] == y).astype(float)
    y = y.astype(float).reshape(len(y), -1)
    squares = (network._targets.back(outputs.double()).reshape(y.shape) - y) ** 2
    variances = y.var(0)
    variances[variances == 0] = 1.0
    return (1 - squares / variances).mean(1)


def _report(
    task: _Disconnect,
    runs: pd.DataFrame,
    sizes: Sequence[int | None],
    overlap: float,
    margin: float,
) -> DisconnectReport:
    """Average over runs, and say what it means."""
    scores, differences = [], []
    for width in sizes:
        found = runs[runs.width.isna()] if width is None else runs[runs.width == width]
        good = found[found.status == "ok"]
        counts = {"n_runs": len(good), "n_diverged": len(found) - len(good)}
        for name in READINGS:
            known = good[name].dropna() if len(good) else []
            scores.append({"width": width, "reading": name, **_estimated(known, overlap)})
        for name in DIFFERENCES:
            known, errors = (good[[name, f"{name}_error"]].dropna().T.to_numpy() if len(good)
                             else ([], []))  # fmt: skip
            row = {"width": width, "difference": name, **_estimated(known, overlap, errors)}
            row["distance"] = good[f"{name}_distance"].mean() if len(good) else math.nan
            needed = runs_needed(known, margin, overlap, errors) if len(known) > 1 else None
            row["finding"] = _finding(row, margin)
            row["runs_needed"] = math.nan if needed is None else needed
            differences.append({**row, **counts})
    summary = pd.DataFrame(differences)
    score = "accuracy" if task.subject.classifies else "R^2"
    return DisconnectReport(
        runs=runs,
        summary=summary,
        verdict=disconnect_verdict(summary, score, margin),
        title=f"{task.subject.describe()}; {len(task.X)} rows, {runs.seed.nunique()} seeds",
        scores=pd.DataFrame(scores),
        score=score,
        margin=margin,
    )


def _estimated(values: Any, overlap: float, errors: Any = ()) -> dict[str, float]:
    found = estimate(values, overlap, errors)._asdict()
    return {key: found[key] for key in ("mean", "standard_error", "low", "high")}


def _finding(row: dict[str, Any], margin: float) -> str:
    mean, low, high = row["mean"], row["low"], row["high"]
    if math.isnan(low):
        return "unknown"
    if -margin <= low and high <= margin:
        return "none"
    if low > 0 or high < 0:
        if abs(mean) <= margin:
            return "none"
        return "positive" if mean > 0 else "negative"
    return "undecided"


def _rows(A: Any) -> Any:
    """Something that can be indexed by rows."""
    return A if hasattr(A, "iloc") or hasattr(A, "shape") else np.asarray(A)


def _take(A: Any, rows: np.ndarray) -> Any:
    return A.iloc[rows] if hasattr(A, "iloc") else A[rows]
