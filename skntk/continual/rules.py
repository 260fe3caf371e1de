"""What a method does beside gradient descent: skorch callbacks that live as long as the learner.

`Rule` itself is plain sequential training. Others keep something of each task (gradients, rows,
Fisher information) and change the rows, the gradient or the step with it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from skorch.callbacks import Callback
from torch import Generator, Tensor, nn

from skntk.continual.gradients import Part, stored_gradients
from skntk.continual.penalties import QuadraticPenalty, fisher_information
from skntk.continual.projection import StoredDirections
from skntk.continual.tasks import TaskRows
from skntk.finite import Centered, Linearized

#: PCA-OGD looks for its directions in that many times as many gradients.
_SAMPLED = 5


@dataclass(frozen=True)
class Trained:
    """A trained function.

    Attributes
    ----------
    function : torch.nn.Module
        In eval mode.
    tangent : torch.nn.Module
        The network whose Jacobian it has: itself, or that at which it is linearized.
    weights : dict of str to Tensor
        What was trained, by the names of the network's parameters.
    """

    function: nn.Module
    tangent: nn.Module
    weights: Mapping[str, Tensor]


class Rule(Callback):
    """Plain sequential training."""

    def rows(self, rows: TaskRows) -> TaskRows:
        """Return what is trained on when a task comes."""
        return rows

    def collate(self, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Return a batch with what the method adds to it."""
        return batch

    def finish(self, learnt: Trained, rows: TaskRows, generator: Generator) -> None:
        """Keep something of a task that has been learnt.

        Parameters
        ----------
        learnt : Trained
            The trained function.
        rows : TaskRows
            Of the task.
        generator : torch.Generator
            To choose among them.
        """

    def grow(self, names: Sequence[str], n_new: int, fill: float) -> None:
        """Tell of new outputs: more rows of the parameters of that name, more targets."""

    def kept(self) -> dict[str, int]:
        """Numbers of rows and gradients that are kept, and bytes."""
        return {"rows": 0, "gradients": 0, "bytes": 0}


def trained_parameters(net: Any) -> dict[str, nn.Parameter]:
    """Parameters that a skorch net trains, by their names in the network."""
    return {n: p for n, p in network_of(net.module_).named_parameters() if p.requires_grad}


def network_of(module: nn.Module) -> nn.Module:
    """Return what holds the parameters that are trained."""
    return module.module if isinstance(module, Linearized | Centered) else module


class Projection(Rule):
    """Orthogonal gradient descent (Farajtabar et al. 2020, algorithm 1).

    Parameters
    ----------
    memory_size : int or None
        Gradients of each task that are stored; None for all.
    labels : bool
        Whether the output of a row's label is meant, rather than all outputs of its task.
    """

    def __init__(self, memory_size: int | None, labels: bool) -> None:
        self.memory_size, self.labels = memory_size, labels
        self.stored = StoredDirections()

    def on_grad_computed(self, net: Any, **kwargs: Any) -> None:
        """Take from the gradient its part along what is stored."""
        if not len(self.stored):
            return
        parameters = trained_parameters(net)
        for p in parameters.values():
            if p.grad is None:
                p.grad = torch.zeros_like(p)
        self.stored.project({name: _gradient(p) for name, p in parameters.items()})

    def finish(self, learnt: Trained, rows: TaskRows, generator: Generator) -> None:
        """Store gradients of random rows."""
        chosen = self._sampled(rows, self.memory_size, generator)
        if len(chosen):
            self.stored.add(self._gradients(learnt, chosen))

    def _gradients(self, learnt: Trained, rows: TaskRows) -> list[Part]:
        picked = rows.labelled if self.labels else rows.known
        return stored_gradients(learnt.tangent, rows.X, picked, self.stored.parts)

    def rows(self, rows: TaskRows) -> TaskRows:
        """Refuse a memory that could hold no row, before anything is trained."""
        n = rows_that_fit(rows, self._at_most, self.labels)
        each = 1 if self.labels else int(rows.known[0].sum())
        self.stored.require(n * each)
        return rows

    @property
    def _at_most(self) -> int | None:
        """How many gradients are taken of a task."""
        return self.memory_size

    def _sampled(self, rows: TaskRows, count: int | None, generator: Generator) -> TaskRows:
        """Random rows that have so many gradients together; None for all."""
        at = torch.randperm(len(rows), generator=generator)
        return rows[at[: rows_that_fit(rows, count, self.labels)].sort().values]

    def grow(self, names: Sequence[str], n_new: int, fill: float) -> None:
        """Stored gradients do not depend on new outputs."""
        self.stored.grow(names, n_new)

    def kept(self) -> dict[str, int]:
        """Directions, and the memory of their factors."""
        return {"rows": 0, "gradients": len(self.stored), "bytes": self.stored.nbytes}


def _gradient(p: nn.Parameter) -> Tensor:
    assert p.grad is not None
    return p.grad


def rows_that_fit(rows: TaskRows, memory_size: int | None, labels: bool) -> int:
    """How many rows of a task have so many gradients; None for all rows.

    Raises
    ------
    ValueError
        If one has more, unless none are wanted.
    """
    if memory_size is None:
        return len(rows)
    each = 1 if labels else int(rows.known[0].sum())
    if 0 < memory_size < each:
        raise ValueError(
            f"memory_size={memory_size} holds no row, each of which has the gradients of {each} "
            "outputs: pass more, or 0 to store nothing."
        )
    return min(memory_size // each, len(rows))


class ProjectionPlus(Projection):
    """OGD+ (Bennani, Doan & Sugiyama 2020, algorithm 2): gradients of earlier rows, anew.

    After each task, as many gradients are stored as OGD stores, in equal shares of the rows of all
    tasks so far, as the network is now.
    """

    def __init__(self, memory_size: int | None, labels: bool) -> None:
        super().__init__(memory_size, labels)
        self.rows_kept: list[TaskRows] = []

    def finish(self, learnt: Trained, rows: TaskRows, generator: Generator) -> None:
        """Store gradients of rows of all tasks, and rows of this one."""
        n = rows_that_fit(rows, self.memory_size, self.labels)
        self.rows_kept = [*self.rows_kept, self._sampled(rows, self.memory_size, generator)]
        each, more = divmod(n, len(self.rows_kept))
        for i, kept in enumerate(reversed(self.rows_kept)):
            share = each + (i < more)  # the remainder goes to the latest tasks
            at = torch.randperm(len(kept), generator=generator)
            some = kept[at if self.memory_size is None else at[:share]]
            if len(some):
                self.stored.add(self._gradients(learnt, some))

    def grow(self, names: Sequence[str], n_new: int, fill: float) -> None:
        """As OGD; the rows have no more targets than they had."""
        super().grow(names, n_new, fill)
        self.rows_kept = [kept.grown(n_new, float("nan")) for kept in self.rows_kept]

    def kept(self) -> dict[str, int]:
        """Directions and rows."""
        found = super().kept()
        found["rows"] = sum(len(kept) for kept in self.rows_kept)
        found["bytes"] += sum(kept.nbytes for kept in self.rows_kept)
        return found


class PrincipalProjection(Projection):
    """PCA-OGD (Doan et al. 2021, algorithm 1): principal directions of more gradients."""

    def finish(self, learnt: Trained, rows: TaskRows, generator: Generator) -> None:
        """Store the first directions of five times as many gradients."""
        chosen = self._sampled(rows, self._at_most, generator)
        if len(chosen):
            parts = self._gradients(learnt, chosen)
            count = len(parts[0]) if self.memory_size is None else self.memory_size
            self.stored.add(parts, n_components=count)

    @property
    def _at_most(self) -> int | None:
        return None if self.memory_size is None else _SAMPLED * self.memory_size


class Consolidation(Rule):
    """Elastic weight consolidation (Kirkpatrick et al. 2017, equation 3).

    The penalty enters each step implicitly, as its minimizer beside the step that the loss asks
    for, so that no strength makes the training unstable.

    Parameters
    ----------
    strength : float
        Of the penalty.
    likelihood : {"gaussian", "categorical"}
        Whose Fisher information.
    decay : float, optional
        By which earlier information is multiplied, with the anchor at the latest weights (online
        EWC: Schwarz et al. 2018, equation 9); by default each task has a penalty of its own.
    """

    def __init__(self, strength: float, likelihood: str, decay: float | None = None) -> None:
        self.strength, self.likelihood, self.decay = strength, likelihood, decay
        self.penalty: QuadraticPenalty | None = None

    def on_batch_end(self, net: Any, training: bool = True, **kwargs: Any) -> None:
        """Minimize the penalty and the distance from where the step has gone."""
        if training and self.penalty is not None:
            group = net.optimizer_.param_groups[0]
            rate = group["lr"] / (1 - group["momentum"])  # what a lasting gradient moves in a step
            self.penalty.step(trained_parameters(net), rate * self.strength)

    def finish(self, learnt: Trained, rows: TaskRows, generator: Generator) -> None:
        """Add this task's Fisher information, at the weights it ends with."""
        weights = learnt.weights
        found = fisher_information(
            learnt.tangent, learnt.function, rows, self.likelihood, generator
        )
        if self.penalty is None:
            self.penalty = QuadraticPenalty.zero(weights)
        if self.decay is not None:
            self.penalty.recentre(weights, self.decay)
        self.penalty.add(found, weights)

    def grow(self, names: Sequence[str], n_new: int, fill: float) -> None:
        """New weights have no information."""
        if self.penalty is not None:
            self.penalty.grow(names, n_new)

    def kept(self) -> dict[str, int]:
        """Two numbers a parameter."""
        nbytes = 0 if self.penalty is None else self.penalty.nbytes
        return {"rows": 0, "gradients": 0, "bytes": nbytes}


class Replay(Rule):
    """Experience replay (Chaudhry et al. 2019): rows of earlier tasks beside each batch.

    As many rows as the batch has, if there are so many, count as much as its own.

    Parameters
    ----------
    memory_size : int or None
        Rows of each task that are kept; None for all.
    """

    def __init__(self, memory_size: int | None) -> None:
        self.memory_size = memory_size
        self.memory: TaskRows | None = None

    def collate(self, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Add random rows of the memory."""
        if self.memory is None or len(self.memory) == 0:
            return batch
        X, Y = batch
        some = self.memory[torch.randperm(len(self.memory))[: len(X)]]
        return torch.cat([X, some.X]), torch.cat([Y, some.Y])

    def finish(self, learnt: Trained, rows: TaskRows, generator: Generator) -> None:
        """Keep random rows."""
        at = torch.randperm(len(rows), generator=generator)[: self.memory_size]
        self.memory = rows[at] if self.memory is None else self.memory + rows[at]

    def grow(self, names: Sequence[str], n_new: int, fill: float) -> None:
        """More targets for the rows."""
        if self.memory is not None:
            self.memory = self.memory.grown(n_new, fill)

    def kept(self) -> dict[str, int]:
        """Rows."""
        n, nbytes = (0, 0) if self.memory is None else (len(self.memory), self.memory.nbytes)
        return {"rows": n, "gradients": 0, "bytes": nbytes}


class Joint(Replay):
    """Training on the rows of all tasks so far, from the initial weights: the upper line."""

    def __init__(self) -> None:
        super().__init__(None)

    def rows(self, rows: TaskRows) -> TaskRows:
        """All of them."""
        return rows if self.memory is None else self.memory + rows

    def collate(self, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """As they come."""
        return batch
