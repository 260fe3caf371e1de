"""Inputs embedded feature by feature: a small infinitely wide network for each of them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from skntk.infinite.state import State

#: The kernel of one feature at x^2 = 1, by which the embedding is divided.
_UNIT = 7.0


@dataclass(frozen=True)
class FeaturewiseInputs:
    r"""Rows of X in a feature-wise embedding.

    Each feature is read by an infinitely wide ReLU network of one hidden layer with
    ``weight_std=sqrt(2)`` and ``bias_std=1``; the network proper reads the tangent features of all
    of these. Its input covariance is therefore, instead of :math:`x \cdot x' / d`, the mean over
    features of the one-dimensional NTK. With :math:`a_j = (\sqrt2 x_j, 1)` and
    :math:`\theta_j` the angle between :math:`a_j` and :math:`a'_j`,

    .. math::

        \Theta_j = 1 + \tfrac1\pi \left[\sqrt2\, |x_j - x'_j|
            + 2 (\pi - \theta_j)\, a_j \cdot a'_j\right],

    a function of each feature's difference with a cusp, as of a forest of trees: what suits tables
    whose columns have little to do with each other.

    Attributes
    ----------
    first : Tensor of shape (d, n)
        :math:`\sqrt2 x`, a feature after the other.
    angle : Tensor of shape (d, n)
        Angle of :math:`a_j` from its second axis.
    square : Tensor of shape (n,)
        The covariance of each row with itself, 1 where all features are 1 or -1.
    """

    first: Tensor
    angle: Tensor
    square: Tensor

    @classmethod
    def of(cls, X: Tensor) -> FeaturewiseInputs:
        """Prepare rows (n, d)."""
        first = (math.sqrt(2) * X).T.contiguous()
        square = (3 + 2 * first.square()).mean(0) / _UNIT
        return cls(first, torch.atan(first), square)

    def __len__(self) -> int:
        return int(self.square.shape[-1])

    def __getitem__(self, rows: slice) -> FeaturewiseInputs:
        return FeaturewiseInputs(self.first[:, rows], self.angle[:, rows], self.square[rows])

    def own(self) -> State:
        """State of each row with itself: tensors of shape (n,)."""
        return State(self.square, self.square, torch.zeros_like(self.square), own=True)

    def pairs(self, other: FeaturewiseInputs) -> State:
        """State of all pairs of rows: (n1, n2)."""
        # By how much the covariance falls short of the mean of both variances: with a = sqrt(2) x
        # a sum of |a - a'| (|a - a'| - 1/pi) + 2 theta (a a' + 1) / pi, exactly 0 for equal rows.
        short = self.square.new_zeros(len(self), len(other))
        for x, angle, y, other_angle in zip(
            self.first[:, :, None], self.angle[:, :, None], other.first, other.angle, strict=True
        ):
            apart, theta = (x - y).abs(), (angle - other_angle).abs()
            short = short.addcmul_(apart, apart - 1 / math.pi)
            short = short.addcmul_(theta, x * y + 1, value=2 / math.pi)
        k1, k2 = self.square[:, None], other.square[None, :]
        short = short / (len(self.first) * _UNIT) - 0.5 * (k1.sqrt() - k2.sqrt()).square()
        return State(k1, k2, (short * (k1.rsqrt() * k2.rsqrt())).clamp(0, 2))
