import pickle

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.gaussian_process.kernels import ConstantKernel, WhiteKernel

import skntk.nn as snn
from skntk.core import KernelOverflowError, MemoryBudgetError
from skntk.infinite import NNGPKernel, NTKKernel
from skntk.infinite.adapters import sklearn_kernel

KERNELS = {"nngp": NNGPKernel, "ntk": NTKKernel}


def finite_differences(kernel, X, step=1e-4):
    """Derivatives of a kernel by its theta, of fourth order in the step."""
    slopes = []
    for i in range(kernel.n_dims):
        e = step * np.eye(kernel.n_dims)[i]
        one, two = (
            kernel.clone_with_theta(kernel.theta + c * e)(X)
            - kernel.clone_with_theta(kernel.theta - c * e)(X)
            for c in (1, 2)
        )
        slopes.append((8 * one - two) / (12 * step))
    return np.stack(slopes, -1)


@pytest.mark.parametrize("kind", KERNELS)
@pytest.mark.parametrize("depth", [0, 1, 3])
def test_values_are_those_of_the_formula(rng, formula, kind, depth) -> None:
    X, Y = rng.standard_normal((6, 4)), rng.standard_normal((5, 4))
    kernel = KERNELS[kind](depth, weight_std=1.2, bias_std=0.4)
    index = list(KERNELS).index(kind)
    np.testing.assert_allclose(kernel(X, Y), formula(X, Y, depth, 1.2, 0.4)[index], rtol=1e-12)
    # arccos in the formula leaves it half of the digits of the angle on the diagonal.
    full = formula(X, X, depth, 1.2, 0.4)[index]
    np.testing.assert_allclose(kernel(X), full, rtol=1e-7)
    np.testing.assert_allclose(kernel.diag(X), np.diag(kernel(X)), rtol=1e-15)
    assert kernel(X).dtype == kernel(X.astype(np.float32)).dtype == np.float64


@pytest.mark.parametrize("kind", KERNELS)
@pytest.mark.parametrize("bias_std", [0.0, 0.3])
@pytest.mark.parametrize("activation", ["relu", "erf", "gelu", "sin", "silu", snn.ABReLU(-0.5, 1)])
def test_gradient_is_that_of_finite_differences(hard, kind, bias_std, activation) -> None:
    kernel = KERNELS[kind](2, activation, weight_std=0.9, bias_std=bias_std)
    X = hard[:8]  # the series of silu converges slowly at large inputs
    K, gradient = kernel(X, eval_gradient=True)
    assert gradient.shape == (8, 8, 1 if bias_std == 0 else 2)
    np.testing.assert_allclose(K, kernel(X), rtol=1e-9, atol=1e-9 * abs(K).max())
    expected = finite_differences(kernel, X)
    scale = abs(expected).max((0, 1))
    assert (abs(gradient - expected) <= 1e-8 * scale).all()
    assert (abs(gradient - gradient.swapaxes(0, 1)) <= 1e-12 * scale).all()


@pytest.mark.parametrize("fixed", [(), ("weight_std",), ("bias_std",), ("weight_std", "bias_std")])
def test_gradient_follows_theta(hard, fixed) -> None:
    kernel = NTKKernel(1, **{f"{name}_bounds": "fixed" for name in fixed})
    K, gradient = kernel(hard, eval_gradient=True)
    assert kernel.n_dims == gradient.shape[2] == 2 - len(fixed)
    np.testing.assert_allclose(K, kernel(hard), rtol=1e-12)
    if kernel.n_dims:
        expected = finite_differences(kernel, hard)
        np.testing.assert_allclose(gradient, expected, rtol=1e-7, atol=1e-7 * abs(expected).max())


def test_gradient_does_not_depend_on_tiles(hard, monkeypatch) -> None:
    kernel = NTKKernel(2)
    K, gradient = kernel(hard, eval_gradient=True)
    monkeypatch.setattr(sklearn_kernel, "_TILE", 4)
    for whole, tiled in zip((K, gradient), kernel(hard, eval_gradient=True), strict=True):
        np.testing.assert_allclose(tiled, whole, rtol=1e-12)


def test_gradient_of_a_composition(hard) -> None:
    kernel = ConstantKernel(0.7) * NTKKernel(1) + NNGPKernel(2, "erf") + WhiteKernel(0.2)
    K, gradient = kernel(hard, eval_gradient=True)
    np.testing.assert_allclose(K, kernel(hard), rtol=1e-12)
    expected = finite_differences(kernel, hard)
    assert gradient.shape == (9, 9, 6)
    np.testing.assert_allclose(gradient, expected, rtol=1e-7, atol=1e-8 * abs(expected).max())


def test_theta_and_bounds() -> None:
    kernel = NTKKernel(weight_std=1.5, bias_std=0.2, bias_std_bounds=(0.1, 1))
    assert [h.name for h in kernel.hyperparameters] == ["bias_std", "weight_std"]
    np.testing.assert_allclose(kernel.theta, np.log([0.2, 1.5]))
    np.testing.assert_allclose(kernel.bounds, np.log([[0.1, 1], [1e-3, 1e2]]))
    moved = kernel.clone_with_theta(np.log([0.3, 2.0]))
    assert (moved.bias_std, moved.weight_std) == pytest.approx((0.3, 2.0))
    assert kernel.bias_std == 0.2
    assert not kernel.is_stationary()


def test_a_zero_bias_is_fixed() -> None:
    kernel = NTKKernel(weight_std=1.5, bias_std=0)
    np.testing.assert_allclose(kernel.theta, np.log([1.5]))
    assert kernel.clone_with_theta(np.log([2.0])).bias_std == 0


def test_copies_equality_and_repr() -> None:
    kernel = NTKKernel(2, "erf", weight_std=1.5, bias_std=0.2)
    for other in (clone(kernel), pickle.loads(pickle.dumps(kernel))):
        assert other == kernel
        assert other.get_params() == kernel.get_params()
    assert kernel != NTKKernel(2, "relu", weight_std=1.5, bias_std=0.2)
    assert kernel != NNGPKernel(2, "erf", weight_std=1.5, bias_std=0.2)
    assert repr(kernel) == "NTKKernel(depth=2, activation='erf', weight_std=1.5, bias_std=0.2)"
    assert "bias_std=None" in repr(NNGPKernel(bias_std=None))


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"depth": -1}, "depth=-1 must be an integer of at least 0"),
        ({"depth": 1.5}, r"depth=1\.5 must be an integer"),
        ({"activation": "rely"}, "activation='rely' is unknown"),
        ({"weight_std": 0}, "weight_std=0 must be a finite number above 0"),
        ({"weight_std": "big"}, "weight_std='big' must be"),
        ({"bias_std": -0.1}, r"bias_std=-0\.1 must be a finite number of at least 0"),
        ({"bias_std": np.inf}, "bias_std=inf must be"),
    ],
)
def test_parameters_are_checked_when_called(params, message) -> None:
    kernel = NTKKernel(**params)
    for call in (kernel, kernel.diag, lambda X: kernel(X, eval_gradient=True)):
        with pytest.raises(ValueError, match=message):
            call(np.eye(2))


def test_inputs_are_checked(rng) -> None:
    kernel, X = NTKKernel(), rng.standard_normal((4, 2))
    with pytest.raises(ValueError, match="needs Y=None"):
        kernel(X, X.copy(), eval_gradient=True)
    with pytest.raises(ValueError, match=r"X has shape \(2,\); pass \(n, d\)"):
        kernel(X[0])
    with pytest.raises(ValueError, match="Y contains NaN or infinity"):
        kernel(X, np.full((1, 2), np.nan))
    with pytest.raises(ValueError, match="Y has 1 features but X has 2"):
        kernel(X, X[:, :1])
    with pytest.raises(ValueError, match="empty"):
        kernel(X[:0])


def test_overflow_is_an_error(rng) -> None:
    kernel, X = NTKKernel(90, weight_std=1e2), rng.standard_normal((3, 2))
    for gradient in (False, True):
        with pytest.raises(KernelOverflowError, match="not finite in"):
            kernel(X, eval_gradient=gradient)


def test_memory_is_asked_for_before_it_is_used(rng, monkeypatch) -> None:
    monkeypatch.setattr("skntk.core.memory.available_bytes", lambda device: 8 * 30**2 * 3 - 1)
    with pytest.raises(MemoryBudgetError, match="and 2 of its derivatives"):
        NTKKernel()(rng.standard_normal((30, 2)), eval_gradient=True)
    assert NTKKernel(bias_std=0)(rng.standard_normal((30, 2)), eval_gradient=True)[1].size == 900


def test_random_state_of_torch_is_left_alone(rng) -> None:
    before = torch.get_rng_state()
    NTKKernel(4, snn.Erf())(rng.standard_normal((3, 2)))
    assert torch.equal(before, torch.get_rng_state())
