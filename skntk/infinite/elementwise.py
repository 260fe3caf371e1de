"""Which modules and functions are elementwise, and which of them have a closed-form dual."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import skntk.nn as snn
from skntk.infinite.duals import (
    Dual,
    ErfDual,
    ExpDual,
    GaussianDual,
    GELUDual,
    PolynomialDual,
    RectifierDual,
    SignDual,
    SinDual,
)

HALF_PI = 1.5707963267948966

_DUALS: dict[type[nn.Module], Callable[[Any], Dual | None]] = {
    nn.ReLU: lambda m: RectifierDual(0.0, 1.0),
    nn.LeakyReLU: lambda m: RectifierDual(m.negative_slope, 1.0),
    snn.ABReLU: lambda m: RectifierDual(m.a, m.b),
    snn.Abs: lambda m: RectifierDual(-1.0, 1.0),
    snn.Sign: lambda m: SignDual(),
    snn.Erf: lambda m: ErfDual(m.a, m.b, m.c),
    snn.Sin: lambda m: SinDual(m.a, m.b, m.c),
    snn.Cos: lambda m: SinDual(m.a, m.b, m.c + HALF_PI),
    snn.Exp: lambda m: ExpDual(m.a, m.b),
    snn.Gaussian: lambda m: GaussianDual(m.a, m.b),
    snn.Polynomial: lambda m: PolynomialDual(m.coef),
    snn.Hermite: lambda m: PolynomialDual(m.coef),
    nn.GELU: lambda m: GELUDual() if m.approximate == "none" else None,
    **dict.fromkeys(
        (
            *(nn.Tanh, nn.Sigmoid, nn.SiLU, nn.Softplus, nn.ELU, nn.SELU, nn.CELU, nn.Mish),
            *(nn.Hardtanh, nn.ReLU6, nn.Softsign, nn.LogSigmoid, nn.Hardswish, nn.Hardsigmoid),
            *(nn.Tanhshrink, nn.Softshrink, nn.Hardshrink),
        ),
        lambda m: None,
    ),
}

#: Functions that have a module with a closed form, from the arguments after the tensor.
_AS_MODULE: dict[Any, Callable[..., nn.Module]] = {
    torch.relu: nn.ReLU,
    F.relu: lambda inplace=False: nn.ReLU(),
    F.leaky_relu: lambda negative_slope=0.01, inplace=False: nn.LeakyReLU(negative_slope),
    F.gelu: lambda approximate="none": nn.GELU(approximate),
    torch.abs: snn.Abs,
    operator.abs: snn.Abs,
    torch.erf: snn.Erf,
    torch.sin: snn.Sin,
    torch.cos: snn.Cos,
    torch.exp: snn.Exp,
    torch.sign: snn.Sign,
    torch.square: lambda: snn.Polynomial([0.0, 0.0, 1.0]),
}

#: Other elementwise functions of one tensor and numbers.
_OTHERS = {
    *(torch.tanh, torch.sigmoid, torch.pow, torch.clamp, torch.arctan, torch.atan, torch.asinh),
    *(torch.sinh, torch.cosh, torch.expm1, torch.log1p, torch.sqrt),
    *(F.tanh, F.sigmoid, F.silu, F.softplus, F.elu, F.selu, F.celu, F.mish, F.hardtanh, F.relu6),
    *(F.softsign, F.logsigmoid, F.hardswish, F.hardsigmoid, F.tanhshrink),
    *(torch.sinc, torch.reciprocal, torch.rsqrt, torch.maximum, torch.minimum),
    *(torch.add, torch.sub, torch.mul, torch.div, operator.add, operator.sub, operator.mul),
    *(operator.truediv, operator.pow, operator.neg, torch.neg),
}


def is_elementwise_module(module: nn.Module) -> bool:
    """Whether `module` is known as elementwise."""
    return type(module) in _DUALS


def closed_form(target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Dual | None:
    """Return the closed-form dual of a module, or of a function with further arguments, if any."""
    if target in (operator.pow, torch.pow) and len(args) == 1:
        power = args[0]
        if isinstance(power, int) and 0 <= power <= 12:
            return PolynomialDual([0.0] * power + [1.0])
        return None
    if isinstance(target, nn.Module):
        return _DUALS[type(target)](target)
    if target in _AS_MODULE:
        try:
            return closed_form(_AS_MODULE[target](*args, **kwargs), (), {})
        except TypeError:
            return None
    return None


def elementwise_function(target: Any) -> Callable[..., Tensor] | None:
    """Return the function for the target of a graph's call, or None if it is not elementwise.

    Methods of a tensor count by their names: ``x.tanh()`` is ``torch.tanh(x)``.
    """
    if isinstance(target, str):
        target = getattr(torch, target.strip("_"), None)
    if target in _AS_MODULE or target in _OTHERS:
        return target
    return None


@dataclass(frozen=True)
class Variable:
    """The preactivation itself, times a number."""

    factor: float = 1.0

    def __call__(self, z: Tensor) -> Tensor:
        """Return a tensor of its own, which a function may change in place."""
        return self.factor * z


@dataclass(frozen=True)
class Call:
    """An elementwise function applied to expressions in one preactivation, and to numbers."""

    function: Callable[..., Tensor]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def __call__(self, z: Tensor) -> Tensor:
        """Evaluate at preactivations `z`."""
        args = (a(z) if isinstance(a, Variable | Call) else a for a in self.args)
        return self.function(*args, **self.kwargs)


Expression = Variable | Call
