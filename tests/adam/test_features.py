"""Random features against kernels: of every parameter tensor, depth, activation and sampler."""

import math

import numpy as np
import pytest
import torch

import skntk
import skntk.nn as snn
from skntk.adam.blocks import REPLICAS, Blocks
from skntk.adam.features import GROUP, Half
from skntk.adam.gaussian import GaussianSampler
from skntk.adam.networks import NetworkSampler
from skntk.core import UnsupportedModuleError

N, D = 12, 5


def rows(seed):
    return torch.randn(N, D, generator=torch.Generator().manual_seed(seed))


def drawn(seed, width=256, c=1, **params):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return snn.MLP(D, c, width=width, bias_std=0.4, **params)


def blocks_of(sampler, X, seed, c=1, n_blocks=REPLICAS, **params):
    if sampler == "exact":
        program = skntk.infinite_width(drawn(0, c=c, **params)).program((D,))
        made = GaussianSampler(program, X, c, 256)
    else:
        made = NetworkSampler(lambda s: drawn(s, c=c, **params), X)
    return Blocks(made, n_blocks, seed, len(X), 2**30)


def kernels(blocks, X, c=1, rows=None):
    """Kernels of each layer's weight and bias, by each group of blocks: (R, c, n, c, m)."""
    found = {}
    at = X if rows is None else rows
    for k in range(len(blocks)):
        own = blocks.chunks(k)
        other = own if rows is None else blocks.chunks(k, rows)
        n_layers = len(own) // blocks.parts
        for i, (chunk, elsewhere) in enumerate(zip(own, other, strict=True)):
            r = torch.eye(c * N).view(c * N, c, N)
            G = chunk.load(None).gradient(r)
            for part in (0, 1):
                keep = torch.zeros_like(chunk.measure)
                bias = chunk.bias_std is not None
                if part == 0:
                    keep[: len(keep) - bias] = 1
                elif bias:
                    keep[-1] = 1
                K = elsewhere.load(None).output(G * (chunk.measure * keep))
                shape = REPLICAS, c, N, c, len(at)
                place = found.setdefault((i % n_layers, part), torch.zeros(shape))
                place[k % REPLICAS] += K.view(c, N, c, len(at)) * REPLICAS / blocks.n_chunks
    return [[found[i, part] for part in (0, 1)] for i in range(n_layers)]


def written(activation, depth, X):
    """Kernels of each layer's weight and bias, written out for ReLU and erf."""
    X = X.double()
    w, b = 2.0, 0.4**2
    forward, K, slopes = [X @ X.T / D], w * X @ X.T / D + b, []
    for _ in range(depth):
        q = K.diagonal()
        if activation == "relu":
            size = (q[:, None] * q).sqrt()
            theta = torch.arccos((K / size).clamp(-1, 1))
            S = size * (theta.sin() + (math.pi - theta) * theta.cos()) / (2 * math.pi)
            slope = (math.pi - theta) / (2 * math.pi)
        else:
            r = (1 + 2 * q[:, None]) * (1 + 2 * q)
            S = 2 / math.pi * torch.asin(2 * K / r.sqrt())
            slope = 4 / math.pi / (r - 4 * K**2).sqrt()
        forward.append(S)
        slopes.append(slope)
        K = w * S + b
    made, back = [(w * forward[-1], torch.full_like(K, b))], torch.full_like(K, w)
    for i in reversed(range(depth)):
        delta = back * slopes[i]
        made.insert(0, (w * delta * forward[i], b * delta))
        back = w * delta
    return made


def z_scores(estimates, exact):
    """Root mean square of the error of the mean over groups, in its standard errors."""
    error = (estimates.mean(0) - exact).square().mean().sqrt()
    return float(error / (estimates.var(0).mean() / len(estimates)).sqrt())


@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("activation", ["relu", "erf"])
@pytest.mark.parametrize("sampler", ["exact", "networks"])
def test_features_have_the_kernel_of_each_tensor(seed, sampler, activation, depth):
    """Within their Monte-Carlo error, for weight and bias of every layer."""
    X = rows(seed)
    found = kernels(blocks_of(sampler, X, seed, activation=activation, depth=depth), X)
    assert len(found) == depth + 1
    for layer, exact in zip(found, written(activation, depth, X), strict=True):
        for estimate, K in zip(layer, exact, strict=True):
            estimate = estimate[:, 0, :, 0]
            spread = float(estimate.var(0).mean().sqrt())
            if spread < 1e-5:  # the readout's bias is not random
                assert torch.allclose(estimate.mean(0).double(), K, atol=1e-5)
            else:
                assert z_scores(estimate, K) < 4
                error = (estimate.mean(0) - K).square().mean().sqrt()
                assert error < 0.25 * K.diagonal().mean()
    total = sum(K for pair in written(activation, depth, X) for K in pair)
    kernel = skntk.infinite_width(drawn(0, activation=activation, depth=depth))
    assert torch.allclose(total, kernel(X.double()), rtol=1e-10)  # the oracle agrees with another


@pytest.mark.filterwarnings("ignore:the kernel of the elementwise function ELU")
@pytest.mark.parametrize("activation", snn.activation_names())
def test_both_samplers_agree_for_every_activation(seed, activation):
    X = rows(seed)
    params = {"activation": activation, "depth": 2}
    exact, networks = (
        sum(K for layer in kernels(blocks_of(s, X, seed, **params), X) for K in layer)[:, 0, :, 0]
        for s in ("exact", "networks")
    )
    K = skntk.infinite_width(drawn(0, **params))(X.double())
    assert z_scores(exact, K) < 4
    assert z_scores(networks, K) < 4
    error = (exact.mean(0) - networks.mean(0)).square().mean().sqrt()
    assert error < 4 * ((exact.var(0) + networks.var(0)).mean() / REPLICAS).sqrt()


@pytest.mark.parametrize("sampler", ["exact", "networks"])
def test_errors_fall_as_the_root_of_the_number_of_features(sampler):
    """Over many seeds, so that the exponent is known: -1/2."""
    X, errors = rows(0), []
    K = skntk.infinite_width(drawn(0, depth=2))(X.double())
    for n_blocks in (REPLICAS, 9 * REPLICAS):
        found = kernels(blocks_of(sampler, X, 1, n_blocks=n_blocks, depth=2), X)
        total = sum(K for layer in found for K in layer)[:, 0, :, 0]
        errors.append(float((total - K).square().mean().sqrt()))  # of each group
    assert 0.7 / 3 < errors[1] / errors[0] < 1.4 / 3


@pytest.mark.parametrize("sampler", ["exact", "networks"])
def test_test_rows_are_of_the_same_functions(seed, sampler):
    """Training and test features have the kernel's covariance, and agree where rows do."""
    X, Z = rows(seed), rows(seed + 100)
    Z[0] = X[0]
    params = {"activation": "erf", "depth": 2, "c": 2}
    blocks = blocks_of(sampler, X, seed, **params)
    K = skntk.infinite_width(drawn(0, **{**params, "c": 1}))(X.double(), Z.double())
    found = sum(K for layer in kernels(blocks, X, 2, rows=Z) for K in layer)
    own = sum(K for layer in kernels(blocks, X, 2) for K in layer)
    for p in range(2):
        assert z_scores(found[:, p, :, p], K) < 4
        assert z_scores(found[:, p, :, 1 - p], torch.zeros_like(K)) < 4  # outputs are independent
    assert torch.allclose(found[..., 0], own[..., 0], rtol=0.02, atol=0.02)


def test_halves_keep_numbers_of_any_size():
    x = torch.randn(3, 8, 20)
    for scale in (1e-30, 1e-3, 1.0, 1e30):
        half, place = Half.of(scale * x), torch.empty(3, 8, 20)
        half.into(place, None)
        assert torch.allclose(place, scale * x, rtol=6e-4, atol=1e-6 * scale)
        some = torch.empty(3, 4, 2)
        half[slice(4, 8)].into(some, torch.tensor([5, 1]))
        assert torch.equal(some, place[:, 4:, [5, 1]])
    assert not Half.of(torch.zeros(2, 2)).data.any()
    with pytest.raises(FloatingPointError, match="scale the inputs"):
        Half.of(torch.tensor([math.inf]))


def test_columns_that_are_always_zero_cost_nothing_and_take_turns():
    X = rows(0)
    wide = torch.zeros(N, 40)
    wide[:, 3:40:8] = X
    net = snn.MLP(40, depth=1, width=64)
    program = skntk.infinite_width(net).program((40,))
    blocks = Blocks(GaussianSampler(program, wide, 1, 64), REPLICAS, 0, N, 2**30)
    first = blocks.chunks(0)[0]
    assert first.shape == (1, D + 1, 64)
    assert float(first.measure.sum() * 64) == pytest.approx(D / 40 + 1)
    images = torch.arange(1.0, N * 300 + 1).view(N, 300)
    program = skntk.infinite_width(snn.MLP(300, depth=1, width=64)).program((300,))
    blocks = Blocks(GaussianSampler(program, images, 1, 64), 16 * REPLICAS, 0, N, 2**30)
    assert blocks.chunks(0)[0].shape[1] < 300
    seen = torch.cat([blocks.chunks(k)[0].h.data[:, 0] for k in range(16 * REPLICAS)])
    counts = torch.isclose(seen[:, None], math.sqrt(2) * images[0], rtol=1e-6).sum(0)
    assert counts.min() >= 2
    assert counts.max() - counts.min() <= REPLICAS


def test_what_has_no_limit_is_refused():
    X = rows(0)
    for module in (
        torch.nn.Sequential(torch.nn.Linear(D, 16), torch.nn.ReLU(), torch.nn.Linear(16, 1)),
        snn.MLP(D, width=16, parametrization="standard"),
        torch.nn.Sequential(snn.Linear(D, 16), torch.nn.LayerNorm(16), snn.Linear(16, 1)),
    ):
        with pytest.raises(ValueError, match=r"skntk\.nn layers with parametrization='ntk'"):
            NetworkSampler(lambda seed, module=module: module, X)
    with pytest.raises(ValueError, match=f"at least {GROUP}"):
        NetworkSampler(lambda seed: snn.MLP(D, width=4), X)
    program = skntk.infinite_width(torch.nn.Sequential(torch.nn.Linear(D, 16))).program((D,))
    with pytest.raises(ValueError, match="parametrization='ntk'"):
        GaussianSampler(program, X, 1, 16)

    class Residual(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = snn.Linear(D, 16), snn.Linear(16, 16), snn.Linear(16, 1)

        def forward(self, x):
            x = self.a(x)
            return self.c(x + self.b(x.relu()))

    program = skntk.infinite_width(Residual()).program((D,))
    with pytest.raises(UnsupportedModuleError, match="sampler='networks'"):
        GaussianSampler(program, X, 1, 16)


def test_random_convolutions_have_the_kernel_of_wide_ones(seed):
    """Against the empirical kernel of wider networks, tensor by tensor."""
    X = torch.randn(4, 1, 5, 5, generator=torch.Generator().manual_seed(seed))

    def make(s, width=64):
        with torch.random.fork_rng():
            torch.manual_seed(s)
            return snn.ConvNet(1, 2, depth=2, width=width, bias_std=0.3, pool=1)

    blocks = Blocks(NetworkSampler(make, X), 2 * REPLICAS, seed, 4, 2**30)
    total = 0.0
    for k in range(len(blocks)):
        for chunk in blocks.chunks(k):
            values = chunk.load(None)
            G = values.gradient(torch.eye(8).view(8, 2, 4))
            total = total + values.output(G * chunk.measure).view(2, 4, 2, 4) / blocks.n_chunks
    with torch.no_grad():
        wide = [skntk.empirical_ntk(make(s, 256), X, outputs="diagonal") for s in range(3)]
    exact = np.mean([np.asarray(w) for w in wide], 0).transpose(2, 0, 1)
    for p in range(2):
        error = float((total[p, :, p] - torch.as_tensor(exact[p])).abs().mean())
        assert error < 0.1 * float(np.abs(exact).max())
        assert float(total[p, :, 1 - p].abs().mean()) < 0.1 * float(np.abs(exact).max())
