"""Against laplace-torch: function variances, evidence and probabilities, for every structure."""

import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from skntk import LinearizedLaplaceClassifier, LinearizedLaplaceRegressor

peer = pytest.importorskip("laplace")
from laplace.curvature import AsdlGGN, BackPackGGN, CurvlinopsGGN  # noqa: E402

RELATIVE = 1e-5
STRUCTURES = [
    ("full", None),
    ("kron", None),
    ("diag", None),
    ("full", "last_layer"),
    ("kron", "last_layer"),
    ("diag", "last_layer"),
]
NOISE, PRECISION = 0.3, 0.7


@pytest.fixture(params=["regression", "classification"])
def problem(request, seed):
    """A small trained network, its training rows, and others."""
    rng = np.random.default_rng(seed)
    X, Z = rng.standard_normal((40, 4)), 2 * rng.standard_normal((7, 4))
    k = 3 if request.param == "classification" else 2
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, k))
    net = net.double()
    if k == 3:
        y = rng.integers(0, k, len(X))
        loss = nn.CrossEntropyLoss()
    else:
        y = np.sin(X[:, :2]) + 0.1 * rng.standard_normal((len(X), 2))
        loss = nn.MSELoss()
    optimizer = torch.optim.Adam(net.parameters(), 1e-2)
    for _ in range(50):
        optimizer.zero_grad()
        loss(net(torch.tensor(X)), torch.tensor(y)).backward()
        optimizer.step()
    return request.param, net, X, y, Z


def theirs(task, net, X, y, structure, parameters, backend, precision=PRECISION):
    la = peer.Laplace(
        net,
        task,
        hessian_structure=structure,
        subset_of_weights=parameters or "all",
        prior_precision=precision,
        backend=backend,
        **({"sigma_noise": NOISE**0.5} if task == "regression" else {}),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        la.fit(DataLoader(TensorDataset(torch.tensor(X), torch.tensor(y)), batch_size=16))
    return la


def ours(task, net, X, y, structure, parameters, **more):
    if task == "regression":
        more = {"noise_variance": NOISE, **more}
        kind = LinearizedLaplaceRegressor
    else:
        kind = LinearizedLaplaceClassifier
    more = {"prior_precision": PRECISION, **more}
    model = kind(net, prefit=True, curvature=structure, parameters=parameters, **more)
    return model.fit(X, y)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("backend", [CurvlinopsGGN, BackPackGGN, AsdlGGN])
@pytest.mark.parametrize(("structure", "parameters"), STRUCTURES)
def test_agreement(problem, structure, parameters, backend):
    task, net, X, y, Z = problem
    la = theirs(task, net, X, y, structure, parameters, backend)
    mean, cov = la._glm_predictive_distribution(torch.tensor(Z))
    evidence = float(la.log_marginal_likelihood())
    model = ours(task, net, X, y, structure, parameters)
    found_mean, found_cov = model.predict_function(Z)
    np.testing.assert_allclose(found_mean, mean.detach(), rtol=1e-12)
    scale = float(cov.abs().max())
    np.testing.assert_allclose(found_cov, cov.detach(), rtol=RELATIVE, atol=RELATIVE * scale)
    np.testing.assert_allclose(model.log_marginal_likelihood_, evidence, rtol=RELATIVE)
    if task == "classification":
        for link in ("probit", "bridge"):
            p = la(torch.tensor(Z), pred_type="glm", link_approx=link).detach()
            model.set_params(link=link)
            np.testing.assert_allclose(model.predict_proba(Z), p, rtol=RELATIVE)
