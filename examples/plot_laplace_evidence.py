r"""
Choosing the width by evidence
==============================

The marginal likelihood of Laplace's approximation scores a network on its training rows alone: no
validation rows, no folds. With ``online=True`` the prior and the noise are tuned while the network
is trained, so that networks of different widths are compared each at its own mode (Immer et al.
2021). Here the evidence chooses width and activation on a real table, and is held against cross-
validation. Asserted: over all networks it ranks as the cross-validated log-likelihood does, far
from perfectly but clearly; and its choice is among the best third.
"""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from scipy.stats import spearmanr
from sklearn.datasets import load_diabetes
from sklearn.model_selection import KFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skntk import LinearizedLaplaceRegressor, NetworkRegressor
from skntk.metrics import gaussian_log_likelihood

# %%
# Evidence and cross-validation of one network
# --------------------------------------------

X, y = load_diabetes(return_X_y=True)


def laplace(width, activation, seed=0):
    net = NetworkRegressor(
        depth=1, width=width, activation=activation, max_epochs=100, random_state=seed
    )
    model = LinearizedLaplaceRegressor(net, online=True, curvature="kron")
    return make_pipeline(StandardScaler(), model)


def cross_validated(width, activation):
    """Mean log-likelihood of rows that were left out, in three folds."""
    scores = []
    for train, test in KFold(3, shuffle=True, random_state=0).split(X):
        model = laplace(width, activation).fit(X[train], y[train])
        mean, std = model.predict(X[test], return_std=True)
        total = np.sqrt(std**2 + model[-1].noise_variance_)
        scores.append(gaussian_log_likelihood(y[test], mean, total))
    return np.mean(scores)


rows = []
for activation in ("relu", "tanh", "sin"):
    for width in (2, 8, 32):
        found = laplace(width, activation).fit(X, y)[-1]
        rows.append(
            {
                "activation": activation,
                "width": width,
                "evidence": found.log_marginal_likelihood_ / len(y),
                "effective parameters": found.n_effective_parameters_,
                "cross-validated": cross_validated(width, activation),
            }
        )
table = pd.DataFrame(rows)
print(table.round(3).to_string(index=False))

# %%
# Side by side
# ------------

figure, axes = plt.subplots(1, 2, figsize=(9, 4), sharex=True, layout="constrained")
for (activation, part), (style, fill) in zip(
    table.groupby("activation"), (("o-", "black"), ("s--", "white"), ("^:", "0.6")), strict=True
):
    for ax, column in zip(axes, ("evidence", "cross-validated"), strict=True):
        ax.plot(part["width"], part[column], "k" + style, mfc=fill, label=activation)
for ax, title in zip(
    axes, ("evidence / n, training rows alone", "log-likelihood of left out rows"), strict=True
):
    ax.set(xscale="log", xlabel="width", title=title)
    ax.set_xticks([2, 8, 32], ["2", "8", "32"])
    ax.minorticks_off()
axes[0].set_ylabel("nats per row")
axes[0].legend()
plt.show()

rank = spearmanr(table["evidence"], table["cross-validated"]).statistic
chosen = table.loc[table["evidence"].idxmax()]
best = table.loc[table["cross-validated"].idxmax()]
better = (table["cross-validated"] > chosen["cross-validated"]).sum()
print(f"rank correlation of the two {rank:.2f}")
print(
    f"evidence chooses {chosen['activation']}, width {chosen['width']}; cross-validation "
    f"{best['activation']}, width {best['width']}; {better} of {len(table)} score better than the "
    "choice of the evidence"
)
assert rank > 0.4
assert better <= len(table) // 3
