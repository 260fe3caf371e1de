"""Machines inside scikit-learn: search, pipelines, cloning, saving, data frames, random state."""

import copy
import pickle

import joblib
import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from sklearn.compose import ColumnTransformer
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

import skntk.nn as snn
from skntk import NTKClassifier, NTKRegressor
from skntk.machines import regressor


@pytest.fixture
def data(seed):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((40, 3))
    return X, X[:, 0] + np.abs(X[:, 1]) + 0.05 * rng.standard_normal(40)


@pytest.fixture
def table(seed):
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame({"size": rng.uniform(1, 9, 60), "age": rng.uniform(0, 1, 60)})
    frame["colour"] = rng.choice(["red", "blue", "green"], 60)
    y = np.where(frame["size"] + 6 * (frame["colour"] == "red") > 7, "yes", "no")
    return frame, y


class Network(torch.nn.Sequential):
    def __init__(self, hidden=1, bias_std=0.1):
        super().__init__(*snn.MLP(3, depth=hidden, bias_std=bias_std))


def test_grid_search_over_estimator_and_module_parameters(data):
    X, y = data
    search = GridSearchCV(
        NTKRegressor(tuning=None), {"depth": [1, 3], "alpha": [1e-3, 1e3]}, cv=3
    ).fit(X, y)
    assert search.best_params_["alpha"] == 1e-3
    assert search.best_score_ > 0.5
    assert search.best_estimator_.choice_.depth == search.best_params_["depth"]

    search = GridSearchCV(
        make_pipeline(StandardScaler(), NTKRegressor(module=Network, tuning=None)),
        {"ntkregressor__module__hidden": [0, 2]},
        cv=3,
    ).fit(X, y)
    scores = search.cv_results_["mean_test_score"]
    assert scores[0] != scores[1]  # the parameter reached the module
    assert len(search.best_estimator_[-1].choice_.module) in (1, 5)


def test_grid_search_in_parallel_gives_the_same_scores(data):
    X, y = data
    grid = {"depth": [1, 2]}
    one, two = (
        GridSearchCV(NTKRegressor(tuning=None), grid, cv=2, n_jobs=n).fit(X, y) for n in (1, 2)
    )
    np.testing.assert_allclose(
        one.cv_results_["mean_test_score"], two.cv_results_["mean_test_score"], rtol=1e-10
    )
    assert torch.get_num_threads() == 1


def test_kernel_jobs_give_the_same_predictions(data):
    X, y = data
    one, two = (NTKRegressor(tuning=None, n_jobs=n).fit(X, y).predict(X) for n in (None, 2))
    np.testing.assert_allclose(one, two, rtol=1e-12)
    assert torch.get_num_threads() == 1


def test_column_transformer_with_pandas_output(table):
    frame, y = table
    columns = ColumnTransformer(
        [
            ("numbers", StandardScaler(), ["size", "age"]),
            ("names", OneHotEncoder(sparse_output=False), ["colour"]),
        ]
    ).set_output(transform="pandas")
    model = make_pipeline(columns, NTKClassifier(depth=1)).fit(frame, y)
    assert model.score(frame, y) > 0.9
    assert list(model[-1].feature_names_in_) == [
        "numbers__size",
        "numbers__age",
        "names__colour_blue",
        "names__colour_green",
        "names__colour_red",
    ]
    assert cross_val_score(model, frame, y, cv=3).mean() > 0.6


def test_feature_names_are_checked(table):
    frame, _ = table
    X = frame[["size", "age"]]
    model = NTKRegressor(tuning=None).fit(X, X["size"])
    assert list(model.feature_names_in_) == ["size", "age"]
    model.predict(X)
    with pytest.raises(ValueError, match="feature names"):
        model.predict(X[["age", "size"]])


@pytest.mark.parametrize(
    "model",
    [
        NTKRegressor(depth=1),
        NTKRegressor(tuning=None, module=Network, module__hidden=2),
        NTKRegressor(tuning=None, training_time=10.0, uncertainty="ensemble"),
        NTKClassifier(depth=1),
        NTKClassifier(tuning=None, module=snn.MLP(3, depth=2, activation="erf")),
    ],
)
def test_saved_and_copied_machines_predict_the_same(model, data, tmp_path):
    X, y = data
    y = y if isinstance(model, NTKRegressor) else y > 0
    model = clone(model).fit(X, y)
    joblib.dump(model, tmp_path / "model.joblib")
    others = [
        pickle.loads(pickle.dumps(model)),
        joblib.load(tmp_path / "model.joblib"),
        copy.deepcopy(model),
        clone(model).fit(X, y),
    ]
    what = ["predict"] if isinstance(model, NTKRegressor) else ["predict", "predict_proba"]
    for other in others:
        for name in what:
            expected = getattr(model, name)(X[:7])
            np.testing.assert_array_equal(getattr(other, name)(X[:7]), expected)
    if isinstance(model, NTKRegressor):
        std = model.predict(X, return_std=True)[1]
        np.testing.assert_array_equal(others[0].predict(X, return_std=True)[1], std)


def test_module_parameters():
    model = NTKRegressor(module=Network, module__hidden=2)
    assert model.get_params()["module__hidden"] == 2
    model.set_params(module__hidden=3, module__bias_std=0.5, depth=2)
    copied = clone(model)
    assert copied.get_params() == model.get_params()
    assert copied.get_params()["module__hidden"] == 3
    assert "module__hidden=3" in repr(copied)
    with pytest.raises(ValueError, match="hiden"):
        model.set_params(hiden=3)
    with pytest.raises(TypeError, match="hidden"):
        NTKRegressor(hidden=3)


def test_module_class_equals_instance_and_default_network(data):
    X, y = data
    made = [
        NTKRegressor(module=Network, module__hidden=2, tuning=None),
        NTKRegressor(module=snn.MLP(3, depth=2), tuning=None),
        NTKRegressor(depth=2, tuning=None),
    ]
    first, *rest = [m.fit(X, y).predict(X) for m in made]
    for other in rest:
        np.testing.assert_allclose(other, first, rtol=1e-12)


@pytest.mark.parametrize("Machine", [NTKRegressor, NTKClassifier])
def test_module_instance_is_left_untouched(Machine, data):
    X, y = data
    module = snn.MLP(3, depth=2).train()
    before = copy.deepcopy(module.state_dict())
    model = Machine(module=module, tuning=None).fit(X, y > 0)
    module[0].weight_std = 100.0  # changes after fit change nothing
    assert model.module is module
    assert module.training
    for name, value in module.state_dict().items():
        assert torch.equal(value, before[name])
        assert value.grad is None
    module[0].weight_std = 2**0.5
    again = Machine(module=module, tuning=None).fit(X, y > 0)
    np.testing.assert_array_equal(again.predict(X), model.predict(X))


@pytest.mark.parametrize(
    "model",
    [
        NTKRegressor(depth=1),
        NTKRegressor(module=Network, tuning=None),
        NTKRegressor(activation=torch.nn.Tanh(), tuning=None),
        NTKClassifier(depth=1),
    ],
)
def test_global_random_states_are_left_as_they_were(model, data):
    X, y = data
    np_state = np.random.get_state()  # noqa: NPY002
    torch_state = torch.random.get_rng_state()
    model = clone(model).fit(X, y > 0)
    model.predict(X)
    if isinstance(model, NTKRegressor):
        model.sample_y(X[:3])
    assert torch.equal(torch.random.get_rng_state(), torch_state)
    for a, b in zip(np.random.get_state(), np_state, strict=True):  # noqa: NPY002
        np.testing.assert_array_equal(a, b)


def test_random_state_reproduces_the_subset(data, monkeypatch):
    X, y = data
    monkeypatch.setattr(regressor, "TUNING_ROWS", 15)
    one, same = (NTKRegressor(random_state=3).fit(X, y).predict(X) for _ in range(2))
    np.testing.assert_array_equal(one, same)


def test_training_rows_are_copied(data):
    X, y = data
    X = X.copy()
    for model in (NTKRegressor(tuning=None), NTKClassifier(tuning=None)):
        test = X[:5].copy()
        model.fit(X, y > 0)
        before = model.predict(test)
        X *= -3
        np.testing.assert_array_equal(model.predict(test), before)
        X /= -3


def test_refit_forgets_the_earlier_fit(data):
    X, y = data
    Z, z = X[:25] ** 2, y[:25] + 5
    model = NTKRegressor(depth=1).fit(X, y)
    list(model.staged_predict(X, [1.0]))
    model.set_params(tuning=None).fit(Z, z)
    assert not hasattr(model, "tuning_results_")
    fresh = NTKRegressor(depth=1, tuning=None).fit(Z, z)
    for a, b in zip(
        model.staged_predict(X, [1, np.inf]), fresh.staged_predict(X, [1, np.inf]), strict=True
    ):
        np.testing.assert_array_equal(a, b)
    model.set_params(uncertainty="ensemble")
    fresh.set_params(uncertainty="ensemble")
    np.testing.assert_array_equal(
        model.predict(X, return_std=True)[1], fresh.predict(X, return_std=True)[1]
    )
    classifier = NTKClassifier(depth=1).fit(X, y > 0).set_params(tuning=None)
    assert hasattr(classifier, "tuning_results_")
    classifier.fit(X, np.ones(len(X)))  # one class: nothing is tuned
    assert not hasattr(classifier, "tuning_results_")
    np.testing.assert_array_equal(classifier.predict_proba(X), np.ones((len(X), 1)))
