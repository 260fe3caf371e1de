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
from skntk.core import NotPositiveDefiniteError, require
from skntk.solvers import CholeskyFactor, cholesky

_TEST_BATCH = 1024
#: An eigenvalue that is zero, relative to the mean diagonal of the kernel.
_ZERO = 1e-11
#: Pivots of a kernel between stored rows that is far from singular, relative to the same.
_SAFE = 1e-6
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
    """Equations that belong together: outputs of rows of the task, and of stored rows.

    Attributes
    ----------
    shared : bool
        Whether outputs have one kernel: then each side is rows and the outputs that they all have,
        else row and output of each equation.
    new, old : tuple of Tensor of int
        The two sides.
    """

    shared: bool
    new: Equations
    old: Equations

    @classmethod
    def all(cls, shared: bool, known: Tensor, stored: Tensor) -> Iterator[_System]:
        """Split what rows know, bool (n, k), and stored rows, (m, k), into systems."""
        if not shared:
            new, old = known.nonzero(as_tuple=True), stored.nonzero(as_tuple=True)
            yield cls(shared, (new[0], new[1]), (old[0], old[1]))
            return
        columns = known.any(0).nonzero()[:, 0]
        patterns = torch.cat([known, stored])[:, columns]
        found, which = torch.unique(patterns, dim=1, return_inverse=True)
        for i, pattern in enumerate(found.unbind(1)):
            rows, old = (p.nonzero()[:, 0] for p in pattern.split([len(known), len(stored)]))
            at = columns[which == i]
            yield cls(shared, (rows, at), (old, at))

    def block(self, K: Tensor, left: Equations, right: Equations) -> Tensor:
        """Kernel between two sides."""
        if self.shared:
            return K[left[0]][:, right[0]]
        return K[left[0][:, None], right[0], left[1][:, None], right[1]]

    def read(self, values: Tensor, side: Equations) -> Tensor:
        """Numbers (n, k) as the system has them: a column for each output, or one."""
        if self.shared:
            return values[side[0]][:, side[1]]
        return values[side][:, None]

    def write(self, values: Tensor, side: Equations, found: Tensor) -> None:
        """Put numbers of the system where they belong."""
        if self.shared:
            values[side[0][:, None], side[1]] = found
        else:
            values[side] = found[:, 0]


@dataclass(frozen=True)
class _Span:
    """What lies in the span of stored rows, by the pseudoinverse of the kernel M between them.

    Rows that (nearly) repeat others must not be told from these by jitter: what that leaves of the
    kernel would be learnt, and stored outputs would move.

    Attributes
    ----------
    vectors : Tensor of shape (n, r)
        Eigenvectors of M.
    values : Tensor of shape (r,)
        Its eigenvalues that are not zero.
    """

    vectors: Tensor
    values: Tensor

    @classmethod
    def of(cls, M: Tensor) -> CholeskyFactor | _Span:
        """Decompose M; by its Cholesky factor, which is faster, where it is far from singular."""
        unit = float(M.diagonal().mean())
        try:
            factor = cholesky(M, 0.0)
        except NotPositiveDefiniteError:
            factor = None
        if factor is not None and not factor.jitter and float(factor.pivots.min()) > _SAFE * unit:
            return factor
        values, vectors = torch.linalg.eigh(M)
        good = values > max(_ZERO / 10 * unit, len(M) * torch.finfo(M.dtype).eps * unit)
        return cls(vectors[:, good], values[good])

    def half_solve(self, C: Tensor) -> Tensor:
        """Return H with H^T H = C^T M^+ C."""
        return (self.vectors.mT @ C) / self.values.sqrt()[:, None]

    def solve(self, B: Tensor) -> Tensor:
        """Return M^+ B."""
        return self.vectors @ ((self.vectors.mT @ B) / self.values[:, None])


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
        if self.training_time == 0:
            return  # the function stays what it is, so that no row is needed
        rows = TaskRows(rows.X, rows.Y.double())
        if self.method == "joint" and self._tasks:
            rows = self._tasks[0].rows + rows
            self._tasks, self._squared_distance = [], 0.0
        stored = self._chosen(rows, torch.Generator().manual_seed(seed))
        memory = self._memory(rows)
        self._require(rows, memory)
        start = self._kernel.function(rows.X)
        before = self._moved(rows.X) if self._tasks else torch.zeros_like(start)
        at_memory, residuals = self._moved(memory.X), rows.Y - start - before
        theta, cross, inner = (
            self._gram(*pair)
            for pair in ((rows.X, rows.X), (memory.X, rows.X), (memory.X, memory.X))
        )
        coef, back = torch.zeros_like(rows.Y), torch.zeros_like(memory.Y)
        for system in _System.all(self._kernel.shared, rows.known, memory.known):
            K = system.block(theta, system.new, system.new)
            unit = size = float(K.diagonal().mean())
            span, C = None, system.block(cross, system.old, system.new)
            R, n = system.read(residuals, system.new), int(rows.known.sum())
            if len(C):  # what is left of the kernel beside the stored rows
                M = system.block(inner, system.old, system.old)
                span = _Span.of(M)
                half = span.half_solve(C)
                K = K - half.mT @ half
                size = max(unit, float(M.diagonal().mean()))
            c = self._flow(K, R, n, self.alpha * unit, _ZERO * size, held=span is not None)
            system.write(coef, system.new, c)
            # |w + d|^2 = |w|^2 + 2 w d + |d|^2, where w d is in the function at the rows
            self._squared_distance += float((c * (K @ c)).sum())
            self._squared_distance += 2 * float((c * system.read(before, system.new)).sum())
            if span is not None:
                d = -span.solve(C @ c)
                system.write(back, system.old, d)
                self._squared_distance += 2 * float((d * system.read(at_memory, system.old)).sum())
        self._add_to_memory(back)
        self._tasks.append(_Learnt(rows, coef, stored))

    def _flow(
        self, K: Tensor, R: Tensor, n_targets: int, ridge: float, least: float, held: bool
    ) -> Tensor:
        """Coefficients after the training time: :math:`g(K) R`.

        Directions in which K is not above `least` are not learnt; if something is `held`, not even
        under a ridge, which would take what is left there for something to fit.
        """
        if math.isinf(self.training_time) and ridge > 100 * least:
            factor = cholesky(K, ridge)
            if not held or float(factor.pivots.min()) > 10 * ridge:
                return factor.solve(R)
        values, vectors = torch.linalg.eigh(K)
        # The loss is the mean over all targets of the task, of which this system has some.
        share = self._share(values.clamp_min(least), ridge, n_targets)
        return vectors @ ((share * (values > least))[:, None] * (vectors.mT @ R))

    def _share(self, values: Tensor, ridge: float, n_targets: int) -> Tensor:
        """What training makes of eigenvalues: :math:`g(s^2)`."""
        values = values + ridge
        return -torch.expm1(-values * (self.training_time / n_targets)) / values

    def _require(self, rows: TaskRows, memory: TaskRows) -> None:
        n, k = len(rows) + len(memory), 1 if self._kernel.shared else rows.Y.shape[1]
        require(
            3 * 8 * (n * k) ** 2,
            f"the kernel of {len(rows)} rows and {len(memory)} stored ones",
            "Pass fewer rows or a smaller memory_size.",
        )

    def _memory(self, rows: TaskRows) -> TaskRows:
        """Rows that are stored; the first argument is what they look like."""
        kept = [rows[:0]] + [t.rows[t.stored] for t in self._tasks]
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

    def _gram(self, X: Tensor, Y: Tensor) -> Tensor:
        """Kernel between rows, of which there may be none."""
        if len(X) and len(Y):
            return self._kernel.gram(X, Y)
        outputs = () if self._kernel.shared else (0, 0)
        return torch.zeros((len(X), len(Y), *outputs), dtype=torch.float64)

    def _moved(self, X: Tensor) -> Tensor:
        """What training has added to the function: (n, k)."""
        k = self._tasks[0].coef.shape[1] if self._tasks else 0
        total = torch.zeros(len(X), k, dtype=torch.float64)
        for task in self._tasks if len(X) else ():
            K = self._kernel.gram(X, task.rows.X)
            total += K @ task.coef if K.ndim == 2 else torch.einsum("mnpq,nq->mp", K, task.coef)
        return total

    def outputs(self, X: Tensor) -> Tensor:
        """Outputs of the trained function: (n, k)."""
        blocks = []
        for some in X.split(_TEST_BATCH):
            start = self._kernel.function(some)
            blocks.append(start + self._moved(some) if self._tasks else start)
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
        return lambda squares: self._share(squares, self.alpha * unit, n_targets)

    def kept(self) -> dict[str, int]:
        """All rows that were trained on, and the gradients that are stored."""
        rows = sum(len(t.rows) for t in self._tasks)
        stored = sum(int(t.rows.known[t.stored].sum()) for t in self._tasks)
        nbytes = sum(t.rows.nbytes + t.coef.nbytes + t.stored.nbytes for t in self._tasks)
        return {"rows": rows, "gradients": stored, "bytes": nbytes}
