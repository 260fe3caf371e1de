"""Quadratic penalties around earlier weights, with the Fisher information as their curvature."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Generator, Tensor, nn

from skntk.continual.tasks import TaskRows
from skntk.finite.capture import sweep
from skntk.finite.gauss_newton import Outer, gauss_newton_diagonal
from skntk.finite.layers import AffineLayer
from skntk.finite.network import NetworkInputs, eval_mode, evaluate, named_parameters
from skntk.finite.plan import Plan

#: Random rows of a task that stand for all in its Fisher information, and those of one sweep.
_ROWS, _SWEPT = 1000, 64


class QuadraticPenalty:
    r"""The sum over tasks of :math:`\frac12 \sum_j F_j (w_j - w^*_j)^2`.

    Kept as one quadratic function, so that it takes two numbers a parameter however many tasks
    there are: :math:`\frac12 \sum_j F_j (w_j - c_j)^2 + s`.

    Parameters
    ----------
    curvature, centre : dict of str to Tensor
        F and c, by the names of parameters.
    spread : float
        The penalty at its minimum s: 0 for one task.

    Examples
    --------
    >>> import torch
    >>> from skntk.continual.penalties import QuadraticPenalty
    >>> w = {"w": torch.tensor([1.0, 2.0])}
    >>> penalty = QuadraticPenalty.zero(w)
    >>> penalty.add({"w": torch.tensor([1.0, 0.0])}, w)
    >>> penalty.value(w), penalty.value({"w": torch.tensor([3.0, 0.0])})
    (0.0, 2.0)
    """

    def __init__(
        self, curvature: dict[str, Tensor], centre: dict[str, Tensor], spread: float
    ) -> None:
        self.curvature, self.centre, self.spread = curvature, centre, spread

    @classmethod
    def zero(cls, weights: Mapping[str, Tensor]) -> QuadraticPenalty:
        """No penalty yet."""
        curvature = {name: torch.zeros_like(w.detach()) for name, w in weights.items()}
        return cls(curvature, {name: w.detach().clone() for name, w in weights.items()}, 0.0)

    @property
    def nbytes(self) -> int:
        """Memory that it takes."""
        return sum(t.nbytes for kept in (self.curvature, self.centre) for t in kept.values())

    def add(self, curvature: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> None:
        """Add a task's penalty, given its curvature and the weights that it is zero at."""
        for name, f in curvature.items():
            old, centre = self.curvature[name], self.centre[name]
            apart = weights[name].detach() - centre
            total = old + f
            share = torch.where(total > 0, f / total, 1.0)
            self.spread += 0.5 * float((old * share * apart.square()).sum())
            self.curvature[name], self.centre[name] = total, centre + share * apart

    def recentre(self, weights: Mapping[str, Tensor], decay: float) -> None:
        """Move the zero to some weights, and multiply the curvature."""
        self.spread = 0.0
        self.curvature = {name: decay * f for name, f in self.curvature.items()}
        self.centre = {name: weights[name].detach().clone() for name in self.curvature}

    def value(self, weights: Mapping[str, Tensor]) -> float:
        """Return the penalty at some weights."""
        total = self.spread
        for name, f in self.curvature.items():
            moved = weights[name].detach() - self.centre[name]
            total += 0.5 * float((f * moved.square()).sum())
        return total

    @torch.no_grad()
    def step(self, weights: Mapping[str, Tensor], rate: float) -> None:
        r"""Replace weights v by the minimizer of the penalty plus :math:`|w - v|^2 / (2 \eta)`."""
        for name, f in self.curvature.items():
            w = weights[name]
            most = torch.finfo(f.dtype).max / 2
            x = (min(rate, most) * f).clamp_max(most)
            w += x / (1 + x) * (self.centre[name] - w)

    def grow(self, names: Sequence[str], n_new: int) -> None:
        """No curvature for the new rows of parameters."""
        for kept in (self.curvature, self.centre):
            for name in set(names) & set(kept):
                new = kept[name].new_zeros(n_new, *kept[name].shape[1:])
                kept[name] = torch.cat([kept[name], new])


def fisher_information(
    network: nn.Module,
    function: nn.Module,
    rows: TaskRows,
    likelihood: str,
    generator: Generator,
) -> dict[str, Tensor]:
    r"""Diagonal of the mean Fisher information of some rows, by the names of parameters.

    The expectation is over the network's own predictions, not over the labels:
    :math:`diag(J^T \Lambda J)` with :math:`\Lambda` the Hessian of a row's loss by its outputs.

    Parameters
    ----------
    network : torch.nn.Module
        The network that has the Jacobians; it is run in eval mode.
    function : torch.nn.Module
        What predicts, in eval mode: the network, or its linearization.
    rows : TaskRows
        Of which up to 1000 are taken.
    likelihood : {"gaussian", "categorical"}
        Half the mean squared error over a row's outputs, or the cross-entropy.
    generator : torch.Generator
        To choose among the rows.
    """
    rows = rows[torch.randperm(len(rows), generator=generator)[:_ROWS]]
    chosen = named_parameters(network)
    total = {name: torch.zeros_like(p.detach()) for name, p in chosen.items()}
    with torch.inference_mode(False), eval_mode(network):
        plan: Plan | None = None
        for start in range(0, len(rows), _SWEPT):
            some = rows[slice(start, start + _SWEPT)]
            inputs = NetworkInputs.of(some.X, network)
            plan = plan or Plan.of(network, inputs, chosen)
            found = sweep(network, inputs, plan)
            with torch.no_grad():
                outputs = evaluate(function, inputs)
            root = _root(outputs, some.known, likelihood)
            for layer in found.layers:
                squares = gauss_newton_diagonal(Outer.of(layer), root)
                if isinstance(layer, AffineLayer):
                    m, d = layer.B.shape[-1], layer.columns().shape[2]
                    parts = layer.split(squares.view(m, d))
                else:
                    parts = {layer.names[0]: squares.view(total[layer.names[0]].shape)}
                for name, value in parts.items():
                    total[name] += value / len(rows)
    return total


def _root(outputs: Tensor, known: Tensor, likelihood: str) -> Tensor:
    """Roots (n, k, k) of the Hessians of each row's loss by its outputs."""
    if likelihood == "gaussian":
        known = known.to(outputs)
        return torch.diag_embed(known / known.sum(1, keepdim=True).sqrt())
    p = outputs.masked_fill(~known, -torch.inf).softmax(1)
    return torch.diag_embed(p.sqrt()) - p[:, :, None] * p.sqrt()[:, None, :]
