r"""
The same data, two limits: gradient descent and Adam
====================================================

An infinitely wide network that is trained by gradient descent is a kernel machine. Trained by Adam
it has a limit, too, but another one: each feature's step is divided by the size of its own
gradients. What does that change? Here both limits learn the same table, `AdamNTKRegressor` with
``eps=np.inf`` and with its default, and the kernel's eigenvectors show where they part.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import make_friedman1
from sklearn.preprocessing import StandardScaler

import skntk
import skntk.nn as snn
from skntk import AdamNTKRegressor, NetworkRegressor

# %%
# Two limits, and a network
# -------------------------
# Two hundred rows of ten columns, and test rows. A lazy network of width 512, whose features are
# frozen at initialization and which is trained by Adam with a rate for each tensor, goes the way of
# Adam's limit: that is what it is the limit of.

X, y = make_friedman1(700, noise=1.0, random_state=0)
X = StandardScaler().fit_transform(X)
X_train, y_train, X_test, y_test = X[:200], y[:200], X[200:], y[200:]

STEPS, RATE, STAGES = 200, 0.03, (1, 2, 5, 10, 20, 50, 100, 150, 200)
limits = {
    "gradient descent": AdamNTKRegressor(eps=np.inf, max_epochs=STEPS, random_state=0),
    "Adam": AdamNTKRegressor(learning_rate=RATE, max_epochs=STEPS, random_state=0),
}
errors = {}
for name, model in limits.items():
    model.set_params(n_features=32768).fit(X_train, y_train)
    stages = model.staged_predict(X_test, STAGES)
    errors[name] = [np.mean((f - y_test) ** 2) / y_test.var() for f in stages]
lazy = []
for steps in (20, 100, 200):
    network = NetworkRegressor(
        width=512, regime="linearized", centered=True, optimizer="scaled_adam",
        learning_rate=RATE, max_epochs=steps, batch_size=200, random_state=0,
    )  # fmt: skip
    f = network.fit(X_train, y_train).predict(X_test)
    lazy.append(np.mean((f - y_test) ** 2) / y_test.var())

# %%
# Where they part
# ---------------
# In the eigenvectors of the NTK, gradient descent shrinks each component of the residual at a rate
# in proportion to its eigenvalue: the large ones are gone before the small ones have begun to move.
# Adam divides by the size of gradients, and as those of the large directions die away, steps along
# the small ones grow. At equal training loss, its residual has more left of the large directions
# and less of the small ones.

kernel = skntk.infinite_width(snn.MLP(10, depth=2))
eigenvectors = np.linalg.eigh(kernel(X_train))[1][:, ::-1]
GROUPS = {"1 to 5": (0, 5), "6 to 20": (5, 20), "21 to 60": (20, 60), "61 to 200": (60, 200)}
left = {}
for name, model in limits.items():
    residuals = np.array([r[:, 0] for r in model.residuals_]) @ eigenvectors
    t = np.argmax(model.loss_curve_ < 0.3 * model.loss_curve_[0])  # 70 % explained
    now, start = residuals[t] ** 2, residuals[0] ** 2
    left[name] = [now[a:b].sum() / start[a:b].sum() for a, b in GROUPS.values()]
    print(f"{name}: {t} steps, left of directions", np.round(left[name], 3))

# %%
# Both pictures
# -------------

figure, (curves, bars) = plt.subplots(1, 2, figsize=(9, 3.8), layout="constrained")
for name, marker in (("gradient descent", "o"), ("Adam", "s")):
    curves.plot(STAGES, errors[name], marker=marker, label=f"limit of {name}")
curves.plot((20, 100, 200), lazy, "k^", label="lazy network, width 512, Adam")
curves.set(xscale="log", xlabel="Steps", ylabel="Test error / variance", ylim=(0, 1.45))
curves.legend(loc="upper right")
at = np.arange(len(GROUPS))
for shift, name in ((-0.2, "gradient descent"), (0.2, "Adam")):
    bars.bar(at + shift, left[name], 0.4, label=f"limit of {name}")
bars.set_xticks(at, GROUPS)
bars.set(xlabel="Eigenvectors of the NTK, by eigenvalue", ylabel="Left of the target")
bars.set_title("At 30 % of the training loss")
bars.set_ylim(0, 1.25)
bars.legend(loc="upper left")
plt.show()

# %%
# What this shows
# ---------------
# The limits differ in the order in which they learn more than in where they end: their best test
# errors are close on this table. `benchmarks/adam_limit.py` compares them, and the networks that
# they are limits of, on ten data sets.

assert left["Adam"][0] > left["gradient descent"][0]
assert left["Adam"][2] < left["gradient descent"][2]
at_100 = errors["Adam"][STAGES.index(100)]
assert abs(lazy[1] - at_100) < 0.25 * at_100
