"""Right answers for legitimate but awkward data, without a warning; and the memory of a fit."""

import gc
import pathlib

import numpy as np
import pytest
import torch

from skntk import NTKClassifier, NTKRegressor
from skntk.machines import regressor

TUNINGS = pytest.mark.parametrize("tuning", ["loo", "marginal_likelihood", None])
EMBEDDINGS = pytest.mark.parametrize("embedding", ["none", "featurewise"])


def fit_all(X, y, T, tuning, embedding="auto", **params):
    """Fit both machines and check that all that they say is finite and well-formed."""
    given = {"depth": 1, "tuning": tuning, "embedding": embedding}
    model = NTKRegressor(**given, **params).fit(X, y)
    mean, std = model.predict(T, return_std=True)
    cov = model.predict(T, return_cov=True)[1]
    assert np.isfinite(mean).all()
    assert np.isfinite(std).all()
    assert (std >= 0).all()
    np.testing.assert_allclose(
        std**2, np.diagonal(cov), rtol=1e-6, atol=1e-7 * (1e-300 + cov.max())
    )
    assert np.isfinite(model.log_marginal_likelihood_value_)
    assert np.isfinite(model.sample_y(T)).all()
    labels = np.asarray(y) > np.median(y)
    classifier = NTKClassifier(**given).fit(X, labels)
    proba = classifier.predict_proba(T)
    assert np.isfinite(proba).all()
    np.testing.assert_allclose(proba.sum(1), 1)
    return model, classifier


@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_inference_mode(activation):
    X = np.random.default_rng(0).normal(size=(30, 2))
    machine = NTKRegressor(activation=activation, depth=1, tuning="marginal_likelihood")
    with torch.inference_mode():
        inside = machine.fit(X, X[:, 0]).predict(X, return_std=True)
        assert NTKClassifier(tuning="marginal_likelihood").fit(X, X[:, 0] > 0).score(X, X[:, 0] > 0)
    outside = machine.fit(X, X[:, 0]).predict(X, return_std=True)
    for one, other in zip(inside, outside, strict=True):
        np.testing.assert_array_equal(one, other)


@TUNINGS
@EMBEDDINGS
def test_one_two_and_three_rows(tuning, embedding):
    X, y = np.array([[1.0, 2.0], [-1.0, 0.5], [0.3, -2.0]]), np.array([4.0, -1.0, 2.0])
    for n in (1, 2, 3):
        model, _ = fit_all(X[:n], y[:n], X, tuning, embedding)
        if n == 1:
            np.testing.assert_allclose(model.predict(X), 4.0)
    np.testing.assert_array_equal(NTKClassifier(tuning=tuning).fit(X[:1], [5]).predict(X), 5)


@TUNINGS
@EMBEDDINGS
def test_one_feature(tuning, embedding, seed):
    x = np.sort(np.random.default_rng(seed).uniform(-3, 3, 60))[:, None]
    model, _ = fit_all(x, np.sin(x[:, 0]), x, tuning, embedding)
    assert model.score(x, np.sin(x[:, 0])) > (0.9 if tuning else 0.5)


@TUNINGS
@EMBEDDINGS
def test_constant_columns_and_all_zero_rows(tuning, embedding, seed):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((30, 4))
    X[:, 1], X[:, 2] = 5.0, 0.0
    X[3] = 0
    fit_all(X, X[:, 0], X, tuning, embedding)
    y = rng.standard_normal(30)
    model, classifier = fit_all(np.zeros((30, 4)), y, np.zeros((5, 4)), tuning, embedding)
    assert np.ptp(model.predict(np.zeros((5, 4)))) < 1e-9
    assert model.predict(np.zeros((1, 4)))[0] == pytest.approx(y.mean(), abs=0.2)
    np.testing.assert_allclose(classifier.predict_proba(np.zeros((1, 4))), 0.5, atol=0.05)
    no_bias, _ = fit_all(np.zeros((30, 4)), y, np.zeros((5, 4)), tuning, "none", bias_std=0.0)
    np.testing.assert_allclose(no_bias.predict(np.zeros((2, 4))), y.mean())


@TUNINGS
@EMBEDDINGS
def test_duplicates_with_equal_and_conflicting_targets(tuning, embedding, seed):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((20, 3)).repeat(3, axis=0)
    equal = np.sin(X[:, 0]) + X[:, 1]
    model, _ = fit_all(X, equal, X, tuning, embedding)
    assert model.score(X, equal) > 0.9
    conflicting = equal + rng.standard_normal(60)
    model, _ = fit_all(X, conflicting, X, tuning, embedding)
    means = conflicting.reshape(20, 3).mean(1).repeat(3)
    np.testing.assert_allclose(model.predict(X).reshape(20, 3).std(1), 0, atol=1e-6)
    assert np.abs(model.predict(X) - means).mean() < 1.0
    same = np.zeros((40, 2))
    labels = np.arange(40) % 4 == 0  # one point, three quarters of one class
    proba = NTKClassifier(depth=1, tuning=tuning, embedding=embedding).fit(same, labels)
    assert proba.predict_proba(same[:1])[0, 1] == pytest.approx(0.25, abs=0.1)


def test_duplicates_without_a_ridge(seed):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((15, 3)).repeat(2, axis=0)
    y = rng.standard_normal(15).repeat(2)
    for time in (np.inf, 1e7):
        model = NTKRegressor(tuning=None, alpha=0.0, training_time=time).fit(X, y)
        assert model.jitter_ > 0
        np.testing.assert_allclose(model.predict(X), y, atol=1e-3)
        assert (model.predict(X, return_std=True)[1] < 1e-2).all()
        assert np.isfinite(next(model.staged_predict(X, [1.0]))).all()


@TUNINGS
@EMBEDDINGS
def test_large_inputs_and_targets(tuning, embedding, seed):
    rng = np.random.default_rng(seed)
    X = rng.uniform(-40, 40, (80, 3))
    y = 2e4 * np.tanh(X[:, 0] / 20) + 100 * rng.standard_normal(80)
    model, _ = fit_all(X, y, X, tuning, embedding)
    assert model.score(X, y) > 0.9
    narrow, _ = fit_all(X.astype(np.float32), y, X, tuning, embedding, dtype="float32")
    assert narrow.score(X, y) > 0.9
    assert narrow.predict(X.astype(np.float32)).dtype == np.float64


@TUNINGS
@EMBEDDINGS
@pytest.mark.parametrize("size", [1e-12, 1e-3, 1e4, 1e12])
def test_small_and_huge_features(tuning, embedding, size, seed):
    X = size * np.random.default_rng(seed).standard_normal((25, 3))
    X[:, 1] /= size
    fit_all(X, X[:, 1], X, tuning, embedding)


@TUNINGS
@pytest.mark.parametrize("value", [0.0, 1e-300, 3.0, -1e6, 1e300])
def test_constant_targets(tuning, value, seed):
    X = np.random.default_rng(seed).standard_normal((15, 2))
    model = NTKRegressor(depth=1, tuning=tuning).fit(X, np.full(15, value))
    mean, std = model.predict(2 * X, return_std=True)
    np.testing.assert_allclose(mean, value, rtol=1e-12)
    assert np.isfinite(std).all()
    mixed = NTKRegressor(depth=1, tuning=tuning).fit(X, np.c_[np.full(15, value), X[:, 0]])
    np.testing.assert_allclose(mixed.predict(X)[:, 0], value, rtol=1e-12)
    assert np.isfinite(mixed.predict(X, return_std=True)[1]).all()


@pytest.mark.parametrize("size", [1e-200, 1e-30, 1e30, 1e150])
def test_targets_of_any_size(size, seed):
    X = np.random.default_rng(seed).standard_normal((15, 2))
    one, sized = (NTKRegressor(depth=1).fit(X, s * X[:, 0]).predict(X) for s in (1.0, size))
    np.testing.assert_allclose(sized / size, one, rtol=1e-7)


def test_integers_lists_frames_and_strided_arrays(seed):
    X = np.random.default_rng(seed).integers(-3, 4, (20, 4))
    y = X[:, 0]
    expected = NTKRegressor(tuning=None).fit(X.astype(float), y.astype(float)).predict(X)
    wide = np.zeros((40, 8))
    wide[::2, ::2] = X
    backwards = X.astype(float)[:, ::-1].copy()[:, ::-1]
    locked = X.astype(float)
    locked.setflags(write=False)
    for data in (X, X.tolist(), np.asfortranarray(X), wide[::2, ::2], backwards, locked):
        np.testing.assert_allclose(
            NTKRegressor(tuning=None).fit(data, y.tolist()).predict(data), expected, rtol=1e-12
        )


@pytest.mark.parametrize("how", [{"tuning": None}, {"tuning": "loo"}])
def test_memory_of_a_fit(how, monkeypatch):
    """Peak growth of the resident memory: one matrix, and little else."""
    monkeypatch.setattr(regressor, "TUNING_ROWS", 50)
    status, reset = pathlib.Path("/proc/self/status"), pathlib.Path("/proc/self/clear_refs")
    rng = np.random.default_rng(0)
    X = rng.standard_normal((3000, 5))
    model = NTKRegressor(depth=1, embedding="none", **how).fit(X[:400], X[:400, 0])

    def kib(name):
        return int(status.read_text().split(name + ":")[1].split()[0])

    gc.collect()
    try:
        reset.write_text("5")
        before = kib("VmRSS")
    except (OSError, IndexError):
        pytest.skip("this system does not tell the peak of a part of a process")
    model.fit(X, X[:, 0])
    model.predict(X[:300], return_std=True)
    peak = (kib("VmHWM") - before) * 1024
    assert peak < 1.6 * 8 * 3000**2
