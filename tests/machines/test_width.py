"""Machines of finite networks: the width from 1 to infinity, or of a module as it stands."""

import copy
import math
import pickle

import joblib
import numpy as np
import pytest
import torch
from scipy.special import softmax
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

import skntk
import skntk.nn as snn
from skntk import NTKClassifier, NTKRegressor
from skntk.core import SkntkWarning
from skntk.solvers import squared_hinge

MACHINES = pytest.mark.parametrize("Machine", [NTKRegressor, NTKClassifier])
FIXED = {"depth": 2, "activation": "gelu", "weight_std": 1.3, "bias_std": 0.2, "tuning": None}


@pytest.fixture
def data(seed):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((20, 3))
    return X, X[:, 0] + np.abs(X[:, 1]) + 0.1 * rng.standard_normal(20), rng.standard_normal((7, 3))


def drawn(choice, d):
    """The network of a choice, in float64."""
    with torch.random.fork_rng():
        torch.manual_seed(choice.seed)
        net = snn.MLP(
            d,
            choice.n_outputs,
            depth=choice.depth,
            width=int(choice.width),
            activation=choice.activation,
            weight_std=choice.weight_std,
            bias_std=choice.bias_std,
        )
    return net.double()


def function(net, X):
    with torch.no_grad():
        return net(torch.as_tensor(X)).numpy()


class Dense:
    """Ridge regression on the kernel of a network from its function, by dense formulas."""

    def __init__(self, net, X, Y, alpha, centered=False, weights=None, **kernel):
        self.net, self.X, self.centered, self.kernel = net, X, centered, kernel
        w = np.ones(len(X)) if weights is None else weights
        self.mean = np.average(Y, axis=0, weights=w)
        self.scale = np.sqrt(np.average((Y - self.mean) ** 2, axis=0, weights=w))
        K = self.gram(X)
        self.alpha = alpha * np.average(np.diagonal(K), weights=w)
        self.C = K + np.diag(self.alpha / w)
        self.Z = (Y - self.mean) / self.scale
        self.dual = np.linalg.solve(self.C, self.Z - self.start(X))

    def gram(self, X, Y=None):
        return skntk.empirical_ntk(self.net, X, Y, outputs="trace", **self.kernel)

    def start(self, X):
        return 0.0 if self.centered else function(self.net, X)

    def predict(self, X):
        return (self.gram(X, self.X) @ self.dual + self.start(X)) * self.scale + self.mean

    def covariance(self, X):
        cross = self.gram(X, self.X)
        return self.gram(X) - cross @ np.linalg.solve(self.C, cross.T)


@pytest.mark.parametrize("alpha", [0.0, 0.05])
@pytest.mark.parametrize("centered", [False, True])
@pytest.mark.parametrize("k", [1, 3])
def test_predictions(k, centered, alpha, data, seed):
    X, y, new = data
    Y = y[:, None] * [1.0, -2.0, 0.5][:k] + np.sin(X[:, [0]]) * np.arange(k)
    model = NTKRegressor(width=16, alpha=alpha, centered=centered, random_state=seed, **FIXED)
    model.fit(X, Y)
    choice = model.choice_
    assert (choice.width, choice.n_outputs, choice.finite) == (16, k, True)
    dense = Dense(drawn(choice, 3), X, Y, alpha, centered)
    accuracy = {"rtol": 1e-7, "atol": 1e-6 if alpha == 0 else 1e-9}
    np.testing.assert_allclose(model.predict(new), dense.predict(new), **accuracy)
    np.testing.assert_allclose(np.ravel(model.alpha_), dense.alpha, rtol=1e-9)
    if not centered:
        assert np.abs(function(drawn(choice, 3), new)).max() > 0.1


@pytest.mark.parametrize("weighted", [False, True])
def test_posterior(weighted, data, seed):
    X, y, new = data
    w = np.random.default_rng(seed).uniform(0.3, 3, 20) if weighted else None
    model = NTKRegressor(width=16, alpha=0.05, random_state=seed, **FIXED)
    model.fit(X, y, sample_weight=w)
    dense = Dense(drawn(model.choice_, 3), X, y[:, None], 0.05, weights=w)
    expected = dense.covariance(new) * dense.scale**2
    mean, std = model.predict(new, return_std=True)
    np.testing.assert_allclose(mean, dense.predict(new)[:, 0], rtol=1e-8, atol=1e-9)
    np.testing.assert_allclose(std, np.sqrt(np.diagonal(expected)), rtol=1e-7)
    _, cov = model.predict(new, return_cov=True)
    np.testing.assert_allclose(cov, expected, rtol=1e-6, atol=1e-10)
    draws = model.sample_y(new, 4000, random_state=seed)
    np.testing.assert_allclose(draws.mean(1), mean, atol=6 * std.max() / math.sqrt(4000))


@pytest.mark.parametrize("centered", [False, True])
def test_leave_one_out_score_against_refits(centered, data, seed):
    X, y, _ = data
    model = NTKRegressor(
        depth=1,
        width=24,
        activation="relu",
        bias_std=0.2,
        embedding="none",
        centered=centered,
        param_grid={"alpha": [0.03]},
        random_state=seed,
    ).fit(X, y)
    net = drawn(model.choice_, 3)
    K = skntk.empirical_ntk(net, X, outputs="trace")
    z = (y - y.mean()) / y.std() - (0.0 if centered else function(net, X)[:, 0])
    ridge = 0.03 * np.diagonal(K).mean()
    residuals, variances = np.empty(20), np.empty(20)
    for i in range(20):
        rest = np.arange(20) != i
        weights = np.linalg.solve(K[rest][:, rest] + ridge * np.eye(19), K[rest, i])
        residuals[i] = z[i] - weights @ z[rest]
        variances[i] = K[i, i] - weights @ K[rest, i] + ridge
    scale = np.mean(residuals**2 / variances)
    log_densities = np.log(2 * np.pi * scale * variances) + residuals**2 / (scale * variances)
    assert model.tuning_results_["score"][0] == pytest.approx(-0.5 * log_densities.mean(), rel=1e-8)
    assert model.scale_[0] == pytest.approx(scale, rel=1e-8)


def test_the_candidates_are_networks_of_their_own(data):
    X, y, _ = data
    grid = {"depth": [1, 2], "kind": ["ntk", "nngp"], "alpha": [0.01, 0.1]}
    model = NTKRegressor(width=16, param_grid=grid, embedding="none", random_state=0).fit(X, y)
    scores = model.tuning_results_["score"]
    assert len(set(scores)) == len(scores) == 2 * 2 * 2 * 2  # activation and bias_std, too
    assert model.choice_ == model.tuning_results_["choice"][int(np.argmax(scores))]
    assert "empirical" in str(model.choice_)
    assert "width 16" in str(model.choice_)


@pytest.mark.parametrize("centered", [False, True])
def test_stages(centered, data, seed):
    X, y, new = data
    Y = np.stack([y, -2 * y + X[:, 0]], 1)
    model = NTKRegressor(width=16, alpha=0.0, centered=centered, random_state=seed, **FIXED)
    model.fit(X, Y)
    start, middle, end = model.staged_predict(new, [0.0, 2.0, math.inf])
    net = drawn(model.choice_, 3)
    dense = Dense(net, X, Y, 0.0, centered)
    at_start = (0.0 if centered else function(net, new)) * dense.scale + dense.mean
    np.testing.assert_allclose(start, np.broadcast_to(at_start, (7, 2)), rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(end, model.predict(new), rtol=1e-6, atol=1e-6)
    # By the exponential, with the loss divided by rows and outputs.
    values, vectors = np.linalg.eigh(dense.gram(X))
    grown = vectors * (-np.expm1(-values * 2.0 / 40) / values) @ vectors.T
    dual = grown @ (dense.Z - dense.start(X))
    expected = (dense.gram(new, X) @ dual + dense.start(new)) * dense.scale + dense.mean
    np.testing.assert_allclose(middle, expected, rtol=1e-8, atol=1e-8)
    timed = NTKRegressor(width=16, alpha=0.0, training_time=2.0, centered=centered, **FIXED)
    timed.set_params(random_state=seed).fit(X, Y)
    np.testing.assert_allclose(timed.predict(new), middle, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("centered", [False, True])
def test_readout_alone(centered, data, seed):
    X, y, new = data
    model = NTKRegressor(
        width=16, alpha=0.05, kind="nngp", centered=centered, random_state=seed, **FIXED
    ).fit(X, y)
    net = drawn(model.choice_, 3)
    dense = Dense(net, X, y[:, None], 0.05, centered, parameters=["4"])
    np.testing.assert_allclose(model.predict(new), dense.predict(new)[:, 0], rtol=1e-8, atol=1e-9)
    # It is that of the hidden layer's values, and the constant of the bias.
    hidden = function(nn.Sequential(*net)[:4], X)
    by_hand = 1.3**2 * hidden @ hidden.T / 16 + 0.2**2
    np.testing.assert_allclose(dense.gram(X), by_hand, rtol=1e-10)


def test_the_wide_limit(seed):
    """Centered predictions approach those of the limit as one over the root of the width.

    Mean over 6 networks at each of 4 widths. Over 16 seeds the fitted exponents are -0.51 on
    average with a standard deviation of 0.034.
    """
    rng = np.random.default_rng(seed)
    X, y, new = rng.standard_normal((12, 3)), rng.standard_normal(12), rng.standard_normal((20, 3))
    fixed = {**FIXED, "alpha": 0.1, "centered": True}
    limit = NTKRegressor(width=np.inf, **fixed).fit(X, y).predict(new)
    widths, errors = (32, 128, 512, 2048), []
    for width in widths:
        found = [
            NTKRegressor(width=width, random_state=100 * seed + r, **fixed).fit(X, y).predict(new)
            for r in range(6)
        ]
        errors.append(np.mean([np.sqrt(np.mean((f - limit) ** 2)) for f in found]))
    slope = np.polyfit(np.log(widths), np.log(errors), 1)[0]
    assert -0.7 <= slope <= -0.3, errors
    assert errors[-1] < 0.1 * y.std()


# Modules


class Network(nn.Sequential):
    """A class with a width."""

    def __init__(self, width=8, outputs=1):
        super().__init__(nn.Linear(3, width), nn.Tanh(), nn.Linear(width, outputs))


class Fixed(nn.Sequential):
    """A class without one."""

    def __init__(self):
        super().__init__(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1))


@pytest.mark.parametrize("centered", [False, True])
def test_module_instance(centered, data, seed):
    X, y, new = data
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = Network()
    before = copy.deepcopy(net.state_dict())
    model = NTKRegressor(module=net, width=None, alpha=0.05, tuning=None, centered=centered)
    model.fit(X, y)
    dense = Dense(copy.deepcopy(net).double(), X, y[:, None], 0.05, centered)
    np.testing.assert_allclose(model.predict(new), dense.predict(new)[:, 0], rtol=1e-8, atol=1e-9)
    assert all(torch.equal(before[name], p) for name, p in net.state_dict().items())
    assert next(net.parameters()).dtype == torch.float32
    assert net.training
    net[0].weight.data.add_(1.0)  # later changes do not matter
    np.testing.assert_allclose(model.predict(new), dense.predict(new)[:, 0], rtol=1e-8, atol=1e-9)
    tuned = NTKRegressor(module=net, width=None, centered=centered).fit(X, y)
    assert len(tuned.tuning_results_["score"]) == 1


def test_module_class(data):
    X, y, new = data
    for made, width, expected in [(Network, 5, 5), (Network, None, 8), (Fixed, None, 8)]:
        model = NTKRegressor(module=made, width=width, tuning=None, random_state=0).fit(X, y)
        net = model.choice_.module
        assert net[0].out_features == expected
        dense = Dense(copy.deepcopy(net).double(), X, y[:, None], 1e-3)
        found = model.predict(new)
        np.testing.assert_allclose(found, dense.predict(new)[:, 0], rtol=1e-7, atol=1e-8)
        again = NTKRegressor(module=made, width=width, tuning=None, random_state=0).fit(X, y)
        np.testing.assert_array_equal(again.predict(new), found)
        other = NTKRegressor(module=made, width=width, tuning=None, random_state=1).fit(X, y)
        assert np.abs(other.predict(new) - found).max() > 1e-6
    model = NTKRegressor(module=Network, width=5, module__outputs=2, tuning=None, random_state=0)
    assert model.fit(X, np.stack([y, y], 1)).predict(new).shape == (7, 2)


@MACHINES
@pytest.mark.parametrize("centered", [False, True])
def test_images(Machine, centered, seed):
    rng = np.random.default_rng(seed)
    X, y = rng.standard_normal((12, 2, 6, 6)), np.arange(12) % 3
    k = 1 if Machine is NTKRegressor else 3
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = snn.ConvNet(2, k, depth=1, width=6, norm="layer")
    params = {"module": net, "width": None, "tuning": None, "alpha": 0.05, "centered": centered}
    model = Machine(**params).fit(X, y)
    assert model.n_features_in_ == 72
    flat = Machine(input_shape=(2, 6, 6), **params).fit(X.reshape(12, -1), y)
    what = "predict" if k == 1 else "predict_proba"
    found = getattr(model, what)(X[:5])
    np.testing.assert_array_equal(getattr(flat, what)(X[:5].reshape(5, -1)), found)
    if k == 1:
        dense = Dense(copy.deepcopy(net).double(), X, y[:, None] * 1.0, 0.05, centered)
        np.testing.assert_allclose(found, dense.predict(X[:5])[:, 0], rtol=1e-8, atol=1e-9)
        std = model.predict(X, return_std=True)[1]
        assert (std > 0).all()
    with pytest.raises(ValueError, match="36 features"):
        model.predict(X[:, :1])


def test_float32(data):
    X, y, new = data
    one, two = (
        NTKRegressor(width=16, alpha=0.05, dtype=dtype, random_state=0, **FIXED).fit(X, y)
        for dtype in ("float32", "float64")
    )
    np.testing.assert_allclose(one.predict(new), two.predict(new), atol=1e-3)


# Classification


def labels(y):
    return np.array(["a", "b", "c"])[np.digitize(y, np.quantile(y, [0.3, 0.6]))]


@pytest.mark.parametrize("centered", [False, True])
@pytest.mark.parametrize("n_classes", [2, 3])
def test_ridge_scores_of_the_classifier(n_classes, centered, data, seed, monkeypatch):
    """Without the margin machines, scores are ridge regression on one-hot labels from f0."""
    monkeypatch.setattr("skntk.machines.classifier.stack", lambda *_args: 0.0)
    X, y, new = data
    c = labels(y) if n_classes == 3 else np.where(y > np.median(y), "b", "a")
    model = NTKClassifier(
        width=16,
        alpha=0.05,
        depth=2,
        bias_std=0.2,
        tuning=None,
        centered=centered,
        random_state=seed,
    ).fit(X, c)
    (choice,) = model.choices_
    assert (choice.width, choice.n_outputs) == (16, n_classes)
    net = drawn(choice, 3)
    Y = (c[:, None] == model.classes_).astype(float)
    K = skntk.empirical_ntk(net, X, outputs="trace")
    Z = Y - (0.0 if centered else function(net, X))
    C = K + 0.05 * np.diagonal(K).mean() * np.eye(20)
    dual = np.linalg.solve(C, Z - Z.mean(0))
    scores = skntk.empirical_ntk(net, new, X, outputs="trace") @ dual + Z.mean(0)
    scores = scores + (0.0 if centered else function(net, new))
    proba = (20 * softmax(model.temperature_ * scores, axis=1) + Y.mean(0)) / 21
    np.testing.assert_allclose(model.predict_proba(new), proba, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("tuning", ["loo", None])
@pytest.mark.parametrize("centered", [False, True])
def test_probabilities(centered, tuning, data, seed):
    X, y, new = data
    params = {"depth": 1, "bias_std": 0.1, "embedding": "none", "tuning": tuning}
    model = NTKClassifier(width=24, centered=centered, random_state=seed, **params)
    proba = model.fit(X, labels(y)).predict_proba(new)
    np.testing.assert_allclose(proba.sum(1), 1, rtol=1e-12)
    assert (proba > 0).all()
    assert (model.predict(new) == model.classes_[proba.argmax(1)]).all()
    assert model.score(X, labels(y)) > 0.6
    again = NTKClassifier(width=24, centered=centered, random_state=seed, **params)
    np.testing.assert_array_equal(again.fit(X, labels(y)).predict_proba(new), proba)
    other = NTKClassifier(width=24, centered=not centered, random_state=seed, **params)
    assert np.abs(other.fit(X, labels(y)).predict_proba(new) - proba).max() > 1e-3


@pytest.mark.parametrize("centered", [False, True])
def test_margin_machine_from_the_function_at_initialization(centered, data, seed, monkeypatch):
    """With the margin machines alone: a minimum of the squared hinge of f0 + K a + b."""
    monkeypatch.setattr("skntk.machines.classifier.stack", lambda *_args: 1.0)
    X, y, _ = data
    c = np.where(y > np.median(y), 1, 0)
    model = NTKClassifier(
        width=16, depth=1, alpha=0.05, tuning=None, centered=centered, random_state=seed
    ).fit(X, c)
    net = drawn(model.choices_[0], 3)
    K = skntk.empirical_ntk(net, X, outputs="trace")
    unit = np.diagonal(K).mean()
    K, noise = K + unit, 0.05 * unit
    f0 = 0.0 if centered else function(net, X) @ [-1.0, 1.0]
    t = 2.0 * c - 1
    dual = np.zeros(20)
    for _ in range(100):  # fixed point of the active set
        active = t * (K @ dual + f0) < 1
        made = np.zeros(20)
        C = K[np.ix_(active, active)] + noise * np.eye(active.sum())
        made[active] = np.linalg.solve(C, (t - f0)[active])
        if np.array_equal(made, dual):
            break
        dual = made
    scores = (1 + K @ dual + f0) / 2
    proba = softmax(model.temperature_ * np.stack([1 - scores, scores], 1), axis=1)
    np.testing.assert_allclose(model.predict_proba(X), (20 * proba + 0.5) / 21, rtol=1e-6)


def test_a_function_at_initialization_beyond_the_margin():
    """Where the network is right by more than the margin at all rows, nothing is trained."""
    t = torch.tensor([1.0, -1.0, 1.0, -1.0], dtype=torch.float64)
    K = torch.eye(4, dtype=torch.float64) + 1
    found = squared_hinge(K, t, torch.ones_like(t), offset=2 * t)
    assert not found.dual.any()
    assert not found.active.any()
    assert torch.equal(found.leave_one_out, 2 * t)


def test_a_network_that_is_right_already(data):
    X = data[0]
    net = nn.Linear(3, 2)
    with torch.no_grad():
        net.weight.copy_(torch.tensor([[-50.0, 0, 0], [50.0, 0, 0]]))
        net.bias.zero_()
    X = X[np.abs(X[:, 0]) > 0.2]
    model = NTKClassifier(module=net, width=None, tuning=None).fit(X, X[:, 0] > 0)
    assert model.score(X, X[:, 0] > 0) == 1
    tuned = NTKClassifier(module=net, width=None).fit(X, X[:, 0] > 0)
    assert tuned.score(X, X[:, 0] > 0) == 1


def test_above_the_rows_that_are_tuned_on(monkeypatch, seed):
    """The machine of all rows starts from the network's function, too."""
    monkeypatch.setattr("skntk.machines.classifier.ROWS", 15)
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((40, 3))
    y = (X[:, 0] > 0) * 1 + (X[:, 1] > 1)
    given = {"depth": 1, "embedding": "none", "random_state": seed}
    model = NTKClassifier(width=512, **given).fit(X, y)
    assert model.score(X, y) > 0.8
    np.testing.assert_allclose(model.predict_proba(X).sum(1), 1, rtol=1e-12)


# Search, saving, the random state


@MACHINES
def test_grid_search_over_widths(Machine, data):
    X, y, _ = data
    y = y if Machine is NTKRegressor else labels(y)
    params = {"depth": 1, "tuning": None, "random_state": 0}
    search = GridSearchCV(Machine(**params), {"width": [16, 64.0, np.inf]}, cv=2).fit(X, y)
    scores = search.cv_results_["mean_test_score"]
    assert np.isfinite(scores).all()
    best = search.best_estimator_
    choice = best.choice_ if Machine is NTKRegressor else best.choices_[0]
    assert choice.width == search.best_params_["width"]
    name = Machine.__name__.lower()
    piped = make_pipeline(StandardScaler(), Machine(**params))
    search = GridSearchCV(piped, {f"{name}__width": np.array([8.0, np.inf])}, cv=2).fit(X, y)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    same = Machine(width=np.float64(64), **params).fit(X, y).predict(X)
    np.testing.assert_array_equal(same, Machine(width=64, **params).fit(X, y).predict(X))


def test_cross_validation_with_a_module(data):
    X, y, _ = data
    model = NTKRegressor(module=Network, width=32, tuning=None, random_state=0)
    one, two = (cross_val_score(model, X, y, cv=2) for _ in range(2))
    np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize(
    "model",
    [
        NTKRegressor(width=16, random_state=0, tuning=None),
        NTKRegressor(width=16, random_state=0, depth=1, embedding="none", centered=True),
        NTKRegressor(width=None, module=Network(), tuning=None),
        NTKRegressor(width=7, module=Network, tuning=None, kind="nngp", random_state=0),
        NTKClassifier(width=16, random_state=0, depth=1),
        NTKClassifier(width=7, module=Network, module__outputs=3, tuning=None, random_state=0),
    ],
)
def test_saved_and_copied_machines_predict_the_same(model, data, tmp_path):
    X, y, new = data
    model.fit(X, y if isinstance(model, NTKRegressor) else labels(y))
    joblib.dump(model, tmp_path / "model.joblib")
    others = [
        pickle.loads(pickle.dumps(model)),
        joblib.load(tmp_path / "model.joblib"),
        copy.deepcopy(model),
    ]
    what = "predict" if isinstance(model, NTKRegressor) else "predict_proba"
    expected = getattr(model, what)(new)
    for other in others:
        np.testing.assert_array_equal(getattr(other, what)(new), expected)
    if isinstance(model, NTKRegressor):
        _, std = others[0].predict(new, return_std=True)
        np.testing.assert_array_equal(std, model.predict(new, return_std=True)[1])


@MACHINES
def test_the_random_state(Machine, data):
    X, y, new = data
    y = y if Machine is NTKRegressor else labels(y)
    what = "predict" if Machine is NTKRegressor else "predict_proba"

    def found(state, **params):
        model = Machine(width=16, random_state=state, tuning=None, **params).fit(X, y)
        return getattr(model, what)(new)

    before = torch.get_rng_state()
    one = found(0)
    np.testing.assert_array_equal(found(0), one)
    np.testing.assert_array_equal(found(np.random.RandomState(0)), one)
    np.testing.assert_allclose(found(0, n_jobs=2), one, rtol=1e-10)
    assert np.abs(found(1) - one).max() > 1e-6
    assert np.abs(found(None) - found(None)).max() > 1e-6
    assert torch.equal(torch.get_rng_state(), before)
    wide = [Machine(tuning=None, random_state=s).fit(X, y).predict(new) for s in (0, 1)]
    np.testing.assert_array_equal(*wide)


def test_copies_of_rows(data):
    """Rows that occur twice, with a noise that is tuned."""
    X, y, _ = data
    X, y = np.concatenate([X, X[:8]]), np.concatenate([y, y[:8]])
    model = NTKRegressor(width=64, depth=1, embedding="none", random_state=0).fit(X, y)
    assert np.isfinite(model.predict(X, return_std=True)[1]).all()
    np.testing.assert_allclose(model.predict(X)[:8], y[:8], atol=0.3)


def test_categories(seed):
    """Indicators of categories are what a finite network reads, too."""
    rng = np.random.default_rng(seed)
    X = np.stack([rng.integers(4, size=60), rng.standard_normal(60)], 1)
    y = (X[:, 0] == 2) + 0.1 * X[:, 1]
    given = {"embedding": "categorical", "tuning": None, "random_state": 0}
    model = NTKRegressor(width=32, **given).fit(X, y)
    assert model.predict(X).shape == (60,)
    assert model.score(X, y) > 0.8


# Refusals


@MACHINES
@pytest.mark.parametrize(
    ("params", "error", "message"),
    [
        ({"width": 0}, ValueError, "width"),
        ({"width": -1}, ValueError, "width"),
        ({"width": 2.5}, ValueError, r"width=2\.5.*integer.*inf"),
        ({"width": np.nan}, ValueError, "width"),
        ({"width": "16"}, ValueError, "width"),
        ({"width": None}, ValueError, r"width=None.*no module.*np\.inf"),
        ({"width": 8, "embedding": "featurewise"}, ValueError, "featurewise.*infinite width"),
        (
            {"width": 8, "param_grid": {"embedding": ["featurewise"]}},
            ValueError,
            "featurewise.*infinite width",
        ),
        ({"width": 8, "tuning": "marginal_likelihood"}, ValueError, "loo.*width=8"),
        ({"width": 8, "module": Network()}, ValueError, "width=8.*instance of Network.*width=None"),
        ({"width": 8, "module": Fixed}, ValueError, "width=8.*Fixed has not"),
        ({"width": None, "module": nn.Linear(3, 7)}, ValueError, "Linear has 7 outputs"),
        ({"width": None, "module": nn.Linear(4, 1)}, ValueError, r"fails on rows of shape \(3,\)"),
        (
            {"width": None, "module": Network(), "embedding": "categorical"},
            ValueError,
            "categorical.*OneHotEncoder",
        ),
        ({"width": 8, "input_shape": (2, 2)}, ValueError, r"3 features.*\(2, 2\)"),
        ({"width": 8, "centered": "yes"}, ValueError, "centered"),
    ],
)
def test_refused(Machine, params, error, message, data):
    X, y, _ = data
    model = Machine(**params)
    with pytest.raises(error, match=message):
        model.fit(X, y > 0)


def test_refused_by_one_of_them(data):
    X, y, _ = data
    with pytest.raises(ValueError, match=r"ensemble.*np\.inf.*width=8"):
        NTKRegressor(width=8, uncertainty="ensemble").fit(X, y)
    with pytest.raises(ValueError, match=r"ensemble.*width=None"):
        NTKRegressor(width=None, module=Network(), uncertainty="ensemble", tuning=None).fit(X, y)
    with pytest.raises(ValueError, match=r"Network has 1 outputs.*2 targets needs 2.*at '2'"):
        NTKRegressor(width=None, module=Network(), tuning=None).fit(X, np.stack([y, y], 1))
    with pytest.raises(ValueError, match=r"Network has 1 outputs.*3 classes needs 3.*at '2'"):
        NTKClassifier(width=None, module=Network(), tuning=None).fit(X, labels(y))
    frozen = Network().requires_grad_(False)
    with pytest.raises(ValueError, match="Network is frozen"):
        NTKRegressor(width=None, module=frozen, tuning=None).fit(X, y)
    normalized = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
    with pytest.raises(ValueError, match="BatchNorm1d at '1' is in training mode"):
        NTKRegressor(width=None, module=normalized, tuning=None).fit(X, y)
    NTKRegressor(width=None, module=normalized.eval(), tuning=None).fit(X, y)


class Bare(nn.Module):
    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.ones(3, 1))

    def forward(self, x):
        return x @ self.w


def test_a_readout_is_needed_for_the_kernel_of_the_readout(data):
    X, y, _ = data
    NTKRegressor(width=None, module=Bare(), tuning=None).fit(X, y)
    with pytest.raises(ValueError, match=r"nngp.*readout layer.*Bare"):
        NTKRegressor(width=None, module=Bare(), tuning=None, kind="nngp").fit(X, y)


def test_a_module_in_units_of_raw_targets_is_warned_about(data):
    X = data[0]
    net = nn.Linear(X.shape[1], 1)
    with torch.no_grad():
        net.bias.fill_(150.0)
    y = 150.0 + X[:, 0]
    with pytest.warns(SkntkWarning, match=r"of size 1\d\d .*standardized targets"):
        NTKRegressor(module=net, width=None).fit(X, y)
    model = NTKRegressor(module=net, width=None, centered=True).fit(X, y)
    assert model.score(X, y) > 0.9


def test_rounding_that_swamps_the_targets_is_warned_about(data):
    X, y, _ = data
    with pytest.warns(SkntkWarning, match=r"of size .*swamp the predictions\. Scale X"):
        NTKRegressor(width=16, tuning=None, random_state=0).fit(1e20 * X, y)
