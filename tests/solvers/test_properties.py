"""Laws that hold for any PSD matrix, any weights, any ridge."""

import math

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from skntk.solvers import Spectral, cholesky


@st.composite
def problems(draw):
    """Gram matrix of any rank and scale, weights of mean one, absolute ridge, targets."""
    n = draw(st.integers(1, 12))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    F = rng.normal(size=(n, draw(st.integers(1, n)))) * rng.lognormal(sigma=1.0, size=(n, 1))
    K = 10.0 ** draw(st.integers(-30, 30)) * (F @ F.T)
    spread = draw(st.floats(0.0, 2.0))
    w = rng.lognormal(sigma=spread, size=n)
    alpha = 10.0 ** draw(st.integers(-5, 3)) * K.diagonal().mean()
    Y = rng.normal(size=(n, draw(st.integers(1, 3))))
    return torch.from_numpy(K), torch.from_numpy(w / w.mean()), alpha, torch.from_numpy(Y)


def close(actual, expected, rtol=1e-8):
    scale = float(expected.abs().max())
    np.testing.assert_allclose(actual, expected, rtol=rtol, atol=rtol * scale)


@given(problems())
def test_both_factorizations_agree(problem):
    K, w, alpha, Y = problem
    direct, spectral = cholesky(K, alpha / w), Spectral.from_gram(K, w).at(alpha)
    assert direct.jitter == 0.0
    close(spectral.solve(Y), direct.solve(Y))
    close(spectral.log_marginal_likelihood(Y), direct.log_marginal_likelihood(Y))
    for one, other in zip(spectral.leave_one_out(Y), direct.leave_one_out(Y), strict=True):
        close(one, other)


@given(problems())
def test_solutions_solve(problem):
    K, w, alpha, Y = problem
    C = K + torch.diag(alpha / w)
    for factor in (cholesky(K, alpha / w), Spectral.from_gram(K, w).at(alpha)):
        close(C @ factor.solve(Y), Y)
        assert (factor.inverse_diagonal() > 0).all()


@given(problems())
def test_left_out_variance_is_at_least_the_noise_and_at_most_the_prior(problem):
    K, w, alpha, Y = problem
    for factor in (cholesky(K, alpha / w), Spectral.from_gram(K, w).at(alpha)):
        variance = factor.leave_one_out(Y).variance
        assert (variance >= (alpha / w) * (1 - 1e-8)).all()
        assert (variance <= (K.diagonal() + alpha / w) * (1 + 1e-8)).all()


@given(problems(), st.permutations(range(12)))
def test_order_of_rows_does_not_matter(problem, order):
    K, w, alpha, Y = problem
    order = [i for i in order if i < len(K)]
    for here, there in (
        (cholesky(K, alpha / w), cholesky(K[order][:, order], (alpha / w)[order])),
        (
            Spectral.from_gram(K, w).at(alpha),
            Spectral.from_gram(K[order][:, order], w[order]).at(alpha),
        ),
    ):
        close(there.solve(Y[order]), here.solve(Y)[order])
        close(there.leave_one_out(Y[order]).residual, here.leave_one_out(Y).residual[order])


@given(problems(), st.integers(-20, 20))
def test_profile_evidence_is_above_any_scale_and_blind_to_units(problem, exponent):
    K, w, alpha, Y = problem
    spectral = Spectral.from_gram(K, w)
    profile, scale = spectral.profile_log_marginal_likelihood(Y, [alpha])
    slack = 1e-9 * (1 + profile.abs())
    assert (profile + slack >= spectral.log_marginal_likelihood(Y, [alpha])).all()
    s = 2.0**exponent
    units, smaller = Spectral.from_gram(s * K, w).profile_log_marginal_likelihood(Y, [s * alpha])
    close(units, profile)
    close(s * smaller, scale)
    best = Spectral.from_gram(scale[0, 0] * K, w)
    close(best.log_marginal_likelihood(Y, [float(scale[0, 0]) * alpha])[:, 0], profile[:, 0])


@given(problems(), st.integers(2, 4))
def test_integer_weights_are_repeated_rows(problem, times):
    """A row of weight m fits like m copies of it."""
    K, _, alpha, Y = problem
    copies = torch.arange(len(K)) % times + 1
    index = torch.repeat_interleave(torch.arange(len(K)), copies)
    weighted = Spectral.from_gram(K, copies).coefficients(Y, [alpha])[0]
    repeated = Spectral.from_gram(K[index][:, index]).coefficients(Y[index], [alpha])[0]
    summed = torch.zeros_like(weighted).index_add_(0, index, repeated)
    # The fits are what the two have in common; the repeated rows share their coefficients.
    close(K @ summed, K @ weighted, rtol=1e-7)


@given(problems(), st.floats(0.0, 50.0))
def test_training_residual_shrinks_with_time(problem, t):
    K, w, alpha, Y = problem
    spectral = Spectral.from_gram(K, w)
    C = K + torch.diag(alpha / w)
    unit = len(K) * Y.shape[1] / float(K.diagonal().mean())
    path = spectral.time_coefficients(Y, [0.0, t * unit, 2 * t * unit, math.inf], alpha)
    loss = (w[:, None] * (Y - C @ path).square()).sum((1, 2))
    close(loss[0], (w[:, None] * Y.square()).sum())
    assert (loss.diff() <= 1e-9 * loss[0]).all()
    assert loss[-1] <= 1e-9 * loss[0]
