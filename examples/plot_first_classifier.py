"""
A first classifier in a pipeline
================================

`NTKClassifier` has nothing to tune by hand, so it stands at the end of a pipeline like any other
estimator. Here it is cross-validated on a table of 569 tumours beside models that people reach for
on small tables, of which the support vector machine and the logistic regression are tuned inside
each fold. What is claimed, and asserted at the end: its probabilities have the lowest log loss of
the four, and it is as accurate as the best of them to within chance.
"""

# %%
# The table and what happens to it
# --------------------------------
# Kernels of networks see distances, so columns should be of one size, and a long tail would hide
# the differences in the bulk. Areas and standard errors are positive and skewed: they go through a
# logarithm first. `NTKClassifier` never scales its inputs itself.

import matplotlib.pyplot as plt
import numpy as np
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import make_column_selector, make_column_transformer
from sklearn.datasets import load_breast_cancer
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.svm import SVC

from skntk import NTKClassifier
from skntk.metrics import expected_calibration_error

X, y = load_breast_cancer(return_X_y=True, as_frame=True)
y = y.to_numpy()


def prepared(model):
    """Put the columns' preparation in front of a model."""
    skewed = make_column_selector(pattern="area|error")
    columns = make_column_transformer(
        (FunctionTransformer(np.log1p, feature_names_out="one-to-one"), skewed),
        remainder="passthrough",
    )
    return make_pipeline(columns, StandardScaler(), model)


# %%
# Four models
# -----------
# A support vector machine gives no probabilities by itself; Platt scaling adds them.

svc = GridSearchCV(SVC(), {"C": [0.1, 1, 10, 100], "gamma": [1e-4, 1e-3, 1e-2, 1e-1]}, cv=4)
C = {"C": np.logspace(-3, 2, 6)}
logistic = GridSearchCV(LogisticRegression(max_iter=2000), C, scoring="neg_log_loss", cv=4)
models = {
    "NTKClassifier": NTKClassifier(),
    "tuned RBF-SVC": CalibratedClassifierCV(svc, ensemble=False, cv=4),
    "random forest": RandomForestClassifier(300, random_state=0),
    "logistic regression": logistic,
}
folds = StratifiedKFold(4, shuffle=True, random_state=0)
proba = {
    name: cross_val_predict(prepared(model), X, y, cv=folds, method="predict_proba")
    for name, model in models.items()
}

# %%
# Scores
# ------
# Every row was predicted by models that had not seen it.

right = {name: p.argmax(1) == y for name, p in proba.items()}
# The forest is sometimes certain and wrong, which would cost an infinite loss.
loss = {name: -np.log(p[np.arange(len(y)), y].clip(1e-15)) for name, p in proba.items()}
print(f"{'model':20} {'accuracy':>9} {'log loss':>9} {'ECE':>6}")
for name, p in proba.items():
    ece = expected_calibration_error(y, p)
    print(f"{name:20} {right[name].mean():9.3f} {loss[name].mean():9.4f} {ece:6.3f}")

# %%
# Reliability
# -----------
# Of all rows that are given a malignancy of about p, a fraction p should be malignant. Bars are two
# binomial standard errors; bins with fewer than five rows are left out. The histogram says that
# most rows are easy, so it is the few in the middle that the log loss is about.

borders = np.array([0, 0.02, 0.1, 0.3, 0.7, 0.9, 0.98, 1])
figure, (top, bottom) = plt.subplots(
    2, 1, figsize=(6, 7), height_ratios=[3, 1], sharex=True, layout="constrained"
)
top.plot([0, 1], [0, 1], ":", color="0.6", label="calibrated")
styles = {"NTKClassifier": ("o-", "black", "black"), "random forest": ("^--", "0.4", "white")}
for name, (line, colour, face) in styles.items():
    malignant = proba[name][:, 0]  # class 0 is malignant
    bins = np.digitize(malignant, borders[1:-1])
    kept = [b for b in np.unique(bins) if (bins == b).sum() >= 5]
    p = np.array([malignant[bins == b].mean() for b in kept])
    observed = np.array([(y == 0)[bins == b].mean() for b in kept])
    error = 2 * np.sqrt(p * (1 - p) / [(bins == b).sum() for b in kept])
    top.errorbar(p, observed, error, fmt=line, color=colour, mfc=face, capsize=2, label=name)
    bottom.hist(malignant, np.linspace(0, 1, 21), histtype="step", color=colour, ls=line[1:])
top.set(
    ylabel="fraction malignant", title="Reliability on breast_cancer, four-fold", ylim=(-0.1, 1.1)
)
top.legend(loc="upper left")
bottom.set(xlabel="predicted probability of malignancy", ylabel="rows", yscale="log")
plt.show()

# %%
# The claims
# ----------
# The differences are taken row by row, so that rows that are hard for every model cancel.

ours = "NTKClassifier"
best = max(right, key=lambda name: right[name].mean())
gap = right[best].astype(float) - right[ours]
assert gap.mean() <= 2 * gap.std() / np.sqrt(len(y))
assert all(loss[ours].mean() <= rival.mean() for rival in loss.values())
