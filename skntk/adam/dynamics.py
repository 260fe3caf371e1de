r"""Training in the limit: residuals to gradients of all features, and back to the function.

With residuals :math:`r_t = \partial \mathrm{loss} / \partial f` and features :math:`\psi`, each
feature's gradient is :math:`g_t(\omega) = \sum_{ic} r_t(i, c) \psi_c(x_i; \omega)`; the rule turns
gradients into weights w, and :math:`f_{t,c}(x) = \sum_\theta E_\omega[w_t(\omega)
\psi_c(x; \omega)]` (Sernau 2024; Yang & Littwin 2023).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from skntk.adam.blocks import REPLICAS, Blocks
from skntk.adam.features import Chunk
from skntk.adam.losses import Loss
from skntk.adam.rule import AdamRule, Moments
from skntk.core import TrainingDivergedError

#: The loss may grow by this factor over its start before the training is given up.
_GROWTH = 1e6
#: And by this one at its end.
_WORSE = 1.5
_POWER_STEPS, _POWER_TOL = 20, 0.01


@dataclass(frozen=True)
class Batches:
    """Which rows each step learns from, and at which the function has to be known.

    Attributes
    ----------
    train, held : Tensor of int
        Rows to learn from, and to stop by.
    size : int
        Rows of a batch.
    seed : int
        Of the order.
    """

    train: Tensor
    held: Tensor
    size: int
    seed: int

    @property
    def whole(self) -> bool:
        """Whether each step takes all rows."""
        return self.size >= len(self.train)

    @property
    def per_epoch(self) -> int:
        """Steps of an epoch."""
        return math.ceil(len(self.train) / self.size)

    def rows(self, t: int) -> Tensor:
        """Rows of step t = 1, 2, ..."""
        if self.whole:
            return self.train
        epoch, i = divmod(t - 1, self.per_epoch)
        (seed,) = np.random.SeedSequence((self.seed, epoch)).generate_state(1, np.uint32)
        order = torch.randperm(len(self.train), generator=torch.Generator().manual_seed(int(seed)))
        return self.train[order[i * self.size : (i + 1) * self.size].to(self.train.device)]

    def seen(self, t: int, last: int) -> Tensor | None:
        """Rows at which the function is known before step t; None for all.

        Those of the batch come first, then the held out ones if an epoch has just ended.
        """
        if self.whole or t > last:
            return None
        rows = self.rows(t)
        return torch.cat([rows, self.held]) if (t - 1) % self.per_epoch == 0 else rows


@dataclass
class Progress:
    """Where a training stands: all that is needed to go on.

    Attributes
    ----------
    step : int
        Steps made.
    f : Tensor of shape (1 + REPLICAS, c, b)
        Functions of all features and of each group alone, at the rows seen before the next step.
    moments : list of Moments
        Of all chunks in order; their arrays are (g, B, 2, A): all features together, and the group.
    residuals : list of Tensor
        Of all features together, (c, b) for each step.
    losses, held_losses : list of float
        Before each step, and at held out rows after each epoch.
    best : int
        Step after which the loss at held out rows was least.
    best_weights : list of Tensor
        Weights then.
    """

    step: int
    f: Tensor
    moments: list[Moments] = field(default_factory=list)
    residuals: list[Tensor] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    held_losses: list[float] = field(default_factory=list)
    best: int = 0
    best_weights: list[Tensor] = field(default_factory=list)


@dataclass(frozen=True)
class Dynamics:
    """One training.

    Attributes
    ----------
    blocks : Blocks
        The features.
    rule : AdamRule
        How gradients change weights.
    loss : Loss
        Of the outputs at all rows.
    batches : Batches
        Which rows when.
    n_steps : int
        How many steps at most.
    patience : int
        Epochs without a better loss at held out rows before the training ends.
    """

    blocks: Blocks
    rule: AdamRule
    loss: Loss
    batches: Batches
    n_steps: int
    patience: int = 20

    # Training

    def start(self) -> Progress:
        """State before the first step: the function 0."""
        rows = self.batches.seen(1, self.n_steps)
        c, n = self.loss.targets.shape
        f = self.loss.targets.new_zeros(1 + REPLICAS, c, n if rows is None else len(rows))
        return Progress(0, f)

    def run(self, now: Progress, after_step: Callable[[Progress], None] | None = None) -> Progress:
        """Train on from a state, which is changed.

        Parameters
        ----------
        now : Progress
            From `start`, or of a training that was interrupted.
        after_step : callable, optional
            Called after each step.

        Raises
        ------
        TrainingDivergedError
            If the loss is not finite, or grew by a factor of a million.
        """
        if not now.moments:
            now.moments = [
                self.rule.start((g, B, 2, A), self.loss.targets.device)
                for chunk in self._all_chunks()
                for g, B, A in [chunk.shape]
            ]
        while now.step < self.n_steps and not self._stops(now):
            self._step(now)
            if after_step is not None:
                after_step(now)
        return now

    def _step(self, now: Progress) -> None:
        t = now.step + 1
        seen, following = (self.batches.seen(s, self.n_steps) for s in (t, t + 1))
        rows = self.batches.rows(t)
        at = rows if seen is None else torch.arange(len(rows), device=rows.device)
        f = now.f[:, :, at]
        r = torch.zeros_like(now.f)
        r[:, :, at] = self.loss.residual(f, rows)
        now.losses.append(self._checked(float(self.loss.value(f, rows)[0]), now))
        now.residuals.append(r[0, :, at].clone())

        def update(state: Moments, g: Tensor) -> Tensor:
            self.rule.step(state, g, t)
            return state.w

        now.f = self._through(seen, r, following, now.moments, update)
        now.step = t
        self._note_held(now)

    def _through(
        self,
        seen: Tensor | None,
        r: Tensor,
        following: Tensor | None,
        states: Sequence[Any],
        change: Callable[[Any, Tensor], Tensor],
    ) -> Tensor:
        """Gradients of all features from residuals, and the function from what they become.

        Parameters
        ----------
        seen : Tensor of int, or None
            Rows of the residuals; None for all.
        r : Tensor of shape (1 + REPLICAS, c, b) or (1, c, b)
            Residuals.
        following : Tensor of int, or None
            Rows of the function.
        states : sequence
            One for each chunk.
        change : callable
            Takes a state and gradients (g, B, S, A), and returns weights.
        """
        n = self.loss.targets.shape[1] if following is None else len(following)
        out, i, same = r.new_zeros(len(r), r.shape[1], n), 0, following is seen
        for k in range(len(self.blocks)):
            runs = [0, 1 + self.blocks.replica(k)] if len(r) > 1 else [0]
            own = r[runs]
            total = torch.zeros_like(out[runs])
            for chunk in self.blocks.chunks(k):
                values = chunk.load(seen)
                w = change(states[i], values.gradient(own))
                values = values if same else chunk.load(following)
                total += values.output(w * chunk.measure)
                i += 1
            out[runs] += total
        out /= self.blocks.n_chunks
        out[1:] *= REPLICAS
        return out

    def _all_chunks(self) -> Iterator[Any]:
        return (chunk for k in range(len(self.blocks)) for chunk in self.blocks.chunks(k))

    # Stopping

    def _note_held(self, now: Progress) -> None:
        """Remember the loss at held out rows, and the weights where it is least."""
        held, per_epoch = self.batches.held, self.batches.per_epoch
        if not len(held) or (now.step % per_epoch and now.step != self.n_steps):
            return
        whole = self.batches.seen(now.step + 1, self.n_steps) is None
        f = now.f[:1, :, held] if whole else now.f[:1, :, -len(held) :]
        value = float(self.loss.value(f, held)[0])
        if value < min(now.held_losses, default=math.inf):
            now.best = now.step
            now.best_weights = [state.w.clone() for state in now.moments]
        now.held_losses.append(value)

    def _stops(self, now: Progress) -> bool:
        if not len(self.batches.held):
            return False
        return (now.step - now.best) // self.batches.per_epoch >= self.patience

    def _checked(self, loss: float, now: Progress, growth: float = _GROWTH) -> float:
        first = self._first_loss
        if math.isfinite(loss) and loss <= growth * first + 1e-6:
            return loss
        usable = min(self.usable_rate(), 0.3 * self.rule.learning_rate)
        raise TrainingDivergedError(
            f"the training loss is {loss:.3g} after {now.step} steps, from {first:.3g}, with "
            f"learning_rate={self.rule.learning_rate:.3g}: pass learning_rate="
            f"{usable:.2g}, or less. The largest at which the start is stable is "
            f"{self.stable_rate():.2g}, and later steps need a margin."
        )

    @functools.cached_property
    def _first_loss(self) -> float:
        rows = self.batches.train
        zero = self.loss.targets.new_zeros(1, len(self.loss.targets), len(rows))
        return float(self.loss.value(zero, rows)[0])

    def check(self, now: Progress) -> None:
        """Raise TrainingDivergedError if a training without held out rows made things worse."""
        rows = self.batches.train
        if now.step == 0 or now.step < self.n_steps or len(self.batches.held):
            return
        self._checked(float(self.loss.value(now.f[:, :, rows], rows)[0]), now, _WORSE)

    def n_worse(self, now: Progress) -> int:
        """How many groups alone have a larger loss than at the start, at the end of a training."""
        rows = self.batches.train
        losses = self.loss.value(now.f[:, :, rows], rows)[1:]
        return int((~(losses <= _WORSE * self._first_loss + 1e-6)).sum())

    def reopened(self, now: Progress) -> Progress:
        """State of a training that ended there, made ready to go on as if it had not."""
        rows = self.batches.seen(now.step + 1, self.n_steps)
        if rows is not None and now.f.shape[2] != len(rows):  # all rows are known at an end
            now.f = self._outputs(lambda k: self.blocks.chunks(k), rows, [m.w for m in now.moments])
        return now

    # The function elsewhere

    def outputs(self, X: Tensor, weights: Sequence[Tensor]) -> Tensor:
        """Outputs at other rows, (1 + REPLICAS, c, m), from the weights of all features."""
        return self._outputs(lambda k: self.blocks.chunks(k, X), None, weights)

    def _outputs(
        self,
        chunks: Callable[[int], Sequence[Chunk]],
        rows: Tensor | None,
        weights: Sequence[Tensor],
    ) -> Tensor:
        """Outputs (1 + REPLICAS, c, m) at some rows, or all, of the chunks of each block."""
        at, parts = iter(weights), []
        for k in range(len(self.blocks)):
            made = [c.load(rows).output(next(at) * c.measure) for c in chunks(k)]
            parts.append(functools.reduce(torch.add, made))
        out = parts[0].new_zeros(1 + REPLICAS, *parts[0].shape[1:])
        for k, part in enumerate(parts):
            out[[0, 1 + self.blocks.replica(k)]] += part
        out /= self.blocks.n_chunks
        out[1:] *= REPLICAS
        return out

    def replayed(
        self, X: Tensor, residuals: Sequence[Tensor], steps: Sequence[int]
    ) -> list[Tensor]:
        """Outputs (c, m) at other rows after some steps, from the history of residuals alone."""
        c = len(self.loss.targets)
        out = torch.zeros(len(steps), c, len(X), device=X.device)
        last = max(steps, default=0)
        for k in range(len(self.blocks)):
            pairs = zip(self.blocks.chunks(k), self.blocks.chunks(k, X), strict=True)
            for chunk, other in pairs:
                g, B, A = chunk.shape
                state = self.rule.start((g, B, 1, A), X.device)
                rows = self.batches.rows(1)
                values, elsewhere = chunk.load(rows), other.load(None)
                for t in range(1, last + 1):
                    if not self.batches.whole and t > 1:
                        values = chunk.load(self.batches.rows(t))
                    self.rule.step(state, values.gradient(residuals[t - 1][None]), t)
                    if t in steps:
                        out[steps.index(t)] += elsewhere.output(state.w * chunk.measure)[0]
        return list(out / self.blocks.n_chunks)

    # The largest stable step

    def usable_rate(self) -> float:
        """A learning rate that serves: a quarter of what would be stable without momentum."""
        beta, decay = self.rule.beta1, self.rule.weight_decay
        rate = 0.25 * self.stable_rate() * (1 - beta) / (1 + beta)
        return min(rate, 0.5 / decay) if decay else rate if math.isfinite(rate) else 1.0

    def stable_rate(self) -> float:
        r"""Largest learning rate at which the dynamics is stable around its start.

        With a preconditioner :math:`P(\omega)` held fixed, the steps are gradient descent with
        momentum and the kernel :math:`\sum E[\psi P \psi^T]`, stable for
        :math:`\eta < 2 (1 + \beta_1) / ((1 - \beta_1) \lambda)`, with the largest eigenvalue
        :math:`\lambda` of that kernel times the loss's second derivative (Cohen et al. 2022,
        "Adaptive gradient methods at the edge of stability"). P is
        :math:`1 / (s + \varepsilon)` with the root mean square s of each tensor's first gradient.
        """
        loss, train = self.loss, self.batches.train
        f = loss.targets.new_zeros(1, *loss.targets.shape)
        r = torch.zeros_like(f)
        r[:, :, train] = loss.residual(f[:, :, train], train)
        scales: list[Any] = []

        def first(_: Any, g: Tensor) -> Tensor:
            size = g.square().mean().sqrt() + self.rule.eps if self.rule.normalizes else 1.0
            scales.append(1 / size if size > 0 else 0.0)
            return g * scales[-1]

        chunks = [None] * sum(1 for _ in self._all_chunks())
        v = self._through(None, r, None, chunks, first)
        largest = 0.0
        for _ in range(_POWER_STEPS):
            r = torch.zeros_like(f)
            r[:, :, train] = v[:, :, train]
            size = float(r.norm())
            if not size > 0 or not math.isfinite(size):
                break
            v = self._through(None, r / size, None, scales, lambda scale, g: g * scale)
            before, largest = largest, float(v[:, :, train].norm())
            if abs(largest - before) < _POWER_TOL * largest:
                break
        beta = self.rule.beta1
        curvature = largest * loss.curvature / len(train)
        if not self.batches.whole:  # all of it may lie in a batch, if not more than in one row
            own = float(self._diagonal(scales)[:, train].max()) * loss.curvature
            curvature = min(curvature * len(train) / self.batches.size, own)
        return 2 * (1 + beta) / ((1 - beta) * curvature) if curvature > 0 else math.inf

    def _diagonal(self, scales: Sequence[float]) -> Tensor:
        r"""Diagonal of :math:`\sum E[\psi P \psi]` for each output and row: (c, n)."""
        out = torch.zeros_like(self.loss.targets)
        for chunk, scale in zip(self._all_chunks(), scales, strict=True):
            g, B, A = chunk.shape
            w = (scale * chunk.measure).expand(g, B, 1, A)
            out += chunk.load(None).squared().output(w)[0]
        return out / self.blocks.n_chunks
