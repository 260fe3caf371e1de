"""Rows that repeat, gradients that nearly depend on each other, heads that do not share rows."""

import numpy as np
import pytest
import torch
from explicit import difference, jacobians
from task_streams import regression

from skntk import ContinualNTK, ContinualNTKRegressor
from skntk.continual.gradients import stored_gradients

LAZY = {"regime": "linearized", "dtype": "float64", "width": 24, "depth": 1, "momentum": 0.0}


@pytest.mark.parametrize("alpha", [0.0, 1e-8, 1e-6])
@pytest.mark.parametrize("repeat", ["tasks", "rows"])
def test_stored_rows_are_held_however_often_they_come(repeat, alpha, seed):
    """With other targets each time: by closed-form orthogonal gradient descent nothing moves."""
    (task,) = regression(seed, n_tasks=1, k=1)
    X = task.X if repeat == "tasks" else task.X[[0, 0, 0, 1, 1, 2, 3, 4]]
    y = task.y if repeat == "tasks" else task.y[[0, 0, 0, 1, 1, 2, 3, 4]]
    model = ContinualNTKRegressor("ogd", width=np.inf, memory_size=None, alpha=alpha)
    model.fit(X, y)
    before = model.predict(task.X_test)
    for sign in (-1, 3, 2):
        model.partial_fit(X, sign * y + 1)
        assert difference(model.predict(task.X_test), before) < 1e-6
    assert model.distances_ == pytest.approx([model.distances_[0]] * 4, rel=1e-5)


def test_narrow_kernels_hold_what_is_stored(seed):
    """More stored outputs than the kernel has dimensions: there is nothing left to learn."""
    tasks = regression(seed, n_tasks=3, n=40, d=3, k=1)
    params = {"regime": "kernel", "width": 4, "depth": 1, "bias_std": 0.3, "outputs": "full"}
    model = ContinualNTKRegressor("ogd", memory_size=None, random_state=seed, **params)
    model.fit(tasks[0].X, tasks[0].y)
    before = model.predict(tasks[0].X)
    for task in tasks[1:]:
        model.partial_fit(task.X, task.y)
    assert difference(model.predict(tasks[0].X), before) < 1e-5


def test_gradients_that_nearly_depend_on_each_other(seed):
    """In float32, too, the outputs of a linear model cannot move where they are held."""
    rng = np.random.default_rng(seed)
    base = rng.standard_normal((5, 20))
    X = np.concatenate([base + 1e-2 * rng.standard_normal(base.shape) for _ in range(40)])
    y = np.resize(np.arange(5) % 2, 200)
    model = ContinualNTK(
        "ogd", **LAZY | {"dtype": "float32", "width": 64}, activation="tanh", loss="squared",
        stored_outputs="all", memory_size=None, max_epochs=60, random_state=seed,
    )  # fmt: skip
    model.partial_fit(X, y)
    before = model._outputs(X, None)
    model.partial_fit(X + rng.standard_normal(X.shape), 1 - y)
    assert (model._outputs(X, None) - before).abs().max() < 1e-4


def test_the_automatic_rate_is_stable_for_several_heads(seed):
    """Each row is of its own head alone: the largest curvature is that of such a loss."""
    tasks = regression(seed, n_tasks=4, n=8, d=4, k=1)
    params = LAZY | {"batch_size": None, "max_epochs": 1, "heads": "multi", "random_state": seed}
    model = ContinualNTKRegressor("joint", **params)
    for i, task in enumerate(tasks):
        model.partial_fit(task.X * (1 if i else 10), task.y)
        X = torch.cat(
            [torch.as_tensor(t.X) * (1 if j else 10) for j, t in enumerate(tasks[: i + 1])]
        )
        J = jacobians(model._learnt.learner._initial(), X).values()
        rows = torch.arange(len(X))
        own = torch.cat([j.flatten(2)[rows // 8, rows] for j in J], 1)
        curvature = float(torch.linalg.eigvalsh(own @ own.T)[-1]) / len(X)
        assert model.learning_rates_[i] * curvature == pytest.approx(1, rel=1e-6)


def test_points_need_not_be_one_for_each_row(seed):
    """As many as rows, but some of them of one row: each is multiplied with its own."""
    torch.manual_seed(seed)
    net, X = torch.nn.Linear(4, 3).double(), torch.randn(3, 4, dtype=torch.float64)
    which = torch.tensor([[1, 1, 0], [0, 0, 0], [0, 0, 1]]) > 0
    (part,) = stored_gradients(net, X, which)
    v = {name: torch.randn_like(p) for name, p in net.named_parameters()}
    J = jacobians(net, X)
    expected = sum(J[n].transpose(0, 1)[which].flatten(1) @ v[n].flatten() for n in v)
    assert difference(part.dot(v), expected) < 1e-12
