r"""
Methods against forgetting
==========================

Digits are turned further from task to task, and one network learns the tasks one after the other.
Plain gradient descent forgets most of what it knew; three families of methods hold that back. Each
keeps something of a task that is over: orthogonal gradient descent (OGD) gradients, in whose
directions it no longer moves; elastic weight consolidation (EWC) how much each weight mattered;
replay some rows, which are trained on again. Training on all rows so far is the upper line.

In the kernel regime OGD has a closed form (Bennani, Doan & Sugiyama 2020), which shows what it
does: with the gradients of all rows it is as good as training on everything at once.
"""

from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from skntk import ContinualNTK
from skntk.continual import ForgettingDisplay, ScoreMatrixDisplay, evaluate
from skntk.datasets import load, rotated_tasks

# %%
# Five tasks
# ----------
# The first 900 digits, turned by 0 to 90 degrees. X is never scaled inside; pixels are standardized
# by those of the first task.

SEED = 0
digits = load("digits")
some = digits.X[:900].reshape(-1, 8, 8), digits.y[:900]
tasks = rotated_tasks(some, 5, step=22.5, test_size=0.5, random_state=SEED)
mean, std = tasks[0].X.mean(), tasks[0].X.std()
tasks = [replace(t, X=(t.X - mean) / std, X_test=(t.X_test - mean) / std) for t in tasks]
print(len(tasks[0].X), "training rows a task:", ", ".join(task.name for task in tasks))

# %%
# The methods
# -----------
# One network, one training, and 100 gradients or rows of each task where something is stored. The
# strength of EWC's penalty is a compromise: with more of it less is forgotten, and less is learnt.
# Replay does best here, in little memory; most of OGD's is the Gram matrix of its gradients.

network = {"width": 100, "max_epochs": 8, "random_state": SEED}
methods = {
    "plain": {"method": "sgd"},
    "OGD": {"method": "ogd", "memory_size": 100},
    "EWC": {"method": "ewc", "penalty": 30.0},
    "replay": {"method": "replay", "memory_size": 100},
    "joint": {"method": "joint"},
}
reports = {
    name: evaluate(ContinualNTK(**network, **params), tasks, name=name)
    for name, params in methods.items()
}
table = pd.DataFrame({name: report.summary for name, report in reports.items()}).T
print(table.drop(columns="seconds").round(3).to_string())

# %%
# On the left the mean accuracy over the tasks so far, on the right what becomes of the first task.

ForgettingDisplay.from_reports(list(reports.values()))
plt.show()

# %%
# The same, task by task, of plain training: each row is a state of the network, each column a task.

ScoreMatrixDisplay.from_report(reports["plain"])
plt.show()

# %%
# In closed form
# --------------
# The limit of infinite width, trained on squared loss to convergence. With all gradients stored,
# OGD ends in the function that training on all rows at once gives, the one of least norm that
# passes through all targets. With a part of them it keeps most of that.

limit = {"width": np.inf, "alpha": 1e-8}
forms = {
    "plain": {"method": "sgd"},
    "OGD, 500 gradients": {"method": "ogd", "memory_size": 500},
    "OGD, all gradients": {"method": "ogd", "memory_size": None},
    "joint": {"method": "joint"},
}
closed = {
    name: evaluate(ContinualNTK(**limit, **params, random_state=SEED), tasks, name=name)
    for name, params in forms.items()
}
exact = pd.DataFrame({name: report.summary for name, report in closed.items()}).T
columns = ["average score", "average forgetting", "learning score", "distance moved"]
print(exact[columns].round(3).to_string())

# %%
# The claims
# ----------

score, forgetting = table["average score"], table["average forgetting"]
for name in ("OGD", "EWC", "replay"):
    assert forgetting[name] < 0.6 * forgetting["plain"]
    assert score["plain"] + 0.05 < score[name] < score["joint"] + 0.01
assert score["replay"] > max(score["OGD"], score["EWC"]) + 0.02
assert table["memory, MiB"]["replay"] < 0.1 * table["memory, MiB"]["OGD"]

# %%
# In closed form all gradients make forgetting vanish, and the functions are one and the same:

X = np.concatenate([task.X_test for task in tasks])
both = [closed[name].estimator.predict_proba(X) for name in ("OGD, all gradients", "joint")]
print(f"largest difference of the probabilities {np.abs(both[0] - both[1]).max():.1e}")
np.testing.assert_allclose(*both, atol=1e-5)
kept = exact["average forgetting"]
assert kept["OGD, all gradients"] < 0.01 < kept["plain"]
assert kept["OGD, 500 gradients"] < 0.3 * kept["plain"]
