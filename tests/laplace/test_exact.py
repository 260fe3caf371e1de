"""Where the model is linear the posterior is exact: against Bayesian linear regression."""

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal
from torch import nn

from skntk import LinearizedLaplaceClassifier, LinearizedLaplaceRegressor

EXACT = 1e-10


class Linear(nn.Module):
    """Linear in its weights, at the mode for a prior precision and noise variances."""

    def __init__(self, X, Y, precision, noise, weights=None):
        super().__init__()
        n, k = Y.shape
        w = np.ones(n) if weights is None else weights
        A = np.column_stack([X, np.ones(n)])
        solved = [
            np.linalg.solve(
                (A.T * w) @ A / noise[p] + precision * np.eye(A.shape[1]),
                (A.T * w) @ Y[:, p] / noise[p],
            )
            for p in range(k)
        ]
        W = np.stack(solved)
        self.layer = nn.Linear(X.shape[1], k).double()
        with torch.no_grad():
            self.layer.weight.copy_(torch.tensor(W[:, :-1]))
            self.layer.bias.copy_(torch.tensor(W[:, -1]))
        self.cov = [
            np.linalg.inv((A.T * w) @ A / noise[p] + precision * np.eye(A.shape[1]))
            for p in range(k)
        ]

    def forward(self, x):
        return self.layer(x)


@pytest.fixture(params=[(30, 3), (3, 8)], ids=["weights", "functions"])
def data(request, seed):
    n, d = request.param
    rng = np.random.default_rng(seed)
    X, Z = rng.standard_normal((n, d)), rng.standard_normal((5, d))
    return X, rng.standard_normal((n, 2)), Z, rng.uniform(0.5, 2, n)


def design(X):
    return np.column_stack([X, np.ones(len(X))])


@pytest.mark.parametrize("precision", [1e-4, 1.0, 1e3])
@pytest.mark.parametrize("weighted", [False, True])
def test_posterior(data, precision, weighted):
    X, Y, Z, w = data
    noise = np.array([0.3, 0.7])
    net = Linear(X, Y, precision, noise, w if weighted else None)
    model = LinearizedLaplaceRegressor(
        net, prefit=True, curvature="full", prior_precision=precision, noise_variance=noise
    ).fit(X, Y, row_weight=w if weighted else None)
    _, std = model.predict(Z, return_std=True)
    _, cov = model.predict(Z, return_cov=True)
    _, full = model.predict_function(Z, joint=True)
    A = design(Z)
    for p in range(2):
        exact = A @ net.cov[p] @ A.T
        tolerance = EXACT * np.abs(exact).max()
        np.testing.assert_allclose(cov[:, :, p], exact, rtol=0, atol=tolerance)
        np.testing.assert_allclose(std[:, p] ** 2, np.diag(exact), rtol=1e-9, atol=tolerance)
        np.testing.assert_allclose(full[:, p, :, p], exact, rtol=0, atol=tolerance)
        np.testing.assert_allclose(full[:, p, :, 1 - p], 0, atol=tolerance)


@pytest.mark.parametrize("precision", [1e-2, 1.0, 30.0])
def test_evidence(data, precision):
    """Of a linear model at its mode it is the density of the targets."""
    X, Y, _, w = data
    noise = np.array([0.3, 0.7])
    net = Linear(X, Y, precision, noise, w)
    model = LinearizedLaplaceRegressor(
        net, prefit=True, curvature="full", prior_precision=precision, noise_variance=noise
    ).fit(X, Y, row_weight=w)
    A = design(X)
    exact = sum(
        multivariate_normal(np.zeros(len(X)), A @ A.T / precision + np.diag(noise[p] / w)).logpdf(
            Y[:, p]
        )
        for p in range(2)
    )
    assert abs(model.log_marginal_likelihood_ - exact) <= EXACT * abs(exact) + 1e-9


def test_both_spaces(seed):
    """A network seen from its weights and from its outputs has one posterior."""
    rng = np.random.default_rng(seed)
    X, Z, y = rng.standard_normal((9, 3)), rng.standard_normal((4, 3)), rng.integers(0, 3, 9)
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    functions = LinearizedLaplaceClassifier(
        net, prefit=True, curvature="full", prior_precision=0.3
    ).fit(X, y)
    weights = LinearizedLaplaceClassifier(
        net, prefit=True, curvature="full", prior_structure="layer", prior_precision=[0.3, 0.3]
    ).fit(X, y)
    assert type(functions._curvature).__name__ == "FunctionSpaceCurvature"
    assert type(weights._curvature).__name__ == "DenseCurvature"
    for joint in (False, True):
        one, two = (m.predict_function(Z, joint=joint)[1] for m in (functions, weights))
        np.testing.assert_allclose(one, two, rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(
        functions.log_marginal_likelihood_, weights.log_marginal_likelihood_, rtol=1e-11
    )
    np.testing.assert_allclose(
        functions.n_effective_parameters_, weights.n_effective_parameters_, rtol=1e-10
    )


def test_last_layer_needs_no_product(seed):
    """With normal noise the last layer's full posterior is a Kronecker product."""
    rng = np.random.default_rng(seed)
    X, Z, Y = (
        rng.standard_normal((12, 3)),
        rng.standard_normal((4, 3)),
        rng.standard_normal((12, 2)),
    )
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    common = {"prefit": True, "curvature": "full", "parameters": "last_layer"}
    common |= {"noise_variance": [0.2, 0.5]}
    one = LinearizedLaplaceRegressor(net, prior_precision=0.4, **common).fit(X, Y)
    assert type(one._curvature).__name__ == "KroneckerCurvature"
    two = LinearizedLaplaceRegressor(
        net, prior_structure="parameter", prior_precision=np.full(10, 0.4), **common
    ).fit(X, Y)
    assert type(two._curvature).__name__ == "DenseCurvature"
    np.testing.assert_allclose(one.predict_function(Z)[1], two.predict_function(Z)[1], atol=1e-12)
    np.testing.assert_allclose(
        one.log_marginal_likelihood_, two.log_marginal_likelihood_, rtol=1e-11
    )
