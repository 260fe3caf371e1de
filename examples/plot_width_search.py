r"""
Is infinity the best width?
===========================

`width` is a hyperparameter like any other: a number is the kernel machine of a random network of
that width, `np.inf` its limit. A grid search over widths says which one the data prefer.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_diabetes
from sklearn.model_selection import GridSearchCV, ShuffleSplit
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skntk import NTKRegressor

X, y = load_diabetes(return_X_y=True)
widths = [16, 64, 256, np.inf]
model = make_pipeline(StandardScaler(), NTKRegressor(embedding="none", random_state=0))
search = GridSearchCV(
    model,
    {"ntkregressor__width": widths, "ntkregressor__centered": [False, True]},
    scoring="neg_root_mean_squared_error",
    cv=ShuffleSplit(10, test_size=0.2, random_state=0),
)
search.fit(X, y)
print(search.best_params_)

# %%

results = search.cv_results_
centered = np.asarray(results["param_ntkregressor__centered"].data, dtype=bool)
figure, ax = plt.subplots(figsize=(6.5, 4), layout="constrained")
for chosen, style, name in (
    (False, "ko-", "with the function at initialization"),
    (True, "ks--", "centered"),
):
    rows = np.flatnonzero(centered == chosen)
    splits = np.array([results[f"split{i}_test_score"] for i in range(10)])[:, rows]
    error = -splits.mean(0)
    spread = splits.std(0, ddof=1) / np.sqrt(10)
    shift = 0.03 if chosen else -0.03
    ax.errorbar(np.arange(len(widths)) + shift, error, spread, fmt=style, capsize=3, label=name)
ax.set_xticks(range(len(widths)), ["16", "64", "256", "$\\infty$"])
ax.set(
    xlabel="width",
    ylabel="RMSE (mean and standard error of 10 splits)",
    title="Disease progression in diabetes: kernel machines by width",
)
ax.legend()
plt.show()

# %%
# The claims
# ----------
# A finite network carries its random function at initialization into the prediction. Without it no
# width is told from infinity by these data: the paired differences are within two standard errors.

scores = np.array([results[f"split{i}_test_score"] for i in range(10)])
limit = scores[:, centered][:, -1:]
difference = scores[:, centered][:, :-1] - limit
z = difference.mean(0) / (difference.std(0, ddof=1) / np.sqrt(10))
print("centered, standard errors from infinity:", dict(zip(widths[:-1], z.round(1), strict=True)))
assert (np.abs(z) < 2).all()

# %%
# With it, the best of the grid is not among the finite widths:

uncentered = scores[:, ~centered].mean(0)
assert uncentered.argmax() == len(widths) - 1
