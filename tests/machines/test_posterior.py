"""The regressor without tuning, against dense formulas and scikit-learn's Gaussian process."""

import numpy as np
import pytest
import scipy.linalg
from hypothesis import given
from hypothesis import strategies as st
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import Kernel, StationaryKernelMixin

import skntk
import skntk.nn as snn
from skntk import NTKRegressor


class Given(StationaryKernelMixin, Kernel):
    """A kernel of scikit-learn that looks its values up in `infinite_width`."""

    def __init__(self, infinite=None, kind="ntk"):
        self.infinite, self.kind = infinite, kind

    def __call__(self, X, Y=None, eval_gradient=False):
        return self.infinite(X, Y, kind=self.kind)

    def diag(self, X):
        return self.infinite.diag(X, self.kind)


def make(seed, n=25, m=9, d=3, k=None):
    rng = np.random.default_rng(seed)
    y = 30 + 7 * rng.standard_normal(n if k is None else (n, k))
    return rng.standard_normal((n, d)), y, rng.standard_normal((m, d)), rng


def kernel(depth=2, d=3, bias_std=0.3):
    return skntk.infinite_width(snn.MLP(d, depth=depth, bias_std=bias_std))


def machine(**changes):
    given = {"depth": 2, "bias_std": 0.3, "alpha": 0.05, "tuning": None} | changes
    return NTKRegressor(**given)


@pytest.mark.parametrize("kind", ["ntk", "nngp"])
def test_equals_the_gaussian_process_of_scikit_learn(kind, seed):
    X, y, T, _ = make(seed)
    infinite = kernel()
    model = machine(kind=kind).fit(X, y)
    noise = 0.05 * infinite.diag(X, kind).mean()
    gp = GaussianProcessRegressor(
        Given(infinite, kind), alpha=noise, optimizer=None, normalize_y=True
    ).fit(X, y)
    mean, cov = gp.predict(T, return_cov=True)
    np.testing.assert_allclose(model.predict(T), mean, rtol=1e-10)
    np.testing.assert_allclose(model.predict(T, return_cov=True)[1], cov, rtol=1e-8, atol=1e-9)
    std = gp.predict(T, return_std=True)[1]
    np.testing.assert_allclose(model.predict(T, return_std=True)[1], std, rtol=1e-8)
    assert model.log_marginal_likelihood_value_ == pytest.approx(gp.log_marginal_likelihood())
    assert model.alpha_ == pytest.approx(noise)
    assert model.noise_variance_ == pytest.approx(noise * y.var())
    assert model.jitter_ == 0


@pytest.mark.parametrize("time", [0.0, 0.3, 40.0, np.inf])
@pytest.mark.parametrize("kind", ["ntk", "nngp"])
def test_gradient_flow_and_its_ensemble_against_expm(time, kind, seed):
    X, y, T, _ = make(seed, k=2)
    infinite = kernel()
    A = infinite(X, kind=kind)
    A = A + 0.05 * np.trace(A) / 25 * np.eye(25)

    def filtered(t):
        E = scipy.linalg.expm(-A * t / (25 * 2)) if np.isfinite(t) else np.zeros_like(A)
        return np.linalg.solve(A, np.eye(25) - E)

    cross = infinite(T, X, kind=kind)
    B = cross @ filtered(time)
    model = machine(kind=kind, training_time=time, uncertainty="ensemble").fit(X, y)
    mean, cov = model.predict(T, return_cov=True)
    expected = y.mean(0) + B @ (y - y.mean(0))
    np.testing.assert_allclose(mean, expected, rtol=1e-9)
    K = {
        name: infinite(*args, kind="nngp")
        for name, args in {"TT": (T,), "TX": (T, X), "XX": (X,)}.items()
    }
    if kind == "ntk":
        spread = K["TT"] - B @ K["TX"].T - K["TX"] @ B.T + B @ K["XX"] @ B.T
    else:
        spread = K["TT"] - cross @ filtered(2 * time) @ cross.T
    for j in range(2):
        np.testing.assert_allclose(cov[..., j], y.var(0)[j] * spread, rtol=1e-7, atol=1e-8)
    std = model.predict(T, return_std=True)[1]
    np.testing.assert_allclose(std**2, np.diagonal(cov).T, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("outputs", [None, 2])
def test_staged_predictions(outputs, seed):
    X, y, T, _ = make(seed, k=outputs)
    model = machine().fit(X, y)
    stages = list(model.staged_predict(T, [0.0, 2.0, np.inf]))
    np.testing.assert_allclose(stages[0], np.broadcast_to(y.mean(0), stages[0].shape))
    np.testing.assert_allclose(stages[2], model.predict(T), rtol=1e-9)
    brief = machine(training_time=2.0).fit(X, y)
    np.testing.assert_allclose(stages[1], brief.predict(T), rtol=1e-9)
    fits = [np.square(s - y).mean() for s in model.staged_predict(X, [0, 1, 10, 100, 1e4])]
    assert fits == sorted(fits, reverse=True)


def test_several_outputs_equal_separate_fits(seed):
    X, Y, T, _ = make(seed, k=3)
    Y[:, 1] *= 1e3
    alphas = [0.01, 0.3, 0.01]
    together = machine(alpha=alphas).fit(X, Y)
    mean, std = together.predict(T, return_std=True)
    cov = together.predict(T, return_cov=True)[1]
    assert mean.shape == std.shape == (9, 3)
    assert cov.shape == (9, 9, 3)
    evidence = 0.0
    for j, alpha in enumerate(alphas):
        alone = machine(alpha=alpha).fit(X, Y[:, j])
        one, one_std = alone.predict(T, return_std=True)
        np.testing.assert_allclose(mean[:, j], one, rtol=1e-9)
        np.testing.assert_allclose(std[:, j], one_std, rtol=1e-8)
        np.testing.assert_allclose(
            cov[..., j],
            alone.predict(T, return_cov=True)[1],
            rtol=1e-7,
            atol=1e-8 * cov[..., j].max(),
        )
        assert together.noise_variance_[j] == pytest.approx(alone.noise_variance_)
        assert together.alpha_[j] == pytest.approx(alone.alpha_)
        evidence += alone.log_marginal_likelihood_value_
    assert together.log_marginal_likelihood_value_ == pytest.approx(evidence)
    with pytest.raises(ValueError, match=r"alpha has shape \(3,\)"):
        machine(alpha=alphas).fit(X, Y[:, :2])


def test_a_column_of_targets_keeps_its_axis(seed):
    X, y, T, _ = make(seed)
    flat, column = machine().fit(X, y), machine().fit(X, y[:, None])
    np.testing.assert_array_equal(column.predict(T), flat.predict(T)[:, None])
    for name in ("return_std", "return_cov"):
        a, b = flat.predict(T, **{name: True}), column.predict(T, **{name: True})
        assert b[1].shape == (*a[1].shape, 1)
        np.testing.assert_array_equal(b[1][..., 0], a[1])
    assert flat.sample_y(T, 4).shape == (9, 4)
    assert column.sample_y(T, 4).shape == (9, 1, 4)


@pytest.mark.parametrize("tuning", [None, "loo"])
def test_targets_may_be_shifted_and_scaled_and_rows_reordered(tuning, seed):
    X, y, T, rng = make(seed)
    model = machine(tuning=tuning, alpha="auto").fit(X, y)
    mean, std = model.predict(T, return_std=True)
    moved = machine(tuning=tuning, alpha="auto").fit(X, 1e4 - 250 * y)
    mean_m, std_m = moved.predict(T, return_std=True)
    np.testing.assert_allclose(mean_m, 1e4 - 250 * mean, rtol=1e-8)
    np.testing.assert_allclose(std_m, 250 * std, rtol=1e-8)
    order = rng.permutation(len(X))
    shuffled = machine(tuning=tuning, alpha="auto").fit(X[order], y[order])
    np.testing.assert_allclose(shuffled.predict(T), mean, rtol=1e-8)
    np.testing.assert_allclose(shuffled.predict(T, return_std=True)[1], std, rtol=1e-7)


@given(
    seed=st.integers(0, 10**6),
    n=st.integers(1, 12),
    alpha=st.sampled_from([0.0, 1e-9, 1e-3, 1.0]),
    kind=st.sampled_from(["ntk", "nngp"]),
    activation=st.sampled_from(["relu", "erf"]),
    copies=st.booleans(),
)
def test_posterior_is_below_its_prior(seed, n, alpha, kind, activation, copies):
    rng = np.random.default_rng(seed)
    X, T = rng.standard_normal((n, 2)), rng.standard_normal((6, 2))
    if copies:
        X[n // 2 :] = X[: n - n // 2]
        T[:2] = X[0]
    y = rng.standard_normal(n)
    model = machine(alpha=alpha, kind=kind, activation=activation).fit(X, y)
    scale = y.var() if n > 1 else 1.0
    mean, std = model.predict(T, return_std=True)
    cov = model.predict(T, return_cov=True)[1]
    net = snn.MLP(2, depth=2, bias_std=0.3, activation=activation)
    prior = scale * skntk.infinite_width(net)(T, kind=kind)
    largest = prior.max()
    assert np.isfinite(mean).all()
    assert (std**2 <= np.diagonal(prior) + 1e-9 * largest).all()
    assert np.linalg.eigvalsh(prior - cov).min() >= -1e-7 * largest
    assert np.linalg.eigvalsh(cov).min() >= -1e-7 * largest
    np.testing.assert_allclose(std**2, np.diagonal(cov), rtol=1e-6, atol=1e-7 * largest)
    np.testing.assert_array_equal(cov, cov.T)


def test_draws_have_the_moments_of_the_posterior(seed):
    X, y, T, _ = make(seed)
    model = machine().fit(X, y)
    mean, cov = model.predict(T, return_cov=True)
    draws = model.sample_y(T, 20000, random_state=seed)
    root = np.sqrt(np.diagonal(cov))
    assert (np.abs(draws.mean(1) - mean) < 5 * root / 20000**0.5).all()
    assert (np.abs(np.cov(draws) - cov) < 6 * np.outer(root, root) / 20000**0.5).all()
    np.testing.assert_array_equal(draws, model.sample_y(T, 20000, random_state=seed))
    assert (draws[:, :3] != model.sample_y(T, 3, random_state=seed + 1)).any()


def test_blocks_of_test_rows_change_nothing(seed, monkeypatch):
    X, y, T, _ = make(seed, m=30)
    model = machine().fit(X, y)
    whole = (*model.predict(T, return_std=True), *model.staged_predict(T, [1.0]))
    monkeypatch.setattr(
        NTKRegressor, "_blocks", lambda *_: (slice(a, a + 7) for a in range(0, 30, 7))
    )
    blocked = (*model.predict(T, return_std=True), *model.staged_predict(T, [1.0]))
    for a, b in zip(whole, blocked, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9)


def test_kernels_in_float32_are_close(seed):
    X, y, T, _ = make(seed)
    wide, narrow = (machine(dtype=t, alpha=0.1).fit(X, y) for t in ("float64", "float32"))
    np.testing.assert_allclose(narrow.predict(T), wide.predict(T), rtol=1e-4)
    std = wide.predict(T, return_std=True)[1]
    np.testing.assert_allclose(narrow.predict(T, return_std=True)[1], std, rtol=1e-3)
    mixed = machine().fit(X.astype(np.float32), y)
    assert mixed.predict(T).dtype == np.float64
    exact = machine().fit(X.astype(np.float32).astype(np.float64), y)
    np.testing.assert_allclose(mixed.predict(T), exact.predict(T), rtol=1e-10)
