r"""Features drawn from the limit itself: signals are Gaussian processes with known covariances."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from skntk.adam.features import Half, Layer, Plain, Signal
from skntk.core import UnsupportedModuleError, require
from skntk.infinite.inputs import Inputs
from skntk.infinite.program import Program
from skntk.infinite.rules import Activation, Dense, Input, Options
from skntk.infinite.state import State


@dataclass(frozen=True)
class Hidden:
    """One hidden layer of a plain network: an affine layer, then an elementwise function.

    Attributes
    ----------
    dense : Dense
        Rule of the affine layer.
    activation : Activation or None
        Rule of the function; None for the identity.
    """

    dense: Dense
    activation: Activation | None

    def apply(self, state: State) -> tuple[State, State, Tensor]:
        """State before and after the function, and the covariance of its derivatives."""
        before = self.dense.apply([state], Options(with_ntk=False))
        if self.activation is None:
            return before, before, torch.ones_like(before.delta)
        return before, *self.activation.dual.apply(before)

    def evaluate(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """The function of preactivations, and its derivative."""
        if self.activation is None:
            return u, torch.ones_like(u)
        with torch.enable_grad():
            u = u.detach().requires_grad_()
            h = self.activation.function(u)
            if not h.requires_grad:  # constant, as far as torch knows
                return h.detach(), torch.zeros_like(u)
            (slope,) = torch.autograd.grad(h.sum(), u, allow_unused=True)
        return h.detach(), torch.zeros_like(u) if slope is None else slope


def plain_layers(program: Program) -> tuple[list[Hidden], Dense]:
    """Hidden layers and readout of a program that is a plain chain of them.

    Raises
    ------
    UnsupportedModuleError
        If it is anything else.
    """
    rules = program.rules[1:] if isinstance(program.rules[0], Input) else []
    hidden: list[Hidden] = []
    chained = bool(rules) and program.output.only is program.rules[-1]
    for before, rule in zip(program.rules, rules, strict=False):
        chained &= [signal.only for signal in rule.inputs] == [before]
        if isinstance(rule, Dense):
            hidden.append(Hidden(rule, None))
        elif isinstance(rule, Activation) and hidden and hidden[-1].activation is None:
            hidden[-1] = Hidden(hidden[-1].dense, rule)
        else:
            chained = False
    if not chained or hidden[-1].activation is not None:
        raise UnsupportedModuleError(
            "sampler='exact' needs a plain chain of linear layers with elementwise functions in "
            "between; pass sampler='networks' for others."
        )
    last = hidden.pop().dense
    if any(layer.dense.weight_rate is not None for layer in [*hidden, Hidden(last, None)]):
        raise ValueError(
            "the limit of Adam is defined for layers of skntk.nn with parametrization='ntk'; the "
            "module has others."
        )
    return hidden, last


@dataclass(frozen=True)
class Field:
    r"""A centred Gaussian process at the training rows, and given those at others.

    With :math:`K = V S V^T`, a draw is :math:`V S^{1/2} z`; at other rows, for the same z,
    :math:`K_* V S^{-1/2} z + \sqrt{v} \zeta` with the conditional variance v. One :math:`\zeta`
    serves all other rows: what is taken of them is an expectation for each row alone.

    Attributes
    ----------
    root : Tensor of shape (n, r)
        :math:`V S^{1/2}`.
    inverse_root : Tensor of shape (n, r)
        :math:`V S^{-1/2}`.
    """

    root: Tensor
    inverse_root: Tensor

    @classmethod
    def of(cls, K: Tensor) -> Field:
        """Decompose a covariance (n, n) in float64; large variances come first."""
        s, V = (A.flip(-1) for A in torch.linalg.eigh(0.5 * (K + K.mT)))
        keep = s > len(s) * torch.finfo(s.dtype).eps * s[0].clamp_min(torch.finfo(s.dtype).tiny)
        V, root = V[:, keep], s[keep].sqrt()
        return cls((V * root).float(), V / root)

    def draw(self, generator: torch.Generator, n: int, at: At | None) -> Tensor:
        """Return n functions of the process: (n, rows), at the training rows or the others."""
        z = normals(generator, n, self.root.shape[1] + 1).to(self.root.device)
        if at is None:
            return z[:, :-1] @ self.root.mT
        return z[:, :-1] @ at.cross.mT + z[:, -1:] * at.std

    def at(self, cross: Tensor, diagonal: Tensor) -> At:
        """What is needed to draw at m other rows.

        Parameters
        ----------
        cross : Tensor of shape (m, n)
            Covariance with the training rows.
        diagonal : Tensor of shape (m,)
            Variance.
        """
        made = cross @ self.inverse_root
        left = (diagonal - made.square().sum(1)).clamp_min(0)
        return At(made.float(), left.sqrt().float())


@dataclass(frozen=True)
class At:
    """A field at other rows: (m, r) of the same normal numbers, (m,) of one of its own."""

    cross: Tensor
    std: Tensor


class GaussianSampler:
    """Blocks of features from the limit's Gaussian processes, exact but for rounding.

    Parameters
    ----------
    program : Program
        Of a plain network.
    X : Tensor of shape (n, d)
        Training rows.
    n_outputs : int
        c.
    n_units : int
        Units of a block.

    Raises
    ------
    UnsupportedModuleError
        If the network is no plain chain of layers.
    MemoryBudgetError
        If the covariances of all layers do not fit in memory.
    """

    def __init__(self, program: Program, X: Tensor, n_outputs: int, n_units: int) -> None:
        self.hidden, self.readout = plain_layers(program)
        self.X, self.n_outputs, self.n_units = X, n_outputs, n_units
        n, depth = len(X), len(self.hidden)
        self.columns = X.ne(0).any(0).nonzero()[:, 0]
        require(
            n * n * (4 * 8 + 12 * max(2 * depth - 2, 0)),
            f"covariances of {depth} layers at {n} rows",
            "Pass sampler='networks', which has none.",
            X.device,
        )
        self._inputs = Inputs.of(X.double())
        if depth:  # axes of the inputs, the longest first
            A = self._scaled(X).double()
            self._axes = torch.linalg.eigh(A.mT @ A)[1].flip(1).float()
        self.forward: list[Field | None] = [None] * depth
        self.backward: list[Field | None] = [None] * depth
        if depth > 1:
            forward, backward = self._covariances(self._inputs.pairs(self._inputs))
            self.forward = [None] + [Field.of(K) for K in forward[1:]]
            self.backward = [Field.of(K) for K in backward[:-1]] + [None]

    def _covariances(self, state: State) -> tuple[list[Tensor], list[Tensor]]:
        """Of preactivations and of backward signals before the slope, layer by layer."""
        forward, slopes = [], []
        for layer in self.hidden:
            before, state, slope = layer.apply(state)
            forward.append(before.nngp)
            slopes.append(slope)
        backward = [torch.full_like(forward[0], self.readout.weight_var)]
        for layer, slope in zip(self.hidden[:0:-1], slopes[:0:-1], strict=True):
            backward.insert(0, layer.dense.weight_var * slope * backward[0])
        return forward, backward

    def draw(self, seed: int, rows: Tensor | None = None) -> list[Layer]:
        """Signals of a block: of training rows in half precision, or of others.

        Parameters
        ----------
        seed : int
            Of the block.
        rows : Tensor of shape (m, d), optional
            By default the training rows.
        """
        X = self.X if rows is None else rows
        keep: Callable[[Tensor], Signal] = Half.of if rows is None else Plain
        streams = _streams(seed)
        forward, backward = self._at(rows)
        N, c = self.n_units, self.n_outputs
        h: Tensor = X.T.contiguous()
        slopes, entering = [], [h]
        for layer, field, at in zip(self.hidden, self.forward, forward, strict=True):
            generator = next(streams)
            u = self._first(X, generator) if field is None else field.draw(generator, N, at)
            h, slope = layer.evaluate(u)
            slopes.append(slope)
            entering.append(h)
        made = []
        layers = zip(self.hidden, self.backward, backward, entering, slopes, strict=False)
        for layer, field, at, h, slope in layers:
            generator = next(streams)
            if field is None:
                scale = math.sqrt(self.readout.weight_var)
                draws = [scale * normals(generator, N, 1).to(X.device) for _ in range(c)]
            else:
                draws = [field.draw(generator, N, at) for _ in range(c)]
            G = torch.stack(draws)
            made.append(self._layer(layer.dense, keep(G * slope), h, keep))
        return [*made, self._layer(self.readout, None, entering[-1], keep)]

    def _layer(
        self, dense: Dense, delta: Signal | None, h: Tensor, keep: Callable[[Tensor], Signal]
    ) -> Layer:
        weight_std, bias_std = _stds(dense)
        first = not self.hidden or dense is self.hidden[0].dense
        if first:
            return Layer(delta, Plain(weight_std * h), bias_std, self.columns)
        return Layer(delta, keep(weight_std * h), bias_std)

    def _first(self, X: Tensor, generator: torch.Generator) -> Tensor:
        """Preactivations of the first hidden layer, which is linear in the input: (N, n)."""
        z = normals(generator, self.n_units, self._axes.shape[1]).to(X.device)
        return z @ (self._scaled(X) @ self._axes).mT

    def _scaled(self, X: Tensor) -> Tensor:
        """Inputs as they multiply standard normal weights, and the bias: (n, d + 1)."""
        weight_std, bias_std = _stds(self.hidden[0].dense)
        bias = X.new_full((len(X), 1), bias_std or 0.0)
        return torch.cat([weight_std / math.sqrt(X.shape[1]) * X, bias], 1)

    def _at(self, rows: Tensor | None) -> tuple[list[At | None], list[At | None]]:
        depth = len(self.hidden)
        if rows is None or depth < 2:
            return [None] * depth, [None] * depth
        inputs = Inputs.of(rows.double())
        cross = self._covariances(inputs.pairs(self._inputs))
        own = self._covariances(inputs.own())

        def at(fields: list[Field | None], i: int) -> list[At | None]:
            parts = zip(fields, cross[i], own[i], strict=True)
            return [None if f is None else f.at(k, v) for f, k, v in parts]

        return at(self.forward, 0), at(self.backward, 1)


def normals(generator: torch.Generator, n: int, d: int) -> Tensor:
    """Standard normal points (n, d), more even than independent ones, in random order.

    From a scrambled Sobol sequence (Owen 1998), whose first dimensions are the most even: each
    point has the right distribution, and means over n of them have less variance.
    """
    (seed,) = torch.randint(2**31, (1,), generator=generator).tolist()
    even = min(d, torch.quasirandom.SobolEngine.MAXDIM)
    points = torch.quasirandom.SobolEngine(even, scramble=True, seed=seed)
    u = points.draw(n, dtype=torch.float64).clamp(1e-12, 1 - 1e-12)
    # in random order, for two sequences point by point are not independent
    z = torch.special.ndtri(u).float()[torch.randperm(n, generator=generator)]
    return torch.cat([z, torch.randn(n, d - even, generator=generator)], 1) if d > even else z


def _streams(seed: int) -> Iterator[torch.Generator]:
    """Independent generators, one after the other."""
    sequence = np.random.SeedSequence(seed)
    while True:
        (child,) = sequence.spawn(1)
        yield torch.Generator().manual_seed(int(child.generate_state(1, np.uint64)[0] >> 1))


def _stds(dense: Dense) -> tuple[float, float | None]:
    return math.sqrt(dense.weight_var), math.sqrt(dense.bias_var) if dense.has_bias else None
