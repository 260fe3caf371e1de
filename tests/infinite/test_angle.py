"""The angle of a point on the circle, also as a compiler gets it."""

import math

import pytest
import torch

from skntk.infinite.angle import angle
from skntk.infinite.state import recording


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_angle_all_around(dtype):
    """Within two roundings of the angle everywhere, relative to it where the sine is small."""
    exact = torch.linspace(-math.pi, math.pi, 100_003, dtype=torch.float64)[1:]
    tiny = torch.logspace(-20, -1, 500, dtype=torch.float64)
    exact = torch.cat([exact, tiny, -tiny])
    sine, cosine = exact.sin().to(dtype), exact.cos().to(dtype)
    eps = torch.finfo(dtype).eps
    with recording():
        found = angle(sine, cosine).double()
    # pi is not a floating-point number: a sine of -0 may be either side of it.
    off = torch.remainder(found - exact + math.pi, 2 * math.pi) - math.pi
    assert (off.abs() <= 2 * eps * exact.abs()).all()
    torch.testing.assert_close(angle(sine, cosine), torch.atan2(sine, cosine), rtol=0, atol=0)


def test_angle_of_the_axes():
    """Exact on the axes."""
    sine, cosine = torch.tensor([[0.0, 1.0, 0.0, -1.0], [1.0, 0.0, -1.0, 0.0]])
    with recording():
        found = angle(sine, cosine)
    torch.testing.assert_close(found, torch.tensor([0, 0.5, 1, -0.5]) * math.pi, rtol=0, atol=0)
