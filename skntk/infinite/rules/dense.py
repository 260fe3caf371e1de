"""Affine layers over features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from skntk.infinite.rules.base import Options, Rule, Signal, weighted
from skntk.infinite.state import State, add, spare, superpose


@dataclass(frozen=True, eq=False)
class Dense(Rule):
    r"""Affine layer: :math:`K' = w K + b` and :math:`\Theta' = w_t K + w \Theta + b_t`.

    In the NTK parametrization :math:`w_t = w`, :math:`b_t = b` (Jacot 2018); in the standard one,
    at base width N, :math:`w_t = N` and :math:`b_t = 1` (Sohl-Dickstein 2020).

    Attributes
    ----------
    signal : Signal
        The input.
    weight_var, bias_var : float
        Variances :math:`w` (times fan-in) and :math:`b`.
    weight_rate, bias_rate : float or None
        :math:`w_t` and :math:`b_t`; None for the NTK parametrization.
    has_bias : bool
        Whether there is a bias.
    """

    signal: Signal
    weight_var: float
    bias_var: float
    weight_rate: float | None = None
    bias_rate: float | None = None
    has_bias: bool = True

    gaussian = True
    centred = True

    @property
    def inputs(self) -> tuple[Signal, ...]:  # type: ignore[override]
        return (self.signal,)

    @property
    def sources(self) -> frozenset[Rule]:
        return frozenset({self})

    def _variances(self, options: Options) -> tuple[float | Tensor, float | Tensor]:
        weight_var: float | Tensor = self.weight_var
        bias_var: float | Tensor = self.bias_var if self.has_bias else 0.0
        if options.weight_std is not None:
            weight_var = options.weight_std.square()
        if options.bias_std is not None and self.has_bias:
            bias_var = options.bias_std.square()
        return weight_var, bias_var

    def apply(self, states: Sequence[State], options: Options) -> State:
        """Apply the two equations above."""
        (s,) = states
        weight_var, bias_var = self._variances(options)
        before = replace(s, ntk=None, gain=0.0)
        out = superpose([weighted(before, weight_var)], constant=bias_var)
        if not options.with_ntk:
            return out
        own = out.nngp
        if self.weight_rate is not None:
            own = self.weight_rate * before.nngp + (self.bias_rate or 0.0)
        return replace(out, ntk=add(own, s.tangent, weight_var))

    def kernel(self, states: Sequence[State], options: Options, kind: str) -> Tensor:
        """Apply the two equations to covariances as they are."""
        (s,) = states
        weight_var, bias_var = self._variances(options)
        weight_rate, bias_rate = weight_var, bias_var
        if kind == "ntk" and self.weight_rate is not None:
            weight_rate, bias_rate = self.weight_rate, self.bias_rate or 0.0
        out = weighted(replace(s, ntk=None, gain=0.0), weight_rate).nngp
        if isinstance(bias_rate, Tensor) or bias_rate:
            out = torch.add(out, bias_rate, out=spare(out))
        total = add(out, s.tangent if kind == "ntk" else None, weight_var)
        assert total is not None
        return total

    def degree(self, degrees: Sequence[float | None]) -> float | None:
        """Return the degree of the input, if nothing is added to it."""
        constant = self.has_bias and (self.bias_var != 0 or bool(self.bias_rate))
        return None if constant else degrees[0]
