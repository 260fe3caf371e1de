r"""
Training time as regularization
===============================

A wide network that is trained by gradient descent follows, at every moment, a kernel machine.
`NTKRegressor(training_time=t)` is that machine at time :math:`t`, and `staged_predict` gives many
times from one eigendecomposition. On noisy data a network that is trained to the end fits the
noise; one that is stopped early does not, much as one that has a ridge.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_diabetes
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler

from skntk import NTKRegressor

# %%
# One network, many times
# -----------------------
# Nothing is tuned, and the ridge is as good as none.

X, y = load_diabetes(return_X_y=True)
X_train, X_test, y_train, y_test = train_test_split(X, y, test_size=0.5, random_state=0)
scaler = StandardScaler().fit(X_train)
X_train, X_test = scaler.transform(X_train), scaler.transform(X_test)

network = {"depth": 2, "bias_std": 0.1, "tuning": None}
model = NTKRegressor(**network, alpha=1e-9).fit(X_train, y_train)
times = np.logspace(-1, 5, 49)


def rmse(a, b):
    return np.sqrt(np.mean((a - b) ** 2))


test_error = np.array([rmse(f, y_test) for f in model.staged_predict(X_test, times)])
train_error = np.array([rmse(f, y_train) for f in model.staged_predict(X_train, times)])

# %%
# The same path by ridges
# -----------------------
# Gradient flow for a time :math:`t` fits the share :math:`1 - e^{-\lambda t / n}` of the targets
# along an eigenvector of the kernel with eigenvalue :math:`\lambda`; a ridge :math:`\alpha` fits
# :math:`\lambda / (\lambda + \alpha)`. Both leave out what is below :math:`\alpha = n / t`. The
# argument `alpha` is relative to the mean diagonal of the kernel, `alpha_` absolute.

n = len(y_train)
mean_diagonal = model.alpha_ / model.alpha
ridge_error = np.array(
    [
        rmse(NTKRegressor(**network, alpha=a).fit(X_train, y_train).predict(X_test), y_test)
        for a in n / times / mean_diagonal
    ]
)

# %%

best = test_error.argmin()
figure, ax = plt.subplots(figsize=(7, 4.6), layout="constrained")
ax.semilogx(times, test_error, "k-", lw=2, label="test rows, gradient flow")
ax.semilogx(times, ridge_error, "k--", lw=1, label=r"test rows, ridge $\alpha = n / t$")
ax.semilogx(times, train_error, "-", color="0.6", lw=2, label="training rows, gradient flow")
ax.plot(times[best], test_error[best], "ko", ms=8, label="best time")
ax.axhline(
    rmse(y_train.mean(), y_test), color="k", ls=":", lw=1, label="test rows, mean of the targets"
)
ax.set(
    xlabel="training time t of gradient flow",
    ylabel="root mean squared error (score)",
    title="Disease progression in diabetes: stopping early or a ridge",
    ylim=(0, None),
)
ax.legend(loc="lower left", fontsize=9)
plt.show()

# %%
# The claims
# ----------
# The best time is a finite one, and much better than the end of training:

(converged,) = model.staged_predict(X_test, [np.inf])
print(f"best time {times[best]:.3g}: error {test_error[best]:.1f}")
print(f"converged: error {rmse(converged, y_test):.1f}; best ridge: {ridge_error.min():.1f}")
assert 0 < best < len(times) - 1
assert test_error[best] < 0.9 * rmse(converged, y_test)

# %%
# Stopping early is as good as the best ridge, to a per cent:

assert abs(test_error[best] / ridge_error.min() - 1) < 0.01

# %%
# At infinite time gradient flow is interpolation with the kernel and no ridge at all, here computed
# with NumPy from the kernel alone:

import skntk
import skntk.nn as snn

kernel = skntk.infinite_width(snn.MLP(X.shape[1], depth=2, bias_std=0.1))
coefficients = np.linalg.solve(kernel(X_train), y_train - y_train.mean())
ridgeless = y_train.mean() + kernel(X_test, X_train) @ coefficients
np.testing.assert_allclose(converged, ridgeless, rtol=1e-5)
