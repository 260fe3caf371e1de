"""The squared-hinge machine against a generic optimizer and against true refits."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize

from skntk.solvers import squared_hinge


def problem(seed, n=40, ridge=None, kernel="gaussian"):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, 3))
    if kernel == "duplicates":
        X[n // 2 :] = X[: n - n // 2]
    if kernel == "linear":
        K = X @ X.T + 1
    else:
        K = np.exp(-((X[:, None] - X[None]) ** 2).sum(-1) / 3) + 0.5
    t = np.sign(X[:, 0] + 0.7 * rng.standard_normal(n))
    ridge = 10 ** rng.uniform(-3, 1) if ridge is None else ridge
    noise = ridge / rng.uniform(0.3, 3, n)
    return tuple(torch.tensor(a) for a in (K, t, noise))


def objective(K, t, noise, dual):
    f = K @ dual
    return float(((1 - t * f).clamp_min(0) ** 2 / noise).sum() + dual @ f)


def stationarity(K, t, noise, dual):
    """Largest violation of a_i = t_i max(0, 1 - t_i f_i) / noise_i, relative to the largest a."""
    wanted = t * (1 - t * (K @ dual)).clamp_min(0) / noise
    return float((dual - wanted).abs().max() / wanted.abs().max())


@pytest.mark.parametrize("kernel", ["gaussian", "linear", "duplicates"])
@pytest.mark.parametrize("ridge", [1e-3, 1e-1, 10.0])
def test_equals_a_generic_convex_optimizer(kernel, ridge, seed):
    K, t, noise = problem(seed, ridge=ridge, kernel=kernel)
    solution = squared_hinge(K, t, noise)
    values, vectors = np.linalg.eigh(K.numpy())
    root = vectors * np.sqrt(values.clip(0))

    def loss(u):  # f = root u, f'K^-1 f = u'u
        gap = np.clip(1 - t.numpy() * (root @ u), 0, None)
        slope = -2 * root.T @ (t.numpy() * gap / noise.numpy()) + 2 * u
        return (gap**2 / noise.numpy()).sum() + u @ u, slope

    options = {"maxiter": 5000, "maxfun": 20000, "ftol": 1e-15, "gtol": 1e-10}
    best = minimize(loss, np.zeros(len(t)), jac=True, method="L-BFGS-B", options=options)
    ours = objective(K, t, noise, solution.dual)
    assert ours <= best.fun * (1 + 1e-9)
    assert ours == pytest.approx(best.fun, rel=1e-5)


@given(
    seed=st.integers(0, 10**6),
    n=st.integers(1, 40),
    exponent=st.floats(-5, 2),
    kernel=st.sampled_from(["gaussian", "linear", "duplicates"]),
    warm=st.booleans(),
)
def test_is_stationary_from_any_start(seed, n, exponent, kernel, warm):
    K, t, noise = problem(seed, n, 10**exponent, kernel)
    start = torch.tensor(np.random.default_rng(seed).random(n) < 0.4) if warm else None
    solution = squared_hinge(K, t, noise, start)
    assert stationarity(K, t, noise, solution.dual) < 1e-5
    assert not bool(solution.dual[~solution.active].any())
    assert torch.isfinite(solution.leave_one_out).all()


def test_leave_one_out_against_true_refits(seed):
    K, t, noise = problem(seed, n=60, ridge=0.5)
    solution = squared_hinge(K, t, noise)
    f = K @ solution.dual
    compared, error, effect = 0, 0.0, 0.0
    for i in range(len(t)):
        rest = torch.arange(len(t)) != i
        refit = squared_hinge(K[rest][:, rest], t[rest], noise[rest])
        value = float(K[i, rest] @ refit.dual)
        if not bool(solution.active[i]):
            assert float(solution.leave_one_out[i]) == pytest.approx(value, abs=1e-7)
            assert float(f[i]) == pytest.approx(value, abs=1e-7)
        elif torch.equal(refit.active, solution.active[rest]):  # then the closed form is exact
            compared += 1
            assert float(solution.leave_one_out[i]) == pytest.approx(value, abs=1e-7)
        error += abs(float(solution.leave_one_out[i]) - value)
        effect += abs(float(f[i]) - value)
    assert compared > 5
    assert error < 0.4 * effect


def test_a_row_of_weight_w_is_w_rows(seed):
    K, t, _ = problem(seed, n=25)
    w = torch.tensor(np.random.default_rng(seed).integers(1, 4, 25))
    at, w = torch.repeat_interleave(torch.arange(25), w), w.double()
    one = squared_hinge(K, t, 0.2 / w, None, 0.2 / (w - 1))
    many = squared_hinge(K[at][:, at], t[at], torch.full((len(at),), 0.2, dtype=torch.float64))
    sums = torch.zeros_like(t).index_add(0, at, many.dual)
    torch.testing.assert_close(one.dual, sums, rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(one.leave_one_out[at], many.leave_one_out, rtol=1e-7, atol=1e-9)


def test_nothing_given_is_changed(seed):
    given_tensors = problem(seed)
    start = given_tensors[1] > 0
    copies = [a.clone() for a in (*given_tensors, start)]
    squared_hinge(*given_tensors, start)
    assert all(torch.equal(a, b) for a, b in zip((*given_tensors, start), copies, strict=True))


def test_one_class_and_one_row():
    one = torch.ones(1, 1, dtype=torch.float64)
    solution = squared_hinge(one, one[0], one[0])
    assert float(solution.dual) == pytest.approx(0.5)
    assert float(solution.leave_one_out) == pytest.approx(0.0, abs=1e-12)  # nothing is left
    K = torch.full((5, 5), 2.0, dtype=torch.float64)
    solution = squared_hinge(K, -torch.ones_like(K[0]), torch.ones_like(K[0]))
    torch.testing.assert_close(K @ solution.dual, torch.full_like(K[0], -10 / 11))


def test_an_offset_moves_where_the_machine_starts(seed):
    K, t, noise = problem(seed, n=30, ridge=0.3)
    offset = torch.tensor(np.random.default_rng(seed + 1).standard_normal(30))
    solution = squared_hinge(K, t, noise, offset=offset)
    f = offset + K @ solution.dual
    wanted = t * (1 - t * f).clamp_min(0) / noise
    torch.testing.assert_close(solution.dual, wanted, rtol=1e-6, atol=1e-8)
    compared = 0
    for i in range(30):  # the rows inside the margin stay the same for some
        rest = torch.arange(30) != i
        without = squared_hinge(K[rest][:, rest], t[rest], noise[rest], offset=offset[rest])
        if torch.equal(without.active, solution.active[rest]):
            value = offset[i] + K[i, rest] @ without.dual
            torch.testing.assert_close(solution.leave_one_out[i], value, rtol=1e-6, atol=1e-8)
            compared += 1
    assert compared > 5
