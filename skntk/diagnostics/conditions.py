"""`natural_gradient_conditions`: when the natural gradient is promised to be fast."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd
from torch import Tensor, nn

from skntk.diagnostics.conditions_path import ConditionsPath
from skntk.diagnostics.conditions_verdict import conditions_verdict
from skntk.diagnostics.fingerprint import content_hash
from skntk.diagnostics.laws import estimate
from skntk.diagnostics.recording import spread_epochs, train_looking
from skntk.diagnostics.report import Report
from skntk.diagnostics.runs import Rows, Task, Unit
from skntk.diagnostics.spectrum import SOLVERS
from skntk.diagnostics.subject import Subject, check_count

if TYPE_CHECKING:
    from skntk.diagnostics.displays import NaturalGradientDisplay

#: Below this part of the first squared residual, rounding decides what a step does.
FLOOR = 1e-20
#: What an optimizer may be told, and what each is told unless it says otherwise.
_PARAMETERS: dict[str, Any] = {
    "learning_rate": "auto",
    "momentum": 0.0,
    "damping": "auto",
    "batch_size": "auto",
    "weight_decay": 0.0,
    "callbacks": None,
}
#: Optimizers that are known by name. The natural gradient is the one that the theorem is about;
#: its step is admissible for C up to 0.29.
OPTIMIZERS: dict[str, dict[str, Any]] = {
    "gd": {"optimizer": "gd"},
    "sgd": {"optimizer": "sgd"},
    "adam": {"optimizer": "adam"},
    "natural_gradient": {"optimizer": "natural_gradient", "damping": 0.0, "learning_rate": 0.2},
    "kfac": {"optimizer": "kfac"},
}


#: Columns of runs, whether something was measured or not.
_COLUMNS = (
    "width",
    "optimizer",
    "seed",
    "epoch",
    "step",
    "status",
    "smallest_eigenvalue",
    "singular",
    "c_prime",
    "distance",
    "radius",
    "residual",
    "train_loss",
    "learning_rate",
    "promised",
)


@dataclass(frozen=True, repr=False, eq=False)
class NaturalGradientReport(Report):
    r"""What `natural_gradient_conditions` returns.

    Attributes
    ----------
    runs : DataFrame
        One row for each run and epoch: ``width`` (None for a module as it stands), ``optimizer,
        seed, epoch, step, status``; ``smallest_eigenvalue`` of :math:`J_0 J_0^T`, 0 where it is
        ``singular``; ``c_prime``; ``distance`` of the parameters from their start in units of the
        ``radius``; ``residual``, the squared one over that at the start; ``learning_rate``.
    summary : DataFrame
        One row for each width and optimizer: means and standard errors of the smallest eigenvalue
        and of the largest ``c_prime`` that a run meets in the ball after its start; ``n_singular``,
        ``n_refuted`` of ``n_runs``, ``n_failed``; ``learning_rate``, and ``admissible_step`` for
        the mean ``c_prime``, NaN where that or a run refutes; ``observed_factor``, by which the
        squared residual shrank a step; and for the natural gradient of the theorem (undamped, on
        all rows, of one step size up to 1, without momentum or weight decay) ``promised_factor``,
        ``n_kept``, runs that kept the promise at each step that was looked at, and ``kept``,
        whether all did.
    verdict : str
        What it says, in words.
    title : str
        What was examined.
    refuted : bool
        Whether in each run at least one optimizer's path refutes the conditions. False does not
        mean that they hold.
    """

    refuted: bool

    def plot(self) -> NaturalGradientDisplay:
        """Draw the report.

        Returns
        -------
        NaturalGradientDisplay
        """
        from skntk.diagnostics.displays import NaturalGradientDisplay

        return NaturalGradientDisplay(self).plot()


def natural_gradient_conditions(
    module: Any,
    X: Any,
    y: Any,
    *,
    optimizers: Sequence[str] | Mapping[str, Mapping[str, Any]] = (
        "gd",
        "adam",
        "natural_gradient",
        "kfac",
    ),
    widths: Sequence[int] | None = None,
    n_seeds: int = 3,
    n_times: int = 6,
    solver: str = "auto",
    tol: float = 1e-10,
    cache_dir: str | Path | None = None,
    n_jobs: int | None = None,
    random_state: int = 0,
    verbose: int = 0,
    **module__params: Any,
) -> NaturalGradientReport:
    r"""Follow the conditions under which natural gradient descent is promised to be fast.

    Zhang, Martens & Grosse (2019, theorem 1): let the Jacobian :math:`J_0` of the outputs at all
    training rows have full row rank (condition 1), and let there be :math:`C < 1/2` with
    :math:`\|J(w) - J_0\|_2 \le \frac C3 \sqrt{\lambda_{\min}(J_0 J_0^T)}` for all w in the ball
    :math:`\|w - w_0\| \le 3 \|y - f_0\| / \sqrt{\lambda_{\min}}` (condition 2). Then the undamped
    natural gradient with a step :math:`\eta \le (1 - 2C) / (1 + C)^2` has
    :math:`\|f_k - y\|^2 \le (1 - \eta)^k \|f_0 - y\|^2`.

    Measured is :math:`C' = 3 \|J(w) - J_0\|_2 / \sqrt{\lambda_{\min}}` along training. A path
    samples the ball: where :math:`C' \ge 1/2` at a point of it, condition 2 is refuted; that it
    holds no path can prove. Nor does training fail where the conditions do: they are sufficient,
    not necessary.

    All training is in float64 and on squared loss, since that is what the theorem is about; a
    classifier's targets are the indicators of the classes.

    Parameters
    ----------
    module : NetworkRegressor, NetworkClassifier, Pipeline or torch.nn.Module
        The network: an estimator, a pipeline that ends in one, or a module (class or instance),
        which gets an estimator's defaults (a regressor's if `y` are floating point numbers). What
        the estimator says of the optimizer, its rates, batches, weight decay and callbacks, is not
        used. An instance keeps its weights, so that seeds differ in their batches alone.
    X : array-like of shape (n, d) or (n, ...)
        Training rows, all of which count.
    y : array-like of shape (n,) or (n, k)
        Targets.
    optimizers : sequence of str, or dict of str to dict
        Names among "gd", "sgd", "adam", "natural_gradient" (undamped, of step 0.2) and "kfac"; or
        names of your own, each with the estimator's `optimizer` and, where they differ from an
        estimator's defaults, `learning_rate`, `momentum`, `damping`, `batch_size`, `weight_decay`
        and `callbacks`. So ``{"damped": {"optimizer": "natural_gradient"}}`` is damped, unlike
        the name "natural_gradient".
    widths : sequence of int, optional
        By default the estimator's own, or the module as it stands.
    n_seeds : int, default=3
        Networks of each width.
    n_times : int, default=6
        Epochs at which the conditions are looked at, the first and the last included, at least 2.
    solver : {"auto", "dense", "lanczos"}, default="auto"
        How eigenvalues and norms are found: from kernel matrices of n k rows and columns, which
        "auto" does where they fit in half of the memory at hand, or by Lanczos on products with
        the Jacobian. The Jacobian itself is formed in neither case.
    tol : float, default=1e-10
        Relative error of eigenvalues at which Lanczos stops. Its :math:`C'` is never too large.
    cache_dir : str or Path, optional
        Folder in which finished runs are kept; a report that was interrupted goes on there.
    n_jobs : int, optional
        Processes of joblib, each for one run; by default one run after the other.
    random_state : int, default=0
        For weights and batches.
    verbose : int, default=0
        1 shows progress.
    **module__params
        ``module__*``: arguments of a module class.

    Returns
    -------
    NaturalGradientReport

    Raises
    ------
    TypeError
        If `module` is something else.
    ValueError
        If an argument is out of its range; if the network has a BatchNorm, which couples rows in
        training.
    RuntimeError
        If Lanczos does not find the smallest eigenvalue.

    Notes
    -----
    A singular :math:`J_0 J_0^T` refutes condition 1: ``smallest_eigenvalue`` is 0 then, and
    ``c_prime`` infinite. A run that diverges, or is stopped by a callback, has its status in
    ``runs``; what was measured before that is part of its path and counts, its rate does not.

    References
    ----------
    Zhang, Martens & Grosse (2019), "Fast convergence of natural gradient descent for
    overparameterized neural networks", conditions 1 and 2 and theorem 1; Wenger, Dangel &
    Kristiadi (2023), "On the disconnect between theory and practice of neural networks".

    Examples
    --------
    >>> import numpy as np
    >>> from skntk import NetworkRegressor
    >>> from skntk.diagnostics import natural_gradient_conditions
    >>> rng = np.random.default_rng(0)
    >>> X, y = rng.standard_normal((6, 5)), rng.standard_normal(6)
    >>> net = NetworkRegressor(depth=1, width=64, activation="erf", max_epochs=20)
    >>> report = natural_gradient_conditions(net, X, y, optimizers=["natural_gradient"], n_seeds=2)
    >>> report.refuted
    True
    >>> bool(report.summary.kept.all())  # it may be fast all the same
    True
    """
    subject = Subject.of(module, y, module__params)
    chosen, sizes = _optimizers(optimizers), subject.sizes(widths)
    n_seeds, n_times = check_count("n_seeds", n_seeds, 1), check_count("n_times", n_times, 2)
    random_state = check_count("random_state", random_state, 0)
    if solver not in SOLVERS:
        raise ValueError(f"solver={solver!r} must be one of {SOLVERS}.")
    if not (isinstance(tol, Real) and 0 <= tol < 1):
        raise ValueError(f"tol={tol!r} must be in [0, 1).")
    X, y = subject.checked(X, y)
    (X,), subject = subject.prepared(X, y), subject.behind()
    epochs = spread_epochs(subject.network.max_epochs, n_times)
    task = _Conditions(subject, X, y, random_state, chosen, epochs, solver, tol)
    units = [
        {"width": w, "optimizer": name, "seed": s}
        for w in sizes
        for s in range(n_seeds)
        for name in chosen
    ]
    runs = task.runs(units, cache_dir=cache_dir, n_jobs=n_jobs, verbose=verbose)
    runs = runs.reindex(columns=list(dict.fromkeys([*_COLUMNS, *runs.columns])))
    summary = _summary(runs, sizes, list(chosen))
    refuted = _refuted(runs).groupby([runs.width.fillna(0), runs.seed]).any()
    return NaturalGradientReport(
        runs=runs,
        summary=summary,
        verdict=conditions_verdict(summary),
        title=f"{subject.describe(trained=False)}; {X.shape[0]} rows, {n_seeds} seeds",
        refuted=bool(refuted.all()),
    )


@dataclass(frozen=True)
class _Conditions(Task):
    """How networks are trained and followed.

    Attributes
    ----------
    optimizers : dict of str to dict
        Parameters of the estimator for each.
    epochs : tuple of int
        When the conditions are looked at.
    solver, tol
        As of `natural_gradient_conditions`.
    """

    optimizers: dict[str, dict[str, Any]]
    epochs: tuple[int, ...]
    solver: str
    tol: float
    of_units: ClassVar[frozenset[str]] = frozenset({"optimizers"})

    def key(self, unit: Unit) -> str:
        """What a run depends on beside the study: its own optimizer, not the others."""
        return content_hash([unit, self.optimizers[unit["optimizer"]]])

    def run(self, unit: Unit) -> Rows:
        """Train one network by one optimizer, and follow the conditions."""
        params = {**self.optimizers[unit["optimizer"]], "dtype": "float64"}
        if self.subject.classifies:
            params["loss"] = "squared"
        network = self.network(unit, **params)
        Z = self.subject.targets(self.y)
        found: Rows = []
        paths: list[ConditionsPath] = []

        def look(module: nn.Module, X: Tensor, when: dict[str, Any]) -> None:
            if not paths:
                paths.append(ConditionsPath(module, X, Z, network.centered, self.solver, self.tol))
            found.append({**unit, **when, **paths[0].at(module)})

        network, status = train_looking(network, self.X, self.y, look, self.epochs)
        common: dict[str, Any] = {"status": status, "learning_rate": math.nan}
        common["promised"] = _is_promised(self.optimizers[unit["optimizer"]], len(Z))
        if status == "ok":
            common["learning_rate"] = float(network.net_.lr)
        return [{**row, **common} for row in found or [{**unit, "epoch": 0, "step": 0}]]


def _is_promised(params: dict[str, Any], n: int) -> bool:
    """Whether the theorem is about an optimizer."""
    rate, size = params["learning_rate"], params["batch_size"]
    return (
        params["optimizer"] == "natural_gradient"
        and params["damping"] == params["momentum"] == params["weight_decay"] == 0
        and not params["callbacks"]
        and (size == "auto" or size >= n)
        and rate != "auto"
        and 0 < rate <= 1
    )


def _optimizers(optimizers: Any) -> dict[str, dict[str, Any]]:
    """Parameters of the estimator for each optimizer, by name."""
    if isinstance(optimizers, Mapping):
        chosen = {str(name): params for name, params in optimizers.items()}
    else:
        if not isinstance(optimizers, (str, Iterable)):
            raise TypeError(f"optimizers={optimizers!r} must be names, or a dict.")
        names = [optimizers] if isinstance(optimizers, str) else list(optimizers)
        if unknown := [name for name in names if name not in OPTIMIZERS]:
            raise ValueError(
                f"optimizers has {unknown}; allowed are {sorted(OPTIMIZERS)}, or a dict from names "
                "of your own to parameters of the estimator."
            )
        chosen = {name: OPTIMIZERS[name] for name in names}
    if not chosen:
        raise ValueError(f"optimizers={optimizers!r} must hold at least one.")
    for name, params in chosen.items():
        known = {"optimizer", *_PARAMETERS}
        if not isinstance(params, Mapping) or not {"optimizer"} <= set(params) <= known:
            raise ValueError(
                f"optimizers[{name!r}]={params!r} must be a dict with 'optimizer', which may have "
                f"{sorted(_PARAMETERS)}; other parameters belong to the estimator, for they are "
                "those of all optimizers."
            )
    return {name: {**_PARAMETERS, **params} for name, params in chosen.items()}


def _refuted(runs: pd.DataFrame) -> pd.Series:
    """Whether a row refutes a condition: rows that measured nothing do not."""
    return runs.singular.eq(True) | ((runs.distance <= 1) & (runs.c_prime >= 0.5))


def _summary(
    runs: pd.DataFrame, sizes: Sequence[int | None], optimizers: Sequence[str]
) -> pd.DataFrame:
    rows = []
    for width in sizes:
        of_width = runs[runs.width.isna()] if width is None else runs[runs.width == width]
        for name in optimizers:
            found = of_width[of_width.optimizer == name]
            rows.append({"width": width, "optimizer": name, **_summarized(found)})
    return pd.DataFrame(rows)


def _summarized(found: pd.DataFrame) -> dict[str, Any]:
    """One row of the summary, from all rows of one width and optimizer."""
    by_run = found.groupby("seed")
    statuses = by_run.status.first()
    smallest = estimate(by_run.smallest_eigenvalue.first().dropna())
    on_path = found[(found.distance <= 1) & (found.singular.eq(True) | (found.epoch > 0))]
    c = estimate(on_path.groupby("seed").c_prime.max())
    good = found[found.status == "ok"]
    row: dict[str, Any] = {
        "n_runs": len(statuses),
        "n_failed": int((statuses != "ok").sum()),
        "n_singular": int(by_run.singular.first().eq(True).sum()),
        "n_refuted": int(_refuted(found).groupby(found.seed).any().sum()),
        "smallest_eigenvalue": smallest.mean,
        "smallest_eigenvalue_error": smallest.standard_error,
        "c_prime": c.mean,
        "c_prime_error": c.standard_error,
        "learning_rate": good.learning_rate.mean(),
        "admissible_step": math.nan,
        "observed_factor": math.nan,
        "promised_factor": math.nan,
        "n_kept": math.nan,
        "kept": None,
    }
    if c.mean < 0.5 and not row["n_refuted"]:
        row["admissible_step"] = (1 - 2 * c.mean) / (1 + c.mean) ** 2
    factors, n_kept = [], 0
    for _, run in good.groupby("seed"):
        later = run[(run.step > 0) & (run.residual > FLOOR)]
        if len(later):
            last = later.iloc[-1]
            factors.append(last.residual ** (1 / last.step))
        bound = (1 - run.learning_rate) ** run.step
        n_kept += bool((run.residual <= np.maximum(bound * (1 + 1e-6), FLOOR)).all())
    if factors:
        row["observed_factor"] = float(np.mean(factors))
    if found.promised.all():
        row |= {"n_kept": n_kept, "kept": n_kept == len(statuses)}
        row["promised_factor"] = 1 - row["learning_rate"]
    return row
