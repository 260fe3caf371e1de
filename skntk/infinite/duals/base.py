"""What a dual activation is: two expectations under a pair of correlated Gaussians."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from skntk.infinite.state import State


class Dual(ABC):
    r"""Dual of an elementwise function :math:`\phi` (Daniely, Frostig & Singer 2016).

    For a centred Gaussian pair :math:`(u, v)`, :math:`\sigma = E[\phi(u) \phi(v)]` and
    :math:`\dot\sigma = E[\phi'(u) \phi'(v)]`.
    """

    #: Degree p of positive homogeneity, phi(c x) = c^p phi(x) for c > 0; None if there is none.
    degree: float | None = None

    @abstractmethod
    def diag(self, q: Tensor) -> tuple[Tensor, Tensor]:
        """Return (sigma, sigma_dot) of a signal with itself, for variances `q` of any shape."""

    @abstractmethod
    def cross(self, s: State) -> tuple[State, Tensor]:
        """Return the state of phi(u), phi(v) (without tangent kernel) and sigma_dot."""

    def gain_dual(self) -> Dual | None:
        """Return the dual of x phi'(x), through which a gain in front of phi is trained.

        None if there is no closed form.
        """
        return None

    def apply(self, s: State) -> tuple[State, Tensor]:
        """Like `cross`, or like `diag` where each input is paired with itself."""
        if not s.own:
            return self.cross(s)
        k, slope = self.diag(s.k1)
        return State(k, k, (k == 0).to(k.dtype), own=True), slope

    def __call__(self, q11: Tensor, q12: Tensor, q22: Tensor) -> tuple[Tensor, Tensor]:
        """Return (sigma, sigma_dot) for covariances; shapes broadcast. For tests and reading."""
        q11, q12, q22 = torch.broadcast_tensors(q11, q12, q22)
        size = (q11 * q22).sqrt()
        delta = torch.where(size > 0, 1 - q12 / torch.where(size > 0, size, 1.0), 1.0)
        out, slope = self.cross(State(q11, q22, delta.clamp(0, 2)))
        return out.nngp, slope
