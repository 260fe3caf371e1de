r"""
One network, four readings
==========================

A network can be read as a trained network, as its linearization at initialization (the lazy
network), as a kernel machine with its empirical NTK, and as the limit of infinite width. Neighbours
differ by one thing each: feature learning, the optimizer, finite width. As the width grows they
come together, and how far apart they are at the width in use says how well kernel theory describes
it.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_diabetes
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler

from skntk import NetworkRegressor, NTKRegressor

# %%
# Matched in everything else
# --------------------------
# The same rows, initial weights, loss, and training time: gradient descent for 100 epochs at rate
# :math:`\eta` is gradient flow for :math:`t = 100 \eta`, to the order of the step. All start from
# zero: the function at initialization, which is random at any width, is subtracted.

X, y = load_diabetes(return_X_y=True)
X_train, X_test, y_train, y_test = train_test_split(X, y, train_size=150, random_state=0)
scaler = StandardScaler().fit(X_train)
X_train, X_test = scaler.transform(X_train), scaler.transform(X_test)

network = {"depth": 2, "activation": "relu", "bias_std": 0.1}
rate, epochs = 0.1, 100
descent = {
    "optimizer": "gd",
    "learning_rate": rate,
    "max_epochs": epochs,
    "dtype": "float64",
}
flow = {"tuning": None, "alpha": 0.0, "embedding": "none", "training_time": rate * epochs}

widths, seeds = [16, 64, 256, 1024], range(3)
names = ["trained network", "lazy network", "empirical kernel"]


def readings(width, seed):
    """Test predictions of the three finite readings of one network."""
    common = {**network, "width": width, "centered": True, "random_state": seed}
    models = [
        NetworkRegressor(**common, **descent),
        NetworkRegressor(**common, **descent, regime="linearized"),
        NTKRegressor(**common, **flow),
    ]
    return [model.fit(X_train, y_train).predict(X_test) for model in models]


predictions = np.array([[readings(w, s) for s in seeds] for w in widths])  # width, seed, reading
limit = NTKRegressor(**network, **flow, width=np.inf).fit(X_train, y_train).predict(X_test)

# %%


def rmse(a, b):
    return np.sqrt(np.mean((a - b) ** 2, axis=-1))


error = rmse(predictions, y_test)
gaps = {
    "trained - lazy: feature learning": rmse(predictions[:, :, 0], predictions[:, :, 1]),
    "lazy - kernel: optimizer": rmse(predictions[:, :, 1], predictions[:, :, 2]),
    "kernel - limit: width": rmse(predictions[:, :, 2], limit),
}
styles = [("k-", "o"), ("k--", "s"), ("k:", "^")]
figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4.4), layout="constrained")
for r, (name, (line, marker)) in enumerate(zip(names, styles, strict=True)):
    mean, spread = error[:, :, r].mean(1), error[:, :, r].std(1, ddof=1) / len(seeds) ** 0.5
    shift = 1.04 ** (r - 1)
    left.errorbar(
        np.array(widths) * shift, mean, spread, fmt=line, marker=marker, capsize=3, label=name
    )
left.axhline(rmse(limit, y_test), color="0.5", lw=2, label="infinite width")
left.set(
    xscale="log",
    xlabel="width",
    ylabel="test RMSE (mean and standard error of 3 seeds)",
    title="Four readings of one network",
)
left.set_xticks(widths, [str(w) for w in widths])
left.minorticks_off()
left.legend(fontsize=9)
for (name, gap), (line, marker) in zip(gaps.items(), styles, strict=True):
    right.loglog(widths, gap.mean(1), line, marker=marker, label=name)
guide = gaps["kernel - limit: width"].mean()
right.loglog(
    widths,
    guide * (np.array(widths) / np.mean(widths)) ** -0.5,
    color="0.7",
    lw=1,
    label=r"width$^{-1/2}$",
)
right.set(
    xlabel="width", ylabel="RMS distance of predictions", title="How far neighbours are apart"
)
right.set_xticks(widths, [str(w) for w in widths])
right.minorticks_off()
right.legend(fontsize=9, loc=(0.02, 0.16))
plt.show()

# %%
# The claims
# ----------
# Feature learning and the distance of the empirical kernel from its limit fall with width; the
# optimizer is no source of difference here, since gradient descent of small steps is gradient flow.

for name, gap in gaps.items():
    slope = np.polyfit(np.log(widths), np.log(gap.mean(1)), 1)[0]
    print(f"{name}: {gap.mean(1).round(2)}, width^{slope:.2f}")
learning, optimizer, width = (gap.mean(1) for gap in gaps.values())
assert (np.diff(learning) < 0).all()
assert (np.diff(width) < 0).all()
assert (optimizer < 0.2 * width).all()
