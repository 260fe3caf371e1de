"""One clear error, or the right answer."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from task_streams import classes, regression
from torch import nn

from skntk import ContinualNTK, ContinualNTKRegressor
from skntk.continual import evaluate, forgetting_report
from skntk.core import SkntkWarning

SMALL = {"width": 8, "depth": 1, "max_epochs": 1, "random_state": 0}


@pytest.fixture
def tasks():
    return classes(0, n_tasks=2)


def learnt(tasks, **params):
    model = ContinualNTK(**{"method": "sgd", **SMALL, **params})
    return model.partial_fit(tasks[0].X, tasks[0].y, task="a")


def test_a_new_class_with_one_head(tasks):
    model = learnt(tasks)
    with pytest.raises(
        ValueError, match=r"classes \[2, 3\], but the network has outputs for \[0, 1"
    ):
        model.partial_fit(tasks[1].X, tasks[1].y)
    assert model.tasks_ == ["a"]
    declared = ContinualNTK("sgd", **SMALL)
    declared.partial_fit(tasks[0].X, tasks[0].y, classes=[0, 1, 2, 3])
    declared.partial_fit(tasks[1].X, tasks[1].y)
    assert declared.predict_proba(tasks[0].X).shape == (12, 4)
    with pytest.raises(ValueError, match=r"classes \[1\], which are not among classes=\[0\]"):
        ContinualNTK("sgd", **SMALL).partial_fit(tasks[0].X, tasks[0].y, classes=[0])
    with pytest.raises(ValueError, match=r"task 'a' has outputs for \[0, 1\].*of another name"):
        learnt(tasks, heads="multi").partial_fit(tasks[1].X, tasks[1].y, task="a")


@pytest.mark.parametrize("heads", ["single", "multi", "incremental"])
def test_a_task_that_does_not_exist(tasks, heads):
    model = learnt(tasks, heads=heads)
    with pytest.raises(ValueError, match=r"task='b' has not been learnt; learnt are: 'a'"):
        model.predict(tasks[0].X, task="b")
    with pytest.raises(ValueError, match="name one task by a number or a string"):
        model.predict(tasks[0].X, task=np.zeros(12))
    assert model.predict(tasks[0].X).shape == (12,)
    if heads == "multi":
        model.partial_fit(tasks[1].X, tasks[1].y, task="b")
        with pytest.raises(ValueError, match=r"say which task; learnt are: 'a', 'b'"):
            model.predict(tasks[0].X)


def test_tasks_get_numbers(tasks):
    model = ContinualNTK("sgd", heads="multi", **SMALL)
    for task in tasks:
        model.partial_fit(task.X, task.y)
    assert model.tasks_ == [0, 1]
    model.partial_fit(tasks[0].X, tasks[0].y, task=0)
    assert model.tasks_ == [0, 1]
    assert len(model.distances_) == 3


@pytest.mark.parametrize("kind", ["network", "closed"])
def test_empty_and_other_widths(tasks, kind):
    model = learnt(tasks, **({"width": np.inf} if kind == "closed" else {}))
    with pytest.raises(ValueError, match="0 sample"):
        model.partial_fit(tasks[0].X[:0], tasks[0].y[:0])
    with pytest.raises(ValueError, match="X has 3 features, but ContinualNTK is expecting 5"):
        model.partial_fit(tasks[0].X[:, :3], tasks[0].y)
    with pytest.raises(ValueError, match="X has 3 features"):
        model.predict(tasks[0].X[:, :3])
    with pytest.raises(ValueError, match="NaN"):
        model.partial_fit(np.full_like(tasks[0].X, np.nan), tasks[0].y)
    assert model.tasks_ == ["a"]


def test_nothing_learnt(tasks):
    with pytest.raises(NotFittedError):
        ContinualNTK().predict(tasks[0].X)
    with pytest.raises(NotFittedError):
        _ = ContinualNTK().memory_
    with pytest.raises(ValueError, match="tasks is empty"):
        evaluate(ContinualNTK(), [])
    with pytest.raises(ValueError, match=r"names \['t0'\] twice"):
        evaluate(ContinualNTK(), [tasks[0], tasks[0]])
    for function in (evaluate, forgetting_report):
        with pytest.raises(
            TypeError, match=r"tasks\[1\] is a tuple without name, X, y, X_test, y_"
        ):
            function(ContinualNTK("sgd", loss="squared"), [tasks[0], (tasks[0].X, tasks[0].y)])


def test_methods_without_a_closed_form(tasks):
    with pytest.raises(
        ValueError, match=r"method='ewc' has no closed form.*\['sgd', 'ogd', 'joint"
    ):
        learnt(tasks, method="ewc", width=np.inf)
    with pytest.raises(ValueError, match="method='replay' has no closed form"):
        learnt(tasks, method="replay", regime="kernel")
    with pytest.raises(AttributeError, match="no trained network"):
        _ = learnt(tasks, width=np.inf).module_


def test_independent_outputs_would_forget_nothing(tasks):
    with pytest.raises(ValueError, match=r"pass outputs='full', or width=np\.inf"):
        learnt(tasks, heads="multi", regime="kernel")
    for params in ({"outputs": "full"}, {"width": np.inf}):
        assert learnt(tasks, heads="multi", regime="kernel", **params).tasks_ == ["a"]


@pytest.mark.parametrize(
    "params", [{"method": "ogd"}, {"method": "ogd_plus"}, {"method": "ogd", "width": np.inf}]
)
def test_a_memory_that_holds_no_row(tasks, params):
    with pytest.raises(ValueError, match=r"memory_size=1 holds no row.* 2 outputs"):
        learnt(tasks, memory_size=1, stored_outputs="all", **params)


@pytest.mark.parametrize(
    ("params", "error", "message"),
    [
        ({"memory_size": -1}, ValueError, "memory_size"),
        ({"method": "gem"}, ValueError, "method"),
        ({"heads": "double"}, ValueError, "heads"),
        ({"width": 2.5}, ValueError, "width=2.5"),
        ({"penalty": -1.0}, ValueError, "penalty"),
        ({"module": nn.Linear(5, 3), "width": None}, ValueError, "3 outputs.* first task of 2"),
        ({"module": nn.Linear(4, 2), "width": None}, ValueError, "fails on rows of shape"),
        ({"module": nn.Linear(5, 2), "width": 8}, ValueError, "width=8 needs a module class"),
        ({"module": nn.Linear(5, 2).requires_grad_(False), "width": None}, ValueError, "frozen"),
        ({"input_shape": (2, 2)}, ValueError, "needs 4"),
    ],
)
def test_parameters(tasks, params, error, message):
    with pytest.raises(error, match=message):
        learnt(tasks, **params)


def test_a_module_that_cannot_grow(tasks):
    for last, why in ((nn.LayerNorm(2), "fails"), (nn.Softmax(1), "mixes its outputs")):
        net = nn.Sequential(nn.Linear(5, 2), last)
        model = learnt(tasks, module=net, width=None, heads="incremental")
        with pytest.raises(ValueError, match=f"Sequential cannot get more outputs.*{why}"):
            model.partial_fit(tasks[1].X, tasks[1].y)
        assert list(model.classes_) == [0, 1]


def test_outputs_that_are_dropped(tasks):
    model = learnt(tasks, module=Wrapped(), width=None, heads="incremental")
    with pytest.raises(ValueError, match=r"Wrapped cannot get more outputs.*drops some"):
        model.partial_fit(tasks[1].X, tasks[1].y)


class Wrapped(nn.Module):
    def __init__(self):
        super().__init__()
        self.readout = nn.Linear(5, 2)

    def forward(self, x):
        return self.readout(x)[:, :2]


def test_modules_are_left_alone(tasks):
    net = nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 2))
    before = {n: p.clone() for n, p in net.named_parameters()}
    model = learnt(tasks, module=net, width=None, heads="multi", method="ogd")
    model.partial_fit(tasks[1].X, tasks[1].y, task="b")
    assert net[2].out_features == 2
    assert all(torch.equal(p, before[n]) for n, p in net.named_parameters())
    assert model.module_[2].out_features == 4


def test_degenerate_rows():
    """One row, copies, a constant column, all rows in memory already."""
    X = np.ones((6, 3))
    y = np.array([0, 1, 0, 1, 0, 1])
    for params in ({"width": np.inf, "memory_size": None}, {}):
        model = ContinualNTK("ogd", **{**SMALL, **params})
        for _ in range(3):
            model.partial_fit(X, y, classes=[0, 1])
        assert np.isfinite(model.predict_proba(X)).all()
    one = ContinualNTKRegressor("ogd", **SMALL)
    for _ in range(2):
        one.partial_fit(X[:1], [3.0])
    assert one.predict(X[:2]).shape == (2,)
    single = ContinualNTK("ogd", **SMALL).partial_fit(X, np.zeros(6))
    assert (single.predict(X) == 0).all()


def test_regression_targets():
    tasks = regression(0, k=2)
    model = ContinualNTKRegressor("sgd", **SMALL).partial_fit(tasks[0].X, tasks[0].y)
    with pytest.raises(ValueError, match="y has 1 targets, but earlier tasks had 2"):
        model.partial_fit(tasks[1].X, tasks[1].y[:, 0])
    multi = ContinualNTKRegressor("sgd", heads="multi", **SMALL)
    multi.partial_fit(tasks[0].X, tasks[0].y, task="a")
    multi.partial_fit(tasks[1].X, 1e6 + 1e4 * tasks[1].y[:, 0], task="b")
    assert multi.predict(tasks[0].X, task="a").shape == (8, 2)
    assert multi.predict(tasks[0].X, task="b").shape == (8,)
    assert multi.predict(tasks[0].X, task="b").mean() > 5e5
    with pytest.raises(ValueError, match="heads"):
        ContinualNTKRegressor(heads="incremental").fit(tasks[0].X, tasks[0].y)


def test_report_of_other_methods(tasks):
    for params in ({"method": "ogd", "loss": "squared"}, {"method": "sgd"}):
        with pytest.raises(ValueError, match="pass method='sgd' and loss='squared'"):
            forgetting_report(ContinualNTK(**params, **SMALL), tasks)
    with pytest.raises(ValueError, match=r"method='ogd': .* pass method='sgd'\.$"):
        forgetting_report(ContinualNTKRegressor("ogd", **SMALL), tasks)


def test_reports_of_what_cannot_be(tasks):
    trace = ContinualNTK("sgd", loss="squared", heads="multi", **SMALL)
    with pytest.raises(ValueError, match="pass outputs='full'"):
        forgetting_report(trace, tasks)
    fast = ContinualNTK(
        "sgd",
        loss="squared",
        heads="incremental",
        learning_rate=30.0,
        **SMALL | {"batch_size": None},
    )
    with pytest.warns(SkntkWarning, match="learning_rate=30 is not stable"):
        forgetting_report(fast, [replace(t, X=3 * t.X) for t in tasks])
    for function in (evaluate, forgetting_report):
        with pytest.raises(TypeError, match="estimator is a Pipeline"):
            function(make_pipeline(StandardScaler(), trace), tasks)
    assert evaluate(trace, iter(tasks)).scores.shape == (2, 2)
    alone = forgetting_report(ContinualNTK("sgd", loss="squared", **SMALL), tasks[:1])
    assert alone.table.shape == (0, 5)
    assert alone.predicted.shape == alone.observed.shape == (0,)


def test_flat_images():
    module = nn.Sequential(nn.Conv2d(1, 3, 3), nn.Flatten(), nn.Linear(12, 2))
    with pytest.raises(ValueError, match=r"input_shape=\(C, H, W\)"):
        ContinualNTK("sgd", module=module).fit(np.ones((4, 16)), [0, 1, 0, 1])


def test_images_and_frames():
    """Images of several axes, and flat with their shape; names of columns are kept."""
    import pandas as pd

    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((8, 1, 4, 4)), np.arange(8) % 2
    module = nn.Sequential(nn.Conv2d(1, 3, 3), nn.Flatten(), nn.Linear(12, 2))
    params = {**SMALL, "width": None, "module": module}
    deep = ContinualNTK("ogd", **params).partial_fit(X, y).partial_fit(X[::-1], y)
    flat = ContinualNTK("ogd", input_shape=(1, 4, 4), **params)
    flat.partial_fit(X.reshape(8, 16), y).partial_fit(X[::-1].reshape(8, 16), y)
    assert np.array_equal(deep.predict_proba(X), flat.predict_proba(X.reshape(8, 16)))
    frame = pd.DataFrame(X.reshape(8, 16), columns=[f"c{i}" for i in range(16)])
    named = ContinualNTK("sgd", **SMALL).partial_fit(frame, y)
    assert list(named.feature_names_in_) == list(frame.columns)
    with pytest.raises(ValueError, match="feature names"):
        named.partial_fit(frame[frame.columns[::-1]], y)


def test_batchnorm_would_move_stored_outputs(tasks):
    net = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    for method in ("ogd", "ogd_plus", "pca_ogd"):
        with pytest.raises(ValueError, match=r"BatchNorm1d at '1' has running.*such as GroupNorm"):
            learnt(tasks, module=net, width=None, method=method)
    assert learnt(tasks, module=net, width=None).tasks_ == ["a"]
    norm = nn.InstanceNorm1d(5, track_running_stats=True)
    tracked = nn.Sequential(nn.Unflatten(1, (5, 1)), norm, nn.Flatten(), nn.Linear(5, 2))
    with pytest.raises(ValueError, match="InstanceNorm1d at '1' has running statistics"):
        learnt(tasks, module=tracked, width=None, method="ogd")


def test_too_few_test_rows():
    tasks = regression(0, n_tasks=2, k=1)
    tasks[1] = replace(tasks[1], X_test=tasks[1].X_test[:1], y_test=tasks[1].y_test[:1])
    with pytest.raises(ValueError, match=r"tasks \[1\] have one test row.* R² needs two"):
        evaluate(ContinualNTKRegressor(**SMALL), tasks)


def test_a_penalty_without_end(tasks):
    for method in ("ewc", "online_ewc"):
        model = learnt(tasks, method=method, heads="multi", penalty=1e300)
        before = model.predict_proba(tasks[0].X, task="a")
        model.partial_fit(tasks[1].X, tasks[1].y, task="b")
        assert np.abs(model.predict_proba(tasks[0].X, task="a") - before).max() < 0.1


def test_axes_of_images_stay():
    X, y = np.random.default_rng(0).standard_normal((8, 2, 4, 4)), np.arange(8) % 2
    model = ContinualNTK("sgd", **SMALL).partial_fit(X, y)
    for call in (model.predict, lambda Z: model.partial_fit(Z, y)):
        with pytest.raises(ValueError, match=r"shape \(4, 4, 2\), but those of the first task had"):
            call(np.moveaxis(X, 1, 3))
    assert np.array_equal(model.predict(X), model.predict(X.reshape(8, -1)))


def test_mup_cannot_grow(tasks):
    model = learnt(tasks, parametrization="mup", heads="incremental")
    with pytest.raises(ValueError, match="'mup' scales a layer by its number of outputs"):
        model.partial_fit(tasks[1].X, tasks[1].y)


def test_parameters_of_later_tasks(tasks):
    """Those of the optimizer may change, others may not."""
    model = learnt(tasks, heads="incremental")
    model.set_params(learning_rate=0.02, max_epochs=4)
    model.partial_fit(tasks[1].X, tasks[1].y)
    assert model.learning_rates_[1] == 0.02
    assert len(model.losses_[1]) == 4
    for change in ({"method": "ewc"}, {"dtype": "float64"}, {"memory_size": 3}):
        other = learnt(tasks, heads="incremental").set_params(**change)
        with pytest.raises(ValueError, match=f"{next(iter(change))} cannot change from task to"):
            other.partial_fit(tasks[1].X, tasks[1].y)
        other.fit(tasks[1].X, tasks[1].y)


def test_labels_of_other_kinds(tasks):
    model = learnt(tasks, heads="incremental")
    with pytest.raises(ValueError, match="name all classes by strings, or all by numbers"):
        model.partial_fit(tasks[1].X, np.where(tasks[1].y > 2, "a", "b"))
    with pytest.raises(ValueError, match="name classes by numbers or strings"):
        learnt(tasks).fit(tasks[0].X, tasks[0].y.astype("datetime64[D]"))


@pytest.mark.parametrize("n_components", [0, -1, 1.5])
def test_components(tasks, n_components):
    model = ContinualNTK("sgd", loss="squared", heads="incremental", **SMALL)
    with pytest.raises(ValueError, match="n_components"):
        forgetting_report(model, tasks, n_components=n_components)
