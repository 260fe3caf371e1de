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
from skntk.machines.copies import merge
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
    K = bound(KernelChoice(1, "relu", 1.4, 0.3, "ntk")).gram(torch.tensor(X)).numpy()
    groups = [[2, 5, 9], [3, 11], [16, 17]]
    groups += [[i] for i in range(18) if not any(i in g for g in groups)]
    share = [w[g].sum() / 18 for g in groups]
    single, heaviest = [[2], [3, 11], [16]] + groups[3:], w.copy()
    heaviest[[2, 16]] = w[[2, 5, 9]].max(), w[[16, 17]].max()
    every = np.concatenate(single)
    terms = []
    for group, part in zip(single, share, strict=True):
        rest = np.setdiff1d(every, group)
        noisy = K[rest][:, rest] + np.diag(0.02 / heaviest[rest])
        weights = np.linalg.solve(noisy, K[rest][:, group])
        residual = y[group] - weights.T @ y[rest]
        V = K[np.ix_(group, group)] - weights.T @ K[rest][:, group]
        V += np.diag(0.02 / heaviest[group])
        square, logdet = residual @ np.linalg.solve(V, residual), np.linalg.slogdet(V)[1]
        terms.append((part / len(group), square, logdet, len(group)))
    scale = sum(part * square for part, square, _, _ in terms)
    score = -0.5 * sum(
        part * (size * np.log(2 * np.pi * scale) + logdet + square / scale)
        for part, square, logdet, size in terms
    )
    for order in (np.arange(18), np.random.default_rng(seed).permutation(18)):
        at = torch.tensor(X[order])
        data = merge(at, torch.tensor(y[order])[:, None], torch.tensor(w[order]))
        kernel = torch.tensor(K[np.ix_(order, order)])[data.rows][:, data.rows]
        density, found = tuning.loo_log_density(
            Spectral.from_gram(kernel, data.weights),
            data,
            torch.tensor([0.02], dtype=torch.float64),
        )
        assert float(found) == pytest.approx(scale, rel=1e-8)
        assert float(density) == pytest.approx(score, rel=1e-8)


def test_rows_entered_twice(seed):
    """They do not look free of noise at new rows, and are known where they are."""
    rng = np.random.default_rng(seed)
    X = rng.uniform(-2, 2, (60, 1))
    y = np.sin(3 * X[:, 0]) + 0.3 * rng.standard_normal(60)
    T = np.linspace(-1.8, 1.8, 50)[:, None]
    once = NTKRegressor().fit(X, y)
    twice = NTKRegressor().fit(X.repeat(2, 0), y.repeat(2))
    assert once.choice_ == twice.choice_
    assert once.location_variance_ == 0
    mean, std = once.predict(T, return_std=True)
    mean_2, std_2 = twice.predict(T, return_std=True)
    np.testing.assert_allclose(mean_2, mean, atol=0.03)
    total, total_2 = (s**2 + m.noise_variance_ for s, m in ((std, once), (std_2, twice)))
    np.testing.assert_allclose(total_2, total, rtol=0.1)
    assert twice.noise_variance_ < 0.1 * once.noise_variance_
    mean, std = twice.predict(X, return_std=True)
    assert np.abs(mean - y).max() < 0.2 * np.abs(once.predict(X) - y).max()
    assert std.max() < 0.3 * std_2.min()


def test_codes_without_noise_are_known(seed):
    """Ten codes, each seen many times with the same target that no other code tells of."""
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, 10, 200)
    values = rng.standard_normal(10)
    model = NTKRegressor().fit(codes[:150, None] * 1.0, values[codes[:150]])
    assert model.score(codes[150:, None] * 1.0, values[codes[150:]]) > 0.98


def test_copies_that_disagree_are_noise(seed):
    rng = np.random.default_rng(seed)
    X = rng.uniform(-2, 2, (40, 1)).repeat(4, 0)
    y = np.sin(2 * X[:, 0]) + 0.3 * rng.standard_normal(160)
    model = NTKRegressor().fit(X, y)
    assert 0.2 < np.sqrt(model.noise_variance_) < 0.4
    assert model.location_variance_ < 0.3 * model.noise_variance_
    named = NTKRegressor(depth=1, bias_std=0.1, alpha=0.01).fit(X, y)
    assert named.location_variance_ == 0


def test_draws_know_copies(seed):
    """The covariance of a row with its copy is its variance; at training rows it is small."""
    X, y, _ = make(seed)
    X, y = X.repeat(2, 0), y.repeat(2)
    model = NTKRegressor(activation="relu").fit(X, y)
    T = np.r_[X[:1] + 1, X[:1] + 1, X[:1]]
    mean, cov = model.predict(T, return_cov=True)
    assert cov[0, 1] == pytest.approx(cov[0, 0], rel=1e-6)
    np.testing.assert_allclose(np.sqrt(np.diag(cov)), model.predict(T, return_std=True)[1])
    assert mean[2] == pytest.approx(y[0], abs=0.3 * y.std())
