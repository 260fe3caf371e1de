"""Elementwise functions of a Gaussian signal."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from skntk.infinite.duals import Dual, QuadratureDual
from skntk.infinite.duals.quadrature import gain_function
from skntk.infinite.rules.base import Options, Rule, Signal
from skntk.infinite.state import State, spare


@dataclass(frozen=True, eq=False)
class Activation(Rule):
    r"""Elementwise function: :math:`K' = \sigma(K)`, :math:`\Theta' = \dot\sigma(K)\,\Theta`.

    A gain trained in front of it contributes :math:`E[u\,\phi'(u)\, v\,\phi'(v)]`.

    Attributes
    ----------
    signal : Signal
        The preactivation, a Gaussian signal.
    function : callable
        The function itself, tensor in and tensor out.
    dual : Dual
        Its dual.
    name : str
        For messages.
    """

    signal: Signal
    function: Callable[[Tensor], Tensor]
    dual: Dual
    name: str

    @property
    def inputs(self) -> tuple[Signal, ...]:  # type: ignore[override]
        return (self.signal,)

    @functools.cached_property
    def gain_dual(self) -> Dual:
        """Dual of x phi'(x)."""
        return self.dual.gain_dual() or QuadratureDual(gain_function(self.function), self.name)

    @property
    def series(self) -> list[QuadratureDual]:
        """Duals in use that have no closed form."""
        duals = [self.dual, self.gain_dual] if self.signal.gains else [self.dual]
        return [dual for dual in duals if isinstance(dual, QuadratureDual)]

    def apply(self, states: Sequence[State], options: Options) -> State:
        """Apply the dual."""
        (s,) = states
        out, slope = self.dual.apply(s)
        if not options.with_ntk:
            return out
        ntk = None if s.ntk is None else torch.mul(s.ntk, slope, out=spare(slope, s.ntk))
        if s.gain:
            gained = s.gain * self.gain_dual.apply(replace(s, ntk=None, gain=0.0))[0].nngp
            ntk = gained if ntk is None else ntk + gained
        return replace(out, ntk=ntk)

    def degree(self, degrees: Sequence[float | None]) -> float | None:
        """Multiply the degree of the input by that of the function."""
        if degrees[0] is None or self.dual.degree is None:
            return None
        return degrees[0] * self.dual.degree
