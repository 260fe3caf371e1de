r"""Adam's family of update rules, for arrays of gradients."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class Moments:
    """State of the rule for an array of features.

    Attributes
    ----------
    w : Tensor
        Weights of the features, so far.
    m, v : Tensor
        Moving averages of gradients and their squares; v is None where it has no use.
    largest : Tensor or None
        Largest v so far, of AMSGrad.
    """

    w: Tensor
    m: Tensor
    v: Tensor | None
    largest: Tensor | None


@dataclass(frozen=True)
class AdamRule:
    r"""Bias-corrected Adam, and what its parameters turn it into.

    :math:`u_t = \hat m_t / (\sqrt{\hat v_t} + \varepsilon)` with 0/0 = 0, and
    :math:`w_{t+1} = (1 - \eta \lambda) w_t - \eta u_t` (Kingma & Ba 2015, algorithm 1; decoupled
    decay, Loshchilov & Hutter 2019).

    Attributes
    ----------
    learning_rate : float
        :math:`\eta`.
    beta1, beta2 : float
        :math:`\beta_1, \beta_2`. With ``beta1=0`` it is RMSProp, and with both 0 normalized to
        :math:`g / (|g| + \varepsilon)`, which is sign descent if `eps` is 0.
    eps : float
        :math:`\varepsilon`; infinity is the limit of large :math:`\varepsilon` with
        :math:`\eta / \varepsilon` fixed, which `learning_rate` then is: gradient descent with
        bias-corrected momentum, :math:`u_t = \hat m_t`.
    weight_decay : float
        :math:`\lambda`.
    amsgrad : bool
        Divide by the largest v so far (Reddi, Kale & Kumar 2018), as `torch.optim.Adam` does.
    """

    learning_rate: float
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.0
    amsgrad: bool = False

    @property
    def normalizes(self) -> bool:
        """Whether the gradient is divided by its size."""
        return not math.isinf(self.eps)

    @property
    def n_arrays(self) -> int:
        """Arrays of numbers that are kept for each array of features."""
        return 2 + (self.normalizes and self.beta2 > 0) + self._amsgrad

    @property
    def _amsgrad(self) -> bool:
        return self.amsgrad and self.normalizes

    def start(self, shape: tuple[int, ...], device: torch.device | str = "cpu") -> Moments:
        """State before the first step."""
        zeros = torch.zeros(self.n_arrays, *shape, device=device, dtype=torch.float32)
        v = zeros[2] if self.normalizes and self.beta2 > 0 else None
        return Moments(zeros[0], zeros[1], v, zeros[-1] if self._amsgrad else None)

    def step(self, state: Moments, g: Tensor, t: int) -> None:
        """Change `state` by the gradient `g` of step t = 1, 2, ..."""
        m = state.m.lerp_(g, 1 - self.beta1)
        rate = self.learning_rate / (1 - self.beta1**t)
        if self.weight_decay:
            state.w.mul_(1 - self.learning_rate * self.weight_decay)
        if not self.normalizes:
            state.w.sub_(m, alpha=rate)
            return
        size = self._size(state, g, t).add_(self.eps)
        if self.eps == 0:
            size.masked_fill_(size == 0, math.inf)  # 0/0 = 0
        state.w.sub_(torch.div(m, size, out=size), alpha=rate)

    def _size(self, state: Moments, g: Tensor, t: int) -> Tensor:
        r""":math:`\sqrt{\hat v_t}`, as an array of its own."""
        v = state.v
        if v is None:
            v, correction = g.square(), 1.0
        else:
            v.mul_(self.beta2).addcmul_(g, g, value=1 - self.beta2)
            correction = 1 - self.beta2**t
        if state.largest is not None:
            v = torch.maximum(state.largest, v, out=state.largest)
        return (v / correction).sqrt_()
