"""Normalization over features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from skntk.infinite.rules.base import Options, Rule, Signal
from skntk.infinite.state import State, add


@dataclass(frozen=True, eq=False)
class Norm(Rule):
    r"""LayerNorm or RMSNorm: :math:`K` and :math:`\Theta` divided by :math:`\sqrt{(v+e)(v'+e)}`.

    :math:`v` is the signal's variance: over the features of a centred signal the mean vanishes in
    the limit, so that both norms agree.

    Attributes
    ----------
    signal : Signal
        The input.
    eps : float
        Added to the variance.
    gain, bias : bool
        Whether a gain (from 1) and a bias (from 0) are trained.
    """

    signal: Signal
    eps: float
    gain: bool
    bias: bool

    @property
    def inputs(self) -> tuple[Signal, ...]:  # type: ignore[override]
        return (self.signal,)

    @property
    def gaussian(self) -> bool:  # type: ignore[override]
        return self.signal.gaussian

    @property
    def gains(self) -> bool:  # type: ignore[override]
        return self.gain or self.signal.gains

    @property
    def centred(self) -> bool:  # type: ignore[override]
        return self.signal.centred

    def apply(self, states: Sequence[State], options: Options) -> State:
        """Rescale, then account for the trained gain and bias."""
        (s,) = states
        r1, r2 = (s.k1 + self.eps).rsqrt(), (s.k2 + self.eps).rsqrt()
        if self.eps == 0:
            r1, r2 = r1.nan_to_num(posinf=0.0), r2.nan_to_num(posinf=0.0)
        out = s.scaled(r1, r2)
        ntk = out.ntk
        if self.bias:
            ntk = add(ntk, (0 * out.delta) + 1)
        # Rescaling commutes with a gain: those that await the next layer add up.
        return replace(out, ntk=ntk, gain=s.gain + float(self.gain))

    def degree(self, degrees: Sequence[float | None]) -> float | None:
        """Return 0, if nothing is added to the variance."""
        return 0.0 if self.eps == 0 and degrees[0] is not None and not self.bias else None
