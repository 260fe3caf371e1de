r"""Tasks in sequence in the kernel regime, where each has a closed form.

With a constant kernel :math:`\Theta` and squared loss, gradient flow on task t adds
:math:`\kappa(x, X_t) g(\kappa(X_t, X_t)) (y_t - f_{t-1}(X_t))`: :math:`\kappa` is :math:`\Theta`
for plain training, and for orthogonal gradient descent what is left of it beside the stored rows M,
:math:`\kappa = \Theta - \Theta_{\cdot M} \Theta_{MM}^{-1} \Theta_{M \cdot}` (Bennani, Doan &
Sugiyama 2020, theorem 1; Doan et al. 2021). Training to convergence is
:math:`g(\kappa) = \kappa^{-1}`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from skntk.continual.overlap import Share
from skntk.continual.rules import rows_that_fit
from skntk.continual.tasks import TaskRows
from skntk.core import require
from skntk.solvers import Spectral, cholesky

_TEST_BATCH = 1024
#: Rows and outputs: of a shared kernel all pairs of them, else pair by pair.
Equations = tuple[Tensor, Tensor]


class TaskKernel(Protocol):
    """The kernel of a network, and its function at the start."""

    #: Whether the outputs have one kernel, and do not interact.
    shared: bool

    def gram(self, X: Tensor, Y: Tensor) -> Tensor:
        """Kernel between rows: (n, m), or (n, m, k, k) unless it is shared."""

    def function(self, X: Tensor) -> Tensor:
        """Outputs before any training, in float64: (n, k)."""

    def grow(self, X: Tensor, n_new: int, seed: int) -> None:
        """Add outputs."""


@dataclass(frozen=True)
class _Learnt:
    """A task: its rows, their coefficients (n, k), and which rows are stored."""

    rows: TaskRows
    coef: Tensor
    stored: Tensor


@dataclass(frozen=True)
class _System:
    """Equations that belong together: outputs of rows of the task, and of stored rows."""

    new: Equations
    old: Equations


class KernelLearner:
    r"""Learns tasks by their closed forms.

    Parameters
    ----------
    kernel : TaskKernel
        Of the network.
    method : {"sgd", "ogd", "joint"}
        Plain sequential training, orthogonal gradient descent, or all rows so far at once.
    memory_size : int or None
        Gradients of each task that are stored by "ogd": rows times outputs.
    alpha : float
        Ridge, relative to the mean diagonal of the kernel.
    training_time : float
        Of gradient flow on :math:`1/(2 n k) \sum (f - y)^2`; may be infinite.
    """

    #: Nothing is trained by steps.
    losses: Sequence[list[float]] = ()
    rates: Sequence[float] = ()

    def __init__(
        self,
        kernel: TaskKernel,
        method: str,
        memory_size: int | None,
        alpha: float,
        training_time: float,
    ) -> None:
        self._kernel, self.method, self.memory_size = kernel, method, memory_size
        self.alpha, self.training_time = alpha, training_time
        self._tasks: list[_Learnt] = []
        self._squared_distance = 0.0

    def grow(self, X: Tensor, n_new: int, seed: int, fill: float) -> None:
        """Add outputs, with `fill` for the targets of rows that are kept."""
        self._kernel.grow(X, n_new, seed)
        self._tasks = [
            replace(
                t,
                rows=t.rows.grown(n_new, math.nan if self.method == "ogd" else fill),
                coef=F.pad(t.coef, (0, n_new)),
            )
            for t in self._tasks
        ]

    def learn(self, rows: TaskRows, seed: int) -> None:
        """Solve for a task.

        Raises
        ------
        MemoryBudgetError
            If a kernel matrix does not fit in memory.
        """
        rows = TaskRows(rows.X, rows.Y.double())
        if self.method == "joint" and self._tasks:
            rows = self._tasks[0].rows + rows
            self._tasks, self._squared_distance = [], 0.0
        stored = self._chosen(rows, torch.Generator().manual_seed(seed))
        memory, before = self._memory(), self._moved(rows.X)
        f = self._kernel.function(rows.X) + before
        self._require(rows, memory)
        theta = self._kernel.gram(rows.X, rows.X)
        cross = inner = None
        moved_memory = torch.zeros(0, rows.Y.shape[1], dtype=torch.float64)
        if memory is not None:
            cross, inner = (
                self._kernel.gram(memory.X, rows.X),
                self._kernel.gram(memory.X, memory.X),
            )
            moved_memory = self._moved(memory.X)
        residual = rows.Y - f
        coef = torch.zeros_like(rows.Y)
        back = torch.zeros_like(moved_memory)
        for system in self._systems(rows, memory):
            K = self._block(theta, system.new, system.new)
            R = self._targets(residual, system.new)
            unit = K.diagonal().mean()
            floor = len(K) * torch.finfo(K.dtype).eps
            solved = None
            if cross is not None and inner is not None and len(system.old[0]):
                C = self._block(cross, system.old, system.new)
                M = cholesky(self._block(inner, system.old, system.old), 0.0, overwrite=True)
                half = M.half_solve(C)
                K = K - half.mT @ half
                solved = (M, C)
            K.diagonal().add_(floor * unit)
            c = self._flow(K, R, self.alpha * float(unit), int(rows.known.sum()))
            self._put(coef, system.new, c)
            self._squared_distance += float((c * (K @ c)).sum())
            self._squared_distance += 2 * float((c * self._targets(before, system.new)).sum())
            if solved is not None:
                d = -solved[0].solve(solved[1] @ c)
                self._put(back, system.old, d)
                self._squared_distance += 2 * float(
                    (d * self._targets(moved_memory, system.old)).sum()
                )
        self._add_to_memory(back)
        self._tasks.append(_Learnt(rows, coef, stored))

    def _flow(self, K: Tensor, R: Tensor, ridge: float, n_targets: int) -> Tensor:
        """Coefficients after the training time: :math:`g(K) R`."""
        if math.isinf(self.training_time):
            return cholesky(K, ridge).solve(R)
        # The loss is the mean over all targets of the task, of which this system has some.
        time = self.training_time * len(K) / n_targets
        return Spectral.from_gram(K).time_coefficients(R, [time], ridge, 1)[0]

    def _systems(self, rows: TaskRows, memory: TaskRows | None) -> Iterator[_System]:
        """Outputs that share a system of equations."""
        known = rows.known
        stored = known.new_zeros(0, known.shape[1]) if memory is None else memory.known
        if not self._kernel.shared:
            new, old = known.nonzero(as_tuple=True), stored.nonzero(as_tuple=True)
            yield _System(new, old)  # type: ignore[arg-type]
            return
        patterns = torch.cat([known, stored])
        columns = known.any(0).nonzero()[:, 0]
        found, which = torch.unique(patterns[:, columns], dim=1, return_inverse=True)
        for i in range(found.shape[1]):
            at = columns[which == i]
            yield _System(
                (found[: len(known), i].nonzero()[:, 0], at),
                (found[len(known) :, i].nonzero()[:, 0], at),
            )

    def _block(self, K: Tensor, left: Equations, right: Equations) -> Tensor:
        """Kernel between the equations of two sides."""
        if self._kernel.shared:
            return K[left[0]][:, right[0]]
        return K[left[0][:, None], right[0], left[1][:, None], right[1]]

    def _targets(self, values: Tensor, at: Equations) -> Tensor:
        """Numbers (n, k) of the equations: one column an output, or one column."""
        if self._kernel.shared:
            return values[at[0]][:, at[1]]
        return values[at][:, None]

    def _put(self, values: Tensor, at: Equations, found: Tensor) -> None:
        """Write numbers of the equations back."""
        if self._kernel.shared:
            values[at[0][:, None], at[1]] = found
        else:
            values[at] = found[:, 0]

    def _require(self, rows: TaskRows, memory: TaskRows | None) -> None:
        n = len(rows) + (0 if memory is None else len(memory))
        k = 1 if self._kernel.shared else rows.Y.shape[1]
        require(
            3 * 8 * (n * k) ** 2,
            f"the kernel of {len(rows)} rows and {n - len(rows)} stored ones",
            "Pass fewer rows or a smaller memory_size.",
        )

    def _memory(self) -> TaskRows | None:
        """Rows that are stored."""
        if self.method != "ogd" or not any(len(t.stored) for t in self._tasks):
            return None
        kept = [t.rows[t.stored] for t in self._tasks]
        return TaskRows(torch.cat([k.X for k in kept]), torch.cat([k.Y for k in kept]))

    def _add_to_memory(self, back: Tensor) -> None:
        """Add coefficients to those of the stored rows."""
        if len(back):
            pieces = back.split([len(t.stored) for t in self._tasks])
            self._tasks = [
                replace(t, coef=t.coef.index_add(0, t.stored, piece))
                for t, piece in zip(self._tasks, pieces, strict=True)
            ]

    def _chosen(self, rows: TaskRows, generator: torch.Generator) -> Tensor:
        """Random rows to store."""
        if self.method != "ogd":
            return torch.zeros(0, dtype=torch.long)
        count = rows_that_fit(rows, self.memory_size, labels=False)
        return torch.randperm(len(rows), generator=generator)[:count].sort().values

    def _moved(self, X: Tensor) -> Tensor:
        """What training has added to the function: (n, k)."""
        total = torch.zeros(len(X), 0, dtype=torch.float64)
        for task in self._tasks:
            K = self._kernel.gram(X, task.rows.X)
            part = K @ task.coef if K.ndim == 2 else torch.einsum("mnpq,nq->mp", K, task.coef)
            total = part if total.shape[1] == 0 else total + part
        if total.shape[1] == 0:
            return torch.zeros_like(self._kernel.function(X))
        return total

    def outputs(self, X: Tensor) -> Tensor:
        """Outputs of the trained function: (n, k)."""
        blocks = [self._kernel.function(some) + self._moved(some) for some in X.split(_TEST_BATCH)]
        return torch.cat(blocks)

    def distance(self) -> float:
        """Norm of what training has added to the function: how far the weights have moved."""
        return max(self._squared_distance, 0.0) ** 0.5

    def kernel(self, outputs: str) -> TaskKernel:
        """Return the kernel in use."""
        return self._kernel

    def learnt_share(self, task: int, n_targets: int, unit: float) -> Share:
        """Return :math:`g(s^2)`.

        Parameters
        ----------
        task : int
            Which task; not used.
        n_targets : int
            Numbers that the mean squared error is over.
        unit : float
            Mean diagonal of the kernel.
        """
        ridge, time = self.alpha * unit, self.training_time / n_targets
        return lambda squares: -torch.expm1(-(squares + ridge) * time) / (squares + ridge)

    def kept(self) -> dict[str, int]:
        """All rows that were trained on, and the gradients that are stored."""
        rows = sum(len(t.rows) for t in self._tasks)
        stored = sum(int(t.rows.known[t.stored].sum()) for t in self._tasks)
        nbytes = sum(t.rows.nbytes + t.coef.nbytes + t.stored.nbytes for t in self._tasks)
        return {"rows": rows, "gradients": stored, "bytes": nbytes}
