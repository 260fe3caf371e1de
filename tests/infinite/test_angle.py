"""The angle of a point on the circle, also as a compiler gets it."""

import math

import pytest
import torch

from skntk.infinite.angle import angle, arcsine
from skntk.infinite.state import recording


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("function", "low", "high"), [(angle, 0, 1), (arcsine, -0.5, 0.5)])
def test_half_a_circle(function, low, high, dtype):
    """Within two roundings of the angle everywhere, relative to it where it is small."""
    exact = torch.linspace(low * math.pi, high * math.pi, 100_003, dtype=torch.float64)[1:-1]
    tiny = torch.logspace(-20, -1, 500, dtype=torch.float64)
    exact = torch.cat([exact, tiny] if low == 0 else [exact, tiny, -tiny])
    sine, cosine = exact.sin().to(dtype), exact.cos().to(dtype)
    with recording():
        found = function(sine, cosine).double()
    assert ((found - exact).abs() <= 2 * torch.finfo(dtype).eps * exact.abs()).all()
    torch.testing.assert_close(function(sine, cosine), torch.atan2(sine, cosine), rtol=0, atol=0)


def test_the_axes():
    """Exact on the axes."""
    with recording():
        upper = angle(torch.tensor([0.0, 1.0, 0.0]), torch.tensor([1.0, 0.0, -1.0]))
        right = arcsine(torch.tensor([0.0, 1.0, -1.0]), torch.tensor([1.0, 0.0, 0.0]))
    torch.testing.assert_close(upper, torch.tensor([0, 0.5, 1]) * math.pi, rtol=0, atol=0)
    torch.testing.assert_close(right, torch.tensor([0, 0.5, -0.5]) * math.pi, rtol=0, atol=0)
