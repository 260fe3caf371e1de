"""Dropout and products of signals; sums and concatenations are signals themselves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from skntk.infinite.rules.base import Options, Rule, Signal
from skntk.infinite.state import State, add


@dataclass(frozen=True, eq=False)
class Dropout(Rule):
    """Dropout in training mode: masks are independent, so only a signal with itself is rescaled.

    Attributes
    ----------
    signal : Signal
        The input.
    keep : float
        Probability that a unit is kept, in (0, 1].
    """

    signal: Signal
    keep: float

    @property
    def inputs(self) -> tuple[Signal, ...]:  # type: ignore[override]
        return (self.signal,)

    @property
    def centred(self) -> bool:  # type: ignore[override]
        return self.signal.centred

    def apply(self, states: Sequence[State], options: Options) -> State:
        """Divide variances by the keep probability, leaving covariances of other pairs."""
        (s,) = states
        ntk, k1, k2 = s.tangent, s.k1 / self.keep, s.k2 / self.keep
        if s.own:
            ntk = None if ntk is None else ntk / self.keep
            return replace(s, k1=k1, k2=k2, ntk=ntk, gain=0.0)
        return State(k1, k2, (1 - self.keep) + self.keep * s.delta, ntk)

    def degree(self, degrees: Sequence[float | None]) -> float | None:
        """Return the degree of the input."""
        return degrees[0]


@dataclass(frozen=True, eq=False)
class Product(Rule):
    r"""Elementwise product of independent signals.

    :math:`K' = \prod_i K_i` and :math:`\Theta' = \sum_i \Theta_i \prod_{j \ne i} K_j`.

    Attributes
    ----------
    factors : tuple of Signal
        What is multiplied.
    """

    factors: tuple[Signal, ...]

    @property
    def inputs(self) -> tuple[Signal, ...]:  # type: ignore[override]
        return self.factors

    @property
    def centred(self) -> bool:  # type: ignore[override]
        return any(signal.centred for signal in self.factors)

    def apply(self, states: Sequence[State], options: Options) -> State:
        """Apply the product rule."""
        k1, k2, delta = states[0].k1, states[0].k2, states[0].delta
        for s in states[1:]:
            k1, k2, delta = k1 * s.k1, k2 * s.k2, (delta + s.delta * (1 - delta)).clamp(0, 2)
        out = State(k1, k2, delta, own=states[0].own)
        if not options.with_ntk:
            return out
        ntk: Tensor | None = None
        for i, s in enumerate(states):
            if (tangent := s.tangent) is not None:
                others = (other.nngp for j, other in enumerate(states) if j != i)
                ntk = add(ntk, math.prod(others, start=tangent))
        return replace(out, ntk=ntk)

    def degree(self, degrees: Sequence[float | None]) -> float | None:
        """Return the sum of the degrees."""
        return None if None in degrees else sum(degrees)  # type: ignore[arg-type]
