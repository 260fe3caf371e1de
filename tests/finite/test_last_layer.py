"""Which layer is a network's last."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from skntk.finite import last_layer

X = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))


def mlp(*after, last=None):
    return nn.Sequential(nn.Linear(3, 5), nn.Tanh(), last or nn.Linear(5, 2), *after)


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner, self.bias = nn.Linear(3, 3), nn.Parameter(torch.zeros(3))

    def forward(self, x):
        return F.linear(torch.tanh(self.inner(x)), self.inner.weight, self.bias)


class TwoHeads(nn.Module):
    """Two layers on top, side by side or added."""

    def __init__(self, together):
        super().__init__()
        self.inner, self.one, self.two = nn.Linear(3, 4), nn.Linear(4, 2), nn.Linear(4, 2)
        self.together = together

    def forward(self, x):
        z = torch.tanh(self.inner(x))
        return self.together(self.one(z), self.two(z))


class Bilinear(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner, self.last = nn.Linear(3, 4), nn.Bilinear(4, 4, 2)

    def forward(self, x):
        z = torch.tanh(self.inner(x))
        return self.last(z, z)


class FirstColumn(nn.Linear):
    def forward(self, x):
        return super().forward(x)[:, 0]


@pytest.mark.parametrize(
    ("module", "names"),
    [
        (mlp(), ["2.weight", "2.bias"]),
        (mlp(last=nn.Linear(5, 2, bias=False)), ["2.weight"]),
        (mlp(nn.ReLU()), ["2.weight", "2.bias"]),
        (mlp(nn.LayerNorm(2)), ["2.weight", "2.bias"]),
        (FirstColumn(3, 1), ["weight", "bias"]),
        (TwoHeads(torch.add), ["one.weight", "one.bias", "two.weight", "two.bias"]),
        (
            nn.Sequential(
                *(nn.Unflatten(1, (1, 3)), nn.Conv1d(1, 4, 2), nn.ReLU(), nn.Conv1d(4, 2, 1)),
                *(nn.AdaptiveAvgPool1d(1), nn.Flatten()),
            ),
            ["3.weight", "3.bias"],
        ),
    ],
)
def test_found(module, names):
    assert last_layer(module, X) == names


def test_frozen_backbone():
    module = mlp()
    module[0].requires_grad_(False)
    assert last_layer(module, X) == ["2.weight", "2.bias"]


def frozen_last():
    module = mlp()
    module[2].requires_grad_(False)
    return module


@pytest.mark.parametrize(
    "make",
    [
        Tied,
        Bilinear,
        frozen_last,
        lambda: mlp(last=parametrizations.weight_norm(nn.Linear(5, 2))),
        lambda: mlp(last=parametrizations.spectral_norm(nn.Linear(5, 2))),
        lambda: TwoHeads(lambda a, b: torch.cat([a, b], 1)),
    ],
)
def test_what_cannot_be_told_is_refused(make):
    with pytest.raises(ValueError, match="no last layer that could be told"):
        last_layer(make(), X)
