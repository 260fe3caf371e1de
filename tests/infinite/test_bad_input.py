"""One clear error for each kind of bad input, before anything is computed."""

import numpy as np
import pytest
import scipy.sparse
import torch

import skntk
import skntk.nn as snn
from skntk import NTKClassifier, NTKRegressor
from skntk.core import KernelOverflowError, MemoryBudgetError, memory
from skntk.infinite import NTKKernel

X = np.random.default_rng(0).normal(size=(5, 3))
KERNEL = skntk.infinite_width(snn.MLP(3, depth=2, width=2))


def with_value(value):
    bad = X.copy()
    bad[2, 1] = value
    return bad


@pytest.mark.parametrize(
    ("bad", "error", "message"),
    [
        (with_value(np.nan), ValueError, "NaN or infinity"),
        (with_value(-np.inf), ValueError, "NaN or infinity"),
        (torch.tensor(with_value(np.inf)), ValueError, "NaN or infinity"),
        (scipy.sparse.csr_matrix(X), TypeError, r"sparse.*toarray"),
        (scipy.sparse.coo_array(X), TypeError, r"sparse.*toarray"),
        (torch.tensor(X).to_sparse(), TypeError, "sparse"),
        (X + 1j, ValueError, "complex"),
        (torch.tensor(X + 1j), ValueError, "complex"),
        (X.astype(object), ValueError, "dtype object"),
        (X.astype(str), ValueError, "dtype <U"),
        (X[0], ValueError, r"shape \(3,\); pass \(n, d\)"),
        (1.0, ValueError, "single number"),
        (X[:0], ValueError, "must not be empty"),
        (X[:, :0], ValueError, "must not be empty"),
        (X[:, :2], ValueError, r"at '0': Linear takes 3 features, but its input has 2"),
        (X[..., None], ValueError, "takes 3 features, but its input has 1"),
    ],
)
def test_bad_rows(bad, error, message):
    for call in (lambda: KERNEL(bad), lambda: KERNEL.diag(bad), lambda: KERNEL.gram(bad)):
        with pytest.raises(error, match=message):
            call()


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta")
def test_other_sparse_layouts():
    with pytest.raises(TypeError, match="sparse"):
        KERNEL(torch.tensor(X).to_sparse_csr())


def test_bad_second_input_is_named():
    with pytest.raises(ValueError, match="X2 contains NaN"):
        KERNEL(X, with_value(np.nan))
    with pytest.raises(ValueError, match=r"X2 has shape \(5, 2\) but X1 has \(5, 3\)"):
        KERNEL(X, X[:, :2])
    with pytest.raises(ValueError, match=r"X2 has shape \(0, 3\); it must not be empty"):
        KERNEL(X, X[:0])


def test_unknown_kind():
    for call in (KERNEL, KERNEL.diag, KERNEL.gram):
        with pytest.raises(ValueError, match=r"kind='NTK' must be one of \('ntk', 'nngp'\)"):
            call(X, kind="NTK")


def test_unknown_dtype():
    with pytest.raises(ValueError, match="dtype='int64'"):
        KERNEL.gram(X, dtype="int64")


def test_layers_that_do_not_fit_each_other():
    net = torch.nn.Sequential(snn.Linear(3, 4), torch.nn.ReLU(), snn.Linear(5, 1))
    with pytest.raises(ValueError, match="at '2': Linear takes 5 features, but its input has 4"):
        skntk.infinite_width(net)(X)


@pytest.mark.parametrize("bias_std", [0.0, 0.1])
def test_overflow(bias_std):
    net = snn.MLP(3, depth=20, width=2, weight_std=100.0, bias_std=bias_std)
    kernel = skntk.infinite_width(net)
    small = X.astype(np.float32)
    for call in (kernel, kernel.diag, lambda X: kernel(X, X)):
        with pytest.raises(KernelOverflowError, match=r"float32.*smaller weight_std.*'float64'"):
            call(small)
    assert np.isfinite(kernel(X)).all()
    deeper = skntk.infinite_width(snn.MLP(3, depth=200, width=2, weight_std=100.0))
    with pytest.raises(FloatingPointError, match=r"float64.*smaller inputs\.$"):
        deeper(X)


def test_matrix_that_does_not_fit(monkeypatch):
    KERNEL(X)
    asked = []

    def allocate(*args, **kwargs):
        asked.append(args)
        raise AssertionError("allocated")

    free = 2**30
    monkeypatch.setattr(memory, "available_bytes", lambda device="cpu": free)
    monkeypatch.setattr(torch, "empty", allocate)
    rows = np.zeros((20_000, 3))
    with pytest.raises(MemoryBudgetError, match=r"20000 x 20000.* 2\.98 GiB but 1 GiB .*float32"):
        KERNEL(rows)
    with pytest.raises(MemoryError, match=r"20000 x 10000.* 1\.49 GiB"):
        KERNEL(rows, rows[:10_000])
    assert not asked


@pytest.mark.filterwarnings("ignore:the kernel of the elementwise function")
@pytest.mark.parametrize("activation", ["erf", "sign", "tanh", "silu", "relu", "sin"])
@pytest.mark.parametrize("bias_std", [0.0, 0.1])
def test_no_bounded_activation_hides_an_overflow(activation, bias_std):
    kernel = skntk.infinite_width(snn.MLP(1, depth=1, activation=activation, bias_std=bias_std))
    far = np.array([[1e160], [2e160]])
    for kind in ("nngp", "ntk"):
        for function in (kernel, lambda x, kind: kernel(X[:, :1], x, kind=kind), kernel.diag):
            with pytest.raises(KernelOverflowError):
                function(far, kind=kind)


def test_an_overflow_between_layers_is_found():
    net = torch.nn.Sequential(
        snn.Linear(1, 8), snn.Exp(), snn.Linear(8, 8), snn.Erf(), snn.Linear(8, 1)
    )
    with pytest.raises(KernelOverflowError):
        skntk.infinite_width(net)(np.array([[1.0], [20.0]]), kind="nngp")


def test_torch_default_device_does_not_matter():
    y = X[:, 0]
    with torch.device("meta"):
        kernel = skntk.infinite_width(snn.MLP(3, bias_std=0.0))
        K, gradient = NTKKernel()(X, eval_gradient=True)
        scores = NTKClassifier().fit(X, y > 0).predict_proba(X), NTKRegressor().fit(X, y).predict(X)
        values = kernel(X), K, gradient, *scores
    assert all(isinstance(value, np.ndarray) and np.isfinite(value).all() for value in values)
