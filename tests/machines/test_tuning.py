"""Leave-one-out and evidence, against refits, dense formulas and finite differences."""

import math

import numpy as np
import pytest
import torch

import skntk
import skntk.nn as snn
from skntk import NTKRegressor
from skntk.machines import regressor, tuning
from skntk.machines.base import Evaluated, KernelChoice
from skntk.machines.categories import Categories
from skntk.solvers import Spectral


def make(seed, n=18, d=3):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, d))
    return X, X[:, 0] * X[:, 1] + 0.3 * rng.standard_normal(n), rng.uniform(0.3, 3, n)


def bound(choice):
    return Evaluated(choice, Categories({}, {}, 3), torch.float64, None)


def gaussian(K, ridges, z):
    """Mean over rows of the log density N(0, s^2 (K + ridges)) at the best s."""
    C = K + np.diag(ridges)
    n = len(z)
    scale = z @ np.linalg.solve(C, z) / n
    return -0.5 * (n * (1 + math.log(2 * math.pi * scale)) + np.linalg.slogdet(C)[1]), scale


@pytest.mark.parametrize("weighted", [False, True])
def test_leave_one_out_score_against_refits(weighted, seed):
    X, y, w = make(seed)
    w = w / w.mean() if weighted else np.ones(18)
    grid = {"alpha": [0.02], "depth": [2]}
    model = NTKRegressor(param_grid=grid, activation="relu", bias_std=0.2, embedding="none")
    model.fit(X, y, sample_weight=w if weighted else None)

    K = skntk.infinite_width(snn.MLP(3, depth=2, bias_std=0.2))(X)
    mean = np.average(y, weights=w)
    z = (y - mean) / np.sqrt(np.average((y - mean) ** 2, weights=w))
    ridge = 0.02 * np.average(np.diagonal(K), weights=w)
    residuals, variances = np.empty(18), np.empty(18)
    for i in range(18):
        rest = np.arange(18) != i
        weights = np.linalg.solve(K[rest][:, rest] + np.diag(ridge / w[rest]), K[rest, i])
        residuals[i] = z[i] - weights @ z[rest]
        variances[i] = K[i, i] - weights @ K[rest, i] + ridge / w[i]
    scale = np.average(residuals**2 / variances, weights=w)
    score = -0.5 * np.average(
        np.log(2 * np.pi * scale * variances) + residuals**2 / (scale * variances), weights=w
    )
    assert model.tuning_results_["score"][0] == pytest.approx(score, rel=1e-8)
    assert model.scale_[0] == pytest.approx(scale, rel=1e-8)
    assert model.alpha_ == pytest.approx(ridge)


def test_the_candidate_with_the_best_score_is_used(seed):
    X, y, _ = make(seed, n=30)
    model = NTKRegressor(param_grid={"depth": [1, 2, 4], "kind": ["ntk", "nngp"]}).fit(X, y)
    results = model.tuning_results_
    best = int(np.argmax(results["score"]))
    assert model.choice_ == results["choice"][best]
    assert {(c.depth, c.kind) for c in results["choice"]} == {
        (d, k) for d in (1, 2, 4) for k in ("ntk", "nngp")
    }
    unit = skntk.infinite_width(
        snn.MLP(
            3,
            depth=model.choice_.depth,
            activation=model.choice_.activation,
            bias_std=model.choice_.bias_std,
        ),
        embedding=model.choice_.embedding,
    ).diag(X, model.choice_.kind)
    assert model.alpha_ == pytest.approx(results["alpha"][best] * unit.mean())
    alone = NTKRegressor(
        depth=model.choice_.depth,
        activation=model.choice_.activation,
        bias_std=model.choice_.bias_std,
        kind=model.choice_.kind,
        embedding=model.choice_.embedding,
        alpha=results["alpha"][best],
        tuning=None,
    ).fit(X, y)
    np.testing.assert_allclose(model.predict(X), alone.predict(X), rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("embedding", ["none", "featurewise"])
@pytest.mark.parametrize("kind", ["ntk", "nngp"])
@pytest.mark.parametrize("outputs", [1, 3])
def test_evidence_and_its_gradient(embedding, kind, outputs, seed, monkeypatch):
    monkeypatch.setattr(tuning, "_ROWS", 7)
    X, _, w = make(seed)
    rng = np.random.default_rng(seed)
    Z = torch.tensor(rng.standard_normal((18, outputs)))
    choice = KernelChoice(2, "relu", 1.4, 0.3, kind, embedding)
    program = choice.kernel(3).program((3,))
    names = {"weight_std": 1, "bias_std": 1, "feature_scales": 3}
    theta = np.concatenate([[0.05, 1.3, 0.4], rng.uniform(0.5, 2, 3)])

    def tensors(theta):
        parts = np.split(theta[1:], np.cumsum(list(names.values()))[:-1])
        return dict(zip(names, map(torch.tensor, parts), strict=True))

    def evaluate(theta):
        return tuning.evidence_and_gradient(
            program, choice, torch.tensor(X), Z, torch.tensor(w), theta[0], tensors(theta)
        )

    value, slope, slopes = evaluate(theta)
    net = snn.MLP(3, depth=2, weight_std=1.3, bias_std=0.4)
    K = skntk.infinite_width(net, embedding=embedding)(X * theta[3:], kind=kind)
    ridges = 0.05 * np.average(np.diagonal(K), weights=w) / w
    expected = np.mean([gaussian(K, ridges, z)[0] for z in Z.numpy().T])
    assert value == pytest.approx(expected, rel=1e-10)

    gradient = np.concatenate([[slope], *(slopes[name].numpy() for name in names)])
    numeric = np.empty(6)
    for i in range(6):
        step = np.zeros(6)
        step[i] = 1e-5 * theta[i]
        up, down = evaluate(theta + step)[0], evaluate(theta - step)[0]
        numeric[i] = (up - down) / (2 * step[i])
    np.testing.assert_allclose(gradient, numeric, rtol=1e-5, atol=1e-5 * np.abs(numeric).max())


def test_evidence_goes_up_and_is_that_of_the_fit(seed):
    X, y, w = make(seed, n=40)
    model = NTKRegressor(tuning="marginal_likelihood", param_grid={"depth": [1, 3]})
    model.fit(X, y, sample_weight=w)
    *starts, final = model.tuning_results_["score"]
    assert final >= max(starts)
    assert model.log_marginal_likelihood_value_ == pytest.approx(final, rel=1e-6)
    assert model.choice_ == model.tuning_results_["choice"][-1]
    choice, w = model.choice_, w / w.mean()
    kernel = bound(choice)
    mean = np.average(y, weights=w)
    z = (y - mean) / np.sqrt(np.average((y - mean) ** 2, weights=w))
    evidence, scale = gaussian(kernel.gram(torch.tensor(X)).numpy(), model.alpha_ / w, z)
    assert evidence == pytest.approx(final, rel=1e-6)
    assert model.scale_[0] == pytest.approx(scale, rel=1e-6)


def test_evidence_moves_only_what_is_free(seed):
    X, y, _ = make(seed, n=30)
    given = {
        "tuning": "marginal_likelihood",
        "activation": "relu",
        "depth": 1,
        "embedding": "none",
    }
    model = NTKRegressor(bias_std=0.3, alpha=0.07, **given).fit(X, y)
    assert model.choice_.bias_std == 0.3
    unit = bound(model.choice_).diag(torch.tensor(X)).mean()
    assert model.alpha_ == pytest.approx(0.07 * float(unit))
    module = NTKRegressor(module=snn.MLP(3, depth=1, bias_std=0.3), **given).fit(X, y)
    assert len(module.tuning_results_["score"]) == 2
    zero = NTKRegressor(bias_std=0.0, **given).fit(X, y)
    assert zero.choice_.bias_std == 0
    assert np.isfinite(NTKRegressor(alpha=0.0, **given).fit(X, y).predict(X)).all()


@pytest.mark.parametrize("embedding", ["none", "featurewise"])
def test_ard_finds_the_relevant_feature(embedding, seed):
    rng = np.random.default_rng(seed)
    X = rng.uniform(-2, 2, (80, 3))  # bounded: a test of the metric, not of extrapolation
    y = np.sin(2 * X[:, 1]) + 0.05 * rng.standard_normal(80)
    given = {"depth": 1, "bias_std": 1.0, "embedding": embedding, "tuning": "marginal_likelihood"}
    model = NTKRegressor(ard=True, **given).fit(X[:60], y[:60])
    scales = np.array(model.choice_.feature_scales)
    assert model.choice_ == model.tuning_results_["choice"][-1]
    assert scales[[0, 2]].max() < 0.2 * scales[1]
    plain = NTKRegressor(**given).fit(X[:60], y[:60])
    assert model.score(X[60:], y[60:]) > plain.score(X[60:], y[60:])
    assert model.log_marginal_likelihood_value_ > plain.log_marginal_likelihood_value_


@pytest.mark.parametrize(
    ("how", "rows"), [("loo", "TUNING_ROWS"), ("marginal_likelihood", "EVIDENCE_ROWS")]
)
def test_tuning_on_a_subset_solves_for_all_rows(how, rows, seed, monkeypatch):
    X, y, _ = make(seed, n=60)
    monkeypatch.setattr(regressor, rows, 25)
    model = NTKRegressor(depth=1, tuning=how, random_state=seed).fit(X, y)
    assert len(model.X_fit_) == 60
    choice = model.choice_
    kernel = bound(choice)
    K = kernel.gram(torch.tensor(X)).numpy()
    dual = np.linalg.solve(K + model.alpha_ * np.eye(60), y - y.mean())
    np.testing.assert_allclose(model.predict(X), y.mean() + K @ dual, rtol=1e-6, atol=1e-8)


def test_noise_is_found(seed):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((300, 2))
    y = 5 * X[:, 0] + rng.standard_normal(300)
    for how in ("loo", "marginal_likelihood"):
        model = NTKRegressor(depth=1, embedding="none", tuning=how).fit(X, y)
        assert 0.6 < model.noise_variance_ < 1.6
        mean, std = model.predict(X[:50], return_std=True)
        assert (np.abs(mean - 5 * X[:50, 0]) < 5 * std + 0.3).all()


def copies(seed):
    """Rows with copies: three alike in X and y, two alike in X only, one pair alike in both."""
    X, y, w = make(seed)
    X[[5, 9]], y[[5, 9]] = X[2], y[2]
    X[11] = X[3]
    X[17], y[17] = X[16], y[16]
    return X, y, w


@pytest.mark.parametrize("weighted", [False, True])
def test_copies_are_left_out_together(weighted, seed):
    """Against refits without all copies; copies alike in y as well count as one observation."""
    X, y, w = copies(seed)
    w = w / w.mean() if weighted else np.ones(18)
    choice = KernelChoice(1, "relu", 1.4, 0.3, "ntk")
    K = bound(choice).gram(torch.tensor(X)).numpy()
    score = scale = 0.0
    groups = [[2, 5, 9], [3, 11], [16, 17]]
    groups += [[i] for i in range(18) if not any(i in g for g in groups)]
    for part in ("scale", "score"):
        for group in groups:
            rest = np.setdiff1d(np.arange(18), group)
            distinct = [i for i in group if not any(y[i] == y[j] for j in group if j < i)]
            weights = np.linalg.solve(K[rest][:, rest] + np.diag(0.02 / w[rest]), K[rest][:, group])
            residual = (y[group] - weights.T @ y[rest])[: len(distinct)]
            V = K[np.ix_(group, group)] - weights.T @ K[rest][:, group] + np.diag(0.02 / w[group])
            V = V[: len(distinct), : len(distinct)]
            share = w[group].sum() / 18 / len(distinct)
            square = residual @ np.linalg.solve(V, residual)
            if part == "scale":
                scale += share * square
            else:
                constant = len(distinct) * np.log(2 * np.pi * scale)
                score -= 0.5 * share * (constant + np.linalg.slogdet(V)[1] + square / scale)
    at = torch.tensor(X)
    density, found = tuning.loo_log_density(
        Spectral.from_gram(torch.tensor(K), w),
        torch.tensor(y)[:, None],
        torch.tensor([0.02], dtype=torch.float64),
        torch.tensor(w),
        tuning.coincident(at),
    )
    assert float(found) == pytest.approx(scale, rel=1e-8)
    assert float(density) == pytest.approx(score, rel=1e-8)


def test_noise_is_found_from_doubled_data(seed):
    """Entered twice, data do not look free of noise."""
    rng = np.random.default_rng(seed)
    X = rng.uniform(-2, 2, (60, 1)).repeat(2, 0)
    f = np.sin(3 * X[:, 0])
    y = f + 0.3 * rng.standard_normal(60).repeat(2)
    model = NTKRegressor().fit(X, y)
    assert 0.2 < np.sqrt(model.noise_variance_) < 0.7
    mean, std = model.predict(np.linspace(-1.8, 1.8, 50)[:, None], return_std=True)
    assert np.sqrt(np.mean((mean - np.sin(3 * np.linspace(-1.8, 1.8, 50))) ** 2)) < 0.2
    assert std.max() < 0.3
