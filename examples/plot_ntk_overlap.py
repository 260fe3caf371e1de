r"""
What tasks have in common
=========================

Learning a task moves the outputs at the rows of earlier ones as far as the gradients there have
something in common: as far as the *NTK overlap* of the two tasks goes (Doan et al. 2021). With a
constant kernel and squared loss that is all there is, and the overlap predicts how much is
forgotten.

`forgetting_report` compares the prediction with what gradient descent does. For a linearized
network it is exact. For a trained one it is not, since the kernel changes, but it comes closer as
the network gets wider.
"""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from skntk import ContinualNTK
from skntk.continual import OverlapDisplay, forgetting_report
from skntk.datasets import load, rotated_tasks

# %%
# Digits on their way round
# -------------------------
# The digits 0 to 4, turned by 0 to 90 degrees in five steps. Each task is learnt by 40 steps of
# gradient descent on all its rows.

SEED = 0
digits = load("digits")
few = digits.y < 5
images = digits.X[few].reshape(-1, 8, 8)
tasks = rotated_tasks((images, digits.y[few]), 5, step=22.5, test_size=0.9, random_state=SEED)
training = {
    "loss": "squared",
    "momentum": 0.0,
    "batch_size": None,
    "max_epochs": 40,
    "outputs": "full",
    "dtype": "float64",
    "random_state": SEED,
}

# %%
# A linearized network
# --------------------
# Its kernel is constant, and the prediction is exact. Overlap and forgetting say two things: tasks
# have the less in common the further they are turned apart, and the first task is forgotten most,
# since four others come after it.

model = ContinualNTK("sgd", depth=1, width=128, regime="linearized", **training)
lazy = forgetting_report(model, tasks)
print(lazy.table.round(4).to_string())
OverlapDisplay.from_report(lazy)
plt.show()

# %%
# A trained network
# -----------------
# Trained in full, the same network departs from the prediction: what lies between the points and
# the line is feature learning.

widths = [16, 64, 256]
models = {w: ContinualNTK("sgd", depth=1, width=w, **training) for w in widths}
reports = {w: forgetting_report(model, tasks) for w, model in models.items()}
OverlapDisplay.from_report(reports[64])
plt.show()

# %%
# The relative error of the predicted drift of outputs falls with the width.

errors = pd.DataFrame({w: report.table["relative error"] for w, report in reports.items()})
print(errors.round(3).to_string())
figure, ax = plt.subplots(figsize=(6, 4.8), layout="constrained")
for style, (name, row) in zip(("o-", "s--", "^:", "D-."), errors.iterrows(), strict=True):
    ax.loglog(widths, row, style, color="black", label=name)
ax.set(xlabel="width", ylabel="relative error of the predicted drift", title="Trained networks")
ax.set_xticks(widths, widths)
ax.set_yticks([0.1, 0.2, 0.5, 1, 2], [0.1, 0.2, 0.5, 1, 2])
ax.minorticks_off()
ax.grid(color="0.92")
ax.legend()
plt.show()

# %%
# The claims
# ----------

assert (lazy.table["relative error"] < 1e-6).all()
np.testing.assert_allclose(lazy.predicted, lazy.observed, rtol=1e-4, atol=1e-8)
overlap_by_turns = [np.diagonal(lazy.overlap, k).mean() for k in range(5)]
assert (np.diff(overlap_by_turns) < 0).all()
assert lazy.observed.argmax() == 0
mean = errors.mean()
assert (errors.loc[:, 16] > 0.05).all()
assert mean[16] > mean[64] > mean[256]
