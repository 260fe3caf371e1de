"""Network estimators inside scikit-learn and skorch: modules, search, callbacks, saving, data."""

import copy
import pickle

import joblib
import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from skorch.callbacks import Callback, Checkpoint, EarlyStopping, EpochScoring, LRScheduler
from torch import nn

import skntk.nn as snn
from skntk import NetworkClassifier, NetworkRegressor

ESTIMATORS = pytest.mark.parametrize("Estimator", [NetworkRegressor, NetworkClassifier])
REGIMES = pytest.mark.parametrize("regime", ["full", "linearized"])
SMALL = {"width": 12, "max_epochs": 6, "random_state": 0}


@pytest.fixture
def data(seed):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((40, 4))
    return X, X[:, 0] + np.abs(X[:, 1])


@pytest.fixture
def images(seed):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((14, 2, 6, 6)).astype(np.float32)
    return X, np.arange(14) % 3


def target(Estimator, y):
    return y if Estimator is NetworkRegressor else np.where(y > 1, "high", "low")


def weights(model):
    return model.module_.state_dict()


def same_weights(one, two):
    a, b = weights(one), weights(two)
    return list(a) == list(b) and all(torch.equal(a[name], b[name]) for name in a)


class Network(nn.Sequential):
    """A class with a width, with outputs to be set."""

    def __init__(self, width=5, outputs=1, slope=0.0):
        super().__init__(nn.Linear(4, width), nn.LeakyReLU(slope), nn.Linear(width, outputs))


class Recorder(Callback):
    """A user's callback that remembers."""

    def __init__(self, log=()):
        self.log = log

    def on_train_begin(self, net, **kwargs):
        self.seen_, self.states_ = [], []

    def on_epoch_end(self, net, **kwargs):
        self.seen_.append(net.history[-1, "train_loss"])
        self.states_.append(copy.deepcopy(net.module_.state_dict()))


# Modules


@REGIMES
@ESTIMATORS
def test_module_class_with_parameters(Estimator, regime, data):
    X, y = data
    k = 1 if Estimator is NetworkRegressor else 2
    params = {"max_epochs": 2, "random_state": 0, "regime": regime}
    model = Estimator(module=Network, module__outputs=k, module__slope=0.3, width=9, **params)
    model.fit(X, target(Estimator, y))
    inner = model.module_ if regime == "full" else model.module_.module
    assert isinstance(inner, Network)
    assert inner[0].out_features == 9
    assert inner[1].negative_slope == 0.3
    model = Estimator(module=Network, module__width=7, module__outputs=k, **params)
    model.fit(X, target(Estimator, y))
    inner = model.module_ if regime == "full" else model.module_.module
    assert inner[0].out_features == 7


@REGIMES
def test_module_instance_is_not_changed(regime, data):
    X, y = data
    net = Network()
    before = copy.deepcopy(net.state_dict())
    model = NetworkRegressor(module=net, regime=regime, max_epochs=2, random_state=0).fit(X, y)
    assert model.module is net
    assert all(torch.equal(before[name], p) for name, p in net.state_dict().items())
    assert net.training
    first = NetworkRegressor(module=net, max_epochs=0, random_state=0).fit(X, y)
    expected = net(torch.as_tensor(X, dtype=torch.float32)).detach().numpy()[:, 0]
    np.testing.assert_allclose((first.predict(X) - y.mean()) / y.std(), expected, atol=1e-6)


@pytest.mark.parametrize("optimizer", ["adam", "gd", "natural_gradient", "kfac"])
@REGIMES
def test_centered(regime, optimizer, data):
    """The function at initialization counts as zero, and training is that of the rest."""
    X, y = data
    params = {**SMALL, "optimizer": optimizer, "dtype": "float64", "regime": regime}
    first = NetworkRegressor(centered=True, **{**params, "max_epochs": 0}).fit(X, y)
    np.testing.assert_allclose(first.predict(X), y.mean(), rtol=1e-12)
    model = NetworkRegressor(centered=True, **params).fit(X, y)
    losses = np.array(model.history_[:, "train_loss"])
    assert losses[0] == pytest.approx(0.5)
    assert losses[-1] < 0.5
    assert np.abs(model.predict(X) - NetworkRegressor(**params).fit(X, y).predict(X)).max() > 1e-3
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(again.predict(X), model.predict(X))


def test_parameters_and_clones():
    model = NetworkRegressor(module=Network, module__slope=0.2, callbacks=[Recorder()], width=3)
    assert model.get_params()["module__slope"] == 0.2
    model.set_params(module__slope=0.5, optimizer="kfac", width=4)
    copied = clone(model)
    assert copied.get_params()["module__slope"] == 0.5
    assert (copied.optimizer, copied.width) == ("kfac", 4)
    assert "module__slope=0.5" in repr(copied)
    with pytest.raises(TypeError, match="widht"):
        NetworkRegressor(widht=3)
    with pytest.raises(ValueError, match="widht"):
        model.set_params(widht=3)


@ESTIMATORS
def test_grid_search_over_widths(Estimator, data):
    X, y = data
    y = target(Estimator, y)
    grid = {"width": [2, 64.0]}
    search = GridSearchCV(Estimator(max_epochs=15, random_state=0), grid, cv=2).fit(X, y)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    assert search.best_estimator_.module_[0].out_features == search.best_params_["width"]
    name = Estimator.__name__.lower()
    piped = make_pipeline(StandardScaler(), Estimator(max_epochs=3, random_state=0))
    piped.set_params(**{f"{name}__module": Network})
    if Estimator is NetworkClassifier:
        piped.set_params(**{f"{name}__module__outputs": 2})
    search = GridSearchCV(piped, {f"{name}__width": [3, 6]}, cv=2).fit(X, y)
    inner = search.best_estimator_[-1].module_
    assert inner[0].out_features == search.best_params_[f"{name}__width"]


@pytest.mark.slow
def test_grid_search_in_parallel_gives_the_same_scores(data):
    X, y = data
    grid = {"width": [4, 8]}
    one, two = (
        GridSearchCV(NetworkRegressor(max_epochs=3, random_state=0), grid, cv=2, n_jobs=n).fit(X, y)
        for n in (1, 2)
    )
    np.testing.assert_allclose(
        one.cv_results_["mean_test_score"], two.cv_results_["mean_test_score"], rtol=1e-4
    )


# Callbacks and history


@ESTIMATORS
def test_history(Estimator, data):
    X, y = data
    model = Estimator(**SMALL).fit(X, target(Estimator, y))
    assert len(model.history_) == 6
    assert model.history_[:, "epoch"] == [1, 2, 3, 4, 5, 6]
    losses = np.array(model.history_[:, "train_loss"])
    assert losses.shape == (6,)
    assert losses[-1] < losses[0]


def test_callbacks_of_a_user_are_copied(data):
    X, y = data
    mine = Recorder(log=["a"])
    model = NetworkRegressor(callbacks=[mine, ("named", Recorder())], **SMALL).fit(X, y)
    assert not hasattr(mine, "seen_")
    assert mine.log == ["a"]
    used = dict(model.net_.callbacks_)
    assert used["Recorder"].seen_ == model.history_[:, "train_loss"]
    assert used["named"].seen_ == model.history_[:, "train_loss"]
    assert not hasattr(mine, "seen_")


@ESTIMATORS
@pytest.mark.parametrize("stopping", [False, True])
def test_epoch_scoring(Estimator, stopping, data):
    X, y = data
    score = "r2" if Estimator is NetworkRegressor else "accuracy"
    callbacks = [EpochScoring(score, name="score", on_train=not stopping, lower_is_better=False)]
    model = Estimator(callbacks=callbacks, early_stopping=stopping, **SMALL)
    model.fit(X, target(Estimator, y))
    scores = np.array(model.history_[:, "score"])
    assert scores.shape == (6,)
    assert (scores <= 1).all()
    assert np.isfinite(scores).all()


def test_learning_rate_schedule(data):
    X, y = data
    callbacks = [LRScheduler("StepLR", step_size=1, gamma=0.1)]
    model = NetworkRegressor(callbacks=callbacks, learning_rate=0.5, **SMALL).fit(X, y)
    rates = model.history_[:, "event_lr"]
    np.testing.assert_allclose(rates, 0.5 * 0.1 ** np.arange(6), rtol=1e-6)


def test_early_stopping_of_a_user(data):
    X, y = data
    callbacks = [EarlyStopping(monitor="train_loss", patience=2, threshold=0.9)]
    model = NetworkRegressor(callbacks=callbacks, learning_rate=1e-6, **SMALL).fit(X, y)
    assert len(model.history_) == 3


def test_checkpoint_of_skorch(data, tmp_path):
    X, y = data
    callbacks = [Checkpoint(monitor="train_loss_best", dirname=str(tmp_path), load_best=True)]
    NetworkRegressor(callbacks=callbacks, **SMALL).fit(X, y)
    assert (tmp_path / "params.pt").is_file()


@REGIMES
@ESTIMATORS
def test_early_stopping_keeps_the_best_weights(Estimator, regime, data):
    X, y = data
    model = Estimator(
        width=64,
        learning_rate=0.3,  # rough, so that the last weights are not the best
        early_stopping=True,
        patience=4,
        validation_fraction=0.3,
        max_epochs=100,
        regime=regime,
        callbacks=[Recorder()],
        random_state=0,
    ).fit(X, target(Estimator, y))
    losses = np.array(model.history_[:, "valid_loss"])
    used = dict(model.net_.callbacks_)
    best = used["early_stopping"].best_epoch_
    assert len(losses) == best + 4 < 100
    assert losses[best - 1] <= losses.min() * (1 + 1e-3)
    for name, p in used["Recorder"].states_[best - 1].items():
        assert torch.equal(weights(model)[name], p)


def test_training_rows_have_every_class(data):
    """The rows are held out class by class."""
    X, _ = data
    y = np.repeat([0, 1, 2], [36, 2, 2])
    for state in range(10):
        params = {"early_stopping": True, "validation_fraction": 0.4, "random_state": state}
        model = NetworkClassifier(max_epochs=1, **params).fit(X, y)
        kept, held = model._split(40, y, model._seed())
        assert sorted([*kept.tolist(), *held.tolist()]) == list(range(40))
        assert set(y[kept.numpy()]) == set(y[held.numpy()]) == {0, 1, 2}


# Saving, and the random state


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"regime": "linearized"},
        {"regime": "linearized", "centered": True, "optimizer": "kfac"},
        {"optimizer": "natural_gradient"},
        {"optimizer": "kfac", "early_stopping": True},
        {"module": Network, "module__outputs": 2, "callbacks": [Recorder()]},
    ],
)
@ESTIMATORS
def test_saved_and_copied_networks_predict_the_same(Estimator, params, data, tmp_path):
    X, y = data
    y = np.stack([y, -y], 1) if Estimator is NetworkRegressor else target(Estimator, y)
    model = Estimator(**SMALL, **params).fit(X, y)
    joblib.dump(model, tmp_path / "model.joblib")
    others = [
        pickle.loads(pickle.dumps(model)),
        joblib.load(tmp_path / "model.joblib"),
        copy.deepcopy(model),
        clone(model).fit(X, y),
    ]
    for other in others:
        np.testing.assert_array_equal(other.predict(X[:7]), model.predict(X[:7]))
        assert other.history_[:, "train_loss"] == model.history_[:, "train_loss"]


@pytest.mark.parametrize("optimizer", ["adam", "sgd", "natural_gradient", "kfac"])
def test_the_random_state_reproduces(optimizer, data):
    X, y = data
    params = {**SMALL, "optimizer": optimizer, "batch_size": 16}
    one, two = (NetworkRegressor(**params).fit(X, y) for _ in range(2))
    assert same_weights(one, two)
    assert not same_weights(one, NetworkRegressor(**{**params, "random_state": 1}).fit(X, y))
    drawn = NetworkRegressor(**{**params, "random_state": np.random.RandomState(0)}).fit(X, y)
    assert same_weights(one, drawn)
    params["random_state"] = None
    assert not same_weights(*(NetworkRegressor(**params).fit(X, y) for _ in range(2)))


@pytest.mark.parametrize("params", [{}, {"module": Network}, {"early_stopping": True}])
def test_global_random_states_are_left(params, data):
    X, y = data
    before, numpys = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    model = NetworkRegressor(**SMALL, **params).fit(X, y)
    assert torch.equal(torch.get_rng_state(), before)
    model.predict(X)
    assert torch.equal(torch.get_rng_state(), before)
    assert (np.random.get_state()[1] == numpys).all()  # noqa: NPY002
    torch.rand(1)  # whatever that state is, it does not matter
    assert same_weights(model, clone(model).fit(X, y))


# Data


def test_shapes_of_targets(data):
    X, y = data
    flat = NetworkRegressor(**SMALL).fit(X, y)
    column = NetworkRegressor(**SMALL).fit(X, y[:, None])
    two = NetworkRegressor(**SMALL).fit(X, np.stack([y, -10 * y + 3], 1))
    assert flat.predict(X).shape == (40,)
    assert column.predict(X).shape == (40, 1)
    assert two.predict(X).shape == (40, 2)
    np.testing.assert_array_equal(flat.predict(X), column.predict(X)[:, 0])


def test_targets_are_standardized_inside(data):
    X, y = data
    y = np.round(y, 2)
    params = {**SMALL, "dtype": "float64"}
    one = NetworkRegressor(**params).fit(X, y).predict(X)
    other = NetworkRegressor(**params).fit(X, 1e4 * y - 5e5).predict(X)
    np.testing.assert_allclose(other, 1e4 * one - 5e5, rtol=1e-7)


def test_constant_targets(data):
    X, _ = data
    params = {**SMALL, "max_epochs": 60, "learning_rate": 1e-2}
    model = NetworkRegressor(**params).fit(X, np.full(40, 7.0))
    np.testing.assert_allclose(model.predict(X), 7.0, atol=0.5)


@pytest.mark.parametrize("loss", ["cross_entropy", "squared"])
@pytest.mark.parametrize("optimizer", ["adam", "gd", "natural_gradient", "kfac"])
def test_labels_and_probabilities(optimizer, loss, data):
    X, _ = data
    labels = np.array(["c", "a", "b"], dtype=object)[np.digitize(X[:, 0], [-0.5, 0.5])]
    params = {"width": 64, "max_epochs": 40, "optimizer": optimizer, "loss": loss}
    params["random_state"] = 0
    if optimizer == "adam":
        params["learning_rate"] = 0.1
    elif optimizer == "gd":
        params["momentum"] = 0.9
    model = NetworkClassifier(**params).fit(X, labels)
    assert list(model.classes_) == ["a", "b", "c"]
    proba = model.predict_proba(X)
    assert proba.shape == (40, 3)
    assert (proba >= 0).all()
    np.testing.assert_allclose(proba.sum(1), 1, rtol=1e-12)
    assert (model.classes_[proba.argmax(1)] == model.predict(X)).all()
    assert model.score(X, labels) > 0.6


@pytest.mark.parametrize("optimizer", ["adam", "gd", "natural_gradient", "kfac"])
def test_one_class(optimizer, data):
    X, _ = data
    model = NetworkClassifier(optimizer=optimizer, **SMALL).fit(X, ["only"] * 40)
    assert (model.predict(X) == "only").all()
    np.testing.assert_array_equal(model.predict_proba(X), 1.0)


@REGIMES
@ESTIMATORS
def test_images(Estimator, regime, images):
    X, y = images
    k = 1 if Estimator is NetworkRegressor else 3
    net = snn.ConvNet(2, k, depth=1, width=6, norm="layer")
    params = {"module": net, "regime": regime, "max_epochs": 3, "random_state": 0}
    model = Estimator(**params).fit(X, y)
    assert model.n_features_in_ == 72
    flat = Estimator(input_shape=(2, 6, 6), **params).fit(X.reshape(14, -1), y)
    assert same_weights(model, flat)
    np.testing.assert_array_equal(model.predict(X), flat.predict(X.reshape(14, -1)))
    np.testing.assert_array_equal(model.predict(X), model.predict(X.reshape(14, -1)))
    np.testing.assert_array_equal(model.predict(X), model.predict(torch.as_tensor(X)))


def test_the_default_network_flattens_images(images):
    X, y = images
    model = NetworkClassifier(**SMALL).fit(X, y)
    assert model.predict(X).shape == (14,)
    flat = NetworkClassifier(**SMALL).fit(X.reshape(14, -1), y)
    np.testing.assert_array_equal(model.predict(X), flat.predict(X.reshape(14, -1)))


def test_data_frames(data):
    X, y = data
    frame = pd.DataFrame(X, columns=list("abcd"))
    model = NetworkRegressor(**SMALL).fit(frame, pd.Series(y))
    assert list(model.feature_names_in_) == list("abcd")
    np.testing.assert_array_equal(
        model.predict(frame), NetworkRegressor(**SMALL).fit(X, y).predict(X)
    )
    with pytest.raises(ValueError, match="feature names"):
        model.predict(frame[["b", "a", "c", "d"]])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_dtypes(dtype, data):
    X, y = data
    model = NetworkRegressor(dtype=dtype, **SMALL).fit(X, y)
    assert all(p.dtype == getattr(torch, dtype) for p in model.module_.parameters())
    assert model.predict(X).dtype == np.float64
    close = NetworkRegressor(dtype=dtype, **SMALL).fit(X.astype(np.float32), y)
    np.testing.assert_allclose(close.predict(X), model.predict(X), atol=1e-3)


@pytest.mark.parametrize(
    "make", [tuple, lambda parts: tuple(torch.as_tensor(p) for p in parts)], ids=["numpy", "torch"]
)
@ESTIMATORS
def test_tuples_of_inputs_are_refused(Estimator, make, data):
    X, y = data
    for second in (X, X[:, :2]):
        with pytest.raises((ValueError, TypeError), match="tuple"):
            Estimator(**SMALL).fit(make([X, second]), target(Estimator, y))


@pytest.mark.parametrize("batch_size", [1, 13, 39])
@pytest.mark.parametrize("optimizer", ["adam", "sgd", "natural_gradient", "kfac"])
def test_batches_that_do_not_divide_the_rows(optimizer, batch_size, data):
    X, y = data
    params = {**SMALL, "max_epochs": 2, "optimizer": optimizer, "batch_size": batch_size}
    model = NetworkRegressor(**params).fit(X, y)
    assert np.isfinite(model.predict(X)).all()


def test_weight_decay_shrinks_the_weights(data):
    X, y = data

    def size(decay):
        model = NetworkRegressor(weight_decay=decay, optimizer="gd", **SMALL).fit(X, y)
        return sum(float(p.detach().square().sum()) for p in model.module_.parameters())

    assert size(0.2) < 0.9 * size(0.0)


def test_verbose_shows_a_bar(data, capsys):
    X, y = data
    NetworkRegressor(verbose=1, **SMALL).fit(X, y)
    NetworkRegressor(**SMALL).fit(X, y)
    shown = capsys.readouterr()
    assert "train_loss" in shown.err
    assert shown.out == ""


class Flat(snn.MLP):
    """A network that returns one number for each row, without an axis for outputs."""

    def forward(self, x):
        return super().forward(x).squeeze(-1)


@REGIMES
@pytest.mark.parametrize("optimizer", ["adam", "natural_gradient"])
def test_outputs_without_an_axis(regime, optimizer, data):
    X, y = data
    shape = {"module__in_features": 4, "module__out_features": 1, "optimizer": optimizer}
    flat, usual = (
        NetworkRegressor(module=module, regime=regime, **shape, **SMALL).fit(X, y)
        for module in (Flat, snn.MLP)
    )
    np.testing.assert_allclose(flat.predict(X), usual.predict(X), rtol=1e-5)
    assert flat.predict(X).shape == (40,)
