"""Signals that are elementwise functions of one Gaussian signal, as expressions in it."""

from __future__ import annotations

import functools

import torch

from skntk.infinite.elementwise import Call, Expression, Variable
from skntk.infinite.rules import Activation, Concatenation, Signal


def base_of(signal: Signal) -> Signal:
    """Gaussian signal of which `signal` may be an elementwise function."""
    if not signal.gaussian:
        for rule in signal.terms:
            if isinstance(rule, Activation):
                return rule.signal
    return signal


def expression_in(signal: Signal, base: Signal) -> Expression | None:
    """`signal` as an elementwise function of `base`, or None if it is not one."""
    parts: list[Expression] = []
    rest = dict(signal.terms)
    for rule, c in signal.terms.items():
        inner = _ratio(rule.signal, base) if isinstance(rule, Activation) else None
        if isinstance(rule, Activation) and inner is not None:
            part = Call(rule.function, (Variable(inner),), {})
            parts.append(part if c == 1 else Call(torch.mul, (part, c), {}))
            del rest[rule]
    if rest:
        factor = _ratio(Signal(rest), base)
        if factor is None:
            return None
        parts.append(Variable(factor))
    return functools.reduce(lambda a, b: Call(torch.add, (a, b), {}), parts)


def _ratio(signal: Signal, base: Signal) -> float | None:
    """The number c for which `signal` is c times `base`, or None."""
    if isinstance(signal, Concatenation) or set(signal.terms) != set(base.terms):
        return None
    ratios = {c / base.terms[rule] for rule, c in signal.terms.items()}
    return ratios.pop() if len(ratios) == 1 else None
