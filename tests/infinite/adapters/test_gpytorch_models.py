"""The kernel inside GPyTorch's exact and variational models."""

import gpytorch
import numpy as np
import pytest
import torch
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import WhiteKernel

from skntk.infinite import GPyTorchNTKKernel, NTKKernel


class Exact(gpytorch.models.ExactGP):
    def __init__(self, x, y, likelihood, kernel) -> None:
        super().__init__(x, y, likelihood)
        self.mean_module, self.covar_module = gpytorch.means.ZeroMean(), kernel

    def forward(self, x):
        return gpytorch.distributions.MultivariateNormal(self.mean_module(x), self.covar_module(x))


class Variational(gpytorch.models.ApproximateGP):
    def __init__(self, inducing, kernel) -> None:
        q = gpytorch.variational.CholeskyVariationalDistribution(len(inducing))
        strategy = gpytorch.variational.VariationalStrategy(self, inducing, q)
        super().__init__(strategy)
        self.mean_module, self.covar_module = gpytorch.means.ConstantMean(), kernel

    def forward(self, x):
        return gpytorch.distributions.MultivariateNormal(self.mean_module(x), self.covar_module(x))


@pytest.fixture
def data(rng):
    x = torch.from_numpy(rng.standard_normal((20, 2)))
    x = torch.cat([x, x[:2]])  # coincident inputs
    noise = torch.from_numpy(0.1 * rng.standard_normal(22))
    return x, torch.sin(2 * x[:, 0]) + noise, torch.from_numpy(rng.standard_normal((6, 2)))


def exact(x, y, noise=0.05, **arguments):
    likelihood = gpytorch.likelihoods.GaussianLikelihood().to(x.dtype)
    likelihood.noise = noise
    return likelihood, Exact(x, y, likelihood, GPyTorchNTKKernel(2, **arguments)).to(x.dtype)


def test_posterior_and_evidence_are_those_of_sklearn(data) -> None:
    x, y, z = data
    likelihood, model = exact(x, y)
    model.covar_module.weight_std, model.covar_module.bias_std = (
        torch.tensor(v, dtype=torch.float64) for v in (1.2, 0.3)
    )
    kernel = NTKKernel(2, weight_std=1.2, bias_std=0.3) + WhiteKernel(likelihood.noise.item())
    gp = GaussianProcessRegressor(kernel, alpha=0.0, optimizer=None).fit(x.numpy(), y.numpy())

    mll = gpytorch.mlls.ExactMarginalLogLikelihood(likelihood, model)
    model.train()
    value = len(x) * mll(model(x), y)
    value.backward()
    expected, slopes = gp.log_marginal_likelihood(kernel.theta, eval_gradient=True)
    assert value.item() == pytest.approx(expected, rel=1e-9)
    # theta is (log bias_std, log weight_std, log noise); softplus'(raw) = 1 - exp(-value).
    for name, slope in (("bias_std", slopes[0]), ("weight_std", slopes[1])):
        std = getattr(model.covar_module, name).item()
        raw = getattr(model.covar_module, f"raw_{name}").grad.item()
        assert raw == pytest.approx(slope / std * (1 - np.exp(-std)), rel=1e-6)

    model.eval()
    with torch.no_grad():
        posterior = model(z)
    mean, covariance = gp.predict(z.numpy(), return_cov=True)
    covariance -= likelihood.noise.item() * np.eye(6)  # WhiteKernel counts the noise of tests too
    np.testing.assert_allclose(posterior.mean, mean, rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(posterior.covariance_matrix, covariance, atol=1e-8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_exact_model_trains(data, dtype) -> None:
    x, y, z = (t.to(dtype) for t in data)
    likelihood, model = exact(x, y, ard_num_dims=2)
    mll = gpytorch.mlls.ExactMarginalLogLikelihood(likelihood, model)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    model.train()
    losses = []
    for _ in range(15):
        optimizer.zero_grad()
        loss = -mll(model(x), y)
        loss.backward()
        assert all(torch.isfinite(p.grad).all() for p in model.parameters())
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    model.eval()
    z = z.requires_grad_()
    posterior = model(z)
    for _ in range(2):  # through what the model has cached
        (slope,) = torch.autograd.grad(posterior.mean.sum(), z, retain_graph=True)
        assert torch.isfinite(slope).all()
    prior = model.covar_module(z, diag=True)
    assert (posterior.variance <= prior * (1 + 1e-4)).all()
    torch.testing.assert_close(model(x + 1e-6).mean, y, rtol=0, atol=0.6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_variational_model_trains_its_inducing_points(data, dtype) -> None:
    x, y, z = (t.to(dtype) for t in data)
    start = x[:6].clone()
    kernel = gpytorch.kernels.ScaleKernel(GPyTorchNTKKernel(2))
    model = Variational(start.clone(), kernel).to(dtype)
    likelihood = gpytorch.likelihoods.GaussianLikelihood().to(dtype)
    elbo = gpytorch.mlls.VariationalELBO(likelihood, model, num_data=len(x))
    parameters = [*model.parameters(), *likelihood.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=0.03)
    model.train()
    losses = []
    for _ in range(15):
        optimizer.zero_grad()
        loss = -elbo(model(x), y)  # the inducing points start on training rows
        loss.backward()
        assert all(torch.isfinite(p.grad).all() for p in parameters)
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert (model.variational_strategy.inducing_points != start).all()
    model.eval()
    with torch.no_grad():
        prediction = likelihood(model(z))
    assert torch.isfinite(prediction.mean).all()
    assert (prediction.variance > 0).all()
