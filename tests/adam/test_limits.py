"""Limits that must hold: gradient descent, wide finite networks, sign descent on single rows."""

import math

import numpy as np
import pytest
import torch

import skntk
import skntk.nn as snn
from skntk import AdamNTKClassifier, AdamNTKRegressor, NetworkRegressor
from skntk.adam import sign_gradient_kernel
from skntk.core import UnsupportedModuleError

N, M, D = 40, 30, 4


def table(seed, n=N):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n + M, D))
    y = np.sin(X[:, 0]) + X[:, 1] * X[:, 2]
    y = (y - y[:n].mean()) / y[:n].std()
    return X[:n], y[:n], X[n:]


def rms(x):
    return float(np.sqrt(np.mean(np.square(x))))


def momentum_descent(kernel, X, y, Z, rate, beta, steps, decay=0.0):
    """Equation of DESIGN: bias-corrected momentum with the analytic kernel."""
    at = np.concatenate([X, Z])
    K, f, residuals = kernel(at, X), np.zeros(len(at)), []
    for t in range(1, steps + 1):
        residuals.append((f[: len(X)] - y) / len(X))
        m = sum((1 - beta) * beta ** (t - 1 - s) * r for s, r in enumerate(residuals))
        f = (1 - rate * decay) * f - rate / (1 - beta**t) * K @ m
    return f[len(X) :]


@pytest.mark.parametrize(
    ("sampler", "depth", "activation"),
    [("exact", 1, "erf"), ("exact", 3, "relu"), ("networks", 1, "relu"), ("networks", 2, "erf")],
)
def test_infinite_epsilon_is_gradient_descent_with_the_ntk(seed, sampler, depth, activation):
    """Within three reported standard errors, and one percent at 1e5 features."""
    X, y, Z = table(seed)
    kernel = skntk.infinite_width(snn.MLP(D, depth=depth, activation=activation))
    rate = 0.1 * N / np.linalg.eigvalsh(kernel(X))[-1]
    exact = momentum_descent(kernel, X, y, Z, rate, 0.9, 25, decay=0.1)
    model = AdamNTKRegressor(
        depth, activation, eps=np.inf, learning_rate=rate, max_epochs=25, weight_decay=0.1,
        n_features=100_000, sampler=sampler, random_state=seed,
    )  # fmt: skip
    mean, std = model.fit(X, y).predict(Z, return_mc_std=True)
    assert rms(mean - exact) < 3 * rms(std)
    if sampler == "exact":
        assert rms(mean - exact) < 1e-2


def test_large_epsilon_approaches_it(seed):
    """Adam with a large epsilon and the rate in proportion, on the same features."""
    X, y, Z = table(seed)
    params = {"max_epochs": 20, "n_features": 512, "random_state": seed}
    limit = AdamNTKRegressor(eps=np.inf, learning_rate=0.1, **params).fit(X, y).predict(Z)
    apart = [
        rms(AdamNTKRegressor(eps=e, learning_rate=0.1 * e, **params).fit(X, y).predict(Z) - limit)
        for e in (10.0, 100.0)
    ]
    assert 0.08 < apart[1] / apart[0] < 0.12  # first order in 1 / eps
    assert apart[1] < 1e-2 * rms(limit)


def test_errors_fall_with_features_and_are_what_is_reported():
    """At least as the root; the reported error is that of repetitions with other features."""
    X, y, Z = table(0)
    found = {}
    for n_features in (512, 8192):
        runs = [
            AdamNTKRegressor(
                1, learning_rate=0.05, max_epochs=12,
                n_features=n_features, random_state=i,
            ).fit(X, y).predict(Z, return_mc_std=True)
            for i in range(10)
        ]  # fmt: skip
        means = np.array([mean for mean, _ in runs])
        found[n_features] = (
            rms(means - means.mean(0)) * math.sqrt(10 / 9),
            rms([s for _, s in runs]),
        )
    for spread, reported in found.values():
        assert 0.75 < reported / spread < 1.4
    # even draws gain more than the root
    assert 0.08 < found[8192][0] / found[512][0] < 0.25 * 1.35


@pytest.mark.parametrize(("depth", "activation"), [(1, "erf"), (3, "relu")])
def test_both_samplers_have_one_limit(seed, depth, activation):
    X, y, Z = table(seed)
    found = [
        AdamNTKRegressor(
            depth, activation, learning_rate=0.03, max_epochs=20, n_features=32768,
            sampler=sampler, random_state=seed,
        ).fit(X, y).predict(Z, return_mc_std=True)
        for sampler in ("exact", "networks")
    ]  # fmt: skip
    (a, sa), (b, sb) = found
    assert rms(a - b) < 3 * math.hypot(rms(sa), rms(sb))
    assert rms(a - b) < 0.1 * rms(a)


@pytest.mark.parametrize("regime", ["linearized", "full"])
def test_wide_networks_trained_by_adam_approach_the_limit(regime):
    """Error about width^(-1/2); averaged over networks, whose deviations are independent."""
    X, y, Z = table(0)
    limit = AdamNTKRegressor(
        2, learning_rate=0.03, max_epochs=20, n_features=2**16, random_state=0
    ).fit(X, y).predict(Z)  # fmt: skip
    errors = []
    for width in (32, 256):
        found = [
            NetworkRegressor(
                2, width, regime=regime, centered=True, optimizer="scaled_adam",
                learning_rate=0.03, max_epochs=20, batch_size=N, random_state=i,
            ).fit(X, y).predict(Z)
            for i in range(3)
        ]  # fmt: skip
        errors.append(rms(np.array(found) - limit))
    slope = math.log(errors[1] / errors[0]) / math.log(256 / 32)
    assert -0.75 < slope < -0.3
    assert errors[1] < 0.2 * rms(limit)


def test_outputs_are_coupled_as_in_a_wide_network():
    """Three outputs share second moments: alone, each would be another function."""
    X, y, Z = table(0)
    Y = np.stack([y, np.cos(2 * X[:, 3]), X[:, 0] ** 2], 1)
    Y = (Y - Y.mean(0)) / Y.std(0)
    params = {"learning_rate": 0.03, "max_epochs": 20, "random_state": 0}
    limit = AdamNTKRegressor(2, n_features=2**16, **params).fit(X, Y).predict(Z)
    nets = [
        NetworkRegressor(
            2, 512, centered=True, optimizer="scaled_adam", batch_size=N,
            **{**params, "random_state": i},
        ).fit(X, Y).predict(Z)
        for i in range(2)
    ]  # fmt: skip
    alone = AdamNTKRegressor(2, n_features=2**14, **params).fit(X, y).predict(Z)
    near = rms(np.array(nets) - limit)
    assert near < 0.15 * rms(limit)
    assert rms(alone - limit[:, 0]) > 2 * near


def test_classes_and_batches_as_in_a_wide_network():
    """Cross-entropy, and batches, whose order alone differs."""
    X, y, Z = table(0)
    labels = (y > 0).astype(int) + (y > 1)
    params = {"learning_rate": 0.03, "random_state": 0}
    limit = AdamNTKClassifier(2, n_features=2**16, max_epochs=20, **params).fit(X, labels)
    net = skntk.NetworkClassifier(
        2, 1024, centered=True, optimizer="scaled_adam", batch_size=N, max_epochs=20, **params
    ).fit(X, labels)
    assert rms(limit.predict_proba(Z) - net.predict_proba(Z)) < 0.03
    params |= {"batch_size": 10, "max_epochs": 5}
    limit = AdamNTKRegressor(2, n_features=2**16, **params).fit(X, y).predict(Z)
    net = NetworkRegressor(2, 1024, centered=True, optimizer="scaled_adam", **params).fit(X, y)
    assert rms(limit - net.predict(Z)) < 0.2 * rms(limit)


@pytest.mark.parametrize(
    ("depth", "activation"), [(1, "relu"), (1, "identity"), (2, "erf"), (3, "relu")]
)
def test_sign_kernels_are_those_of_the_features(seed, activation, depth):
    """Closed forms against means over random features, and a training on single rows."""
    X, y, Z = (np.asarray(A) for A in table(seed, n=6))
    net = snn.MLP(D, depth=depth, activation=activation, bias_std=0.3)
    K = sign_gradient_kernel(net, np.concatenate([X, Z]), X)
    assert K.shape == (6 + M, 6)
    model = AdamNTKRegressor(
        depth, activation, bias_std=0.3, beta1=0, beta2=0, eps=0, batch_size=1, learning_rate=0.05,
        max_epochs=3, n_features=2**17, random_state=seed,
    ).fit(X, y)  # fmt: skip
    f = np.zeros(len(K))
    for t, r in enumerate(model.residuals_, 1):
        (i,) = model._dynamics.batches.rows(t)
        assert np.isclose(r[0, 0], f[i] - y[i], atol=0.02)
        f -= 0.05 * np.sign(r[0, 0]) * K[:, i]
    mean, std = model.predict(Z, return_mc_std=True)
    assert rms(mean - f[6:]) < 3.5 * rms(std)
    assert rms(mean - f[6:]) < 0.02 * max(rms(f), 0.3)


def test_sign_kernels_refuse_what_has_none():
    with pytest.raises(UnsupportedModuleError, match="draws the limit"):
        sign_gradient_kernel(snn.MLP(D, activation="tanh"), np.eye(D))
    net = torch.nn.Sequential(snn.Linear(D, 8), snn.Erf(2.0), snn.Linear(8, 1))
    with pytest.raises(UnsupportedModuleError, match="Erf"):
        sign_gradient_kernel(net, np.eye(D))
    with pytest.raises(ValueError, match="shapes"):
        sign_gradient_kernel(snn.MLP(D), np.eye(D), np.eye(3))


@pytest.mark.parametrize("d", [2, 3])
def test_selected_frozen_features_approach_a_learned_one(d):
    """The error falls as N^(-1/(d-1)): the nearest of N directions."""
    from skntk.adam import select_features

    X = np.random.default_rng(0).normal(size=(200, d))
    u = np.ones(d) / math.sqrt(d)
    learned = np.maximum(X @ u, 0)
    errors = [
        np.mean([rms(select_features(X, u, n, random_state=i) - learned) for i in range(40)])
        for n in (100, 1600)
    ]
    assert 0.6 < errors[1] / errors[0] * 16 ** (1 / (d - 1)) < 1.6
    with pytest.raises(ValueError, match="direction"):
        select_features(X, np.zeros(d), 10)
    with pytest.raises(ValueError, match="n_selected=11"):
        select_features(X, u, 10, n_selected=11)
