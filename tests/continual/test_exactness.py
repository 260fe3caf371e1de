"""What must hold exactly under the assumptions of kernel theory: constant kernel, squared loss."""

import numpy as np
import pytest
import torch
from explicit import difference
from task_streams import classes, regression

import skntk
from skntk import ContinualNTK, ContinualNTKRegressor
from skntk.continual import forgetting_report, ntk_overlap

LAZY = {
    "regime": "linearized",
    "dtype": "float64",
    "batch_size": None,
    "momentum": 0.0,
    "width": 32,
    "depth": 1,
}
HEADS = ("single", "multi", "incremental")


def learnt(model, tasks):
    for i, task in enumerate(tasks):
        declared = {}
        if i == 0 and model.heads == "single" and isinstance(model, ContinualNTK):
            declared = {"classes": np.unique(np.concatenate([t.y for t in tasks]))}
        model.partial_fit(task.X, task.y, task=task.name, **declared)
    return model


def outputs(model, task):
    name = task.name if model.heads == "multi" else None
    return model._outputs(task.X, name)


@pytest.mark.parametrize("heads", HEADS)
@pytest.mark.parametrize("regime", ["linearized", "kernel", "infinite"])
def test_ogd_never_moves_stored_outputs(regime, heads, seed):
    tasks = classes(seed, n_tasks=3, n=6, d=12)
    params = {**LAZY, "loss": "squared", "stored_outputs": "all", "max_epochs": 20}
    params |= {
        "kernel": {"regime": "kernel", "outputs": "full"},
        "infinite": {"width": np.inf},
    }.get(regime, {})
    model = ContinualNTK("ogd", heads=heads, memory_size=None, random_state=seed, **params)
    plain = ContinualNTK("sgd", heads=heads, random_state=seed, **params)
    found = {}
    for estimator in (model, plain):
        first = {"classes": range(6)} if heads == "single" else {}
        estimator.partial_fit(tasks[0].X, tasks[0].y, task="t0", **first)
        before = outputs(estimator, tasks[0])
        learnt_on = [estimator.partial_fit(t.X, t.y, task=t.name) for t in tasks[1:]]
        after = outputs(learnt_on[-1], tasks[0])[:, : before.shape[1]]
        found[estimator.method] = float((after - before).abs().max())
    assert found["ogd"] < 1e-8
    if not (heads == "multi" and regime == "infinite"):  # independent heads do not interact
        assert found["sgd"] > 1e-3


@pytest.mark.parametrize("params", [{"regime": "kernel", "outputs": "full"}, {"width": np.inf}])
@pytest.mark.parametrize(
    ("method", "heads"),
    [("sgd", "incremental"), ("ogd", "multi"), ("ogd", "single"), ("joint", "single")],
)
def test_no_training_is_the_limit_of_a_little(method, heads, params, seed):
    """At time 0 nothing is solved for."""
    tasks = classes(seed, n=6, d=12)
    params = {"width": 16, "depth": 1, "heads": heads, "random_state": seed} | params
    none, little = (
        learnt(ContinualNTK(method, training_time=time, **params), tasks) for time in (0.0, 1e-200)
    )
    for task in tasks:
        torch.testing.assert_close(outputs(none, task), outputs(little, task), rtol=0, atol=1e-12)
    assert none.distances_[-1] == 0


def test_heads_of_the_limit_do_not_interact(seed):
    tasks = classes(seed)
    model = learnt(ContinualNTK("sgd", width=np.inf, heads="multi"), tasks[:1])
    before = outputs(model, tasks[0])
    model.partial_fit(tasks[1].X, tasks[1].y, task="t1")
    assert torch.equal(outputs(model, tasks[0]), before)


@pytest.mark.parametrize("kind", ["infinite", "trace", "full"])
def test_ogd_with_full_memory_is_joint_training(kind, seed):
    """Converged, without a ridge: the joint minimum-norm solution (Bennani et al. 2020)."""
    tasks = regression(seed, n=7, d=6)
    params = {"width": np.inf} if kind == "infinite" else {"regime": "kernel", "outputs": kind}
    params = {"width": 64, "depth": 1, "alpha": 0.0, "random_state": seed} | params
    ogd, joint = (
        learnt(ContinualNTKRegressor(method, memory_size=None, **params), tasks)
        for method in ("ogd", "joint")
    )
    X = np.concatenate([t.X_test for t in tasks])
    assert difference(ogd.predict(X), joint.predict(X)) < 1e-8
    assert abs(ogd.distances_[-1] / joint.distances_[-1] - 1) < 1e-8
    plain = learnt(ContinualNTKRegressor("sgd", **params), tasks)
    assert difference(plain.predict(X), joint.predict(X)) > 1e-2


def test_trained_ogd_with_full_memory_is_joint_training(seed):
    """The same by gradient descent, against the kernel machine of all rows."""
    tasks = regression(seed, n_tasks=2, n=3, d=20)
    params = {**LAZY, "random_state": seed, "width": 128}
    trained = ContinualNTKRegressor(
        "ogd", memory_size=None, **params | {"momentum": 0.6}, max_epochs=130
    )
    closed = ContinualNTKRegressor(
        "joint", **params | {"regime": "kernel", "outputs": "full", "alpha": 0.0}
    )
    X = np.concatenate([t.X_test for t in tasks])
    assert difference(learnt(trained, tasks).predict(X), learnt(closed, tasks).predict(X)) < 1e-8
    assert abs(trained.distances_[-1] / closed.distances_[-1] - 1) < 1e-8


def test_joint_in_closed_form_is_one_fit(seed):
    tasks = regression(seed)
    sequence = learnt(ContinualNTKRegressor("joint", width=np.inf), tasks)
    X, y = (np.concatenate([getattr(t, name) for t in tasks]) for name in ("X", "y"))
    # the moments of the first task are those of the targets
    first = tasks[0].y
    y = (y - first.mean(0)) / first.std(0)
    kernel = skntk.infinite_width(skntk.nn.MLP(5, 2, depth=2))
    K = kernel(X)
    c = np.linalg.solve(K + 1e-6 * K.diagonal().mean() * np.eye(len(K)), y)
    expected = kernel(tasks[0].X_test, X) @ c * first.std(0) + first.mean(0)
    assert difference(sequence.predict(tasks[0].X_test), expected) < 1e-9


def test_closed_form_is_what_wide_lazy_networks_do(seed):
    """Mean over initializations of converged networks, within its Monte-Carlo error."""
    tasks = regression(seed, n_tasks=2, n=3, d=20, k=1)
    shared = {"memory_size": None, "depth": 1}
    closed = ContinualNTKRegressor("ogd", width=np.inf, alpha=0.0, **shared)
    X = np.concatenate([t.X_test for t in tasks])
    expected = learnt(closed, tasks).predict(X)
    lazy = LAZY | shared | {"width": 200, "centered": True, "momentum": 0.6, "max_epochs": 60}
    nets = [ContinualNTKRegressor("ogd", **lazy, random_state=100 * seed + s) for s in range(6)]
    found = np.stack([learnt(net, tasks).predict(X) for net in nets])
    error = found.std(0, ddof=1) / len(nets) ** 0.5
    assert np.sqrt(np.mean(((found.mean(0) - expected) / error) ** 2)) < 3.0
    moved = np.abs(expected - tasks[0].y.mean()).mean()  # before training all are this mean
    assert error.mean() < 0.25 * moved


@pytest.mark.parametrize(
    "kind", ["linear", "lazy, full", "lazy, momentum", "infinite", "infinite, brief"]
)
def test_predicted_drift_is_the_drift(kind, seed):
    """Of models that are linear in their parameters, brief and converged (Doan et al. 2021)."""
    tasks = regression(seed, k=1 if kind == "linear" else 2)
    params = {
        "linear": {**LAZY, "regime": "full", "depth": 0, "max_epochs": 15},
        "lazy, full": {**LAZY, "outputs": "full", "max_epochs": 15},
        "lazy, momentum": {**LAZY, "outputs": "full", "max_epochs": 15, "momentum": 0.8},
        "infinite": {"width": np.inf},
        "infinite, brief": {"width": np.inf, "training_time": 7.0},
    }[kind]
    report = forgetting_report(ContinualNTKRegressor("sgd", random_state=seed, **params), tasks)
    table = report.table
    assert (table["relative error"] < 1e-8).all()
    assert difference(report.predicted.copy(), report.observed.copy()) < 1e-8
    assert (table["observed drift"] > 1e-3).all()
    assert (report.overlap >= -1e-9).all()
    assert (report.overlap <= 1 + 1e-9).all()
    if kind == "linear":  # to convergence
        tasks = regression(seed, k=1, n=3)  # fewer rows than features
        model = report.estimator.set_params(max_epochs=400)
        found = forgetting_report(model, tasks)
        assert max(losses[-1] for losses in found.estimator.losses_) < 1e-6
        assert (found.table["relative error"] < 1e-8).all()


def test_predicted_drift_of_frozen_networks(seed):
    """Parameters that are not trained are no part of the kernel."""
    first = torch.nn.Linear(5, 9).requires_grad_(False)
    module = torch.nn.Sequential(first, torch.nn.Tanh(), torch.nn.Linear(9, 2))
    params = LAZY | {"regime": "full", "width": None, "module": module, "max_epochs": 5}
    for outputs in ("trace", "full"):
        model = ContinualNTKRegressor("sgd", outputs=outputs, **params)
        assert (forgetting_report(model, regression(seed)).table["relative error"] < 1e-8).all()


@pytest.mark.parametrize("params", [{}, {"training_time": 1e4}])
def test_stored_rows_that_return_move_nothing(params, seed):
    """Closed-form orthogonal gradient descent without a ridge: nothing is left to learn."""
    (task,) = regression(seed, n_tasks=1)
    model = ContinualNTKRegressor("ogd", width=np.inf, memory_size=None, alpha=0.0, **params)
    model.fit(task.X, task.y)
    before = model.predict(task.X_test)
    model.partial_fit(task.X, -task.y)
    assert difference(model.predict(task.X_test), before) < 1e-6
    assert model.distances_[1] == pytest.approx(model.distances_[0], rel=1e-6)


@pytest.mark.parametrize(
    ("heads", "outputs"),
    [("single", "trace"), ("incremental", "trace"), *((heads, "full") for heads in HEADS)],
)
def test_predicted_drift_with_heads(heads, outputs, seed):
    """Classes that come and heads that are added: exact for the kernel that is meant."""
    tasks = classes(seed, n=6)
    model = ContinualNTK("sgd", width=48, depth=1, regime="kernel", heads=heads, outputs=outputs,
                         random_state=seed)  # fmt: skip
    table = forgetting_report(model, tasks).table
    assert (table["observed drift"] > 1e-12).all()
    assert (table["relative error"] < 1e-7).all()


def test_overlap_is_of_right_singular_vectors(seed):
    torch.manual_seed(seed)
    A, B = (torch.randn(n, 20, dtype=torch.float64) for n in (4, 6))
    found = ntk_overlap(A @ A.T, A @ B.T, B @ B.T)
    assert torch.equal(found, ntk_overlap(*(M.numpy() for M in (A @ A.T, A @ B.T, B @ B.T))))
    cosines = torch.linalg.svdvals(torch.linalg.qr(A.T).Q.T @ torch.linalg.qr(B.T).Q)
    assert difference(torch.linalg.svdvals(found), cosines) < 1e-9
    some = ntk_overlap(A @ A.T, A @ B.T, B @ B.T, n_components=2)
    V, W = (torch.linalg.svd(M, full_matrices=False).Vh[:2] for M in (A, B))
    assert difference((V @ W.T).abs(), some.abs()) < 1e-9
