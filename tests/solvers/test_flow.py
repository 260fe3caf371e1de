"""Gradient flow and its ensemble: matrix exponentials, limits, and another library's numbers."""

import itertools
import json
import math

import numpy as np
import pytest
import scipy.linalg
import torch

from skntk.solvers import Spectral, ensemble_covariance, readout_ensemble_covariance

N, M, K_OUT = 11, 5, 2
TIMES = [0.0, 0.3, 4.0, 200.0]


def joint(seed, size=N + M, rank=30):
    F = np.random.default_rng(seed).normal(size=(size, rank))
    return torch.from_numpy(F @ F.T / rank)


@pytest.fixture
def kernels(seed):
    """Tangent and NNGP kernels of training and test rows, and targets."""
    nngp = joint(seed)
    Y = torch.from_numpy(np.random.default_rng(seed + 1).normal(size=(N, K_OUT)))
    return 2 * joint(seed + 100) + nngp, nngp, Y


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("n_outputs", [None, 5])
def test_time_coefficients_are_the_matrix_exponential(kernels, seed, weighted, n_outputs):
    K, Y = kernels[0][:N, :N].numpy(), kernels[2]
    w = np.random.default_rng(seed).uniform(0.3, 2.0, N) if weighted else np.ones(N)
    spectral = Spectral.from_gram(torch.from_numpy(K), w)
    result = spectral.time_coefficients(Y, TIMES, 0.05, n_outputs)
    C = K + 0.05 * np.diag(1 / w)
    for t, c in zip(TIMES, result, strict=True):
        E = scipy.linalg.expm(-C @ np.diag(w) * t / (N * (n_outputs or K_OUT)))
        np.testing.assert_allclose(c, np.linalg.solve(C, (np.eye(N) - E) @ Y.numpy()), atol=1e-11)


def test_ridge_of_each_output(kernels):
    K, _, Y = kernels
    spectral = Spectral.from_gram(K[:N, :N])
    both = spectral.time_coefficients(Y, TIMES, [0.05, 3.0])
    for j, alpha in enumerate((0.05, 3.0)):
        alone = spectral.time_coefficients(Y[:, [j]], TIMES, alpha, n_outputs=K_OUT)
        np.testing.assert_allclose(both[:, :, [j]], alone, atol=1e-12 * float(alone.abs().max()))


def test_infinite_time_is_ridge_regression(kernels):
    K, _, Y = kernels
    spectral = Spectral.from_gram(K[:N, :N])
    expected = spectral.coefficients(Y, [0.05])[0]
    for t in (math.inf, 1e300, 1e6):
        c = spectral.time_coefficients(Y, [t], 0.05)[0]
        np.testing.assert_allclose(c, expected, atol=1e-12 * float(expected.abs().max()))


@pytest.mark.parametrize("t", [0.0, 1e-320, 1e-12, 1.0, 1e12, 1e300])
@pytest.mark.parametrize("eigenvalue", [0.0, 1e-300, 1e-18, 1e-9, 1.0, 1e30])
def test_every_eigenvalue_and_time_is_stable(eigenvalue, t):
    """``(1 - exp(-λτ))/λ`` against its series or its exponential, in extended precision."""
    spectral = Spectral.from_gram(torch.tensor([[eigenvalue]], dtype=torch.float64))
    c = spectral.time_coefficients(torch.ones(1, 1, dtype=torch.float64), [t], 0.0).item()
    lam, tau = np.longdouble(eigenvalue), np.longdouble(t)
    x = lam * tau
    expected = tau * (1 - x / 2 + x * x / 6) if x < 1e-5 else -np.expm1(-x) / lam
    assert c == pytest.approx(float(expected), rel=1e-14, abs=0.0)


def test_flow_solves_its_differential_equation(kernels):
    """``dc/dt = (y - K_reg c)/(n k)``, by a central difference."""
    K, _, Y = kernels
    spectral = Spectral.from_gram(K[:N, :N])
    t, h = 3.0, 1e-4
    before, now, after = spectral.time_coefficients(Y, [t - h, t, t + h], 0.2)
    flow = (Y - (K[:N, :N] @ now + 0.2 * now)) / (N * K_OUT)
    np.testing.assert_allclose((after - before) / (2 * h), flow, atol=1e-9)


def blocks(K):
    """Train-train, test-train and test-test."""
    return K[:N, :N], K[N:, :N], K[N:, N:]


@pytest.mark.parametrize("t", [0.0, 0.5, 30.0, math.inf])
def test_ensemble_is_the_covariance_of_its_networks(kernels, seed, t):
    """The network's output is linear in its random initial function: push that through."""
    Theta_DD, Theta_TD, _ = blocks(kernels[0])
    K_DD, K_TD, K_TT = blocks(kernels[1])
    tangent = Spectral.from_gram(Theta_DD)
    # f_t(T) = f_0(T) - A f_0(D) + A y, so the covariance is S K S' with S = [-A, I].
    P = tangent.time_coefficients(torch.eye(N, dtype=torch.float64), [t], 0.1, K_OUT)[0]
    S = torch.cat([-Theta_TD @ P, torch.eye(M, dtype=torch.float64)], 1)
    options = {"time": t, "alpha": 0.1, "n_outputs": K_OUT}
    covariance = ensemble_covariance(tangent, Theta_TD, K_DD, K_TD, K_TT, **options)
    np.testing.assert_allclose(covariance, S @ kernels[1] @ S.mT, atol=1e-13)
    variance = ensemble_covariance(tangent, Theta_TD, K_DD, K_TD, K_TT.diagonal(), **options)
    np.testing.assert_allclose(variance, covariance.diagonal(), atol=1e-13)
    assert torch.equal(covariance, covariance.mT)


def test_readout_ensemble_goes_from_prior_to_posterior(kernels):
    K_DD, K_TD, K_TT = blocks(kernels[1])
    nngp = Spectral.from_gram(K_DD)
    options = {"alpha": 0.1, "n_outputs": K_OUT}
    path = [
        readout_ensemble_covariance(nngp, K_TD, K_TT, time=t, **options)
        for t in (0.0, 0.1, 1.0, 10.0, 1e3, math.inf)
    ]
    np.testing.assert_allclose(path[0], K_TT, atol=1e-14)
    half = nngp.at(0.1).half_solve(K_TD.mT)
    np.testing.assert_allclose(path[-1], K_TT - half.mT @ half, atol=1e-13)
    for earlier, later in itertools.pairwise(path):
        assert np.linalg.eigvalsh(earlier - later).min() > -1e-13
    variance = readout_ensemble_covariance(nngp, K_TD, K_TT.diagonal(), time=1.0, **options)
    np.testing.assert_allclose(variance, path[2].diagonal(), atol=1e-14)


def test_variances_are_never_negative(seed):
    """At the training rows, trained for ever with almost no ridge, only rounding is left."""
    K = joint(seed, N)
    spectral = Spectral.from_gram(K)
    for K_TT in (K, K.diagonal()):
        result = ensemble_covariance(
            spectral, K, K, K, K_TT, time=math.inf, alpha=1e-9, n_outputs=1
        )
        variance = result if result.ndim == 1 else result.diagonal()
        assert (variance >= 0).all()
        assert (variance < 1e-6).all()


def test_refuses_other_shapes(kernels):
    K_DD, K_TD, K_TT = blocks(kernels[1])
    spectral = Spectral.from_gram(K_DD)
    options = {"time": 1.0, "alpha": 0.1, "n_outputs": 1}
    with pytest.raises(ValueError, match="K_TT has shape"):
        ensemble_covariance(spectral, K_TD, K_DD, K_TD, K_TT[:2], **options)
    with pytest.raises(ValueError, match="K_DD has shape"):
        ensemble_covariance(spectral, K_TD, K_TD, K_TD, K_TT, **options)
    with pytest.raises(ValueError, match="shape"):
        ensemble_covariance(spectral, K_TD, K_DD, K_TD.mT, K_TT, **options)
    with pytest.raises(ValueError, match="shape"):
        readout_ensemble_covariance(spectral, K_TD.mT, K_TT, **options)


@pytest.fixture(scope="module", params=range(3), ids=["P1", "P2", "P3"])
def reference(request, reference_dir):
    """One problem that another library solved, its arrays, and its ridges (NTK, NNGP)."""
    description = json.loads((reference_dir / "predict.json").read_text())
    problem = description["problems"][request.param]
    with np.load(reference_dir / "predict.npz") as stored:
        prefix = problem["name"] + "/"
        arrays = {
            key.removeprefix(prefix): torch.from_numpy(np.atleast_1d(stored[key]))
            for key in stored
            if key.startswith(prefix)
        }

    def ridge(kind):
        if problem["diag_reg_absolute_scale"]:
            return problem["diag_reg"]
        return problem["diag_reg"] * float(arrays[f"{kind}_train_train"].diagonal().mean())

    return problem, arrays, {kind: ridge(kind) for kind in ("ntk", "nngp")}


def same(actual, expected):
    scale = float(expected.abs().max())
    np.testing.assert_allclose(actual, expected, rtol=1e-10, atol=1e-11 * scale)


@pytest.mark.parametrize("time", [0.1, 1.0, 10.0, 1000.0, None])
def test_reference_predictions(reference, time):
    problem, a, ridge = reference
    tag = "inf" if time is None else str(time).replace(".", "p")
    tau = math.inf if time is None else time * problem["learning_rate"]
    k, y = problem["n_outputs"], a["y_train"]
    tangent, nngp = (Spectral.from_gram(a[f"{kind}_train_train"]) for kind in ("ntk", "nngp"))
    for kind, spectral in (("ntk", tangent), ("nngp", nngp)):
        c = spectral.time_coefficients(y, [tau], ridge[kind])[0]
        same(a[f"{kind}_test_train"] @ c, a[f"ensemble_{kind}_mean_t{tag}"])
        if time is not None:
            regularised = a[f"{kind}_train_train"] @ c + ridge[kind] * c
            same(regularised, a[f"ensemble_train_{kind}_mean_t{tag}"])
    covariance = ensemble_covariance(
        tangent,
        a["ntk_test_train"],
        a["nngp_train_train"],
        a["nngp_test_train"],
        a["nngp_test_test"],
        time=tau,
        alpha=ridge["ntk"],
        n_outputs=k,
    )
    same(covariance, a[f"ensemble_ntk_cov_t{tag}"])
    covariance = readout_ensemble_covariance(
        nngp,
        a["nngp_test_train"],
        a["nngp_test_test"],
        time=tau,
        alpha=ridge["nngp"],
        n_outputs=k,
    )
    same(covariance, a[f"ensemble_nngp_cov_t{tag}"])
    c = tangent.time_coefficients(y - a["fx_train_0"], [tau], ridge["ntk"])[0]
    same(a["fx_test_0"] + a["ntk_test_train"] @ c, a[f"gd_test_t{tag}"])


def test_reference_gp_inference(reference):
    _, a, ridge = reference
    for name, kind in (("nngp", "nngp"), ("ntkgp", "ntk")):
        factor = Spectral.from_gram(a[f"{kind}_train_train"]).at(ridge[kind])
        cross = a[f"{kind}_test_train"]
        same(cross @ factor.solve(a["y_train"]), a[f"gp_{name}_mean"])
        half = factor.half_solve(cross.mT)
        same(a[f"{kind}_test_test"] - half.mT @ half, a[f"gp_{name}_cov"])
