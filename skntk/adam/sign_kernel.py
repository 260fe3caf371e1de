r"""Kernels of sign descent on one row at a time, in closed form.

With ``beta1 = beta2 = eps = 0`` and one row and one output in each step, a feature moves by
:math:`\mathrm{sign}(r)\, \mathrm{sign}\, \psi(x_t)`: the limit is a kernel machine after all,

.. math:: f_{t+1}(x) = f_t(x) - \eta\, \mathrm{sign}(r_t)\, K(x, x_t), \qquad
          K(x, x') = \sum_\theta E[\psi(x)\, \mathrm{sign}\, \psi(x')],

whose kernel is not symmetric. With larger batches there is none: the sign of a sum of gradients
depends on the residuals.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from skntk.adam.gaussian import Hidden, plain_layers
from skntk.core import UnsupportedModuleError, as_tensor, like_input
from skntk.infinite.elementwise import Call, Variable
from skntk.infinite.inputs import Inputs
from skntk.infinite.kernel import InfiniteKernel
from skntk.infinite.state import State, safe_rsqrt, safe_sqrt
from skntk.nn import Erf


class SignDual(ABC):
    """Expectations of an increasing function of a Gaussian pair, with the sign of the second."""

    @abstractmethod
    def value(self, s: State) -> Tensor:
        r""":math:`E[\phi(u)\, \mathrm{sign}\, \phi(v)]`."""

    @abstractmethod
    def slope(self, s: State) -> Tensor:
        r""":math:`E[\phi'(u)\, \mathrm{sign}\, \phi'(v)]`."""


class IdentitySign(SignDual):
    """Of the identity."""

    def value(self, s: State) -> Tensor:
        """Return the covariance in units of the second's standard deviation, times E|z|."""
        return math.sqrt(2 / math.pi) * s.nngp * safe_rsqrt(s.k2)

    def slope(self, s: State) -> Tensor:
        """Return 1."""
        return torch.ones_like(s.delta)


class ReLUSign(SignDual):
    """Of the rectifier: both are positive in a quadrant (Cho & Saul 2009, orders 0 and 1)."""

    def value(self, s: State) -> Tensor:
        """Return the mean of u where both are positive."""
        return safe_sqrt(s.k1) * (2 - s.delta) / (2 * math.sqrt(2 * math.pi)) * (s.k2 > 0)

    def slope(self, s: State) -> Tensor:
        """Return the probability that both are positive."""
        theta = 2 * torch.atan2(safe_sqrt(s.delta), safe_sqrt(2 - s.delta))
        return (math.pi - theta) / (2 * math.pi) * (s.k1 > 0) * (s.k2 > 0)


class ErfSign(SignDual):
    """Of the error function: the limit of the arcsine kernel (Williams 1997) for a steep second."""

    def value(self, s: State) -> Tensor:
        """Return the arcsine kernel with the sign in place of the second function."""
        ratio = 2 * s.nngp * safe_rsqrt((1 + 2 * s.k1) * 2 * s.k2)
        return 2 / math.pi * torch.asin(ratio.clamp(-1, 1))

    def slope(self, s: State) -> Tensor:
        """Return the mean slope of the first: slopes are positive."""
        return (2 / math.sqrt(math.pi) / (1 + 2 * s.k1).sqrt()).expand(s.delta.shape)


def sign_gradient_kernel(module: nn.Module, X1: Any, X2: Any = None) -> Any:
    r"""Kernel :math:`K(x, x') = \sum_\theta E[\psi(x)\, \mathrm{sign}\, \psi(x')]` of a network.

    By how much sign descent on the row x' moves the function at x, in the limit of infinite width.

    Parameters
    ----------
    module : torch.nn.Module
        A chain of `skntk.nn.Linear` layers in the NTK parametrization with ReLU, the error
        function (`skntk.nn.Erf` with b = 1) or nothing in between, and one output.
    X1 : array-like or Tensor of shape (n1, d)
        Where the function is moved.
    X2 : array-like or Tensor of shape (n2, d), optional
        Rows that it is trained on; by default `X1`.

    Returns
    -------
    ndarray or Tensor of shape (n1, n2)
        Not symmetric.

    Raises
    ------
    UnsupportedModuleError
        For other layers, for which there is no closed form here; `skntk.AdamNTKRegressor` draws
        the limit of any.

    References
    ----------
    Sernau (2024), "Infinite width models that work", for descent by signs; Bernstein et al. (2018),
    "signSGD"; Cho & Saul (2009), "Kernel methods for deep learning", equation 1.

    Examples
    --------
    >>> import numpy as np, skntk.nn as snn
    >>> from skntk.adam import sign_gradient_kernel
    >>> sign_gradient_kernel(snn.MLP(2, depth=1, bias_std=0.0), np.eye(2)).round(3)
    array([[0.963, 0.282],
           [0.282, 0.963]])
    """
    x1 = as_tensor(X1, name="X1")
    x2 = x1 if X2 is None else as_tensor(X2, dtype=x1.dtype, device=x1.device, name="X2")
    if x1.ndim != 2 or x1.shape[1:] != x2.shape[1:]:
        raise ValueError(
            f"X1 and X2 have shapes {tuple(x1.shape)} and {tuple(x2.shape)}; pass (n1, d) and "
            "(n2, d)."
        )
    hidden, readout = plain_layers(InfiniteKernel(module).program((x1.shape[1],)))
    duals = [_dual(layer) for layer in hidden]
    one, two = Inputs.of(x1), Inputs.of(x2)
    states, slopes = _forward(hidden, one.pairs(two))
    own_slopes = _forward(hidden, two.own())[1]

    # A[l] = E[h^l(x) sign h^l(x')], layer by layer from the input
    A = [x1 @ x2.sign().T / x1.shape[1]]
    A += [dual.value(s) for dual, s in zip(duals, states, strict=True)]
    total = readout.weight_var**0.5 * A[-1] + _bias_std(readout)
    # covariance C of the backward signals before the slope, and its diagonal at x', from above
    C = torch.full_like(A[0], readout.weight_var)
    diagonal = torch.full_like(C[0], readout.weight_var)
    for i in reversed(range(len(hidden))):
        mean_size = math.sqrt(2 / math.pi) * C * safe_rsqrt(diagonal)  # E[G sign G']
        D = mean_size * duals[i].slope(states[i])
        dense = hidden[i].dense
        total = total + D * (dense.weight_var**0.5 * A[i] + _bias_std(dense))
        C, diagonal = dense.weight_var * slopes[i] * C, dense.weight_var * own_slopes[i] * diagonal
    return like_input(total, X1)


def _forward(hidden: list[Hidden], state: State) -> tuple[list[State], list[Tensor]]:
    """States before each function, and covariances of its slopes."""
    states, slopes = [], []
    for layer in hidden:
        before, state, slope = layer.apply(state)
        states.append(before)
        slopes.append(slope)
    return states, slopes


def _bias_std(dense: Any) -> float:
    return float(dense.bias_var**0.5) if dense.has_bias else 0.0


def _dual(layer: Hidden) -> SignDual:
    if layer.activation is None:
        return IdentitySign()
    call = layer.activation.function
    function = None
    if isinstance(call, Call) and call.args == (Variable(factor=1.0),) and not call.kwargs:
        function = call.function
    if isinstance(function, nn.ReLU):
        return ReLUSign()
    if isinstance(function, Erf) and (function.a, function.b, function.c) == (1.0, 1.0, 0.0):
        return ErfSign()
    raise UnsupportedModuleError(
        f"{layer.activation.name} has no closed sign-gradient kernel; ReLU, skntk.nn.Erf() and the "
        "identity have. AdamNTKRegressor(beta1=0, beta2=0, eps=0, batch_size=1) draws the limit."
    )
