"""Angles of points on the unit circle: by `torch.atan2`, or as operations a compiler fuses."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from skntk.infinite.state import is_recording

#: asin(x) = x + x^3 p(x^2) for 0 <= x^2 <= 1/2, within 2e-8 of asin(x); p in ascending powers.
_ASIN = (
    *(0.16666905, 0.0748851106, 0.0464984845, 0.0164133738, 0.0768946819),
    *(-0.0924968484, 0.111241343),
)


def angle(sine: Tensor, cosine: Tensor) -> Tensor:
    """Angle in [0, pi] of points on the upper half of the unit circle: ``sine >= 0``."""
    if not _fusible(sine):
        return torch.atan2(sine, cosine)
    theta = _first_quadrant(sine, cosine.abs())
    return torch.where(cosine < 0, math.pi - theta, theta)


def arcsine(sine: Tensor, cosine: Tensor) -> Tensor:
    """Angle in [-pi/2, pi/2] of points on the right half of the unit circle: ``cosine >= 0``."""
    if not _fusible(sine):
        return torch.atan2(sine, cosine)
    theta = _first_quadrant(sine.abs(), cosine)
    return torch.where(sine < 0, -theta, theta)


def _fusible(x: Tensor) -> bool:
    return is_recording() and x.dtype == torch.float32


def _first_quadrant(sine: Tensor, cosine: Tensor) -> Tensor:
    """Polynomial of the smaller of the two, accurate to the rounding of float32."""
    steep = sine > cosine
    x = torch.where(steep, cosine, sine)
    square = x * x
    series = torch.full_like(x, _ASIN[-1])
    for c in reversed(_ASIN[:-1]):
        series = series * square + c
    theta = x + (x * square) * series
    return torch.where(steep, math.pi / 2 - theta, theta)
