"""`kernel_regime_report`: how far training takes a network from its kernel."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from skntk.diagnostics.laws import PowerLaw, estimate
from skntk.diagnostics.measures import Departure, distance_of_shapes
from skntk.diagnostics.recording import spread_epochs, start_of, train_looking
from skntk.diagnostics.regime_verdict import CRITERIA, by_width, enough, law_of, regime_verdict
from skntk.diagnostics.report import Report, with_error
from skntk.diagnostics.runs import Rows, Task, Unit
from skntk.diagnostics.spectrum import full_kernel
from skntk.diagnostics.subject import (
    Subject,
    check_count,
    check_positive,
    check_widths,
)

if TYPE_CHECKING:
    from skntk.diagnostics.displays import KernelRegimeDisplay

#: What is measured, in the order of the tables.
QUANTITIES = (
    "kernel_change",
    "limit_distance",
    "parameter_movement",
    "linearization_error",
    "alignment",
    "smallest_eigenvalue",
    "largest_eigenvalue",
    "effective_rank",
    "train_loss",
)


@dataclass(frozen=True, repr=False, eq=False)
class KernelRegimeReport(Report):
    """What `kernel_regime_report` returns.

    Attributes
    ----------
    runs : DataFrame
        One row for each run and epoch: ``width, seed, epoch, step, status``, the measures, and
        ``singular``: whether the kernel has no smallest eigenvalue that could be told from 0.
    summary : DataFrame
        ``width, epoch, quantity, mean, standard_error, n_runs, n_failed``.
    laws : DataFrame
        ``quantity, epoch, exponent, low, high``: power laws in the width, with the ends of their
        95 % intervals; NaN where a value is 0.
    verdict : str
        What it says, in words.
    title : str
        What was examined.
    width : int
        The width that the verdict is about.
    tolerance : float
        What counts as small.
    in_kernel_regime : bool or None
        Whether the network is in the kernel regime at that width; None if more runs are needed to
        tell.
    width_needed : float
        From which width on the laws say that it is; NaN where they are not shown to fall, infinite
        where that is more than 100 times the widest network.
    reference : str
        What ``limit_distance`` is the distance from: "limit", or the widest network tried.
    """

    laws: pd.DataFrame
    width: int
    tolerance: float
    in_kernel_regime: bool | None
    width_needed: float
    reference: str

    @property
    def tables(self) -> dict[str, pd.DataFrame]:
        """What the page shows, by what it is: the first is the one to look at first."""
        last = self.summary[self.summary.epoch == self.summary.epoch.max()]
        cells = [with_error(*pair) for pair in zip(last["mean"], last.standard_error, strict=True)]
        after = last.assign(cell=cells).pivot(index="quantity", columns="width", values="cell")
        after = after.reindex(QUANTITIES).rename(columns="width {}".format).reset_index()
        return {
            "After training: mean ± standard error over seeds": after,
            "Power laws in the width, with 95 % intervals": self.laws,
            "Means over seeds": self.summary,
            "All runs": self.runs,
        }

    def plot(self) -> KernelRegimeDisplay:
        """Draw the report.

        Returns
        -------
        KernelRegimeDisplay
        """
        from skntk.diagnostics.displays import KernelRegimeDisplay

        return KernelRegimeDisplay(self).plot()


def kernel_regime_report(
    module: Any,
    X: Any,
    y: Any,
    *,
    widths: Sequence[int] = (64, 256, 1024),
    n_seeds: int = 3,
    n_times: int = 6,
    n_rows: int = 100,
    tolerance: float = 0.1,
    cache_dir: str | Path | None = None,
    n_jobs: int | None = None,
    random_state: int = 0,
    verbose: int = 0,
    **module__params: Any,
) -> KernelRegimeReport:
    r"""Measure how far training takes a network from its kernel, as functions of width and time.

    A network is in the kernel regime if training leaves its tangent kernel as it was, so that its
    function is that of its linearization. Both are measured after training, at several widths,
    and so are:

    - ``kernel_change``: :math:`\|\Theta_t - \Theta_0\|_F / \|\Theta_0\|_F`, of all pairs of
      outputs;
    - ``limit_distance``: the same from the kernel of infinite width, where there is an analytic
      one. Else, at initialization alone, from the mean kernel of the widest networks, each kernel
      divided by its trace;
    - ``parameter_movement``: :math:`\|w_t - w_0\| / \|w_0\|`;
    - ``linearization_error``: :math:`\|f_t - f_0 - J_0 (w_t - w_0)\| / \|f_t - f_0\|`;
    - ``alignment``: centered kernel-target alignment;
    - ``smallest_eigenvalue``, ``largest_eigenvalue``, ``effective_rank`` of the kernel; the
      smallest is 0 if the kernel is singular to rounding;
    - ``train_loss``.

    Each gets its mean and standard error over seeds, and its exponent in the width.

    Parameters
    ----------
    module : NetworkRegressor, NetworkClassifier, Pipeline or torch.nn.Module class
        The network and its training: an estimator, a pipeline that ends in one, or a module class
        with an argument ``width``, which gets an estimator's defaults (a regressor's if `y` are
        floating point numbers). The verdict is about the width that it has, or has by default.
    X : array-like of shape (n, d) or (n, ...)
        Training rows.
    y : array-like of shape (n,) or (n, k)
        Targets.
    widths : sequence of int, default=(64, 256, 1024)
        At least two. The network's own width is added.
    n_seeds : int, default=3
        Networks of each width, at least 2.
    n_times : int, default=6
        Epochs at which it is measured, the first and the last included, at least 2.
    n_rows : int, default=100
        Rows between which kernels are compared: a random subset of that many, the same for all.
        Kernels have n_rows times k rows and columns.
    tolerance : float, default=0.1
        Kernel change and linearization error up to which it counts as the kernel regime.
    cache_dir : str or Path, optional
        Folder in which finished runs are kept; a report that was interrupted goes on there.
    n_jobs : int, optional
        Processes of joblib, each for one run; by default one run after the other.
    random_state : int, default=0
        For the weights, batches and rows.
    verbose : int, default=0
        1 shows progress.
    **module__params
        ``module__*``: arguments of a module class.

    Returns
    -------
    KernelRegimeReport

    Raises
    ------
    TypeError
        If `module` is something else.
    ValueError
        If there are fewer than two widths, or the network has no other widths than its own; if it
        has a BatchNorm, which couples rows in training.

    Notes
    -----
    A run that diverges, or is stopped by a callback, is in ``runs`` with its status, is counted in
    ``summary``, and is in no mean. The tables have arithmetic means; the verdict has geometric
    ones, whose intervals take the logarithms of runs of all widths to vary alike.

    A classifier is trained on its own loss. Under the cross-entropy, the default, outputs and
    parameters grow without end; ``loss="squared"`` is what `disconnect_report` compares by.

    Rates known for the NTK parametrization and gradient descent: kernels are about
    width\ :sup:`-1/2` from their limit (Jacot et al. 2018; Lee et al. 2019), change and
    linearization error fall as fast or faster, and parameters move by an amount that does not
    depend on the width.

    References
    ----------
    Lee et al. (2019), "Wide neural networks of any depth evolve as linear models", figures 1 to 3;
    Chizat, Oyallon & Bach (2019), "On lazy training in differentiable programming"; Wenger, Dangel
    & Kristiadi (2023), "On the disconnect between theory and practice of neural networks".

    Examples
    --------
    >>> import numpy as np
    >>> from skntk import NetworkRegressor
    >>> from skntk.diagnostics import kernel_regime_report
    >>> rng = np.random.default_rng(0)
    >>> X, y = rng.standard_normal((12, 3)), rng.standard_normal(12)
    >>> net = NetworkRegressor(depth=1, width=1024, activation="erf", optimizer="gd", max_epochs=20)
    >>> report = kernel_regime_report(net, X, y, widths=[32, 128])
    >>> report.in_kernel_regime
    True
    >>> report.summary.width.unique().tolist()
    [32, 128, 1024]
    """
    subject = Subject.of(module, y, module__params)
    subject.check_scalable()
    widths = check_widths(widths, least=2)
    n_seeds, n_times = check_count("n_seeds", n_seeds, 2), check_count("n_times", n_times, 2)
    n_rows = check_count("n_rows", n_rows, 2)
    random_state = check_count("random_state", random_state, 0)
    tolerance = check_positive("tolerance", tolerance)
    X, y = subject.checked(X, y)
    own = subject.own_width
    widths = tuple(sorted({*widths, *(() if own is None else (own,))}))
    width = widths[-1] if own is None else own
    (X,), subject = subject.prepared(X, y), subject.behind()
    rng = np.random.default_rng([random_state, 0])
    rows = np.sort(rng.permutation(X.shape[0])[:n_rows])
    epochs = spread_epochs(subject.network.max_epochs, n_times)
    task = _Regime(subject, X, y, random_state, rows, epochs)
    units = [{"width": w, "seed": s} for w in widths for s in range(n_seeds)]
    runs = task.runs(units, cache_dir=cache_dir, n_jobs=n_jobs, verbose=verbose)
    reference = "limit"
    if "limit_distance" in runs and runs.limit_distance.isna().all():
        reference = f"widest networks (width {widths[-1]})"
        runs = runs.drop(columns="limit_distance").merge(
            _distances(task, units, widths[-1]), how="left"
        )
    return _report(task, runs, width, tolerance, reference)


@dataclass(frozen=True)
class _Regime(Task):
    """How networks are trained and measured.

    Attributes
    ----------
    rows : ndarray of int
        Between which kernels are measured.
    epochs : tuple of int
        When.
    """

    rows: np.ndarray
    epochs: tuple[int, ...]

    def run(self, unit: Unit) -> Rows:
        """Train one network, and measure it as it goes."""
        Z = self.subject.targets(self.y)[self.rows]
        found: Rows = []
        start: list[Departure] = []

        def look(module: nn.Module, X: Tensor, when: dict[str, Any]) -> None:
            if not start:
                start.append(Departure(module, X[self.rows], Z))
            found.append({**unit, **when, **start[0].measure(module)})

        _, status = train_looking(self.network(unit), self.X, self.y, look, self.epochs)
        return [{**row, "status": status} for row in found or [{**unit, "epoch": 0}]]


def _distances(task: _Regime, units: list[Unit], widest: int) -> pd.DataFrame:
    """Distance of each kernel at initialization from the mean one of the widest networks."""
    kernels = []
    for unit in units:
        module, inputs = start_of(task.network(unit), task.X, task.y)
        kernels.append(full_kernel(module, inputs[task.rows]))
    of_widest = [K for K, unit in zip(kernels, units, strict=True) if unit["width"] == widest]
    mean = torch.stack(of_widest).mean(0)
    rows = [
        {**unit, "epoch": 0, "limit_distance": distance_of_shapes(K, mean)}
        for K, unit in zip(kernels, units, strict=True)
        if unit["width"] != widest
    ]
    return pd.DataFrame(rows)


def _report(
    task: _Regime, runs: pd.DataFrame, width: int, tolerance: float, reference: str
) -> KernelRegimeReport:
    """Average over seeds, fit the laws, and say what they mean."""
    good = runs[runs.status == "ok"]
    summary = _summary(runs, good)
    last = task.epochs[-1]
    after = good[good.epoch == last]
    laws = {q: law_of(after, q) for q in CRITERIA}
    none = estimate([])
    criteria = {q: by_width(after, q).get(width, none) for q in CRITERIA}
    inside: bool | None = None
    if any(c.low > tolerance for c in criteria.values()):
        inside = False
    elif all(c.high <= tolerance for c in criteria.values()):
        inside = True
    few = len(task.rows) < task.X.shape[0]
    kernels = f", kernels of {len(task.rows)}" if few else ""
    return KernelRegimeReport(
        runs=runs,
        summary=summary,
        verdict=regime_verdict(runs, criteria, laws, width, tolerance, inside, reference),
        title=f"{task.subject.describe()}; {task.X.shape[0]} rows{kernels}, "
        f"{runs.seed.nunique()} seeds",
        laws=_laws(good),
        width=width,
        tolerance=tolerance,
        in_kernel_regime=inside,
        width_needed=_needed(laws.values(), tolerance),
        reference=reference,
    )


def _needed(laws: Collection[PowerLaw], tolerance: float) -> float:
    """From which width on all laws are below the tolerance."""
    if not all(law.falls for law in laws):
        return math.nan
    return max(enough(law, tolerance) for law in laws)


def _summary(runs: pd.DataFrame, good: pd.DataFrame) -> pd.DataFrame:
    failed = runs[runs.status != "ok"].groupby("width").seed.nunique()
    rows = []
    for width, epoch in sorted(set(zip(runs.width, runs.epoch, strict=True))):
        at = good[(good.width == width) & (good.epoch == epoch)]
        for quantity in QUANTITIES:
            found = estimate(at[quantity].dropna() if quantity in at else [])
            rows.append((width, epoch, quantity, found.mean, found.standard_error, found.n))
    columns = ["width", "epoch", "quantity", "mean", "standard_error", "n_runs"]
    summary = pd.DataFrame(rows, columns=columns)
    return summary.assign(n_failed=summary.width.map(failed).fillna(0).astype(int))


def _laws(good: pd.DataFrame) -> pd.DataFrame:
    rows = []
    for quantity in QUANTITIES:
        for epoch, at in good.groupby("epoch"):
            law = law_of(at, quantity)
            rows.append((quantity, epoch, law.exponent, law.low, law.high))
    return pd.DataFrame(rows, columns=["quantity", "epoch", "exponent", "low", "high"])
