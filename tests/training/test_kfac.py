"""Kronecker factors against exact curvature and another library, and K-FAC in training."""

import itertools

import numpy as np
import pytest
import torch
from torch import nn

import skntk.nn as snn
from skntk import NetworkClassifier, NetworkRegressor
from skntk.finite import capture
from skntk.finite.curvature import kronecker_factors, kronecker_roots, output_hessian
from skntk.training.preconditioners import KFAC

N, SIZES = 7, (5, 4, 6, 3)


def linear_network(bias, parametrization):
    """A deep linear network with every scale in play."""
    made = [
        snn.Linear(a, b, bias, weight_std=1.3, bias_std=0.4, parametrization=parametrization)
        for a, b in itertools.pairwise(SIZES)
    ]
    return nn.Sequential(*made).double()


def exact_block(layer, H):
    """Sum over rows of J^T H J for a layer's matrix (m, d + 1), flattened output by output."""
    J = torch.einsum("pnsm,nsd->pnmd", layer.B, layer.columns()).flatten(2)
    return torch.einsum("pnx,npq,qny->xy", J, H, J)


def rebuilt(net, layer, x):
    """The Jacobian of `exact_block` by autograd: (k, n, m (d + 1)) of a layer's parameters."""
    live = dict(net.named_parameters())
    names = [name for name in (layer.weight, layer.bias) if name is not None]
    out = []
    for p in range(SIZES[-1]):
        rows = []
        for i in range(len(x)):
            g = torch.autograd.grad(net(x[i : i + 1])[0, p], [live[n] for n in names])
            parts = [t.reshape(len(live[names[0]]), -1) for t in g]
            rows.append(torch.cat(parts, 1).flatten())
        out.append(torch.stack(rows))
    return torch.stack(out)


@pytest.mark.parametrize("parametrization", ["ntk", "standard", "mup"])
@pytest.mark.parametrize("bias", [True, False])
def test_factors_of_linear_networks_are_exact(bias, parametrization, seed):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net, x = linear_network(bias, parametrization), torch.randn(N, SIZES[0]).double()
    found = capture(net, x)
    assert len(found.layers) == len(SIZES) - 1
    for layer in found.layers:
        factors = kronecker_factors(layer, found.outputs)
        J = rebuilt(net, layer, x)
        exact = torch.einsum("pnx,pny->xy", J, J)
        assert (factors.weight, factors.bias) == (layer.weight, layer.bias)
        error = (torch.kron(factors.G, factors.A) - exact).abs().max() / exact.abs().max()
        assert error < 1e-12


@pytest.mark.parametrize("likelihood", ["gaussian", "categorical"])
def test_factors_of_one_row_are_exact(likelihood, seed):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = snn.MLP(4, 3, depth=2, width=5, activation="gelu", bias_std=0.3).double()
        x = torch.randn(1, 4).double()
    found = capture(net, x)
    H = output_hessian(found.outputs, likelihood)
    for layer in found.layers:
        factors = kronecker_factors(layer, found.outputs, likelihood)
        exact = exact_block(layer, H)
        error = (torch.kron(factors.G, factors.A) - exact).abs().max() / exact.abs().max()
        assert error < 1e-12


def test_factors_of_a_deep_network_are_what_they_say(seed):
    """Mean second moment of inputs, and the sum of those of gradients, by hooks."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        layers = [nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)]
        net, x = nn.Sequential(*layers).double(), torch.randn(N, 4).double()
    found = capture(net, x)
    z = net[0](x).detach().requires_grad_()
    outputs = net[2](net[1](z))
    p = outputs.softmax(1).detach()
    G = torch.zeros(6, 6).double()
    for c in range(3):  # the Fisher matrix is the expectation over labels
        for i in range(N):
            loss = -outputs.log_softmax(1)[i, c]
            g = torch.autograd.grad(loss, z, retain_graph=True)[0][i]
            G += p[i, c] * torch.outer(g, g)
    factors = kronecker_factors(found.layers[0], found.outputs, "categorical")
    ones = torch.cat([x, torch.ones(N, 1).double()], 1)
    torch.testing.assert_close(factors.A, ones.T @ ones / N, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(factors.G, G, rtol=1e-11, atol=1e-14)


@pytest.mark.parametrize("k", [1, 2, 5])
def test_output_hessian(k, seed):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        outputs, labels = 3 * torch.randn(N, k).double(), torch.randint(k, (N,))
    H = output_hessian(outputs, "categorical")
    for i in range(N):
        one = labels[i : i + 1]
        expected = torch.autograd.functional.hessian(
            lambda f, one=one: nn.functional.cross_entropy(f[None], one), outputs[i]
        )
        torch.testing.assert_close(H[i], expected, rtol=1e-12, atol=1e-14)
    assert torch.equal(output_hessian(outputs, "gaussian"), torch.eye(k).double().expand(N, k, k))


def test_an_unknown_likelihood_is_refused():
    with pytest.raises(ValueError, match=r"poisson.*gaussian.*categorical"):
        output_hessian(torch.zeros(1, 2), "poisson")


def mlp():
    layers = [nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 6), nn.ReLU(), nn.Linear(6, 3)]
    return nn.Sequential(*layers), torch.randn(N, 5)


def convolutions():
    net = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(4, 5, 3, stride=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(5 * 2 * 2, 3),
    )
    return net, torch.randn(N, 2, 6, 6)


@pytest.mark.parametrize("make", [mlp, convolutions])
@pytest.mark.parametrize("loss", ["squared", "cross-entropy"])
def test_factors_of_curvlinops(make, loss, seed):
    """With losses that are summed over rows.

    Its squared error has no factor 1/2, so its G is twice ours; A is the mean in both.
    """
    curvlinops = pytest.importorskip("curvlinops")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net, x = make()
        net, x = net.double(), x.double()
        labels, targets = torch.randint(3, (N,)), torch.randn(N, 3).double()
    squared = loss == "squared"
    operator = curvlinops.KFACLinearOperator(
        net,
        nn.MSELoss(reduction="sum") if squared else nn.CrossEntropyLoss(reduction="sum"),
        list(net.parameters()),
        [(x, targets if squared else labels)],
        fisher_type="type-2",
        kfac_approx="expand",
        separate_weight_and_bias=False,
        check_deterministic=False,
    )
    operator.compute_kronecker_factors()
    found = capture(net, x)
    assert len(found.layers) == 3
    for layer in found.layers:
        name = layer.weight.removesuffix(".weight")
        factors = kronecker_factors(layer, found.outputs, "gaussian" if squared else "categorical")
        G = operator._gradient_covariances[name] / (2 if squared else 1)
        A = operator._input_covariances[name]
        assert (factors.A - A).abs().max() < 1e-12 * A.abs().max()
        assert (factors.G - G).abs().max() < 1e-12 * G.abs().max()


def problem(seed, n=12, d=4, k=1):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, d))
    return X, np.sin(X @ rng.standard_normal((d, k))) + 0.1 * rng.standard_normal((n, k))


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("damping", ["auto", 0.1])
def test_the_loss_of_a_linearized_network_never_rises(damping, k, seed):
    """The rescaled step is no longer than the best one along its direction."""
    X, Y = problem(seed, k=k)
    model = NetworkRegressor(
        width=16,
        regime="linearized",
        optimizer="kfac",
        damping=damping,
        max_epochs=40,
        dtype="float64",
        random_state=seed,
    ).fit(X, Y)
    losses = np.array(model.history_[:, "train_loss"])
    assert (np.diff(losses) <= 1e-12 * losses[0]).all()
    assert losses[-1] < 0.05 * losses[0]


@pytest.mark.parametrize("parametrization", ["ntk", "standard", "mup"])
@pytest.mark.parametrize("Estimator", [NetworkRegressor, NetworkClassifier])
def test_kfac_trains_faster_than_gradient_descent(Estimator, parametrization, seed):
    X, Y = problem(seed, n=40)
    y = Y[:, 0] if Estimator is NetworkRegressor else Y[:, 0] > 0

    def loss(optimizer):
        model = Estimator(
            width=16,
            parametrization=parametrization,
            optimizer=optimizer,
            max_epochs=15,
            dtype="float64",
            random_state=seed,
        ).fit(X, y)
        return model.history_[-1, "train_loss"] / model.history_[0, "train_loss"]

    assert loss("kfac") < 0.6 * loss("gd")


def test_convolutions_with_normalization_are_trained_by_kfac(seed):
    """The scales of a normalization have no factors, but a block of their own."""
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((10, 2, 6, 6))
    y = rng.integers(3, size=10)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = snn.ConvNet(2, 3, depth=2, width=8, norm="layer")
    for regime in ("full", "linearized"):
        model = NetworkClassifier(
            module=net,
            regime=regime,
            optimizer="kfac",
            max_epochs=25,
            dtype="float64",
            random_state=0,
        ).fit(X, y)
        losses = np.array(model.history_[:, "train_loss"])
        assert losses[-1] < 0.4 * losses[0]


class Tokens(nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.readout = nn.Embedding(10, 4), nn.Linear(4, 1)

    def forward(self, x):
        return self.readout(self.table(x.long()).mean(1))


def test_an_embedding_has_no_factors():
    X, y = np.arange(24.0).reshape(8, 3) % 10, np.arange(8.0)
    with pytest.raises(ValueError, match=r"embedding 'table\.weight'.*requires_grad_\(False\)"):
        NetworkRegressor(module=Tokens(), optimizer="kfac", random_state=0).fit(X, y)
    frozen = Tokens()
    frozen.table.requires_grad_(False)
    NetworkRegressor(module=frozen, optimizer="kfac", max_epochs=2, random_state=0).fit(X, y)


class Unexplained(nn.Module):
    """A parameter that no rule explains, of a given size."""

    def __init__(self, size):
        super().__init__()
        self.strange = nn.Parameter(torch.full((3, size), 0.1))
        self.readout = nn.Linear(1, 1)

    def forward(self, x):
        return self.readout(torch.sin(x @ self.strange.tanh()).mean(1, keepdim=True))


def test_a_big_parameter_without_a_rule_has_no_factors():
    X, y = np.arange(24.0).reshape(8, 3) % 7, np.arange(8.0)
    with pytest.raises(
        ValueError, match=r"parameter 'strange' of shape \(3, 1400\).*requires_grad_\(False\)"
    ):
        NetworkRegressor(module=Unexplained(1400), optimizer="kfac", random_state=0).fit(X, y)
    model = NetworkRegressor(
        module=Unexplained(2), optimizer="kfac", max_epochs=10, dtype="float64", random_state=0
    ).fit(X, y)
    assert model.history_[-1, "train_loss"] < model.history_[0, "train_loss"]


@pytest.mark.parametrize("random_state", range(5))
def test_rows_without_information(random_state):
    """Factors of rank one, whose decomposition in float32 may fail."""
    X, y = np.zeros((40, 3)), np.arange(40) % 5 == 0
    model = NetworkClassifier(
        width=32, optimizer="kfac", max_epochs=20, random_state=random_state
    ).fit(X, y)
    assert np.abs(model.predict_proba(X)[:, 1] - 0.2).max() < 0.01


@pytest.mark.parametrize("likelihood", ["gaussian", "categorical"])
@pytest.mark.parametrize("width", [4, 40])
def test_roots_of_factors(width, likelihood, seed):
    """On either side of as many rows as columns."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net, X = snn.MLP(3, 2, depth=2, width=width).double(), torch.randn(5, 3).double()
    found = capture(net, X)
    H = output_hessian(found.outputs, likelihood)
    for layer in found.layers:
        a, g = kronecker_roots(layer, found.outputs, likelihood)
        columns, B = layer.columns()[:, 0], layer.B[:, :, 0]
        torch.testing.assert_close(a.T @ a, columns.T @ columns / 5, rtol=0, atol=1e-12)
        G = torch.einsum("pnx,npq,qny->xy", B, H, B)
        torch.testing.assert_close(g.T @ g, G, rtol=0, atol=1e-12 * float(G.abs().max()))


@pytest.mark.parametrize("likelihood", ["gaussian", "categorical"])
def test_a_layer_wider_than_its_rows_takes_the_step_of_the_whole_factors(likelihood, seed):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net, X = snn.MLP(3, 2, depth=2, width=40).double(), torch.randn(5, 3).double()
        residual = torch.randn(5, 2).double()
    damping = 0.3
    kfac = KFAC(net, likelihood, damping)
    found = capture(net, X)
    for layer in found.layers:
        made, moved = kfac._factored(layer, found.outputs, residual)
        factors = kronecker_factors(layer, found.outputs, likelihood)
        J = torch.einsum("pnsm,nsd->npmd", layer.B, layer.columns())
        gradient = torch.einsum("np,npmd->md", residual, J)
        big = torch.kron(factors.G, factors.A)
        eye = torch.eye(len(big), dtype=torch.float64)
        V = torch.linalg.solve(big + damping * eye, gradient.reshape(-1))
        V = V.reshape(gradient.shape)
        scale = float(V.abs().max())
        torch.testing.assert_close(made[layer.weight], V[:, :-1], rtol=0, atol=1e-10 * scale)
        torch.testing.assert_close(made[layer.bias], V[:, -1], rtol=0, atol=1e-10 * scale)
        along = torch.einsum("npmd,md->np", J, V)
        torch.testing.assert_close(moved, along, rtol=0, atol=1e-10 * float(along.abs().max()))


def test_small_damping_in_float32(seed):
    """With a gaussian likelihood rounding is not divided by the damping: the fit is exact."""
    rng = np.random.default_rng(seed)
    X, y = rng.standard_normal((20, 4)), rng.standard_normal(20)
    net = NetworkRegressor(depth=2, width=64, optimizer="kfac", damping=1e-12, max_epochs=200,
                           random_state=seed)  # fmt: skip
    assert net.fit(X, y).score(X, y) > 0.99
