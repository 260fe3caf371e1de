r"""
Calibration on digits
=====================

A network that is trained to the end is right on most digits, and surer than it should be. With the
posterior of linearized Laplace the same network gives probabilities that are honest, and lower ones
on images that are no digits. What matters is the prior: chosen by rows that the network has not
seen, it competes with temperature scaling, the baseline; chosen by the marginal likelihood of the
training rows, where this network's loss is zero, it makes the probabilities far less sure than they
should be. All of that is asserted.
"""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from skntk import LinearizedLaplaceClassifier, NetworkClassifier
from skntk.metrics import (
    OODDisplay,
    ReliabilityDisplay,
    TemperatureScaling,
    expected_calibration_error,
    negative_log_likelihood,
    ood_auroc,
    predictive_entropy,
)

# %%
# A network, and three ways to read it
# ------------------------------------
# Few training rows, so that there is something to be unsure of.

X, y = load_digits(return_X_y=True)
X = X / 16
X_train, X_test, y_train, y_test = train_test_split(
    X, y, train_size=400, stratify=y, random_state=0
)
X_held, X_test, y_held, y_test = train_test_split(
    X_test, y_test, train_size=200, stratify=y_test, random_state=0
)
network = NetworkClassifier(
    depth=1, width=50, learning_rate=0.03, max_epochs=600, random_state=0
).fit(X_train, y_train)


def laplace(**options):
    return LinearizedLaplaceClassifier(network, prefit=True, curvature="kron", **options)


held = {"X_val": X_held, "y_val": y_held}
models = {
    "network alone": network,
    "temperature scaling": TemperatureScaling(network).fit(X_held, y_held),
    "Laplace, held out rows": laplace().fit(X_train, y_train, **held),
    "last layer, held out rows": laplace(parameters="last_layer").fit(X_train, y_train, **held),
    "Laplace, evidence": laplace(prior_precision="marginal_likelihood").fit(X_train, y_train),
}

# %%
# Foreign images
# --------------
# The left half of one digit beside the right half of another, upside down: strokes like those of
# digits, but mostly none of the ten.

rng = np.random.default_rng(0)
images = X_test.reshape(-1, 8, 8)
foreign = images.copy()
foreign[:, :, 4:] = images[rng.permutation(len(images)), ::-1, 4:]
foreign = foreign.reshape(len(images), -1)

rows = []
for name, model in models.items():
    p = model.predict_proba(X_test)
    rows.append(
        {
            "": name,
            "accuracy": np.mean(model.classes_[p.argmax(1)] == y_test),
            "NLL": negative_log_likelihood(y_test, p),
            "ECE": expected_calibration_error(y_test, p),
            "OOD AUROC": ood_auroc(
                predictive_entropy(p), predictive_entropy(model.predict_proba(foreign))
            ),
        }
    )
table = pd.DataFrame(rows).set_index("")
print(table.round(4).to_string())

# %%
# Pictures of it
# --------------

axis = None
for name in ("network alone", "Laplace, held out rows", "Laplace, evidence"):
    display = ReliabilityDisplay.from_estimator(models[name], X_test, y_test, name=name, ax=axis)
    axis = display.ax_
plt.show()

axis = None
for name in ("network alone", "Laplace, held out rows"):
    display = OODDisplay.from_estimator(models[name], X_test, foreign, name=name, ax=axis)
    axis = display.ax_
plt.show()

alone, best = table.loc["network alone"], table.loc["Laplace, held out rows"]
assert abs(alone["accuracy"] - best["accuracy"]) < 0.01
assert best["NLL"] < alone["NLL"]
assert best["ECE"] < alone["ECE"]
assert best["OOD AUROC"] > alone["OOD AUROC"] - 0.01
sure = models["Laplace, evidence"].predict_proba(X_test).max(1).mean()
print(f"mean confidence with the prior by evidence: {sure:.2f}")
assert sure < table.loc["Laplace, evidence", "accuracy"] - 0.2
