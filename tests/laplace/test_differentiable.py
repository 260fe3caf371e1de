"""Mean and covariance with a graph to the inputs, and the model of BoTorch made of them."""

import numpy as np
import pytest
import torch
from torch import nn

from skntk import LinearizedLaplaceClassifier, LinearizedLaplaceRegressor, NetworkRegressor

CASES = [("full", 20), ("full", 3), ("kron", 20), ("diag", 20)]


@pytest.fixture(params=CASES, ids=lambda case: f"{case[0]}-{case[1]}")
def model(request, seed):
    curvature, n = request.param
    rng = np.random.default_rng(seed)
    X, Y = rng.standard_normal((n, 3)), rng.standard_normal((n, 2))
    net = NetworkRegressor(depth=1, width=6, activation="erf", max_epochs=5, random_state=seed)
    net.fit(X, Y)
    options = {"prefit": True, "prior_precision": 1.0, "noise_variance": 0.3}
    return LinearizedLaplaceRegressor(net, curvature=curvature, **options).fit(X, Y)


def test_values(model, seed):
    X = torch.randn(4, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    mean, cov = model.differentiable(X)
    one, joint = model.predict_function(X.numpy(), joint=True)
    np.testing.assert_allclose(mean.detach(), one, rtol=1e-9)
    np.testing.assert_allclose(cov.detach(), joint, atol=1e-9)


def test_gradients(model, seed):
    """Against finite differences, for a batch of pairs of rows."""
    generator = torch.Generator().manual_seed(seed)
    X = torch.randn(2, 2, 3, generator=generator, dtype=torch.float64)
    leaf = X.clone().requires_grad_()
    mean, cov = model.differentiable(leaf)
    assert mean.shape == (2, 2, 2)
    assert cov.shape == (2, 2, 2, 2, 2)
    weights = [torch.randn(t.shape, generator=generator).double() for t in (mean, cov)]

    def value(x):
        return sum((w * t).sum() for w, t in zip(weights, model.differentiable(x), strict=True))

    (found,) = torch.autograd.grad(value(leaf), leaf)
    direction = torch.randn(X.shape, generator=generator).double()
    step = 1e-5
    with torch.no_grad():
        difference = (value(X + step * direction) - value(X - step * direction)) / (2 * step)
    slope = float((found * direction).sum())
    assert slope == pytest.approx(float(difference), rel=1e-5)


class Plain(nn.Module):
    """Without a batching rule for vmap: a branch on the values."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 2).double()

    def forward(self, x):
        y = self.layer(x)
        return y if bool(torch.isfinite(y).all()) else 0 * y


def test_without_batching_rule():
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((8, 3)), np.arange(8) % 2
    model = LinearizedLaplaceClassifier(Plain(), prefit=True, prior_precision=1.0).fit(X, y)
    _, cov = model.differentiable(torch.tensor(X))
    np.testing.assert_allclose(cov, model.predict_function(X, joint=True)[1], atol=1e-10)


def test_botorch(model, seed):
    botorch = pytest.importorskip("botorch")
    from skntk.laplace.botorch import LaplaceModel

    wrapped = LaplaceModel(model)
    X = torch.randn(5, 2, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    found = wrapped.posterior(X)
    mean, std = model.predict(X.reshape(-1, 3).numpy(), return_std=True)
    np.testing.assert_allclose(found.mean.detach().reshape(-1, 2), mean, rtol=1e-9)
    np.testing.assert_allclose(found.variance.detach().reshape(-1, 2), std**2, rtol=1e-6)
    noisy = wrapped.posterior(X, observation_noise=True)
    np.testing.assert_allclose(
        (noisy.variance - found.variance).detach(), np.full((5, 2, 2), 0.3), rtol=1e-6
    )
    second = wrapped.posterior(X, output_indices=[1])
    np.testing.assert_allclose(second.mean.detach()[..., 0], found.mean.detach()[..., 1])
    np.testing.assert_allclose(
        second.variance.detach()[..., 0], found.variance.detach()[..., 1], rtol=1e-6
    )
    for indices in ([], [2], [0.5], ["a"], [1, 1], 3):
        with pytest.raises(ValueError, match="output_indices"):
            wrapped.posterior(X, output_indices=indices)
    assert wrapped.num_outputs == 2
    transform = botorch.acquisition.objective.ScalarizedPosteriorTransform(torch.ones(2).double())
    acquisition = botorch.acquisition.UpperConfidenceBound(
        wrapped, beta=2.0, posterior_transform=transform
    )
    points, _ = botorch.optim.optimize_acqf(
        acquisition,
        torch.tensor([[-1.0] * 3, [1.0] * 3], dtype=torch.float64),
        q=1,
        num_restarts=1,
        raw_samples=4,
        options={"maxiter": 3},
    )
    assert points.shape == (1, 3)
    with pytest.raises(TypeError, match="LinearizedLaplaceRegressor"):
        LaplaceModel(nn.Linear(1, 1))
    with pytest.raises(ValueError, match="observation_noise"):
        wrapped.posterior(X, observation_noise=torch.ones(1))
