"""
The kernel in other libraries
=============================

`NTKKernel` is a kernel of `sklearn.gaussian_process`, `GPyTorchNTKKernel` one of GPyTorch. Both
have hyperparameters with gradients, so that either library tunes them by its own means. Here one
model is written in both and tuned by the evidence in both; it is asserted that they arrive at the
same hyperparameters and predictions.
"""

import gpytorch
import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn.datasets import load_diabetes
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, WhiteKernel
from sklearn.preprocessing import StandardScaler

from skntk.infinite import GPyTorchNTKKernel, NTKKernel

X, y = load_diabetes(return_X_y=True, as_frame=True)
rows = np.random.default_rng(0).permutation(len(X))[:200]
scaler, mean, std = StandardScaler().fit(X.iloc[rows]), y.iloc[rows].mean(), y.iloc[rows].std()
train_x = scaler.transform(X.iloc[rows])
train_y = ((y.iloc[rows] - mean) / std).to_numpy()

# %%
# In scikit-learn
# ---------------
# A ReLU network is almost homogeneous in its weights: their scale does what the constant in front
# does, and is fixed. What is tuned is that constant, the scale of the biases and the noise.

kernel = ConstantKernel(1.0, (1e-4, 1e2)) * NTKKernel(
    depth=2, weight_std_bounds="fixed", bias_std=0.5
) + WhiteKernel(0.3, (1e-3, 1e1))
gp = GaussianProcessRegressor(kernel, alpha=0.0).fit(train_x, train_y)
print(gp.kernel_)
print(f"evidence {gp.log_marginal_likelihood_value_:.3f} nats")

# %%
# In GPyTorch
# -----------


class ExactModel(gpytorch.models.ExactGP):
    """A Gaussian process with mean zero."""

    def __init__(self, x, y, likelihood):
        super().__init__(x, y, likelihood)
        self.mean_module = gpytorch.means.ZeroMean()
        ntk = GPyTorchNTKKernel(depth=2, bias_std=0.5)
        ntk.raw_weight_std.requires_grad_(False)
        self.covar_module = gpytorch.kernels.ScaleKernel(ntk)

    def forward(self, x):
        return gpytorch.distributions.MultivariateNormal(self.mean_module(x), self.covar_module(x))


tensors = torch.tensor(train_x), torch.tensor(train_y)
likelihood = gpytorch.likelihoods.GaussianLikelihood().double()
model = ExactModel(*tensors, likelihood).double()
evidence = gpytorch.mlls.ExactMarginalLogLikelihood(likelihood, model)

model.train()
free = [p for p in model.parameters() if p.requires_grad]
optimizer = torch.optim.LBFGS(
    free, max_iter=100, tolerance_grad=1e-8, line_search_fn="strong_wolfe"
)


def loss():
    optimizer.zero_grad()
    value = -evidence(model(*model.train_inputs), model.train_targets)
    value.backward()
    return value


optimizer.step(loss)
reached = -loss().item() * len(train_y)
model.eval()
print(f"evidence {reached:.3f} nats")

# %%
# What both have learnt
# ---------------------
# The prediction along one feature, the others at their means. The bands are those of the function.

grid = np.zeros((100, X.shape[1]))
feature = list(X.columns).index("bmi")
grid[:, feature] = np.linspace(-2.5, 3.5, 100)
centre, total = gp.predict(grid, return_std=True)
noise = gp.kernel_.k2.noise_level
latent = np.sqrt(total**2 - noise)  # scikit-learn's white kernel is part of the prediction
with torch.no_grad():
    posterior = model(torch.tensor(grid))

figure, ax = plt.subplots(figsize=(7, 4.5), layout="constrained")
shown, unit = grid[:, feature], float(std)
ax.fill_between(
    shown,
    mean + unit * (centre - 2 * latent),
    mean + unit * (centre + 2 * latent),
    color="0.85",
    label="scikit-learn, ± 2 std",
)
ax.plot(shown, mean + unit * centre, color="0.5", lw=4, label="scikit-learn, mean")
lower, upper = posterior.confidence_region()
ax.plot(shown, mean + unit * posterior.mean, "k--", lw=1.2, label="GPyTorch, mean")
ax.plot(shown, mean + unit * lower, "k:", shown, mean + unit * upper, "k:", lw=1)
ax.plot([], [], "k:", label="GPyTorch, ± 2 std")
ax.plot(train_x[:, feature], y.iloc[rows], ".", color="0.4", ms=3, label="training rows")
ax.set(xlabel="body mass index (standard deviations)", ylabel="disease progression (score)")
ax.legend(loc="upper left", fontsize=9)
plt.show()

# %%
# The claims
# ----------

inside = gp.kernel_.k1
ntk = model.covar_module.base_kernel
np.testing.assert_allclose(reached, gp.log_marginal_likelihood_value_, atol=1e-3)
np.testing.assert_allclose(
    model.covar_module.outputscale.item(), inside.k1.constant_value, rtol=0.02
)
np.testing.assert_allclose(ntk.bias_std.item(), inside.k2.bias_std, rtol=0.02)
np.testing.assert_allclose(likelihood.noise.item(), noise, rtol=0.02)
np.testing.assert_allclose(posterior.mean, centre, atol=1e-2)
np.testing.assert_allclose(posterior.stddev, latent, rtol=1e-2)
