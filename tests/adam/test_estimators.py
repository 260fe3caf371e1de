"""Both estimators: the same bits, budgets, resuming, stages, stopping, automatic choices."""

import copy
import math
import pickle

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV

import skntk.nn as snn
from skntk import AdamNTKClassifier, AdamNTKRegressor
from skntk.adam import dynamics
from skntk.core import (
    MemoryBudgetError,
    SkntkWarning,
    TrainingDivergedError,
    UnsupportedModuleError,
)

SMALL = {"n_features": 512, "max_epochs": 12, "learning_rate": 0.05, "random_state": 0}


def table(seed, n=30, d=3):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, d))
    return X, np.sin(2 * X[:, 0]) + X[:, 1], (X[:, 0] > 0).astype(int) + (X[:, 1] > 1)


@pytest.mark.parametrize(("sampler", "batch_size"), [("exact", None), ("networks", 8)])
def test_the_same_seed_gives_the_same_bits_under_any_budget(sampler, batch_size):
    """Features that are drawn anew in each step are those that are kept."""
    X, y, _ = table(0)
    params = SMALL | {"sampler": sampler, "batch_size": batch_size}
    params |= {"n_features": 512, "max_epochs": 2 if batch_size is None else 1}
    torch.manual_seed(3)
    one = AdamNTKRegressor(**params).fit(X, y)
    state = torch.get_rng_state()
    two = AdamNTKRegressor(**params, memory_budget=0).fit(X, y)
    half = 0.6 * one._blocks.nbytes / 2**30
    part = AdamNTKRegressor(**params, memory_budget=half).fit(X, y)
    assert torch.equal(state, torch.get_rng_state())
    assert two._blocks.nbytes == 0 < part._blocks.nbytes < one._blocks.nbytes
    for other in (two, part, pickle.loads(pickle.dumps(one))):
        for a, b in zip(one.predict(X, True), other.predict(X, True), strict=True):
            assert np.array_equal(a, b)
    other = clone(one).set_params(random_state=1).fit(X, y)
    assert not np.array_equal(one.predict(X), other.predict(X))


@pytest.mark.parametrize(("batch_size", "early_stopping"), [(None, False), (8, False), (8, True)])
def test_stages_are_shorter_trainings(batch_size, early_stopping):
    X, y, labels = table(1)
    # with the default eps the readout's bias, which centred targets leave alone, moves by rounding
    params = SMALL | {"batch_size": batch_size, "early_stopping": early_stopping, "eps": 1e-4}
    params["max_epochs"] = 4
    long = AdamNTKRegressor(**params, weight_decay=0.1).fit(X, y)
    stages = list(long.staged_predict(X, [0, 1, 3]))
    assert np.allclose(stages[0], y.mean())
    for stage, epochs in zip(stages[1:], (1, 3), strict=True):
        short = clone(long).set_params(max_epochs=epochs, early_stopping=False)
        if not early_stopping:
            assert np.allclose(stage, short.fit(X, y).predict(X), atol=1e-5)
    assert len(list(long.staged_predict(X))) == 4
    if early_stopping:  # what is kept is the stage of the least loss
        best_epoch = round(long.n_steps_ / long._dynamics.batches.per_epoch)
        best = list(long.staged_predict(X, [best_epoch]))
        assert np.allclose(best[0], long.predict(X), atol=1e-5)
    for wrong in ([3, 2], [5], [-1], [1.5]):
        with pytest.raises(ValueError, match="ascending numbers of epochs from 0 to 4"):
            list(long.staged_predict(X, wrong))
    classes = AdamNTKClassifier(**params).fit(X, labels)
    last = next(classes.staged_predict_proba(X, [4]))
    assert early_stopping or np.allclose(last, classes.predict_proba(X), atol=1e-5)
    assert set(list(classes.staged_predict(X))[-1]) <= set(labels)


@pytest.mark.parametrize("params", [{"amsgrad": True}, {"batch_size": 8, "early_stopping": True}])
def test_a_resumed_fit_is_an_uninterrupted_one(tmp_path, monkeypatch, params):
    """Killed in the middle of a step, and taken up with more epochs."""
    X, y, _ = table(2)
    params = SMALL | {"max_epochs": 4} | params
    whole = AdamNTKRegressor(**params).fit(X, y)
    path = tmp_path / "fit.pkl"
    monkeypatch.setattr("skntk.adam.base._CHECKPOINT_SECONDS", 0.0)
    step = dynamics.Dynamics._step

    def interrupted(self, now):
        if now.step == 3:
            raise KeyboardInterrupt
        step(self, now)

    monkeypatch.setattr(dynamics.Dynamics, "_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        AdamNTKRegressor(**params, checkpoint=path).fit(X, y)
    monkeypatch.setattr("skntk.adam.base._CHECKPOINT_SECONDS", 1e9)
    steps = []
    counted = lambda self, now: steps.append(step(self, now))  # noqa: E731
    monkeypatch.setattr(dynamics.Dynamics, "_step", counted)
    resumed = AdamNTKRegressor(**params, checkpoint=path).fit(X, y)
    assert len(steps) == len(whole.loss_curve_) - 3
    for a, b in ((resumed, whole), (AdamNTKRegressor(**params, checkpoint=path).fit(X, y), whole)):
        assert np.array_equal(a.predict(X), b.predict(X))
        assert np.array_equal(a.loss_curve_, b.loss_curve_)
        assert np.array_equal(a.validation_loss_curve_, b.validation_loss_curve_)
    more = AdamNTKRegressor(**params | {"max_epochs": 6}, checkpoint=path).fit(X, y)
    fresh = AdamNTKRegressor(**params | {"max_epochs": 6}).fit(X, y)
    assert np.array_equal(more.predict(X), fresh.predict(X))
    with pytest.raises(ValueError, match="more than max_epochs=4"):
        AdamNTKRegressor(**params, checkpoint=path).fit(X, y)
    with pytest.raises(ValueError, match="another value of learning_rate"):
        AdamNTKRegressor(**params | {"learning_rate": 0.1}, checkpoint=path).fit(X, y)
    with pytest.raises(ValueError, match="other tasks or data"):
        AdamNTKRegressor(**params, checkpoint=path).fit(X, -y)
    with pytest.raises(ValueError, match="needs random_state to be an integer"):
        AdamNTKRegressor(**params | {"random_state": None}, checkpoint=path).fit(X, y)


def test_features_are_drawn_until_the_error_is_small(seed):
    X, y, labels = table(seed)
    params = SMALL | {"n_features": "auto", "random_state": seed}
    Z = 0.5 * (X[:15] + X[15:])
    model = AdamNTKRegressor(**params, mc_tol=0.01).fit(X, y)
    _, std = model.predict(Z, return_mc_std=True)
    assert np.sqrt(np.mean(std**2)) < 1.4 * 0.01 * y.std()
    coarse = AdamNTKRegressor(**params, mc_tol=0.5).fit(X, y)
    assert coarse.n_features_ < model.n_features_
    proba = AdamNTKClassifier(**params).fit(X, labels)
    assert np.sqrt(np.mean(proba.predict_proba(Z, return_mc_std=True)[1] ** 2)) < 1.4 * 0.02


def test_what_cannot_be_reached_is_said(monkeypatch):
    X, y, _ = table(0)
    monkeypatch.setattr("skntk.adam.base._MOST_FEATURES", 2**15)
    with pytest.warns(SkntkWarning, match="above mc_tol=1e-05"):
        AdamNTKRegressor(**SMALL | {"n_features": "auto"}, mc_tol=1e-5).fit(X, y)


@pytest.mark.parametrize("eps", [1e-8, np.inf])
def test_a_diverging_rate_names_one_that_serves(seed, eps):
    X, y, labels = table(seed)
    for Estimator, target in ((AdamNTKRegressor, y), (AdamNTKClassifier, labels)):
        params = SMALL | {"eps": eps, "random_state": seed}
        model = Estimator(**params | {"learning_rate": 1e4})
        with pytest.raises(TrainingDivergedError, match="pass learning_rate=") as caught:
            model.fit(X, target)
        rate = float(str(caught.value).split("pass learning_rate=")[1].split(",")[0])
        good = Estimator(**params | {"learning_rate": rate}).fit(X, target)
        assert good.loss_curve_[-1] < 0.7 * good.loss_curve_[0]
        auto = Estimator(**params | {"learning_rate": "auto"}).fit(X, target)
        assert auto.learning_rate_ == pytest.approx(rate, rel=0.1)


@pytest.mark.filterwarnings("ignore:.*groups of features")
def test_the_largest_stable_step_is_where_gradient_descent_diverges(seed):
    X, y, _ = table(seed)
    params = SMALL | {"eps": np.inf, "beta1": 0.0, "max_epochs": 150, "depth": 1, "n_features": 64}
    rate = AdamNTKRegressor(**params | {"max_epochs": 0}).fit(X, y)._dynamics.stable_rate()
    AdamNTKRegressor(**params | {"learning_rate": 0.9 * rate}).fit(X, y)
    with pytest.raises(TrainingDivergedError):
        AdamNTKRegressor(**params | {"learning_rate": 1.2 * rate}).fit(X, y)


def test_epsilon_zero_with_dead_features():
    """Columns of zeros, a dead layer, a constant target, one class, one row."""
    X, y, _ = table(0)
    X[:, 0] = 0.0
    model = AdamNTKRegressor(**SMALL, eps=0.0, bias_std=0.0).fit(X, y)
    assert np.isfinite(model.predict(X + 1.0, return_mc_std=True)).all()
    model = AdamNTKRegressor(**SMALL, eps=0.0).fit(0 * X, y)
    assert np.isfinite(model.predict(X)).all()
    net = torch.nn.Sequential(
        snn.Linear(3, 16), snn.Polynomial([0.0]), snn.Linear(16, 1, bias_std=0.1)
    )
    assert np.isfinite(AdamNTKRegressor(**SMALL, module=net, eps=0.0).fit(X, y).predict(X)).all()
    constant = AdamNTKRegressor(**SMALL, eps=0.0).fit(X, np.full(30, 7.0))
    assert np.allclose(constant.predict(X), 7.0, rtol=1e-14)
    for loss in ("cross_entropy", "squared"):
        one = AdamNTKClassifier(**SMALL, loss=loss).fit(X, np.full(30, "a"))
        assert np.array_equal(one.predict_proba(X), np.ones((30, 1)))
        assert set(one.predict(X)) == {"a"}
    single = AdamNTKRegressor(**SMALL).fit(X[:1], y[:1])
    assert np.allclose(single.predict(X[:1]), y[:1])


def test_targets_of_any_size_and_several():
    scale = 1e6
    X, y, _ = table(0)
    base = AdamNTKRegressor(**SMALL).fit(X, y)
    other = AdamNTKRegressor(**SMALL).fit(X, scale * y + 5 * scale)
    assert np.allclose(other.predict(X), scale * base.predict(X) + 5 * scale, rtol=1e-4)
    one = AdamNTKRegressor(**SMALL).fit(X, y[:, None])
    assert one.predict(X).shape == (30, 1)
    assert np.array_equal(one.predict(X)[:, 0], base.predict(X))
    mean, std = AdamNTKRegressor(**SMALL).fit(X, np.stack([y, -y], 1)).predict(X, True)
    assert mean.shape == std.shape == (30, 2)


def test_modules_classes_and_images():
    X, y, labels = table(0)
    net = snn.MLP(3, 1, depth=2, width=48, bias_std=0.1)
    given = AdamNTKRegressor(**SMALL, module=net).fit(X, y)
    default = AdamNTKRegressor(**SMALL).fit(X, y)
    assert np.allclose(given.predict(X), default.predict(X), atol=1e-4)  # widths do not matter
    before = copy.deepcopy(net.state_dict())
    sampled = AdamNTKRegressor(**SMALL, module=net, sampler="networks").fit(X, y)
    for name, weight in net.state_dict().items():
        assert torch.equal(weight, before[name])
    mean, std = sampled.predict(X, True)
    assert np.sqrt(np.mean((mean - default.predict(X)) ** 2)) < 5 * np.sqrt(np.mean(std**2))
    by_class = AdamNTKRegressor(**SMALL, module=snn.MLP, module__in_features=3, module__depth=1)
    assert by_class.fit(X, y).predict(X).shape == (30,)
    assert clone(by_class).get_params()["module__depth"] == 1
    images = np.random.default_rng(0).normal(size=(12, 1, 6, 6))
    params = {"module": snn.ConvNet, "module__in_channels": 1, "module__depth": 1}
    conv = AdamNTKClassifier(
        **SMALL | {"max_epochs": 2}, **params, module__out_features=2, module__pool=1
    ).fit(images, labels[:12] > 0)
    assert conv.predict_proba(images).shape == (12, 2)
    flat = clone(conv).set_params(input_shape=(1, 6, 6))
    flat.fit(images.reshape(12, 36), labels[:12] > 0)
    assert np.array_equal(flat.predict_proba(images.reshape(12, 36)), conv.predict_proba(images))
    with pytest.raises(UnsupportedModuleError):
        clone(conv).set_params(sampler="exact").fit(images, labels[:12] > 0)
    with pytest.raises(ValueError, match="has 2 outputs for a row"):
        clone(conv).fit(images, labels[:12])
    with pytest.raises(ValueError, match="parametrization='ntk'"):
        AdamNTKRegressor(**SMALL, module=torch.nn.Sequential(torch.nn.Linear(3, 1))).fit(X, y)


def test_grids_and_depth_zero():
    X, y, _ = table(0)
    grid = GridSearchCV(
        AdamNTKRegressor(**SMALL), {"eps": [1e-8, math.inf], "depth": [0, 1]}, cv=2
    ).fit(X, y)  # fmt: skip
    assert np.isfinite(grid.cv_results_["mean_test_score"]).all()
    linear = AdamNTKRegressor(0, **SMALL | {"max_epochs": 200, "n_features": 64}).fit(X, X[:, 0])
    assert linear.score(X, X[:, 0]) > 0.99


def test_progress_is_shown_on_request(capsys):
    X, y, _ = table(0)
    AdamNTKRegressor(**SMALL, verbose=1).fit(X, y)
    assert "12/12" in capsys.readouterr().err
    AdamNTKRegressor(**SMALL).fit(X, y)
    assert capsys.readouterr().err == ""


def test_without_steps_nothing_is_learnt():
    X, y, labels = table(0)
    model = AdamNTKRegressor(**SMALL | {"max_epochs": 0}).fit(X, y)
    assert np.allclose(model.predict(X), y.mean())
    assert list(model.staged_predict(X)) == []
    proba = AdamNTKClassifier(**SMALL | {"max_epochs": 0}).fit(X, labels).predict_proba(X)
    assert np.allclose(proba, 1 / 3)


@pytest.mark.parametrize(
    "wrong",
    [{"learning_rate": 0.0}, {"beta1": 1.0}, {"beta2": -0.1}, {"eps": -1.0}, {"n_features": 0},
     {"sampler": "sobol"}, {"batch_size": 0}, {"mc_tol": 0.0}, {"memory_budget": -1.0}],
)  # fmt: skip
def test_parameters_out_of_range_are_named(wrong):
    X, y, _ = table(0)
    with pytest.raises(ValueError, match=next(iter(wrong))):
        AdamNTKRegressor(**SMALL | wrong).fit(X, y)


def test_more_features_than_memory_holds_are_refused_at_once():
    X, y, _ = table(0)
    for sampler in ("exact", "networks"):
        params = SMALL | {"n_features": 10**13, "sampler": sampler}
        with pytest.raises(MemoryBudgetError, match="smaller n_features"):
            AdamNTKRegressor(**params).fit(X, y)


def test_inputs_beyond_float32_are_refused():
    X, y, _ = table(0)
    X[0, 0] = 1e60
    with pytest.raises(ValueError, match="X has values up to 1e\\+60"):
        AdamNTKRegressor(**SMALL).fit(X, y)
    X[0, 0] = 1e30
    assert np.isfinite(AdamNTKRegressor(**SMALL).fit(X, y).predict(X)).all()
