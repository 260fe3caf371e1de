r"""
Do wide networks forget less?
=============================

Mirzadeh et al. (2022) find that wide networks forget less of earlier tasks. Wenger, Dangel &
Kristiadi (2023) find that this holds where training is brief, and that it shrinks or vanishes where
each task is trained to convergence.

Here a network with one hidden layer learns digits turned by 0, 30 and 60 degrees, one angle after
the other, without any method against forgetting. What comes of it depends on what is held fixed:

- Trained to the same loss, near zero, wide networks forget less, in the NTK parametrization as in
  the standard one: on these digits convergence does not undo the effect.
- After two epochs it depends on the parametrization. In the NTK parametrization all but the
  narrowest networks have learnt about as much, and of these the wide ones forget less. In the
  standard one, with one learning rate for all widths, wide networks forget *more*: they have learnt
  more, and have more to lose.
- As the width grows, forgetting on squared loss approaches that of the limit of infinite width,
  which forgets, too.
"""

from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from skntk import ContinualNTK
from skntk.continual import evaluate
from skntk.datasets import load, rotated_tasks

SEEDS = range(3)
widths = [16, 64, 256, 1024]
digits = load("digits")
images = digits.X[:896].reshape(-1, 8, 8), digits.y[:896]


def stream(seed):
    """Three angles, with 224 rows to train on and mean pixel 0; other rows for each seed."""
    tasks = rotated_tasks(images, 3, step=30, test_size=0.75, random_state=seed)
    mean, std = tasks[0].X.mean(), tasks[0].X.std()
    return [replace(t, X=(t.X - mean) / std, X_test=(t.X_test - mean) / std) for t in tasks]


streams = {seed: stream(seed) for seed in SEEDS}


def measured(width, seed, **params):
    """Average forgetting, accuracy right after learning, and training loss of one run."""
    model = ContinualNTK("sgd", depth=1, width=width, batch_size=16, random_state=seed, **params)
    report = evaluate(model, streams[seed])
    return {
        "width": width,
        "seed": seed,
        "forgetting": report.average_forgetting,
        "learnt": report.learning_score,
        "loss": report.losses.mean(),
    }


def study(**params):
    """All widths and seeds."""
    return pd.DataFrame([measured(w, s, **params) for w in widths for s in SEEDS])


# %%
# Two epochs, and many
# --------------------
# The learning rates are stable at all widths, with the default momentum of 0.9. In the NTK
# parametrization a rate means the same at each width; in the standard one the kernel grows with the
# width, and one rate trains a wide network faster.

setups = {
    "NTK parametrization": {"parametrization": "ntk", "learning_rate": 0.3},
    "standard parametrization": {"parametrization": "standard", "learning_rate": 0.01},
}
brief = {name: study(**setup, max_epochs=2) for name, setup in setups.items()}
converged = {name: study(**setup, max_epochs=500, tol=0.05) for name, setup in setups.items()}

columns = ["forgetting", "learnt", "loss"]
for title, results in (("two epochs", brief), ("to a loss of 0.05", converged)):
    tables = {name: found.groupby("width")[columns].mean() for name, found in results.items()}
    print(f"{title}\n{pd.concat(tables).round(3).to_string()}\n")

# %%
# Beside the limit
# ----------------
# On squared loss the limit of infinite width has a closed form. Gradient descent without momentum
# for m steps at rate :math:`\eta` is gradient flow for the time :math:`m \eta`, to the order of the
# step; both start from the zero function (`centered`).

rate, epochs = 0.5, 5
steps = epochs * -(-len(streams[SEEDS[0]][0].X) // 16)
squared = {"loss": "squared", "centered": True}
flow = study(**squared, learning_rate=rate, momentum=0.0, max_epochs=epochs)
limit = pd.DataFrame([measured(np.inf, s, training_time=rate * steps, alpha=0.0) for s in SEEDS])
end = pd.DataFrame([measured(np.inf, s, training_time=np.inf) for s in SEEDS])
print(flow.groupby("width")[columns].mean().round(3).to_string())
print(f"limit, trained equally long: {limit.forgetting.mean():.3f}")
print(f"limit, trained to convergence: {end.forgetting.mean():.3f}")

# %%


def curve(ax, i, found, label):
    """Mean over seeds, and its standard error."""
    groups = found.groupby("width").forgetting
    style = {"fmt": ("o-", "s--")[i], "capsize": 3}
    ax.errorbar(widths, groups.mean(), groups.sem(), color="black", label=label, **style)


figure, axes = plt.subplots(1, 3, figsize=(12, 4.6), sharey=True, layout="constrained")
for ax, results in zip(axes, (brief, converged), strict=False):
    for i, (name, found) in enumerate(results.items()):
        curve(ax, i, found, name)
curve(axes[2], 0, flow, "NTK parametrization")
axes[2].axhline(limit.forgetting.mean(), color="0.4", linestyle="--", label="limit, equally long")
axes[2].axhline(end.forgetting.mean(), color="0.4", linestyle=":", label="limit, to convergence")
titles = ("Two epochs", "To a loss of 0.05", "Five epochs, squared loss")
for ax, title in zip(axes, titles, strict=True):
    ax.set(xscale="log", xlabel="width", title=title)
    ax.set_xticks(widths, widths)
    ax.minorticks_off()
    ax.grid(color="0.92")
    ax.set_axisbelow(True)
    ax.legend(fontsize=8)
axes[0].set_ylabel("average forgetting (mean ± standard error)")
plt.show()

# %%
# The claims
# ----------
# At convergence, width helps in both parametrizations:


def mean(found, column="forgetting"):
    return found.groupby("width")[column].mean()


for found in converged.values():
    assert (found.loss <= 0.05).all()
    assert mean(found)[1024] < mean(found)[16] - 0.04

# %%
# After two epochs it helps in one of them, among networks that have learnt about as much. In the
# other, wide networks have learnt more, and lost more:

ntk, standard = brief.values()
assert abs(mean(ntk, "learnt")[1024] - mean(ntk, "learnt")[64]) < 0.05
assert mean(ntk)[1024] < mean(ntk)[64] - 0.02
assert mean(standard, "learnt")[1024] > mean(standard, "learnt")[16] + 0.1
assert mean(standard)[1024] > mean(standard)[16] + 0.04

# %%
# In the kernel regime forgetting comes close to the limit's, run by run. Width does not end it: the
# limit forgets the more the longer it is trained.

flow["distance"] = (flow.forgetting - flow.seed.map(limit.set_index("seed").forgetting)).abs()
distances = mean(flow, "distance")
print(distances.round(3).to_dict())
assert distances[1024] < 0.04
assert distances[1024] < 0.7 * distances[[16, 64]].mean()
assert end.forgetting.mean() > limit.forgetting.mean() + 0.04
