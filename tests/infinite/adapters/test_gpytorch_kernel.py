import copy
import math
import pickle
import unittest

import numpy as np
import pytest
import torch
from gpytorch.kernels import RBFKernel, ScaleKernel
from gpytorch.priors import GammaPrior, LogNormalPrior
from gpytorch.test.base_kernel_test_case import BaseKernelTestCase

import skntk.nn as snn
from skntk.infinite import GPyTorchNTKKernel, NNGPKernel, NTKKernel

ACTIVATIONS = ["relu", "erf", "gelu", "sin", "silu"]
SKLEARN = {"nngp": NNGPKernel, "ntk": NTKKernel}


class TestContract(BaseKernelTestCase, unittest.TestCase):
    """GPyTorch's own suite for kernels: batches, indexing, active dimensions, pickle, dtype."""

    def create_kernel_no_ard(self, **kwargs):
        return GPyTorchNTKKernel(2, **kwargs)

    def create_kernel_ard(self, num_dims, **kwargs):
        return GPyTorchNTKKernel(2, ard_num_dims=num_dims, **kwargs)


def double(kernel: GPyTorchNTKKernel, **values: float) -> GPyTorchNTKKernel:
    """Kernel in float64 with hyperparameters that float32 has not rounded."""
    kernel = kernel.double()
    return kernel.initialize(**{k: torch.tensor(v, dtype=torch.float64) for k, v in values.items()})


@pytest.fixture
def x(rng) -> torch.Tensor:
    return torch.from_numpy(rng.standard_normal((5, 3)))


@pytest.mark.parametrize("kind", SKLEARN)
def test_values_are_those_of_the_formula(rng, formula, kind) -> None:
    X, Y = rng.standard_normal((6, 4)), rng.standard_normal((5, 4))
    kernel = double(GPyTorchNTKKernel(2, kind=kind), weight_std=1.2, bias_std=0.4)
    values = kernel(torch.from_numpy(X), torch.from_numpy(Y)).to_dense().detach().numpy()
    expected = formula(X, Y, 2, 1.2, 0.4)[list(SKLEARN).index(kind)]
    np.testing.assert_allclose(values, expected, rtol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_values_and_diagonal_are_those_for_sklearn(hard, activation, dtype) -> None:
    X = hard[:8]
    kernel = double(GPyTorchNTKKernel(2, activation), weight_std=0.9, bias_std=0.4).to(dtype)
    x = torch.tensor(X, dtype=dtype)
    oracle = NTKKernel(2, activation, weight_std=0.9, bias_std=0.4)
    tol = 1e-12 if dtype == torch.float64 else 1e-5
    full = kernel(x).to_dense()
    assert full.dtype == dtype
    np.testing.assert_allclose(full.detach(), oracle(X), rtol=tol, atol=tol)
    own = kernel(x, diag=True)
    assert torch.equal(full.diagonal(), own)
    assert torch.equal(kernel(x, x.clone()).to_dense().diagonal(), own)
    np.testing.assert_allclose(own.detach(), oracle.diag(X), rtol=tol)
    Y = X[::-1].copy()
    y = torch.tensor(Y, dtype=dtype)
    np.testing.assert_allclose(kernel(x, y).to_dense().detach(), oracle(X, Y), rtol=tol, atol=tol)
    paired = kernel.forward(x, y, diag=True).detach()
    np.testing.assert_allclose(paired, np.diag(oracle(X, Y)), rtol=tol, atol=tol)


@pytest.mark.parametrize(
    ("activation", "bias_std"), [*((name, 0.3) for name in ACTIVATIONS), ("relu", 0.0)]
)
def test_gradients(x, activation, bias_std) -> None:
    kernel = GPyTorchNTKKernel(2, activation, weight_std=0.9, bias_std=bias_std).double()
    names = [name for name, _ in kernel.named_parameters()]
    assert len(names) == 1 + (bias_std > 0)

    def evaluate(diag: bool, x1: torch.Tensor, x2: torch.Tensor, *raw: torch.Tensor):
        parameters = dict(zip(names, raw, strict=True))
        arguments = (x1, x2, diag)
        return torch.func.functional_call(kernel, parameters, arguments)

    raw = [p.detach().clone().requires_grad_() for p in kernel.parameters()]
    one, two = x[:2].clone().requires_grad_(), x[2:4].clone().requires_grad_()
    for diag in (False, True):
        # quadrature takes long: in random directions instead of all
        tol = {"atol": 1e-6, "rtol": 1e-5, "fast_mode": activation == "silu"}
        calls = [
            (lambda *a, d=diag: _dense(evaluate(d, *a)), (one, two, *raw)),
            (lambda z, *a, d=diag: _dense(evaluate(d, z, z, *a)), (one, *raw)),
            (lambda z, *a, d=diag: _dense(evaluate(d, z, z.clone(), *a)), (one, *raw)),
        ]
        for call, inputs in calls:
            assert torch.autograd.gradcheck(call, inputs, **tol)


def _dense(K):
    return K if torch.is_tensor(K) else K.to_dense()


@pytest.mark.parametrize(
    ("activation", "bias_std"), [("erf", 0.0), ("erf", 0.3), ("sin", 0.0), ("silu", 0.3)]
)
def test_gradients_at_coincident_inputs(x, activation, bias_std) -> None:
    kernel = GPyTorchNTKKernel(2, activation, weight_std=0.9, bias_std=bias_std).double()
    one = torch.cat([x[:2], x[:1]])
    for two in (one.clone(), one.flip(0)):
        leaves = (one.clone().requires_grad_(), two.clone().requires_grad_())
        how = {"atol": 1e-6, "fast_mode": activation == "silu"}
        assert torch.autograd.gradcheck(lambda a, b: kernel(a, b).to_dense(), leaves, **how)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("bias_std", [0.0, 0.3])
@pytest.mark.parametrize("activation", [*ACTIVATIONS, "sign", "identity", snn.ABReLU(-0.5, 1)])
@pytest.mark.parametrize("kind", SKLEARN)
def test_gradients_are_finite_and_repeatable(hard, kind, activation, bias_std, dtype) -> None:
    kernel = GPyTorchNTKKernel(2, activation, kind=kind, weight_std=0.9, bias_std=bias_std)
    kernel = kernel.to(dtype)
    x = torch.tensor(hard[:8], dtype=dtype, requires_grad=True)
    leaves = [x, *kernel.parameters()]
    seen = []
    for _ in range(2):
        total = kernel(x).to_dense().sum() + kernel(x, x[2:].detach()).to_dense().sum()
        seen += [torch.autograd.grad(total, leaves, retain_graph=keep) for keep in (True, False)]
    for gradients in seen:
        for gradient, first in zip(gradients, seen[0], strict=True):
            assert torch.isfinite(gradient).all()
            assert torch.equal(gradient, first)


def test_batches_of_hyperparameters(x) -> None:
    stds = torch.tensor([[0.8, 1.5], [0.1, 0.6]], dtype=torch.float64)
    batch = GPyTorchNTKKernel(2, "silu", batch_shape=torch.Size([2])).double()
    batch.weight_std, batch.bias_std = stds[0].view(2, 1, 1), stds[1].view(2, 1, 1)
    full, own, part = batch(x).to_dense(), batch(x, diag=True), batch(x, x[:2]).to_dense()
    assert full.shape == (2, 5, 5)
    for i in range(2):
        one = double(
            GPyTorchNTKKernel(2, "silu"), weight_std=stds[0, i].item(), bias_std=stds[1, i].item()
        )
        torch.testing.assert_close(full[i], one(x).to_dense(), rtol=1e-10, atol=0)
        torch.testing.assert_close(own[i], one(x, diag=True), rtol=1e-10, atol=0)
        torch.testing.assert_close(part[i], one(x, x[:2]).to_dense(), rtol=1e-10, atol=0)
        torch.testing.assert_close(batch[i](x).to_dense(), full[i], rtol=1e-10, atol=0)


def test_lengthscales_divide_the_features(x) -> None:
    kernel = GPyTorchNTKKernel(2, ard_num_dims=3).double()
    plain = GPyTorchNTKKernel(2).double()
    assert plain.lengthscale is None
    assert not kernel.is_stationary
    torch.testing.assert_close(kernel(x).to_dense(), plain(x).to_dense(), rtol=1e-6, atol=0)
    scales = torch.tensor([0.5, 1.0, 3.0], dtype=torch.float64)
    kernel.lengthscale = scales
    torch.testing.assert_close(kernel(x).to_dense(), plain(x / scales).to_dense())
    kernel(x).to_dense().sum().backward()
    assert (kernel.raw_lengthscale.grad != 0).all()


def test_features_as_a_batch(x) -> None:
    batch = GPyTorchNTKKernel(1, batch_shape=torch.Size([2])).double()
    batch.weight_std = torch.tensor([0.8, 1.5], dtype=torch.float64).view(2, 1, 1)
    values = batch.forward(x, x, last_dim_is_batch=True)
    own = batch.forward(x, x, diag=True, last_dim_is_batch=True)
    both = x.expand(2, 5, 3)
    assert batch.forward(both, both, last_dim_is_batch=True).shape == values.shape == (2, 3, 5, 5)
    for k in range(3):
        torch.testing.assert_close(values[:, k], batch(x[:, k : k + 1]).to_dense())
        torch.testing.assert_close(own[:, k], batch(x[:, k : k + 1], diag=True))


def test_a_zero_bias_is_fixed(x) -> None:
    kernel = double(GPyTorchNTKKernel(2, bias_std=0), weight_std=1.3)
    assert [name for name, _ in kernel.named_parameters()] == ["raw_weight_std"]
    assert kernel.bias_std == 0
    expected = NTKKernel(2, weight_std=1.3, bias_std=0)(x.numpy())
    np.testing.assert_allclose(kernel(x).to_dense().detach(), expected, rtol=1e-11, atol=1e-12)
    with pytest.raises(RuntimeError, match="bias_std=0, which is fixed"):
        kernel.bias_std = 0.1


def priors() -> GPyTorchNTKKernel:
    kernel = GPyTorchNTKKernel(
        1,
        snn.Erf(),
        weight_std_prior=GammaPrior(2.0, 1.0),
        bias_std_prior=LogNormalPrior(0.0, 1.0),
        ard_num_dims=3,
        lengthscale_prior=GammaPrior(3.0, 6.0),
    )
    return kernel.double()


def test_copies(x) -> None:
    kernel = ScaleKernel(priors()).double()
    kernel.base_kernel.weight_std = 0.7
    expected = kernel(x).to_dense()
    for other in (copy.deepcopy(kernel), pickle.loads(pickle.dumps(kernel))):
        assert torch.equal(other(x).to_dense(), expected)
    fresh = ScaleKernel(priors()).double()
    assert not torch.equal(fresh(x).to_dense(), expected)
    fresh.load_state_dict(kernel.state_dict())
    assert torch.equal(fresh(x).to_dense(), expected)


def test_priors_belong_to_the_hyperparameters() -> None:
    kernel = priors()
    found = {name: (prior, closure) for name, _, prior, closure, _ in kernel.named_priors()}
    assert set(found) == {"weight_std_prior", "bias_std_prior", "lengthscale_prior"}
    for name in ("weight_std", "bias_std"):
        kernel.sample_from_prior(f"{name}_prior")
        prior, closure = found[f"{name}_prior"]
        assert torch.equal(closure(kernel), getattr(kernel, name))
        assert torch.isfinite(prior.log_prob(closure(kernel))).all()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"depth": -1}, ValueError, "depth=-1 must be an integer of at least 0"),
        ({"activation": "rely"}, ValueError, "activation='rely' is unknown"),
        ({"kind": "rbf"}, ValueError, "kind='rbf' must be one of"),
        ({"weight_std": 0.0}, ValueError, r"weight_std=0\.0 must be a finite number above 0"),
        ({"bias_std": math.nan}, ValueError, "bias_std=nan must be"),
        ({"bias_std": 0, "bias_std_prior": GammaPrior(1.0, 1.0)}, ValueError, "cannot have a bias"),
        ({"weight_std_prior": 2.0}, TypeError, r"weight_std_prior=2\.0 must be a gpytorch"),
        ({"lengthscale_prior": GammaPrior(1.0, 1.0)}, ValueError, "needs ard_num_dims"),
    ],
)
def test_arguments_are_checked(arguments, error, message) -> None:
    with pytest.raises(error, match=message):
        GPyTorchNTKKernel(**arguments)


def test_sums_products_and_scales(x) -> None:
    ntk = GPyTorchNTKKernel(1).double()
    rbf = RBFKernel().double()
    K, R = ntk(x).to_dense(), rbf(x).to_dense()
    torch.testing.assert_close((ntk + rbf)(x).to_dense(), K + R)
    torch.testing.assert_close((ntk * rbf)(x).to_dense(), K * R)
    scaled = ScaleKernel(ntk).double()
    scaled.outputscale = 2.5
    torch.testing.assert_close(scaled(x).to_dense(), 2.5 * K, rtol=1e-6, atol=0)


def test_random_state_of_torch_is_left_alone(x) -> None:
    before = torch.get_rng_state()
    GPyTorchNTKKernel(4).double()(x).to_dense()
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU that torch can use")
@pytest.mark.parametrize("activation", ["relu", "silu"])
def test_on_a_gpu(x, activation) -> None:
    kernel = GPyTorchNTKKernel(2, activation).double()
    expected = kernel(x).to_dense().detach()
    moved = kernel.to("cuda")
    y = x.cuda().requires_grad_()
    values = moved(y).to_dense()
    assert values.device.type == "cuda"
    torch.testing.assert_close(values.detach().cpu(), expected, rtol=1e-10, atol=1e-10)
    values.sum().backward()
    assert torch.isfinite(y.grad).all()
