"""What broke an earlier version: columns that take turns, odd modules, batches, pickles."""

import pickle

import numpy as np
import pytest
import torch

import skntk
import skntk.nn as snn
from skntk import AdamNTKClassifier, AdamNTKRegressor, NetworkRegressor
from skntk.adam import sign_gradient_kernel
from skntk.adam.blocks import REPLICAS, Blocks
from skntk.adam.gaussian import GaussianSampler
from skntk.adam.networks import NetworkSampler
from skntk.core import TrainingDivergedError, UnsupportedModuleError

SMALL = {"n_features": 1024, "max_epochs": 8, "learning_rate": 0.05, "random_state": 0}


def rows(seed, n=10, d=4):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def kernel_of(make, X, n_blocks=4 * REPLICAS):
    """Kernel of the features of random networks, and the one of wide networks."""
    blocks = Blocks(NetworkSampler(make, X), n_blocks, 0, len(X), 2**30)
    total = 0.0
    for k in range(n_blocks):
        for chunk in blocks.chunks(k):
            values = chunk.load(None)
            G = values.gradient(torch.eye(len(X))[:, None])
            total = total + values.output(G * chunk.measure)[:, 0] / blocks.n_chunks
    exact = [torch.as_tensor(skntk.empirical_ntk(make(s), X, outputs="trace")) for s in range(40)]
    exact = torch.stack(exact).mean(0).detach()
    return float((total - exact).square().mean().sqrt() / exact.diagonal().mean())


class Parts(torch.nn.Module):
    """Layers that a subclass connects."""

    def __init__(self, seed):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.a, self.a2 = snn.Linear(4, 64, bias_std=0.3), snn.Linear(4, 64)
            self.b, self.c = snn.Linear(128, 64), snn.Linear(64, 1, bias_std=0.3)


class Unequal(Parts):
    def forward(self, x):
        wide = torch.cat([self.a(x).relu(), 5 * self.a2(x).relu()], 1)
        return self.c(self.b(wide).relu())


class Moved(Parts):
    def forward(self, x):
        return self.c(self.a(1 + x.flip(1)).relu())


def test_inputs_of_a_layer_all_have_their_turn():
    assert kernel_of(Unequal, rows(0)) < 0.1


def test_inputs_that_are_changed_first_are_no_columns():
    X = rows(0)
    X[:, 0] = 0.0
    assert kernel_of(Moved, X) < 0.06


def test_large_kernels_of_convolutions_have_all_offsets():
    X = torch.randn(3, 1, 9, 9, generator=torch.Generator().manual_seed(0))

    def make(seed):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return torch.nn.Sequential(
                snn.Conv2d(1, 64, 7, padding="valid"), torch.nn.ReLU(), torch.nn.AvgPool2d(3),
                torch.nn.Flatten(), snn.Linear(64, 1),
            )  # fmt: skip

    assert kernel_of(make, X) < 0.06


@pytest.mark.parametrize("n_blocks", [REPLICAS, 4 * REPLICAS, 16 * REPLICAS])
def test_each_group_sees_all_columns_alike(n_blocks):
    X, d = torch.rand(6, 32), 32
    program = skntk.infinite_width(snn.MLP(d, depth=1)).program((d,))
    blocks = Blocks(GaussianSampler(program, X, 1, 16), n_blocks, 0, 6, 2**30)
    for replica in range(REPLICAS):
        counts = torch.zeros(d)
        for k in range(replica, n_blocks, REPLICAS):
            seen = blocks.chunks(k)[0].h.data[:, 0] / 2**0.5
            counts += torch.isclose(seen[:, None], X[0], rtol=1e-6).sum(0)
        assert counts.min() >= 1
        assert counts.max() - counts.min() <= 1


def test_what_features_cannot_be_read_from_is_refused():
    X, y = rows(0).numpy(), np.arange(10.0)

    class Tripled(Parts):
        def forward(self, x):
            return 3 * self.c(self.a(x).relu())

    class Functional(Parts):
        def forward(self, x):
            return self.c(torch.einsum("nd,od->no", self.a(x).relu(), self.b.weight[:, :64]).relu())

    for made in (Tripled, Functional):
        with pytest.raises(ValueError, match=r"no rule|nothing behind it|parametrization"):
            AdamNTKRegressor(**SMALL, module=made(0)).fit(X, y)
    frozen = snn.MLP(4, depth=1, width=64)
    frozen[0].requires_grad_(False)
    model = AdamNTKRegressor(**SMALL, module=frozen).fit(X, y)
    assert len(model._weights) < len(AdamNTKRegressor(**SMALL, depth=1).fit(X, y)._weights)
    with pytest.raises(UnsupportedModuleError, match="frozen"):
        AdamNTKRegressor(**SMALL, module=frozen, sampler="exact").fit(X, y)
    frozen[2].weight.requires_grad_(False)
    with pytest.raises(ValueError, match="no last layer that could be told"):
        AdamNTKRegressor(**SMALL, module=frozen).fit(X, y)
    norm = torch.nn.Sequential(snn.Linear(4, 16), torch.nn.LayerNorm(16), snn.Linear(16, 1))
    with pytest.raises(ValueError, match="scaled_adam"):
        NetworkRegressor(module=norm, optimizer="scaled_adam", max_epochs=1).fit(X, y)
    with pytest.raises(ValueError, match=r"weight_decay=0\.1 with optimizer='scaled_adam'"):
        NetworkRegressor(optimizer="scaled_adam", weight_decay=0.1, max_epochs=1).fit(X, y)


def test_a_frozen_weight_leaves_its_layer_the_bias(seed):
    X = rows(seed)

    def make(s):
        with torch.random.fork_rng():
            torch.manual_seed(s)
            net = snn.MLP(4, depth=2, width=64, bias_std=1.0)
        net[0].weight.requires_grad_(False)
        net[2].weight.requires_grad_(False)
        return net

    assert kernel_of(make, X) < 0.08


def test_pickles_hold_weights_and_no_features():
    X, y = np.random.default_rng(0).normal(size=(400, 3)), np.arange(400.0)
    params = SMALL | {"n_features": 32768, "max_epochs": 1, "depth": 1}
    model = AdamNTKRegressor(**params).fit(X, y)
    data = pickle.dumps(model)
    assert len(data) < 0.3 * model._blocks.nbytes
    assert np.array_equal(pickle.loads(data).predict(X[:50]), model.predict(X[:50]))


@pytest.mark.parametrize("eps", [np.inf, 1e-8])
@pytest.mark.parametrize("params", [{"batch_size": 2, "max_epochs": 2}, {"weight_decay": 100.0}])
def test_automatic_rates_suit_batches_and_decay(seed, eps, params):
    X, y = rows(seed, 30).numpy(), np.sin(rows(seed, 30)[:, 0].numpy())
    params = SMALL | {"learning_rate": "auto", "random_state": seed, "eps": eps} | params
    model = AdamNTKRegressor(**params).fit(X, y)
    assert np.isfinite(model.predict(X)).all()
    with pytest.raises(TrainingDivergedError, match="pass learning_rate=") as caught:
        AdamNTKRegressor(**params | {"learning_rate": 500.0}).fit(X, y)
    assert float(str(caught.value).split("pass learning_rate=")[1].split(",")[0]) < 150


def test_another_default_dtype_of_torch():
    X, y = rows(0).numpy(), np.arange(10.0)
    for sampler in ("exact", "networks"):
        params = SMALL | {"sampler": sampler}
        usual = AdamNTKRegressor(**params).fit(X, y).predict(X)
        torch.set_default_dtype(torch.float64)
        try:
            other = AdamNTKRegressor(**params).fit(X, y).predict(X)
        finally:
            torch.set_default_dtype(torch.float32)
        assert np.allclose(usual, other, atol=1e-4 if sampler == "exact" else 1.0)


def test_nothing_is_learnt_from_zeros_without_a_bias():
    net = torch.nn.Sequential(
        snn.Linear(3, 64, bias=False), snn.Erf(), snn.Linear(64, 2, bias=False)
    )
    for sampler in ("exact", "networks"):
        model = AdamNTKClassifier(**SMALL, module=net, sampler=sampler)
        proba = model.fit(np.zeros((9, 3)), np.arange(9) > 5).predict_proba(np.ones((2, 3)))
        assert np.allclose(proba, 0.5)
    K = sign_gradient_kernel(
        snn.MLP(2, activation="erf", bias_std=0.0), np.array([[1, 0], [0, 0]], dtype=np.float32)
    )
    assert np.isfinite(K).all()


def test_features_are_counted_as_they_are_drawn():
    X, y = rows(0).numpy(), np.arange(10.0)
    for asked, made in ((1, 512), (512, 512), (70000, 73728)):
        model = AdamNTKRegressor(**SMALL | {"n_features": asked, "max_epochs": 1}).fit(X, y)
        assert model.n_features_ == made
