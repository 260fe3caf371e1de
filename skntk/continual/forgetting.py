"""`forgetting_report`: the forgetting that kernel theory predicts, beside what is observed."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from skntk.continual.base import ContinualEstimator
from skntk.continual.overlap import TaskSpectrum, mean_squared_cosine
from skntk.continual.report import Task, check_stream, first_call, seeded_clone
from skntk.continual.tasks import TaskRows
from skntk.core import require

_COLUMNS = (
    "predicted drift", "observed drift", "relative error", "predicted forgetting",
    "observed forgetting",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class ForgettingReport:
    """What the NTK overlap of T tasks predicts, and what plain training did.

    Attributes
    ----------
    tasks : list
        Names of the tasks.
    overlap : ndarray of shape (T, T)
        Mean squared cosine of the principal angles between two tasks, from 0 to 1.
    table : pandas.DataFrame
        For each task but the last, at its training rows: the root mean square of the drift of the
        outputs since it was learnt, and the increase of its loss (mean of half the squared error);
        predicted and observed, in the units of the network's outputs: a regressor's are scaled
        targets. The relative error is the root mean square of the difference of
        predicted and observed drift, over that of the observed one.
    estimator : ContinualNTK or ContinualNTKRegressor
        After the last task.
    """

    tasks: list[Hashable]
    overlap: np.ndarray = field(repr=False)
    table: pd.DataFrame = field(repr=False)
    estimator: ContinualEstimator = field(repr=False)

    @property
    def predicted(self) -> np.ndarray:
        """Predicted increases of the loss: (T - 1,)."""
        return self.table["predicted forgetting"].to_numpy()

    @property
    def observed(self) -> np.ndarray:
        """Observed increases of the loss: (T - 1,)."""
        return self.table["observed forgetting"].to_numpy()


def forgetting_report(
    estimator: ContinualEstimator, tasks: Sequence[Task], *, n_components: int | None = None
) -> ForgettingReport:
    r"""Predict forgetting by the NTK overlap of tasks, and compare with what training does.

    The prediction is that of a constant kernel, the network's at its start, on squared loss: a task
    that is learnt moves the outputs at earlier rows along the overlap of both (`ntk_overlap`), by
    its residuals before, as far as its training goes. It is exact for models that are linear in
    their parameters, such as ``regime="linearized"`` or ``depth=0``, trained on all rows at once
    (``batch_size=None``); what is between it and a network is feature learning.

    Parameters
    ----------
    estimator : ContinualNTK or ContinualNTKRegressor
        With ``method="sgd"`` and squared loss; a clone of it learns. Its parameter `outputs` says
        which kernel is meant: "full" is that of training, "trace" takes outputs for independent.
    tasks : sequence of skntk.datasets.StreamTask
        The stream; test rows are not used.
    n_components : int, optional
        Leading directions of each task that enter; by default all, which is exact.

    Returns
    -------
    ForgettingReport

    Raises
    ------
    ValueError
        If the method or the loss is another; if heads are of one network, and the kernel does not
        know of it.
    MemoryBudgetError
        If the kernels between all tasks do not fit in memory.

    References
    ----------
    Doan et al. (2021), "A theoretical analysis of catastrophic forgetting through the NTK overlap
    matrix", theorem 1.

    Examples
    --------
    >>> from skntk import ContinualNTKRegressor
    >>> from skntk.continual import forgetting_report
    >>> from skntk.datasets import drifting_tasks
    >>> tasks = drifting_tasks("diabetes", n_tasks=3, random_state=0)
    >>> linear = ContinualNTKRegressor("sgd", depth=0, momentum=0.0, batch_size=None,
    ...                                dtype="float64", random_state=0)
    >>> report = forgetting_report(linear, tasks)
    >>> bool((report.table["relative error"] < 1e-8).all())
    True
    """
    tasks = list(tasks)
    names = check_stream(estimator, tasks)
    model = seeded_clone(estimator)
    if model.method != "sgd" or (not model._closed and model._loss != "squared"):
        loss = f" and loss={model.loss!r}" if hasattr(model, "loss") else ""
        wanted = " and loss='squared'" if loss else ""
        raise ValueError(
            f"method={model.method!r}{loss}: the prediction is that of plain training on squared "
            f"loss; pass method='sgd'{wanted}."
        )
    if model.heads == "multi" and model.outputs == "trace" and not model._closed:
        raise ValueError(
            "outputs='trace' takes the outputs of different heads for independent, and would "
            "predict that heads='multi' forgets nothing; pass outputs='full'."
        )
    seen = []
    for i, task in enumerate(tasks):
        encoded = model._encoded(task.X, task.y, task.name, **first_call(model, tasks, i))
        rows = TaskRows(encoded[0], encoded[1].double())
        _, learner = model._prepared(rows.X, encoded[2])
        before = learner.outputs(rows.X)
        model._take(*encoded)
        seen.append(_Seen(rows, before, model._learnt.learner.outputs(rows.X)))
    return _compared(model, names, seen, n_components)


@dataclass(frozen=True)
class _Seen:
    """A task's rows, and the outputs (n, k) there before and after it was learnt."""

    rows: TaskRows
    before: Tensor
    after: Tensor

    def equations(self, shared: bool, values: Tensor) -> Tensor:
        """Numbers (n, k'), k' >= k now, as the kernel sees them; 0 where they do not belong."""
        values = values[:, : self.rows.Y.shape[1]]
        if shared:
            return torch.where(self.rows.known, values, 0.0)
        return values[self.rows.known][:, None]


def _compared(
    model: ContinualEstimator, names: list[Hashable], seen: list[_Seen], n_components: int | None
) -> ForgettingReport:
    """Predict from kernels and residuals, and put what was observed beside it."""
    learner, T = model._learnt.learner, len(seen)
    kernel = learner.kernel(model.outputs)
    k = 1 if kernel.shared else model._learnt.heads.n_outputs
    sizes = sorted((len(s.rows) * k for s in seen), reverse=True)
    require(
        8 * (sum(n * n for n in sizes) + 4 * sizes[0] ** 2),
        f"the kernels between the rows of {T} tasks",
        "Pass fewer rows of each task, or outputs='trace'.",
    )

    def gram(a: _Seen, b: _Seen) -> Tensor:
        K = kernel.gram(a.rows.X, b.rows.X).double()
        if kernel.shared:
            return K
        (i, p), (j, q) = (s.rows.known.nonzero(as_tuple=True) for s in (a, b))
        return K[i[:, None], j, p[:, None], q]

    spectra, shares = [], []
    for t, task in enumerate(seen):
        K = gram(task, task)
        spectra.append(TaskSpectrum.of(K, n_components))
        unit = float(K.diagonal().mean())
        shares.append(learner.learnt_share(t, int(task.rows.known.sum()), unit))
    overlap = np.eye(T)
    records = []
    for s, task in enumerate(seen):
        drift = torch.zeros_like(task.equations(kernel.shared, task.after))
        for t in range(s + 1, T):
            later = seen[t]
            common = spectra[s].overlap(spectra[t], gram(task, later))
            overlap[s, t] = overlap[t, s] = mean_squared_cosine(common)
            residuals = later.equations(kernel.shared, later.rows.Y - later.before)
            moved = spectra[s].drift(spectra[t], common, residuals, shares[t])
            drift += _restricted(moved, task, later, kernel.shared)
        if s < T - 1:
            now = learner.outputs(task.rows.X)
            records.append(_record(task, drift, now, kernel.shared))
    table = pd.DataFrame(records, pd.Index(names[:-1], name="task", tupleize_cols=False), _COLUMNS)
    return ForgettingReport(names, overlap, table, model)


def _restricted(moved: Tensor, task: _Seen, later: _Seen, shared: bool) -> Tensor:
    """Drift of the outputs that belong to a task, by one that may have others."""
    if not shared:
        return moved
    k = task.rows.Y.shape[1]
    return torch.where(task.rows.known, moved[:, :k], 0.0)


def _record(task: _Seen, drift: Tensor, now: Tensor, shared: bool) -> tuple[float, ...]:
    """One line of the table."""
    observed = task.equations(shared, now) - task.equations(shared, task.after)
    residuals = task.equations(shared, task.rows.Y - task.after)
    n = int(task.rows.known.sum())

    def size(D: Tensor) -> float:
        return float(D.square().sum() / n) ** 0.5

    scale = size(task.equations(shared, task.after)) or 1.0  # below it all is rounding

    def forgetting(D: Tensor) -> float:
        return 0.5 * float((D.square() - 2 * residuals * D).sum()) / n

    error = size(drift - observed) / max(size(observed), 1e-12 * scale)
    return size(drift), size(observed), error, forgetting(drift), forgetting(observed)
