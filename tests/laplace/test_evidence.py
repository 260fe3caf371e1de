"""Hyperparameters: where the evidence is largest, for every structure."""

import numpy as np
import pytest
import torch
from sklearn.base import clone
from torch import nn

from skntk import LinearizedLaplaceClassifier, LinearizedLaplaceRegressor, NetworkClassifier
from skntk.core import SkntkWarning
from skntk.laplace.evidence import COSTLY_TOLERANCE

CASES = [("full", 30), ("full", 5), ("kron", 30), ("diag", 30)]


@pytest.fixture
def problem(seed):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((30, 3))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = nn.Sequential(nn.Linear(3, 10), nn.Tanh(), nn.Linear(10, 1)).double()
        classes = nn.Sequential(nn.Linear(3, 10), nn.Tanh(), nn.Linear(10, 3)).double()
    y = net(torch.tensor(X)).detach().numpy()[:, 0] + 0.3 * rng.standard_normal(30)
    return X, y, net, classes, np.arange(30) % 3


@pytest.mark.parametrize(("curvature", "n"), CASES)
def test_prior_and_noise(problem, curvature, n):
    """No neighbour on a grid around what was found is better, within what is promised."""
    X, y, net, _, _ = problem
    model = LinearizedLaplaceRegressor(net, prefit=True, curvature=curvature).fit(X[:n], y[:n])
    best = model.log_marginal_likelihood_
    assert np.isclose(best, model.log_marginal_likelihood(), rtol=1e-12)
    for factor in (0.5, 0.9, 1.1, 2.0):
        for noise in (0.5, 0.9, 1.0, 1.1, 2.0):
            other = model.log_marginal_likelihood(
                model.prior_precision_ * factor, model.noise_variance_ * noise
            )
            assert other <= best + COSTLY_TOLERANCE
    if curvature != "full":
        # the derivatives are zero: MacKay's conditions
        w = torch.cat([p.detach().flatten() for p in net.parameters()])
        gamma = model.n_effective_parameters_
        assert np.isclose(gamma, model.prior_precision_ * float(w @ w), rtol=1e-4)
        squares = ((y - net(torch.tensor(X)).detach().numpy()[:, 0]) ** 2).sum()
        assert np.isclose(model.noise_variance_, squares / (n - gamma), rtol=1e-4)


@pytest.mark.parametrize(("curvature", "n"), CASES)
def test_noise_alone(problem, curvature, n):
    X, y, net, _, _ = problem
    model = LinearizedLaplaceRegressor(
        net, prefit=True, curvature=curvature, prior_precision=0.8
    ).fit(X[:n], y[:n])
    assert model.prior_precision_ == 0.8
    for noise in (0.5, 0.9, 1.1, 2.0):
        other = model.log_marginal_likelihood(0.8, model.noise_variance_ * noise)
        assert other <= model.log_marginal_likelihood_ + COSTLY_TOLERANCE


@pytest.mark.parametrize(("curvature", "n"), CASES)
def test_prior_of_classes(problem, curvature, n):
    X, _, _, net, y = problem
    model = LinearizedLaplaceClassifier(net, prefit=True, curvature=curvature).fit(X[:n], y[:n])
    for factor in (0.1, 0.5, 0.9, 1.1, 2.0, 10.0):
        other = model.log_marginal_likelihood(model.prior_precision_ * factor)
        assert other <= model.log_marginal_likelihood_ + COSTLY_TOLERANCE


@pytest.mark.parametrize(
    ("curvature", "structure"),
    [("full", "layer"), ("kron", "layer"), ("diag", "layer"), ("diag", "parameter")],
)
def test_several_precisions(problem, curvature, structure):
    """More of them explain the data at least as well, and none can be moved to advantage."""
    X, y, net, _, _ = problem
    common = {"prefit": True, "curvature": curvature}
    one = LinearizedLaplaceRegressor(net, **common).fit(X, y)
    model = LinearizedLaplaceRegressor(net, prior_structure=structure, **common).fit(X, y)
    assert model.log_marginal_likelihood_ >= one.log_marginal_likelihood_ - 1e-6
    assert len(model.prior_precision_) == (2 if structure == "layer" else 51)
    for g in range(2):
        for factor in (0.8, 1.25):
            moved = model.prior_precision_.copy()
            moved[g] *= factor
            other = model.log_marginal_likelihood(moved)
            assert other <= model.log_marginal_likelihood_ + 1e-3


def test_order_of_precisions(problem):
    """Those of parameters are in the order of named_parameters()."""
    X, y, net, _, _ = problem
    precision = np.linspace(0.1, 3, 51)
    common = {"prefit": True, "noise_variance": 0.1, "prior_structure": "parameter"}
    models = [
        LinearizedLaplaceRegressor(net, curvature=c, prior_precision=precision, **common).fit(X, y)
        for c in ("diag", "full")
    ]
    J = []
    for x in torch.tensor(X):
        grads = torch.autograd.grad(net(x), list(net.parameters()))
        J.append(torch.cat([g.flatten() for g in grads]))
    J = torch.stack(J)
    exact = torch.linalg.inv(J.T @ J / 0.1 + torch.diag(torch.tensor(precision)))
    S = models[1]._curvature.tangent.by_name(
        models[1]._optimum.posterior.weights_covariance.diagonal()
    )
    found = torch.cat([S[name].flatten() for name, _ in net.named_parameters()])
    np.testing.assert_allclose(found, exact.diagonal(), rtol=1e-8)
    std = models[0].predict(X, return_std=True)[1]
    h = J.square().sum(0) / 0.1 + torch.tensor(precision)
    np.testing.assert_allclose(std**2, J.square() @ (1 / h), rtol=1e-8)


def test_validation(problem):
    X, y, net, classes, labels = problem
    model = LinearizedLaplaceRegressor(net, prefit=True, prior_precision="validation")
    model.fit(X[:20], y[:20], X_val=X[20:], y_val=y[20:])
    assert len(model.validation_scores_) == 25
    assert np.isfinite(model.validation_scores_).sum() >= 11
    residual = y[20:] - model.predict(X[20:])
    np.testing.assert_allclose(model.noise_variance_, np.mean(residual**2), rtol=1e-9)
    mean, std = model.predict(X[20:], return_std=True)
    total = std**2 + model.noise_variance_
    score = np.mean(-0.5 * (np.log(2 * np.pi * total) + (y[20:] - mean) ** 2 / total))
    np.testing.assert_allclose(score, np.nanmax(model.validation_scores_), rtol=1e-9)
    best = LinearizedLaplaceClassifier(classes, prefit=True, prior_precision="validation")
    best.fit(X[:20], labels[:20], X_val=X[20:], y_val=labels[20:])
    p = best.predict_proba(X[20:])[np.arange(10), labels[20:]]
    np.testing.assert_allclose(np.log(p).mean(), np.nanmax(best.validation_scores_), rtol=1e-9)


def test_prior_and_noise_not_told_apart(seed):
    """A network that passes through all its targets leaves no noise to be found."""
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((6, 3))
    net = nn.Sequential(nn.Linear(3, 20), nn.Tanh(), nn.Linear(20, 1)).double()
    y = net(torch.tensor(X)).detach().numpy()[:, 0]
    with pytest.warns(SkntkWarning, match="do not tell prior and noise apart"):
        model = LinearizedLaplaceRegressor(net, prefit=True).fit(X, y)
    assert np.isfinite(model.predict(X, return_std=True)[1]).all()


def test_noise_explains_all(seed):
    rng = np.random.default_rng(seed)
    X, y = rng.standard_normal((20, 3)), rng.standard_normal(20)
    net = nn.Linear(3, 1).double()
    with pytest.warns(SkntkWarning, match="noise explains all"):
        LinearizedLaplaceRegressor(net, prefit=True, noise_variance=1e12).fit(X, y)


def test_auto():
    """Held out rows where a classifier is trained here or they are given; else the evidence."""
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((60, 3)), np.arange(60) % 3
    net = NetworkClassifier(depth=1, width=5, max_epochs=3, random_state=0)
    model = LinearizedLaplaceClassifier(net, random_state=0).fit(X, y)
    assert model.criterion_ == "validation"
    # the network that stays is trained on all rows
    np.testing.assert_array_equal(
        model.network_.predict_proba(X), clone(net).fit(X, y).predict_proba(X)
    )
    assert model._counts.rows == 60
    trained = model.module_
    cases = [
        (LinearizedLaplaceClassifier(trained, prefit=True), {}, "marginal_likelihood"),
        (LinearizedLaplaceClassifier(trained, prefit=True), {"X_val": X, "y_val": y}, "validation"),
        (LinearizedLaplaceClassifier(net, online=True), {}, "marginal_likelihood"),
        (LinearizedLaplaceClassifier(net, prior_structure="layer"), {}, "marginal_likelihood"),
        (LinearizedLaplaceClassifier(net, prior_precision=1.0), {}, "none"),
    ]
    for model, more, expected in cases:
        assert model.fit(X, y, **more).criterion_ == expected
    few = LinearizedLaplaceClassifier(net, random_state=0)
    with pytest.raises(ValueError, match="n_samples=3 none can be spared"):
        few.fit(X[:3], y[:3])


@pytest.mark.parametrize(
    ("structure", "chosen"), [("scalar", "full"), ("layer", "kron"), ("parameter", "diag")]
)
def test_auto_curvature(structure, chosen):
    """Of a large network and few rows, what the prior allows."""
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((10, 3)), rng.standard_normal(10)
    net = nn.Sequential(nn.Linear(3, 1000), nn.Tanh(), nn.Linear(1000, 1))
    options = {"prefit": True, "noise_variance": 1.0, "prior_structure": structure}
    model = LinearizedLaplaceRegressor(net, prior_precision=1.0, **options).fit(X, y)
    assert model.curvature_ == chosen
    assert np.isfinite(model.predict(X, return_std=True)[1]).all()
