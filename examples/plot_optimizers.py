r"""
Gradient descent, Adam, natural gradient, K-FAC
===============================================

One network on one small regression, trained by four optimizers with their default settings. The
natural gradient in function space moves all modes of the residual at nearly one rate: in the kernel
regime, undamped, its loss falls by :math:`(1 - \eta)^{2}` a step, while gradient descent waits for
the smallest eigenvalues of the neural tangent kernel (Zhang, Martens & Grosse 2019).
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_diabetes
from sklearn.preprocessing import StandardScaler

from skntk import NetworkRegressor

X, y = load_diabetes(return_X_y=True)
X, y = StandardScaler().fit_transform(X)[:150], y[:150]

optimizers = {
    "gd": "gradient descent",
    "adam": "Adam",
    "kfac": "K-FAC",
    "natural_gradient": "natural gradient",
}
losses = {}
for optimizer in optimizers:
    model = NetworkRegressor(
        depth=2,
        width=256,
        activation="erf",
        optimizer=optimizer,
        batch_size=150,
        max_epochs=100,
        dtype="float64",
        random_state=0,
    )
    model.fit(X, y)
    losses[optimizer] = np.array(model.history_[:, "train_loss"])

# %%

styles = ["k-", "k--", "k-.", "k:"]
figure, ax = plt.subplots(figsize=(7, 4.6), layout="constrained")
for (optimizer, name), style in zip(optimizers.items(), styles, strict=True):
    steps = np.arange(len(losses[optimizer]))
    ax.semilogy(steps, losses[optimizer], style, label=name)
ax.set(
    xlabel="step (all 150 rows)",
    ylabel="training loss, half the mean squared error",
    title="Optimizers on one network, erf, width 256",
)
ax.legend()
plt.show()

# %%
# The natural gradient without damping, on the linearized network, halves the residual at each step
# of rate 1/2, whatever the spectrum of the kernel: the loss is :math:`(1 - \eta)^{2 k}` of the
# first.

lazy = NetworkRegressor(
    width=256,
    activation="erf",
    regime="linearized",
    optimizer="natural_gradient",
    learning_rate=0.5,
    damping=0.0,
    max_epochs=10,
    dtype="float64",
    random_state=0,
).fit(X, y)
loss = np.array(lazy.history_[:, "train_loss"])
np.testing.assert_allclose(loss, loss[0] * 0.25 ** np.arange(10), rtol=1e-6)

# %%
# The claims
# ----------
# After as many steps, second-order methods are ahead of gradient descent, and the natural gradient
# is ahead of all:

final = {name: losses[name][-1] for name in optimizers}
print({name: f"{loss:.2g}" for name, loss in final.items()})
assert final["natural_gradient"] < final["kfac"] < final["gd"]
assert final["adam"] < final["gd"]
