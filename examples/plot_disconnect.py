r"""
What stands between a network and its kernel?
=============================================

A trained network, its linearization, the kernel machine of its tangent kernel, and the limit of
infinite width differ by one thing from one to the next: feature learning, the optimizer, finite
width. `disconnect_report` scores all four on the same splits, from the same weights, with the same
budget, so that the differences say where kernel theory stops describing the network, and their
intervals say whether that is known.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_diabetes
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skntk import NetworkClassifier, NetworkRegressor
from skntk.diagnostics import DisconnectDisplay, disconnect_report

# %%
# Where theory is right
# ---------------------
# A wide network on a small table. All differences are within two hundredths of :math:`R^2`, and it
# is known that they are.

X, y = load_diabetes(return_X_y=True)
network = NetworkRegressor(
    depth=1, width=1024, activation="erf", centered=True, optimizer="gd", max_epochs=50
)
table = disconnect_report(make_pipeline(StandardScaler(), network), X, y)
print(table.verdict)
assert (table.summary.finding == "none").all()

# %%
# Where it is not
# ---------------
# The parity of two out of 25 inputs. The trained network finds out which two; its linearization
# cannot, and at this width neither can its kernel, which is far from the limit, too.

rng = np.random.default_rng(0)
X = rng.choice([-1.0, 1.0], (500, 25))
y = np.where(X[:, 0] * X[:, 1] > 0, "even", "odd")
network = NetworkClassifier(
    depth=1, centered=True, optimizer="adam", learning_rate=0.05, max_epochs=40
)
parity = disconnect_report(network, X, y, widths=[48, 768], n_seeds=6)
print(parity.verdict)

# %%

DisconnectDisplay(parity).plot()
plt.show()

# %%
# The claims
# ----------
# Narrow networks learn features and gain by it, more than wide ones. What they gain on their
# linearization, though, they only make up for the limit of infinite width, which knows as much.

findings = parity.summary.set_index(["width", "difference"])
assert findings.finding[48, "feature_learning"] == "positive"
assert findings.finding[48, "finite_width"] == "negative"
gain = findings["mean"]
assert gain[48, "feature_learning"] > gain[768, "feature_learning"]
scores = parity.scores.set_index(["width", "reading"])["mean"]
print(scores.unstack().round(3))
assert scores[48, "limit"] >= scores[48, "full"] - 0.02
