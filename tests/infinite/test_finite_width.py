"""Limits against finite networks: their empirical kernels, averaged over random weights."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import functional_call, jacrev, vmap

import skntk
import skntk.nn as snn

X = torch.tensor(
    [[1.0, 0.5, -0.3, 0.8], [0.2, -1.0, 0.7, 0.1], [0.9, 0.6, -0.2, 0.7]], dtype=torch.float64
)


def draw(net, n, seed):
    """Stacked parameters of `n` random networks."""
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng():
        torch.manual_seed(int(torch.randint(2**31, (1,), generator=generator)))
        states = []
        for _ in range(n):
            for module in net.modules():
                if hasattr(module, "reset_parameters"):
                    module.reset_parameters()
            states.append({k: p.detach().clone().double() for k, p in net.named_parameters()})
    return {k: torch.stack([s[k] for s in states]) for k in states[0]}


def empirical(net, n, seed, X=X):
    """NNGP and NTK samples (n, rows, rows) of `n` random networks, for their first output."""

    def outputs(parameters):
        return functional_call(net, parameters, (X,))[:, 0]

    parameters = draw(net, n, seed)
    f = vmap(outputs)(parameters)
    jacobian = vmap(jacrev(outputs))(parameters)
    flat = torch.cat([j.flatten(2) for j in jacobian.values()], dim=2)
    return f.unsqueeze(2) * f.unsqueeze(1), flat @ flat.mT


def agree(samples, limit, bias, sigmas=5.5):
    """Whether the mean of samples is the limit within its standard error and a bias."""
    error = samples.std(0) / math.sqrt(len(samples))
    limit = torch.as_tensor(limit)
    tolerance = sigmas * error + bias * limit.diagonal().max()
    gap = (samples.mean(0) - limit).abs()
    assert (gap <= tolerance).all(), (gap / limit.diagonal().max(), tolerance)


def linear(m, n, **options):
    return snn.Linear(m, n, weight_std=1.4, bias_std=0.3, **options)


def test_error_falls_with_the_square_root_of_the_width(seed):
    """A network's own kernels scatter around the limit by c / sqrt(width).

    The readout's fluctuation is the same at every width, so the NNGP is read from the last hidden
    layer: its mean over units. Root mean square errors over 60 networks: widths 12 and 108 differ
    by 3 in the root, and the ratio stays within a factor 1.7 of that, far from 1 and from 9.
    """
    found = {}
    for width in (12, 108):
        net = nn.Sequential(linear(4, width), snn.Erf(), linear(width, width), nn.ReLU())
        readout = nn.Sequential(*net, linear(width, 1)).double()
        hidden = readout[:-1]
        parameters = draw(readout, 60, seed)
        _, ntk = empirical(readout, 60, seed)
        inner = {k: v for k, v in parameters.items() if not k.startswith("4.")}
        h = vmap(lambda p, hidden=hidden: functional_call(hidden, p, (X,)))(inner)
        nngp = 1.4**2 * (h @ h.mT) / width + 0.3**2
        kernel = skntk.infinite_width(readout)
        for kind, samples in (("nngp", nngp), ("ntk", ntk)):
            found[kind, width] = float((samples - kernel(X, kind=kind)).square().mean().sqrt())
    for kind in ("nngp", "ntk"):
        assert 3 / 1.7 < found[kind, 12] / found[kind, 108] < 3 * 1.7, found


class Residual(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.first, self.inner = linear(4, width), linear(width, width)
        self.outer, self.last = linear(width, width), linear(width, 1)

    def forward(self, x):
        h = self.first(x)
        h = h + self.outer(torch.erf(self.inner(torch.relu(h))))
        return self.last(torch.relu(h))


class Gated(nn.Module):
    """Product of an activation and a linear layer, concatenated with the input's own features."""

    def __init__(self, width):
        super().__init__()
        self.gate, self.value = linear(4, width), linear(4, width)
        self.middle, self.last = linear(2 * width, width), linear(width, 1)

    def forward(self, x):
        product = torch.sigmoid(self.gate(x)) * self.value(x)
        both = torch.cat([product, torch.relu(self.gate(x))], dim=1)
        return self.last(torch.sin(self.middle(both)))


class ConcatenatedActivation(nn.Module):
    """An activation of a concatenation of layers of unequal widths."""

    def __init__(self, width):
        super().__init__()
        self.one, self.two = linear(4, width), snn.Linear(4, 2 * width, weight_std=0.6)
        self.last = linear(3 * width, 1)

    def forward(self, x):
        return self.last(torch.relu(torch.cat([self.one(x), self.two(x)], dim=1)))


class SharedTwice(nn.Module):
    """One module called twice on the same input gives one signal, not two independent ones."""

    def __init__(self, width):
        super().__init__()
        self.block = nn.Sequential(linear(4, width), snn.Erf(), linear(width, width))
        self.last = linear(width, 1)

    def forward(self, x):
        return self.last(torch.relu(self.block(x) + 0.5 * self.block(x)))


@pytest.mark.parametrize("network", [Residual, Gated, ConcatenatedActivation, SharedTwice])
def test_connections(network, seed):
    width = 96
    net = network(width).double()
    kernel = skntk.infinite_width(net)
    nngp, ntk = empirical(net, 150, seed)
    agree(nngp, kernel(X, kind="nngp"), bias=4 / width)
    agree(ntk, kernel(X, kind="ntk"), bias=4 / width)


@pytest.mark.parametrize(
    "norm", [lambda n: nn.LayerNorm(n), lambda n: nn.RMSNorm(n, eps=1e-5)], ids=["layer", "rms"]
)
@pytest.mark.parametrize("act", [nn.ReLU(), snn.Erf(), nn.Tanh()], ids=["relu", "erf", "tanh"])
def test_trained_gain_in_front_of_an_activation(norm, act, seed):
    """The tangents of a gain pass through the activation together with the signal.

    Before an affine layer a gain's tangent kernel is that of the signal, but E[u f'(u) v f'(v)],
    and not E[uv] E[f'(u) f'(v)], behind an activation: these differ by far more than tolerated.
    """
    width = 128
    net = nn.Sequential(linear(4, width), norm(width), act, linear(width, 1)).double()
    kernel = skntk.infinite_width(net)
    nngp, ntk = empirical(net, 150, seed)
    agree(nngp, kernel(X, kind="nngp"), bias=4 / width)
    agree(ntk, kernel(X, kind="ntk"), bias=4 / width)


def test_two_gains_in_front_of_an_activation(seed):
    width = 128
    net = nn.Sequential(
        linear(4, width), nn.LayerNorm(width), nn.RMSNorm(width), nn.ReLU(), linear(width, 1)
    ).double()
    _, ntk = empirical(net, 150, seed)
    agree(ntk, skntk.infinite_width(net)(X), bias=4 / width)


def test_trained_gain_in_front_of_a_linear_layer(seed):
    width = 128
    net = nn.Sequential(
        linear(4, width), nn.ReLU(), nn.RMSNorm(width), linear(width, width), nn.LayerNorm(width),
        linear(width, 1),
    ).double()  # fmt: skip
    nngp, ntk = empirical(net, 150, seed)
    agree(nngp, skntk.infinite_width(net)(X, kind="nngp"), bias=6 / width)
    agree(ntk, skntk.infinite_width(net)(X), bias=6 / width)


@pytest.mark.parametrize("bias", [True, False])
def test_torch_linear_is_read_from_its_initialization(bias, seed):
    """Variance 1 / (3 fan_in), trained in the standard parametrization at its own width.

    For one hidden layer the expectation over networks is that of the limit at every width, if the
    first layer's signals are Gaussian: uniform weights over d inputs have an excess kurtosis of
    -1.2 / d.
    """
    rng = np.random.default_rng(seed)
    d, width = 200, 50
    X = torch.from_numpy(rng.normal(size=(3, d)))
    X[2] = X[0] + 0.3 * X[2]
    net = nn.Sequential(
        nn.Linear(d, width, bias=bias), nn.ReLU(), nn.Linear(width, 1, bias=bias)
    ).double()
    kernel = skntk.infinite_width(net)
    nngp, ntk = empirical(net, 200, seed, X)
    agree(nngp, kernel(X, kind="nngp"), bias=2 / d)
    agree(ntk, kernel(X, kind="ntk"), bias=2 / d)


def test_standard_parametrization_at_its_base_width(seed):
    rng = np.random.default_rng(seed)
    width = 40
    X = torch.from_numpy(rng.normal(size=(3, 5)))
    options = {"weight_std": 1.3, "bias_std": 0.0, "parametrization": "standard"}
    net = nn.Sequential(snn.Linear(5, width, **options), snn.Erf(), snn.Linear(width, 1, **options))
    nngp, ntk = empirical(net.double(), 200, seed, X)
    kernel = skntk.infinite_width(net)
    agree(nngp, kernel(X, kind="nngp"), bias=0.0)  # exact: Gaussian weights, one hidden layer
    agree(ntk, kernel(X, kind="ntk"), bias=0.0)


def test_dropout_rescales_a_signal_with_itself(seed):
    """Networks with masks of their own for each row: 1 / keep on the diagonal only."""
    width, keep = 128, 0.7
    net = nn.Sequential(linear(4, width), nn.ReLU(), nn.Dropout(1 - keep), linear(width, 1))
    plain = nn.Sequential(linear(4, width), nn.ReLU(), linear(width, 1))
    dropped, whole = (skntk.infinite_width(n)(X, kind="nngp") for n in (net, plain))
    bias = 0.3**2
    off = ~torch.eye(3, dtype=torch.bool)
    torch.testing.assert_close(dropped[off], whole[off])
    torch.testing.assert_close(dropped.diagonal() - bias, (whole.diagonal() - bias) / keep)
    generator = torch.Generator().manual_seed(seed)
    hidden = draw(plain[:2].double(), 300, seed)
    h = vmap(lambda p: functional_call(plain[:2], p, (X,)))(hidden)
    h = h * (torch.rand(h.shape, generator=generator) < keep) / keep
    agree(1.4**2 * (h @ h.mT) / width + bias, dropped, bias=0.0)
    evaluating = skntk.infinite_width(net.eval())
    torch.testing.assert_close(evaluating(X, kind="nngp"), whole)
