r"""
Regression with uncertainty
===========================

`NTKRegressor` is a Gaussian process: next to every prediction it gives the standard deviation of
the function there, the variance of the noise, and whole functions drawn from the posterior. Three
claims are asserted: the uncertainty of the function is small near the data and large in a gap, and
draws have it too; intervals for new rows of a real table hold as many of them as they say; and an
ensemble of trained networks has the same mean, but another spread.
"""

import matplotlib.pyplot as plt
import numpy as np
from scipy.stats import norm
from sklearn.datasets import load_diabetes
from sklearn.model_selection import KFold
from sklearn.preprocessing import StandardScaler

from skntk import NTKRegressor

# %%
# Two bands
# ---------
# One input, a gap in the data, and noise of a known size. The inner band is that of the latent
# function, from `return_std`; the outer one, with `noise_variance_` added, where a new observation
# would be. ``kind="nngp"`` is the network with a prior on its weights, conditioned on the data; erf
# makes it smooth. Depth, scales and noise are those of the largest marginal likelihood.

rng = np.random.default_rng(0)
x = np.concatenate([rng.uniform(-3, -0.5, 40), rng.uniform(1, 3, 30)])[:, None]
y = np.sin(2 * x[:, 0]) + 0.15 * rng.standard_normal(len(x))
grid = np.linspace(-4, 4, 200)[:, None]

model = NTKRegressor(activation="erf", kind="nngp", tuning="marginal_likelihood").fit(x, y)
mean, std = model.predict(grid, return_std=True)
draws = model.sample_y(grid, n_samples=4, random_state=0)
total = np.sqrt(std**2 + model.noise_variance_)
print(f"kernel: {model.choice_}; standard deviation of the noise {model.noise_variance_**0.5:.3f}")

figure, ax = plt.subplots(figsize=(8, 4.5), layout="constrained")
ax.fill_between(
    grid[:, 0], mean - 2 * total, mean + 2 * total, color="0.9", label="observation ± 2 std"
)
ax.fill_between(grid[:, 0], mean - 2 * std, mean + 2 * std, color="0.75", label="function ± 2 std")
ax.plot(grid[:, 0], draws, "k:", lw=0.8, label=["draws from the posterior"] + ["_"] * 3)
ax.plot(grid[:, 0], mean, "k", lw=2, label="mean")
ax.plot(x[:, 0], y, "o", mfc="white", mec="k", ms=4, label="data")
ax.set(xlabel="x", ylabel="y", ylim=(-2.2, 3.2))
ax.legend(ncols=3, loc="upper center", fontsize=9)
plt.show()

# %%
# The function is known here, and the model knows where it does not know it.

truth = np.sin(2 * grid[:, 0])
near = np.abs(grid - x.T).min(axis=1) < 0.1
gap = (grid[:, 0] > 0) & (grid[:, 0] < 0.5)
assert (np.abs(truth - mean) < 3 * std).all()
assert std[gap].min() > 3 * std[near].max()
assert 0.12 < model.noise_variance_**0.5 < 0.18

# %%
# Draws have the mean and the spread that `predict` says.

many = model.sample_y(grid[::20], n_samples=4000, random_state=1)
np.testing.assert_allclose(many.std(axis=1), std[::20], rtol=0.1)

# %%
# Are the intervals right?
# ------------------------
# On the diabetes table, by five-fold cross-validation: of all rows, what share lies inside the
# central interval of 10 %, 20 %, ...? Were the model right, the counts would be binomial; two
# standard errors of that are drawn.

X, target = load_diabetes(return_X_y=True)
z = np.empty(len(X))
for train, test in KFold(5, shuffle=True, random_state=0).split(X):
    scaler = StandardScaler().fit(X[train])
    fitted = NTKRegressor().fit(scaler.transform(X[train]), target[train])
    centre, latent = fitted.predict(scaler.transform(X[test]), return_std=True)
    z[test] = (target[test] - centre) / np.sqrt(latent**2 + fitted.noise_variance_)

levels = np.linspace(0.1, 0.9, 9)
coverage = np.array([(np.abs(z) <= norm.ppf(0.5 + level / 2)).mean() for level in levels])
error = np.sqrt(levels * (1 - levels) / len(z))

figure, ax = plt.subplots(figsize=(5, 4.5), layout="constrained")
ax.fill_between(
    100 * levels,
    100 * (levels - 2 * error),
    100 * (levels + 2 * error),
    color="0.85",
    label="two binomial standard errors",
)
ax.plot([0, 100], [0, 100], "k:", lw=1)
ax.plot(100 * levels, 100 * coverage, "ko-", label="NTKRegressor")
ax.set(xlabel="nominal coverage (%)", ylabel="share of test rows inside (%)")
ax.legend(loc="upper left")
plt.show()

assert (np.abs(coverage - levels) < 4 * error).all()
assert abs(coverage[-1] - 0.9) < 2 * error[-1] + 0.01

# %%
# A Gaussian process, or an ensemble of networks
# ----------------------------------------------
# With ``uncertainty="ensemble"`` the standard deviation is the spread of infinitely wide networks
# that were trained by gradient descent from different random initializations (Lee et al. 2019). Its
# mean is that of the Gaussian process with the tangent kernel; its spread is not, since training
# starts from functions with the other kernel's covariance. Without a ridge every network passes
# through every point that it was trained on, and there all agree. (What the spread of either is in
# units of y depends on the scale of the prior, which is that of the initialization here.)

few = np.array([-2.8, -2.0, -0.7, 0.1, 1.7, 2.4])[:, None]
network = {"depth": 2, "activation": "erf", "bias_std": 1.0, "tuning": None, "alpha": 1e-10}
figure, axes = plt.subplots(1, 2, figsize=(9, 3.8), sharey=True, layout="constrained")
means, spreads = {}, {}
titles = {"gp": "Gaussian process posterior", "ensemble": "ensemble of trained networks"}
for ax, (how, title) in zip(axes, titles.items(), strict=True):
    wide = NTKRegressor(**network, uncertainty=how).fit(few, np.sin(2 * few[:, 0]))
    means[how], spreads[how] = centre, spread = wide.predict(grid, return_std=True)
    drawn = wide.sample_y(grid, n_samples=4, random_state=0)
    ax.fill_between(
        grid[:, 0], centre - 2 * spread, centre + 2 * spread, color="0.85", label="± 2 std"
    )
    ax.plot(grid[:, 0], drawn, "k:", lw=0.8, label=["draws"] + ["_"] * 3)
    ax.plot(grid[:, 0], centre, "k", lw=2, label="mean")
    ax.plot(few[:, 0], np.sin(2 * few[:, 0]), "o", mfc="white", mec="k", label="data")
    ax.set(xlabel="x", title=title, ylim=(-3.5, 2.2))
    assert wide.predict(few, return_std=True)[1].max() < 1e-3
axes[0].set(ylabel="y")
axes[0].legend(loc="lower left", fontsize=9)
plt.show()

np.testing.assert_allclose(means["gp"], means["ensemble"], atol=1e-6)
away = np.abs(grid - few.T).min(axis=1) > 0.3
share = (spreads["ensemble"] / spreads["gp"])[away].mean()
print(f"spread of the ensemble away from the data: {share:.2f} of that of the process")
assert (spreads["ensemble"] < spreads["gp"])[away].all()
