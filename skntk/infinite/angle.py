"""The angle of a point on the unit circle: by `torch.atan2`, or as operations a compiler fuses."""

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
    """Angle in (-pi, pi] of points with ``sine**2 + cosine**2 == 1``.

    In float32 and for a compiler it is a polynomial of the smaller of the two, accurate to float32
    rounding; otherwise the arctangent.
    """
    if not is_recording() or sine.dtype != torch.float32:
        return torch.atan2(sine, cosine)
    across, along = sine.abs(), cosine.abs()
    x = torch.minimum(across, along)
    square = x * x
    series = torch.full_like(x, _ASIN[-1])
    for c in reversed(_ASIN[:-1]):
        series = series * square + c
    theta = x + (x * square) * series
    theta = torch.where(across > along, math.pi / 2 - theta, theta)
    theta = torch.where(cosine < 0, math.pi - theta, theta)
    return torch.where(sine < 0, -theta, theta)
