"""Prior and noise by the evidence while the network is trained."""

import numpy as np
import pytest
import torch

from skntk import (
    LinearizedLaplaceClassifier,
    LinearizedLaplaceRegressor,
    NetworkClassifier,
    NetworkRegressor,
)

SETTINGS = {"depth": 1, "width": 15, "max_epochs": 400, "learning_rate": 0.02, "random_state": 0}


def table(seed, n=60):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, 3))
    return X, np.sin(X[:, 0]) + 0.5 * X[:, 1] + 0.3 * rng.standard_normal(n)


def history(model):
    found = dict(model.network_.net_.callbacks_)
    return next(c for c in found.values() if type(c).__name__ == "OnlineEvidence").history_


@pytest.mark.parametrize("structure", ["scalar", "layer"])
def test_regressor_is_at_its_mode(structure, seed):
    """The decay that was set is the prior's, and so the network a mode of its posterior."""
    X, y = table(seed)
    net = NetworkRegressor(**SETTINGS, batch_size=60)
    model = LinearizedLaplaceRegressor(
        net, online=True, curvature="kron", prior_structure=structure
    ).fit(X, y)
    steps = history(model)
    assert len(steps) == 10
    assert steps[0][0] == 220
    groups = model.network_.net_.optimizer_.param_groups
    decays = [group["weight_decay"] for group in groups]
    _, _, precision, scale = steps[-1]
    expected = precision.numpy() * scale / len(X)
    if structure == "layer":
        expected = expected.repeat(2)  # a weight and a bias each
    np.testing.assert_allclose(decays, np.broadcast_to(expected, 4), rtol=1e-9)
    offline = LinearizedLaplaceRegressor(net, curvature="kron", prior_structure=structure).fit(X, y)
    assert model.log_marginal_likelihood_ > offline.log_marginal_likelihood_
    # near the mode the decay cancels the gradient of the loss, to which it would else add
    module = model.module_
    Z = torch.tensor((y - y.mean()) / y.std(), dtype=torch.float32)[:, None]
    loss = 0.5 * (module(torch.tensor(X, dtype=torch.float32)) - Z).square().mean()
    gradients = torch.autograd.grad(loss, list(module.parameters()))
    pairs = zip(module.parameters(), gradients, decays, strict=True)
    left = sum(float((g + d * p.detach()).square().sum()) for p, g, d in pairs) ** 0.5
    alone = sum(float(g.square().sum()) for g in gradients) ** 0.5
    assert left < alone


def test_classifier(seed):
    X, y = table(seed)
    labels = (y > 0).astype(int)
    net = NetworkClassifier(**SETTINGS)
    online = LinearizedLaplaceClassifier(net, online=True, curvature="diag").fit(X, labels)
    offline = LinearizedLaplaceClassifier(net, curvature="diag").fit(X, labels)
    assert online.log_marginal_likelihood_ > offline.log_marginal_likelihood_
    assert online.score(X, labels) > 0.8


def test_only_some_parameters(seed):
    """Parameters that are certain have no prior, and no decay."""
    X, y = table(seed)
    net = NetworkRegressor(**SETTINGS).set_params(max_epochs=40)
    model = LinearizedLaplaceRegressor(net, online=True, parameters="last_layer").fit(X, y)
    decays = [g["weight_decay"] for g in model.network_.net_.optimizer_.param_groups]
    assert decays[:2] == [0.0, 0.0]
    assert min(decays[2:]) > 0
