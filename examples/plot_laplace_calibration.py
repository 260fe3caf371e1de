r"""
Calibration on digits
=====================

A network that is trained to the end is right on most digits, and surer than it should be. Its
posterior by linearized Laplace makes the probabilities of the same network honest, and lower on
images that are no digits. The baseline is temperature scaling, which needs held out rows for its
one number; the marginal likelihood needs none. Asserted: equal accuracy, lower negative log-
likelihood and calibration error than the network alone; images that are not digits are told apart
at least as well.
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
network = NetworkClassifier(depth=1, width=50, max_epochs=300, random_state=0).fit(X_train, y_train)
models = {
    "network alone": network,
    "temperature scaling": TemperatureScaling(network).fit(X_held, y_held),
    "Laplace, last layer": LinearizedLaplaceClassifier(
        network, prefit=True, parameters="last_layer"
    ).fit(X_train, y_train),
    "Laplace, all layers": LinearizedLaplaceClassifier(network, prefit=True).fit(X_train, y_train),
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

names = ("network alone", "Laplace, all layers")
display = ReliabilityDisplay.from_estimator(network, X_test, y_test, name=names[0])
ReliabilityDisplay.from_estimator(models[names[1]], X_test, y_test, name=names[1], ax=display.ax_)
plt.show()

display = OODDisplay.from_estimator(network, X_test, foreign, name=names[0])
OODDisplay.from_estimator(models[names[1]], X_test, foreign, name=names[1], ax=display.ax_)
plt.show()

alone, laplace = table.loc["network alone"], table.loc["Laplace, all layers"]
assert abs(alone["accuracy"] - laplace["accuracy"]) < 0.01
assert laplace["NLL"] < alone["NLL"]
assert laplace["OOD AUROC"] > alone["OOD AUROC"] - 0.01
