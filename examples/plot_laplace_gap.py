r"""
In-between uncertainty
======================

A network that is trained on two clusters of points says nothing of what it does not know between
them. Linearized Laplace gives it a standard deviation that grows in the gap (Foong et al. 2019),
like a Gaussian process's and like that of the limit of infinite width. Asserted: it does so with
the full posterior, whose intervals hold the truth; a posterior of the last layer alone and a
diagonal one are of other sizes there.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel

from skntk import LinearizedLaplaceRegressor, NetworkRegressor, NTKRegressor

# %%
# Data with a gap
# ---------------


def truth(x):
    return np.sin(3 * x) + 0.3 * x


rng = np.random.default_rng(0)
x = np.concatenate([rng.uniform(-2, -0.7, 50), rng.uniform(0.8, 2, 50)])[:, None]
y = truth(x[:, 0]) + 0.1 * rng.standard_normal(len(x))
grid = np.linspace(-3, 3, 241)[:, None]

# %%
# Five models
# -----------
# One network, trained with the weight decay that the marginal likelihood asks for
# (``online=True``): the three posteriors are around the same weights, their mean is the network's,
# and their noise that of the first.

network = NetworkRegressor(
    depth=2, width=30, activation="tanh", bias_std=1.0, max_epochs=1000, random_state=0
)
full = LinearizedLaplaceRegressor(network, online=True).fit(x, y)
around = {"prefit": True, "noise_variance": full.noise_variance_}
models = {
    "Laplace, full": full,
    "Laplace, last layer": LinearizedLaplaceRegressor(
        full.network_, parameters="last_layer", **around
    ).fit(x, y),
    "Laplace, diagonal": LinearizedLaplaceRegressor(full.network_, curvature="diag", **around).fit(
        x, y
    ),
    "infinite width": NTKRegressor(depth=2, activation="erf", tuning="marginal_likelihood").fit(
        x, y
    ),
    "Gaussian process, RBF": GaussianProcessRegressor(
        ConstantKernel() * RBF() + WhiteKernel(), normalize_y=True, n_restarts_optimizer=2
    ).fit(x, y),
}
stds = {}
figure, axes = plt.subplots(2, 3, figsize=(12, 6.5), sharex=True, sharey=True, layout="constrained")
for ax, (name, model) in zip(axes.flat, models.items(), strict=False):
    mean, std = model.predict(grid, return_std=True)
    stds[name] = std
    ax.fill_between(grid[:, 0], mean - 2 * std, mean + 2 * std, color="0.8", label="± 2 std")
    ax.plot(grid[:, 0], truth(grid[:, 0]), "k:", lw=1, label="truth")
    ax.plot(grid[:, 0], mean, "k", lw=1.5, label="mean")
    ax.plot(x[:, 0], y, "o", mfc="white", mec="k", ms=3, label="data")
    ax.set(title=name, ylim=(-3, 3))
axes[0, 0].legend(ncols=2, fontsize=8, loc="lower right")
draws = full.sample_y(grid, n_samples=6, random_state=0)
axes[1, 2].plot(grid[:, 0], draws, "k-", lw=0.7)
axes[1, 2].plot(x[:, 0], y, "o", mfc="white", mec="k", ms=3)
axes[1, 2].set_title("functions drawn from Laplace, full")
for ax in axes[:, 0]:
    ax.set_ylabel("y")
for ax in axes[1]:
    ax.set_xlabel("x")
plt.show()

# %%
# Where it knows, and where it does not
# -------------------------------------

gap = (grid[:, 0] > -0.4) & (grid[:, 0] < 0.5)
near = np.abs(grid - x.T).min(axis=1) < 0.05
print(f"noise: standard deviation {full.noise_variance_**0.5:.3f}, of the data 0.1")
for name, std in stds.items():
    print(f"{name:24s} std in the gap / near the data: {std[gap].mean() / std[near].mean():6.1f}")
mean = full.predict(grid)
inside = np.abs(truth(grid[:, 0]) - mean) < 2.5 * stds["Laplace, full"]
share = inside[np.abs(grid[:, 0]) < 2].mean()
print(f"truth within 2.5 std of the full posterior, gap included: {share:.2f}")

assert stds["Laplace, full"][gap].mean() > 3 * stds["Laplace, full"][near].mean()
assert 0.08 < full.noise_variance_**0.5 < 0.13
