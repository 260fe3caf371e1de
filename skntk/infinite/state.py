"""What is known of a layer's signals in the limit: variances, correlation and tangent kernel.

A program carries the correlation of a pair of signals as its complement, ``delta = 1 - rho``. A
kernel matrix stores ``rho``, which near coincident inputs has lost half of the digits of the
angle; the complement keeps them, passes through affine layers and sums without cancellation, and
needs no inverse trigonometric function to do so.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace

import torch
from torch import Tensor

_recording: ContextVar[bool] = ContextVar("recording", default=False)


def is_recording() -> bool:
    """Whether operations are being recorded for a compiler."""
    return _recording.get()


def any_zero(k: Tensor) -> bool:
    """Whether some variance is 0; for a compiler, which asks no questions, it may be."""
    return is_recording() or bool((k == 0).any())


@contextmanager
def recording() -> Iterator[None]:
    """Record operations for a compiler meanwhile."""
    token = _recording.set(True)
    try:
        yield
    finally:
        _recording.reset(token)


def spare(mine: Tensor, *operands: Tensor) -> Tensor | None:
    """Return `mine`, an operand that nothing else reads, as the place for a result: ``out=``.

    None, for a place of its own, where gradients or a compiler need the operands, and where the
    result is larger or wider. A tile's temporaries compete for the cache; each one less saves time.
    """
    if torch.is_grad_enabled() or is_recording():
        return None
    return mine if all(_fits(x, mine) for x in operands) else None


def _fits(x: Tensor, into: Tensor) -> bool:
    wide = x.shape == into.shape or torch.broadcast_shapes(x.shape, into.shape) == into.shape
    return wide and x.dtype == into.dtype


def safe_sqrt(x: Tensor) -> Tensor:
    """Square root whose gradient is 0, not infinite, at 0 (and whose value is 0 below it)."""
    if not torch.is_grad_enabled():
        x = x.clamp_min(0)
        return torch.sqrt(x, out=spare(x))
    positive = x > 0
    return torch.where(positive, torch.where(positive, x, 1.0).sqrt(), 0.0)


def safe_rsqrt(x: Tensor) -> Tensor:
    """Reciprocal square root, 0 where `x` is 0."""
    positive = x > 0
    return torch.where(positive, torch.where(positive, x, 1.0).rsqrt(), 0.0)


@dataclass(frozen=True)
class State:
    """Limit of one layer's signals on pairs of inputs; all tensors broadcast against each other.

    For a tile the shapes are ``k1 : (..., n1, 1)``, ``k2 : (..., 1, n2)`` and (..., n1, n2) for
    the rest; for a list of m pairs all are (..., m).

    Attributes
    ----------
    k1, k2 : Tensor
        Variance (NNGP diagonal) of the signal at the first and the second inputs.
    delta : Tensor
        One minus the correlation of the two signals, in [0, 2]; 1 where a variance is 0.
    ntk : Tensor or None
        Tangent kernel; None while no trained parameter has been passed, or if not asked for.
    own : bool
        Whether each pair is one input with itself, as for a kernel's diagonal.
    gain : float
        Weight of a trained gain (of a normalization) that awaits the next layer: its tangent is
        ``gain * nngp`` before an affine layer, but not before an activation.
    """

    k1: Tensor
    k2: Tensor
    delta: Tensor
    ntk: Tensor | None = None
    own: bool = False
    gain: float = 0.0

    @property
    def nngp(self) -> Tensor:
        """Covariance of the signals."""
        size = safe_sqrt(self.k1) * safe_sqrt(self.k2)
        return torch.addcmul(size, size, self.delta, value=-1, out=spare(size, self.delta))

    @property
    def tangent(self) -> Tensor | None:
        """Tangent kernel with the pending gain."""
        return add(self.ntk, self.gain * self.nngp) if self.gain else self.ntk

    @property
    def sum_of_squares(self) -> tuple[Tensor, Tensor]:
        """Variances of the difference and of the sum of the two signals, free of cancellation."""
        a, b = safe_sqrt(self.k1), safe_sqrt(self.k2)
        apart, both = (a - b).square(), (2 * a) * b
        return apart + both * self.delta, apart + both * (2 - self.delta)

    def kernel(self, kind: str) -> Tensor:
        """Kernel of one kind ("ntk", "nngp"), with all axes of the pairs."""
        shape = torch.broadcast_tensors(self.k1, self.k2, self.delta)[0].shape
        out = self.nngp if kind == "nngp" else self.tangent
        return torch.zeros_like(self.delta).expand(shape) if out is None else out.expand(shape)

    def scaled(self, r1: Tensor, r2: Tensor) -> State:
        """Multiply the signals at each input by a number of their own."""
        ntk = None if self.ntk is None else self.ntk * r1 * r2
        return replace(self, k1=self.k1 * r1.square(), k2=self.k2 * r2.square(), ntk=ntk)

    def with_cross(self, k1: Tensor, k2: Tensor, cross: Tensor, slope: Tensor) -> State:
        r"""State of a smooth function of both signals; for what has no cancellation-free form.

        Near coincidence, where :math:`1 - \rho'` cancels, :math:`\delta' = \delta\, k\,
        \dot\sigma / k'` to first order, for signals of equal variance.

        Parameters
        ----------
        k1, k2 : Tensor
            Variances k' of the results.
        cross : Tensor
            Their covariance.
        slope : Tensor
            Covariance of the derivatives.
        """
        if self.own:
            return State(k1, k2, (k1 == 0).to(k1.dtype), own=True)
        inverse = safe_rsqrt(k1) * safe_rsqrt(k2)
        delta = (1 - cross * inverse).clamp_min(0)
        eps = torch.finfo(delta.dtype).eps
        near = self.delta < eps ** (2 / 3)
        if is_recording() or near.any():
            first = self.delta * ((slope * inverse) * self.k1)
            alike = (self.k1 - self.k2).abs() <= 8 * eps * self.k1
            delta = torch.where(near, torch.where(alike, first, delta), delta)
        return State(k1, k2, delta)


def add(a: Tensor | None, b: Tensor | None, factor: float | Tensor = 1.0) -> Tensor | None:
    """Sum of two tangent kernels, the second times `factor`; None stands for 0."""
    if b is None:
        return a
    if a is None:
        return factor * b
    return a + factor * b if isinstance(factor, Tensor) else torch.add(a, b, alpha=factor)


def superpose(states: Sequence[State], constant: float | Tensor = 0.0) -> State:
    r"""Sum of uncorrelated signals, and of a shared random constant of variance `constant`.

    With the shares :math:`r_m = \sqrt{k_m / \sum_l k_l}` of the terms at the two inputs,
    :math:`\delta = \sum_m r_m r'_m \delta_m + \tfrac12 \sum_m (r_m - r'_m)^2`: all terms are
    positive, so nothing cancels.
    """
    first = states[0]
    if len(states) == 1 and isinstance(constant, float) and constant == 0:
        return first
    k1 = sum((s.k1 for s in states[1:]), start=first.k1) + constant
    k2 = sum((s.k2 for s in states[1:]), start=first.k2) + constant
    ntk: Tensor | None = None
    for s in states:
        ntk = add(ntk, s.tangent)
    if first.own:
        return State(k1, k2, (k1 == 0).to(k1.dtype), ntk, own=True)
    i1, i2 = safe_rsqrt(k1), safe_rsqrt(k2)
    shares = [(safe_sqrt(s.k1) * i1, safe_sqrt(s.k2) * i2) for s in states]
    if not (isinstance(constant, float) and constant == 0):
        std = safe_sqrt(constant) if isinstance(constant, Tensor) else constant**0.5
        shares.append((std * i1, std * i2))
    terms = []
    for (r1, r2), s in zip(shares, states, strict=False):
        both = r1 * r2
        terms.append(torch.mul(both, s.delta, out=spare(both, s.delta)))
    delta = sum(terms[1:], start=terms[0])
    for r1, r2 in shares:
        apart = r1 - r2
        delta = torch.addcmul(delta, apart, apart, value=0.5, out=spare(delta, apart))
    # A signal of variance 0 has no shares: half of its flag completes delta to 1.
    for k in (k1, k2) if isinstance(constant, Tensor) or constant == 0 else ():
        if any_zero(k):
            delta = delta + 0.5 * (k == 0).to(k.dtype)
    return State(k1, k2, delta, ntk)
