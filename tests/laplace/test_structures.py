"""Every structure against matrices that are written out, on networks of many kinds of layers."""

import copy
import math

import numpy as np
import pytest
import torch
from explicit import jacobians
from torch import nn

import skntk.nn as snn
from skntk import LinearizedLaplaceClassifier, LinearizedLaplaceRegressor
from skntk.finite import capture
from skntk.laplace import dense, factored, function_space, tangent

K = 3


def plain():
    return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, K))


def scaled():
    return nn.Sequential(
        snn.Linear(6, 5, weight_std=1.4, bias_std=0.3), nn.ReLU(), snn.Linear(5, K, weight_std=1.0)
    )


def convolutional():
    return nn.Sequential(
        nn.Unflatten(1, (1, 6)), nn.Conv1d(1, 3, 3), nn.Tanh(), nn.Flatten(), nn.Linear(12, K)
    )


def normalized():
    return nn.Sequential(
        nn.Linear(6, 5), nn.LayerNorm(5), nn.Tanh(), nn.Linear(5, K, bias=False), nn.Tanh()
    )


class Shared(nn.Module):
    """One layer used twice."""

    def __init__(self):
        super().__init__()
        self.inner, self.last = nn.Linear(6, 6), nn.Linear(6, K)

    def forward(self, x):
        return self.last(torch.tanh(self.inner(torch.tanh(self.inner(x)))))


class Unknown(nn.Module):
    """A parameter that no rule explains."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.randn(4, 6))
        self.last = nn.Linear(4, K)

    def forward(self, x):
        return self.last(torch.logsumexp(x[:, None, :] * self.scale, 2))


NETWORKS = [plain, scaled, convolutional, normalized, Shared, Unknown]


@pytest.fixture(params=NETWORKS, ids=lambda make: make.__name__)
def problem(request, seed):
    rng = np.random.default_rng(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = request.param().double()
    return net, rng.standard_normal((14, 6)), rng.integers(0, K, 14), rng.standard_normal((5, 6))


def written(net, X):
    """Jacobian (n, k, P) in the order of the parameters, and the root of the Hessian (n, k, k)."""
    J = jacobians(net, torch.tensor(X))
    J = torch.cat([J[name].flatten(2) for name, _ in net.named_parameters()], 2).transpose(0, 1)
    p = net(torch.tensor(X)).detach().softmax(1)
    return J, torch.diag_embed(p) - p[:, :, None] * p[:, None, :]


def fitted(net, X, y, **more):
    return LinearizedLaplaceClassifier(net, prefit=True, **more).fit(X, y)


@pytest.mark.parametrize("n", [14, 4])
def test_full(problem, n):
    net, X, y, Z = problem
    X, y = X[:n], np.r_[0, 1, 2, y[3:n]]
    J, L = written(net, X)
    H = torch.einsum("npx,npq,nqy->xy", J, L, J)
    model = fitted(net, X, y, curvature="full", prior_precision=0.3)
    S = torch.linalg.inv(H + 0.3 * torch.eye(len(H)).double())
    Jz, _ = written(net, Z)
    expected = torch.einsum("npx,xy,mqy->npmq", Jz, S, Jz)
    _, joint = model.predict_function(Z, joint=True)
    np.testing.assert_allclose(joint, expected, atol=1e-10)
    _, each = model.predict_function(Z)
    np.testing.assert_allclose(each, torch.einsum("npnq->npq", expected), atol=1e-10)
    fit = -nn.functional.cross_entropy(
        net(torch.tensor(X)).detach(), torch.tensor(y), reduction="sum"
    )
    w = torch.cat([p.detach().flatten() for p in net.parameters()])
    ratio = torch.linalg.slogdet(torch.eye(len(H)).double() + H / 0.3)[1]
    evidence = float(fit - 0.5 * (0.3 * w @ w + ratio))
    np.testing.assert_allclose(model.log_marginal_likelihood_, evidence, rtol=1e-9)
    gamma = len(H) - 0.3 * float(S.trace())
    np.testing.assert_allclose(model.n_effective_parameters_, gamma, rtol=1e-9)


def test_diagonal(problem):
    net, X, y, Z = problem
    J, L = written(net, X)
    h = torch.einsum("npx,npq,nqx->x", J, L, J)
    precision = np.linspace(0.2, 2, len(h))
    model = fitted(
        net, X, y, curvature="diag", prior_structure="parameter", prior_precision=precision
    )
    Jz, _ = written(net, Z)
    S = 1 / (h + torch.tensor(precision))
    np.testing.assert_allclose(
        model.predict_function(Z)[1], torch.einsum("npx,x,nqx->npq", Jz, S, Jz), atol=1e-11
    )
    np.testing.assert_allclose(
        model._optimum.posterior.moments(torch.tensor(Z), diagonal=True)[1],
        torch.einsum("npx,x,npx->np", Jz, S, Jz),
        atol=1e-11,
    )


def test_kronecker(problem):
    net, X, y, Z = problem
    found = capture(net, torch.tensor(X))
    _, L = written(net, X)
    blocks = {}
    for layer in found.layers:
        if hasattr(layer, "a"):
            a = layer.weight_scale * layer.a.flatten(0, 1)
            G = torch.einsum("pnsm,npq,qnsl->ml", layer.B, L, layer.B)
            if layer.weight is not None:
                blocks[layer.weight] = torch.kron(G.contiguous(), (a.T @ a).contiguous() / len(a))
            if layer.bias is not None:
                blocks[layer.bias] = layer.bias_scale**2 * G
        else:
            (J,) = (v.flatten(2) for v in layer.jacobians().values())
            blocks[layer.names[0]] = torch.einsum("pnx,npq,qny->xy", J, L, J)
    names = [name for name, _ in net.named_parameters()]
    S = torch.linalg.inv(
        torch.block_diag(*(blocks[n] for n in names))
        + 0.3 * torch.eye(sum(p.numel() for p in net.parameters())).double()
    )
    model = fitted(net, X, y, curvature="kron", prior_precision=0.3)
    Jz, _ = written(net, Z)
    expected = torch.einsum("npx,xy,mqy->npmq", Jz, S, Jz)
    np.testing.assert_allclose(model.predict_function(Z, joint=True)[1], expected, atol=1e-10)
    np.testing.assert_allclose(
        model.predict_function(Z)[1], torch.einsum("npnq->npq", expected), atol=1e-10
    )
    np.testing.assert_allclose(
        model._optimum.posterior.moments(torch.tensor(Z), diagonal=True)[1],
        torch.einsum("npnp->np", expected),
        atol=1e-10,
    )


@pytest.mark.parametrize("curvature", ["full", "kron", "diag"])
def test_subset(problem, curvature):
    """Other parameters are certain: their columns of the Jacobian are left out."""
    net, X, y, Z = problem
    first = next(name for name, _ in net.named_parameters())
    model = fitted(net, X, y, curvature=curvature, parameters=[first], prior_precision=0.3)
    frozen = fitted(net, X, y, curvature=curvature, prior_precision=0.3)
    assert model._curvature.tangent.names == (first,)
    one, two = model.predict_function(Z)[1], frozen.predict_function(Z)[1]
    assert (np.einsum("npp->np", one) < np.einsum("npp->np", two) + 1e-12).all()
    for name, p in net.named_parameters():
        p.requires_grad_(name == first)
    chosen = fitted(net, X, y, curvature=curvature, prior_precision=0.3)
    np.testing.assert_allclose(chosen.predict_function(Z)[1], one, atol=1e-12)


@pytest.mark.parametrize(
    ("curvature", "n"), [("full", 14), ("full", 3), ("kron", 14), ("diag", 14)]
)
@pytest.mark.parametrize("make", [scaled, convolutional])
def test_draws(make, curvature, n, seed, monkeypatch):
    """Functions that are drawn are linear in normal numbers, with the joint covariance."""
    rng = np.random.default_rng(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = make().double()
    X, y, Z = rng.standard_normal((n, 6)), np.arange(n) % K, rng.standard_normal((5, 6))
    model = fitted(net, X, y, curvature=curvature, prior_precision=2.0)
    mean, joint = model.predict_function(Z, joint=True)
    sizes = []

    def zeros(shape, generator, like):
        sizes.append(math.prod(shape[1:]))
        return like.new_zeros(shape)

    def units(shape, generator, like):
        at = sizes.pop(0)
        columns = like.new_zeros(shape).flatten(1)
        columns[at : at + columns.shape[1]] = torch.eye(columns.shape[1], dtype=like.dtype)
        return columns.view(shape)

    def drawn(number, normal):
        for module in (dense, factored, function_space):
            monkeypatch.setattr(module, "normal", normal)
        return torch.stack(list(model._draws(torch.tensor(Z), number, 0))).flatten(1).numpy()

    np.testing.assert_allclose(drawn(1, zeros), mean.reshape(1, 15), rtol=1e-10, atol=1e-10)
    total = sum(sizes)
    sizes[:] = [sum(sizes[:i]) for i in range(len(sizes))]
    moves = drawn(total, units) - mean.ravel()
    np.testing.assert_allclose(moves.T @ moves, joint.reshape(15, 15), rtol=1e-8, atol=1e-10)


def test_many_classes_take_no_sweep_each(seed):
    """The last layer of a network with many classes: its Jacobian is one identity."""
    k, rng = 400, np.random.default_rng(seed)
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, k)).double()
    X, y = rng.standard_normal((10, 3)), rng.integers(0, k, 10)
    found = capture(net, torch.tensor(X), parameters=["2"])
    assert found.layers[0].B.stride(1) == 0
    for curvature in ("kron", "diag"):
        model = fitted(net, X, y, curvature=curvature, parameters="last_layer", prior_precision=0.5)
        variance = model._optimum.posterior.moments(torch.tensor(X), diagonal=True)[1]
        full = model._optimum.posterior.moments(torch.tensor(X[:2]))[1]
        np.testing.assert_allclose(variance[:2], full.diagonal(dim1=1, dim2=2), rtol=1e-10)
        p = model.predict_proba(X)
        assert p.shape == (10, k)
        np.testing.assert_allclose(p.sum(1), 1)


def test_regressor_outputs_of_trained_network(seed):
    """The scale of the targets that a NetworkRegressor works in does not show."""
    from skntk import NetworkRegressor

    rng = np.random.default_rng(seed)
    X = rng.standard_normal((25, 2))
    Y = np.column_stack([100 + 30 * X[:, 0], 0.01 * X[:, 1]])
    net = NetworkRegressor(depth=1, width=6, max_epochs=20, random_state=seed, dtype="float64")
    net.fit(X, Y)

    class Whole(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = net.module_

        def forward(self, x):
            scale, mean = torch.tensor(net.target_scale_), torch.tensor(net.target_mean_)
            return self.inner(x) * scale + mean

    options = {"prefit": True, "prior_precision": 0.5, "noise_variance": [3.0, 1e-5]}
    for curvature in ("full", "kron", "diag"):
        one = LinearizedLaplaceRegressor(net, curvature=curvature, **options).fit(X, Y)
        two = LinearizedLaplaceRegressor(Whole(), curvature=curvature, **options).fit(X, Y)
        for a, b in zip(one.predict(X, True), two.predict(X, True), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-9)
        np.testing.assert_allclose(
            one.log_marginal_likelihood_, two.log_marginal_likelihood_, rtol=1e-9
        )
        np.testing.assert_allclose(one.predict(X), net.predict(X), rtol=1e-10)


class Residual(nn.Module):
    """A convolutional network; of rows with a large first pixel it gives twice the last layer."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.last = nn.Linear(4, K)

    def forward(self, x):
        z = torch.relu(self.norm(self.conv(x)))
        outputs = self.last((z + z.flip(2)).mean((2, 3)))
        return 2 * outputs if x[0, 0, 0, 0] > 1 else outputs


@pytest.mark.parametrize("curvature", ["full", "kron", "diag"])
@pytest.mark.parametrize("n", [40, 4])
def test_last_layer_of_a_network_in_single_precision(curvature, n, seed, monkeypatch):
    """It is run as it is, in blocks of rows and without a graph; what it gives is float64."""
    rng = np.random.default_rng(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = Residual()
    X, y = rng.uniform(-1, 1, (n, 1, 5, 5)), np.arange(n) % K
    Z = rng.uniform(-1, 1, (9, 1, 5, 5))
    options = {"curvature": curvature, "parameters": "last_layer", "prior_precision": 0.5}
    double = fitted(copy.deepcopy(net).double(), X, y, **options)
    monkeypatch.setattr(tangent, "_INPUTS", 7 * 25)
    model = fitted(net, X, y, **options)
    assert type(model._curvature) is type(double._curvature)
    seen = model._curvature.tangent
    assert seen.on_features
    in_outputs = isinstance(model._curvature, function_space.FunctionSpaceCurvature)
    wanted = torch.float64 if in_outputs else torch.float32  # differences are taken of kernels
    assert {p.dtype for p in seen.module.parameters()} == {wanted}
    assert [n for n, p in seen.module.named_parameters() if p.requires_grad] == list(seen.names)
    for one, two in zip(model.predict_function(Z), double.predict_function(Z), strict=True):
        assert one.dtype == np.float64
        np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(
        model.log_marginal_likelihood_, double.log_marginal_likelihood_, rtol=1e-5
    )
    np.testing.assert_allclose(
        model.sample_proba(Z, 3), double.sample_proba(Z, 3), rtol=1e-4, atol=1e-5
    )


def test_moves_on_features_are_derivatives(seed):
    """Those of the last layer, also where rows take another path than those of the fit."""
    rng = np.random.default_rng(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = Residual().double().eval()
    X = torch.tensor(rng.uniform(-1, 1, (6, 1, 5, 5)))
    seen = tangent.Tangent(net, "last_layer", X)
    for first in (0.0, 2.0):
        X[0, 0, 0, 0] = first
        V = {name: torch.randn(2, *w.shape, dtype=w.dtype) for name, w in seen.weights.items()}
        z = torch.relu(net.norm(net.conv(X)))
        z = (z + z.flip(2)).mean((2, 3))
        for s, found in enumerate(seen.moved(X, V)):
            expected = z @ V["last.weight"][s].T + V["last.bias"][s]
            torch.testing.assert_close(found, (2 if first else 1) * expected.detach())
