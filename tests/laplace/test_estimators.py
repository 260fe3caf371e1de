"""The estimators as scikit-learn's tools, skorch and pickle meet them."""

import io
import pickle

import joblib
import numpy as np
import pandas as pd
import pytest
import skorch
import torch
from sklearn.base import clone
from sklearn.datasets import load_iris, make_regression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

from skntk import (
    LinearizedLaplaceClassifier,
    LinearizedLaplaceRegressor,
    NetworkClassifier,
    NetworkRegressor,
)

SMALL = {"depth": 1, "width": 8, "max_epochs": 20, "learning_rate": 0.05, "random_state": 0}
STRUCTURES = ["full", "kron", "diag"]


def regressor(**more):
    return NetworkRegressor(**SMALL, **more)


def classifier(**more):
    return NetworkClassifier(**SMALL, **more)


@pytest.fixture(scope="module")
def table():
    X, y = make_regression(60, 4, noise=5, random_state=0)
    return X, y


@pytest.fixture(scope="module")
def iris():
    X, y = load_iris(return_X_y=True)
    return StandardScaler().fit_transform(X), y


def test_predictions_are_those_of_the_network(table, iris):
    X, y = table
    model = LinearizedLaplaceRegressor(regressor()).fit(X, y)
    np.testing.assert_allclose(model.predict(X), model.network_.predict(X), rtol=1e-4)
    mean, std = model.predict(X, return_std=True)
    _, cov = model.predict(X, return_cov=True)
    np.testing.assert_allclose(std**2, np.diag(cov), rtol=1e-8)
    np.testing.assert_allclose(cov, cov.T, rtol=1e-10)
    parts = model.uncertainty(X)
    np.testing.assert_allclose(parts.total, parts.aleatoric + parts.epistemic)
    np.testing.assert_allclose(parts.epistemic, std**2)
    assert mean.shape == std.shape == parts.total.shape == (60,)
    X, y = iris
    model = LinearizedLaplaceClassifier(classifier(), link="mc", random_state=0).fit(X, y)
    logits, _ = model.predict_function(X)
    p = model.network_.predict_proba(X)
    np.testing.assert_allclose(torch.tensor(logits).softmax(1), p, atol=1e-5)
    parts = model.uncertainty(X)
    np.testing.assert_allclose(parts.total, parts.aleatoric + parts.epistemic, atol=1e-12)
    assert (parts.epistemic >= 0).all()
    assert model.sample_proba(X[:3], 5).shape == (3, 3, 5)


@pytest.mark.parametrize("curvature", STRUCTURES)
def test_data_reduce_variance(table, curvature):
    """The posterior is never above its prior, and falls with data."""
    X, y = table
    net = regressor().fit(X, y)
    options = {"curvature": curvature, "prior_precision": 1.0, "noise_variance": 25.0}
    stds = []
    for n in (2, 20, 60):
        model = LinearizedLaplaceRegressor(net, prefit=True, **options).fit(X[:n], y[:n])
        stds.append(model.predict(X, return_std=True)[1])
    J = model._curvature.tangent.written(torch.tensor(X))[0]
    prior = net.target_scale_[0] * J.square().sum(1).sqrt().numpy()
    assert (stds[0] <= prior * (1 + 1e-9)).all()
    if curvature != "kron":  # whose mean of inputs is another for other rows
        assert (stds[1] <= stds[0] * (1 + 1e-9)).all()
        assert (stds[2] <= stds[1] * (1 + 1e-9)).all()


@pytest.mark.parametrize("curvature", STRUCTURES)
@pytest.mark.parametrize("fixed", [False, True])
def test_partial_fit_is_a_refit(table, iris, curvature, fixed):
    for (X, y), net, kind in (
        (table, regressor(), LinearizedLaplaceRegressor),
        (iris, classifier(), LinearizedLaplaceClassifier),
    ):
        net = net.fit(X, y)
        options = {"prefit": True, "curvature": curvature}
        options |= {"prior_precision": 0.5} if fixed else {}
        if fixed and kind is LinearizedLaplaceRegressor:
            options["noise_variance"] = 9.0
        whole = kind(net, **options).fit(X, y)
        parts = kind(net, **options)
        for rows in np.array_split(np.random.default_rng(0).permutation(len(X)), 3):
            parts.partial_fit(X[rows], y[rows])
        tolerance = 1e-8 if fixed or curvature != "full" else 0.05
        np.testing.assert_allclose(
            parts.predict_function(X)[1], whole.predict_function(X)[1], rtol=tolerance, atol=1e-9
        )
        np.testing.assert_allclose(
            parts.log_marginal_likelihood_, whole.log_marginal_likelihood_, rtol=1e-4
        )


def test_partial_fit_in_function_space(table):
    X, y = table
    net = regressor().fit(X, y)
    options = {"prefit": True, "curvature": "full", "prior_precision": 1.0, "noise_variance": 9.0}
    parts = LinearizedLaplaceRegressor(net, **options).fit(X[:3], y[:3])
    parts.partial_fit(X[3:8], y[3:8])
    whole = LinearizedLaplaceRegressor(net, **options).fit(X[:8], y[:8])
    for model in (parts, whole):
        assert type(model._curvature).__name__ == "FunctionSpaceCurvature"
    np.testing.assert_allclose(
        parts.predict(X, return_std=True)[1], whole.predict(X, return_std=True)[1], rtol=1e-9
    )


@pytest.mark.parametrize("curvature", STRUCTURES)
@pytest.mark.parametrize("n", [150, 8])
def test_pickle_and_state(iris, curvature, n):
    X, y = iris
    X, y = X[::-1][:n], np.arange(150)[:n] % 3
    net = classifier(dtype="float64").fit(X, y)
    model = LinearizedLaplaceClassifier(net.module_, prefit=True, curvature=curvature).fit(X, y)
    p = model.predict_proba(X)
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(again.predict_proba(X), p)
    assert again.partial_fit(X, y).predict_proba(X).shape == p.shape
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    other = classifier(dtype="float64").set_params(max_epochs=1).fit(X, y).module_
    loaded = LinearizedLaplaceClassifier(other, prefit=True, curvature=curvature)
    loaded.load_state_dict(torch.load(file, weights_only=True))
    np.testing.assert_allclose(loaded.predict_proba(X), p, rtol=1e-10)
    np.testing.assert_allclose(
        loaded.log_marginal_likelihood_, model.log_marginal_likelihood_, rtol=1e-10
    )
    assert (loaded.predict(X) == model.predict(X)).all()


def test_state_of_regressor(table):
    X, y = table
    net = regressor(dtype="float64").fit(X, y)
    model = LinearizedLaplaceRegressor(net, prefit=True).fit(X, y)
    loaded = LinearizedLaplaceRegressor(net.module_, prefit=True)
    loaded.load_state_dict(model.state_dict())
    for one, two in zip(loaded.predict(X, True), model.predict(X, True), strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-9)
    assert loaded.noise_variance_ == pytest.approx(model.noise_variance_)
    with pytest.raises(ValueError, match="best kept by pickle"):
        LinearizedLaplaceRegressor(regressor()).load_state_dict(model.state_dict())
    with pytest.raises(ValueError, match="another module"):
        LinearizedLaplaceRegressor(nn.Linear(4, 1), prefit=True).load_state_dict(model.state_dict())


def test_pipeline_and_search(table, iris):
    X, y = iris
    frame = pd.DataFrame(X, columns=list("abcd"))
    model = make_pipeline(StandardScaler(), LinearizedLaplaceClassifier(classifier()))
    labels = np.array(["x", "y", "z"])[y]
    model.fit(frame, labels)
    assert set(model.predict(frame)) == {"x", "y", "z"}
    assert cross_val_score(model, X, y, cv=3).mean() > 0.8
    X, y = table
    search = GridSearchCV(
        LinearizedLaplaceRegressor(regressor()),
        {"module__width": [4, 8], "curvature": ["kron", "diag"]},
        cv=2,
    ).fit(X, y)
    assert search.best_params_["module__width"] in (4, 8)
    copied = clone(search.best_estimator_)
    assert copied.module.width == search.best_params_["module__width"]
    assert not hasattr(copied, "network_")


def test_given_as_trained(table, iris):
    """A module, a skorch net and a fitted estimator of one network are one model."""
    X, y = iris
    net = classifier(dtype="float64").fit(X, y)
    sk = skorch.NeuralNetClassifier(net.module_, criterion=nn.CrossEntropyLoss, max_epochs=0)
    sk.initialize()
    found = [
        LinearizedLaplaceClassifier(m, prefit=True).fit(X, y).predict_proba(X)
        for m in (net, net.module_, sk)
    ]
    for p in found[1:]:
        np.testing.assert_allclose(p, found[0], rtol=1e-10)
    before = {k: v.clone() for k, v in net.module_.state_dict().items()}
    net.module_.train()
    LinearizedLaplaceClassifier(net.module_, prefit=True).fit(X, y).predict_proba(X)
    assert net.module_.training
    for name, value in net.module_.state_dict().items():
        assert torch.equal(value, before[name])


def test_targets_of_several_shapes(table):
    X, y = table
    for Y in (y, y[:, None], np.column_stack([y, -y])):
        net = regressor().fit(X, Y)
        model = LinearizedLaplaceRegressor(net, prefit=True).fit(X, Y)
        mean, std = model.predict(X[:5], return_std=True)
        _, cov = model.predict(X[:5], return_cov=True)
        assert mean.shape == std.shape == Y[:5].shape
        assert cov.shape == (5, *Y[:5].shape)
        assert model.sample_y(X[:5], 7).shape == (*Y[:5].shape, 7)
        assert np.shape(model.noise_variance_) == Y.shape[1:]


def test_images(seed):
    rng = np.random.default_rng(seed)
    X, y = rng.standard_normal((20, 1, 6, 6)), np.arange(20) % 2
    net = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 2))
    trained = NetworkClassifier(module=net, max_epochs=3, random_state=0)
    images = LinearizedLaplaceClassifier(trained, prior_precision=1.0).fit(X, y)
    assert images.predict_proba(X).shape == (20, 2)
    with pytest.raises(ValueError, match="input_shape"):
        LinearizedLaplaceClassifier(net, prefit=True, input_shape=(1, 5, 5)).fit(X, y)
    module = images.module_
    flat = LinearizedLaplaceClassifier(
        module, prefit=True, input_shape=(1, 6, 6), prior_precision=1.0
    )
    flat.fit(X.reshape(20, -1), y)
    np.testing.assert_allclose(
        flat.predict_proba(X.reshape(20, -1)), images.predict_proba(X), rtol=1e-6
    )


def test_linearized_and_centred_networks(table):
    """Of a lazy network the posterior is exact in its form: it is linear where it stands."""
    X, y = table
    for more in ({"regime": "linearized"}, {"centered": True}):
        net = regressor(dtype="float64", **more).fit(X, y)
        model = LinearizedLaplaceRegressor(net, prefit=True).fit(X, y)
        np.testing.assert_allclose(model.predict(X), net.predict(X), rtol=1e-9)
        assert (model.predict(X, return_std=True)[1] > 0).all()


def test_reproducible(table):
    X, y = table
    one, two = (
        LinearizedLaplaceRegressor(regressor(), prior_precision="validation", random_state=3)
        .fit(X, y)
        .predict(X, return_std=True)[1]
        for _ in range(2)
    )
    np.testing.assert_array_equal(one, two)
    state = torch.get_rng_state()
    model = LinearizedLaplaceRegressor(regressor()).fit(X, y)
    draws = [model.sample_y(X[:3], 2, random_state=1) for _ in range(2)]
    np.testing.assert_array_equal(*draws)
    assert torch.equal(torch.get_rng_state(), state)


def test_modules_are_trained(iris):
    X, y = iris
    net = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))
    before = net[0].weight.detach().clone()
    model = LinearizedLaplaceClassifier(net, random_state=0).fit(X, y)
    assert model.score(X, y) > 0.8
    assert torch.equal(net[0].weight, before)
    with pytest.raises(TypeError, match="NetworkClassifier"):
        LinearizedLaplaceClassifier(regressor()).fit(X, y)


def test_streams_do_not_grow(iris):
    """A first call of partial_fit takes no structure whose size is that of the rows."""
    X, y = iris
    net = classifier().fit(X, y)
    model = LinearizedLaplaceClassifier(net, prefit=True)
    model.partial_fit(X[::25], y[::25])
    assert type(model._curvature).__name__ == "DenseCurvature"
    whole = LinearizedLaplaceClassifier(net, prefit=True, prior_precision=1.0).fit(X, y)
    parts = LinearizedLaplaceClassifier(net, prefit=True, prior_precision=1.0)
    for rows in np.array_split(np.arange(150), 5):
        parts.partial_fit(X[rows], y[rows])
    np.testing.assert_allclose(parts.predict_proba(X), whole.predict_proba(X), rtol=1e-9)


def test_threads(iris):
    """Predictions of several threads are those of one."""
    X, y = iris
    model = LinearizedLaplaceClassifier(classifier().fit(X, y), prefit=True).fit(X, y)
    expected = model.predict_proba(X)
    with joblib.parallel_config(backend="threading", n_jobs=4):
        found = joblib.Parallel()(joblib.delayed(model.predict_proba)(X) for _ in range(12))
    for p in found:
        np.testing.assert_allclose(p, expected, rtol=1e-9)
