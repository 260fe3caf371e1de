"""Workers, processes and compilation change nothing but the time."""

import shutil

import joblib
import numpy as np
import pytest
import torch
from torch import nn

import skntk
import skntk.nn as snn
from skntk.gram import engine

X = np.random.default_rng(0).normal(size=(50, 4))
needs_compiler = pytest.mark.skipif(
    shutil.which("g++") is None and shutil.which("clang++") is None, reason="no C++ compiler"
)


def network(activation, bias_std=0.1):
    return snn.MLP(4, depth=2, width=2, activation=activation, bias_std=bias_std)


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch):
    monkeypatch.setattr(engine, "CPU_TILE", 16)


@pytest.mark.parametrize("n_jobs", [1, 2])
@pytest.mark.parametrize(("activation", "bias_std"), [("relu", 0.0), ("relu", 0.1), ("tanh", 0.1)])
def test_threads(activation, bias_std, n_jobs):
    kernel = skntk.infinite_width(network(activation, bias_std))
    threads = torch.get_num_threads()
    np.testing.assert_array_equal(kernel.gram(X, n_jobs=n_jobs), kernel.gram(X))
    np.testing.assert_array_equal(kernel.gram(X, X[:20], n_jobs=n_jobs), kernel.gram(X, X[:20]))
    assert torch.get_num_threads() == threads


def test_threads_of_torch():
    """More of them make larger tiles, of the same values."""
    kernel = skntk.infinite_width(network("relu"))
    expected = kernel.gram(X)
    torch.set_num_threads(2)
    try:
        np.testing.assert_allclose(kernel.gram(X), expected, rtol=1e-12)
    finally:
        torch.set_num_threads(1)


def test_processes():
    """Everything that a tile needs can be pickled, hand-written functions included."""
    nets = [
        network("relu", 0.0),
        network(nn.SiLU()),
        nn.Sequential(
            snn.Linear(4, 2), nn.LayerNorm(2), snn.Erf(), nn.Dropout(0.3), snn.Linear(2, 1)
        ),
    ]
    with joblib.parallel_config(backend="loky", n_jobs=2):
        for net in nets:
            kernel = skntk.infinite_width(net)
            np.testing.assert_allclose(
                kernel.gram(X, n_jobs=2), kernel.gram(X), rtol=1e-14, atol=1e-15
            )


def test_processes_state_the_same_quadrature_error():
    one, other = (skntk.infinite_width(network("tanh")) for _ in range(2))
    one.gram(X)
    with joblib.parallel_config(backend="loky", n_jobs=2):
        other.gram(X, n_jobs=2)
    assert other.quadrature_error == pytest.approx(one.quadrature_error, rel=1e-6)


@needs_compiler
def test_compiled(monkeypatch):
    """The first tile has no near rows: a compiler must not take that for a rule."""
    monkeypatch.setattr(engine, "CPU_TILE", 8)
    rows = np.vstack([X[:24], X[16:20], -X[8:11], np.zeros((1, 4)), 1e-7 + X[:1]])
    net = nn.Sequential(
        snn.Linear(4, 2, bias_std=0.3), snn.Erf(), snn.Linear(2, 2, bias_std=0.3), nn.ReLU(),
        snn.Linear(2, 1),
    )  # fmt: skip
    kernel = skntk.infinite_width(net)
    for one, other in ((rows, None), (rows[:16], rows[8:])):
        np.testing.assert_allclose(
            kernel.gram(one, other, compile=True),
            kernel.gram(one, other),
            rtol=1e-9,
            atol=1e-9,
        )


@needs_compiler
def test_compiled_and_collapsed(monkeypatch):
    monkeypatch.setattr(engine, "CPU_TILE", 16)
    rows = np.vstack([X, X[:2], -X[:1], np.zeros((1, 4))]).astype(np.float32)
    kernel = skntk.infinite_width(network("relu", 0.0))
    plain, compiled = kernel.gram(rows), kernel.gram(rows, compile=True)
    np.testing.assert_allclose(compiled, plain, atol=1e-6 * plain.max())
    np.testing.assert_array_equal(np.diag(compiled), np.diag(plain))


def test_series_are_not_compiled(monkeypatch):
    """Their length depends on the values: rows of unequal sizes need unequal lengths."""
    monkeypatch.setattr(engine, "CPU_TILE", 16)
    rows = X * np.linspace(0.1, 3.0, len(X))[:, None]
    kernel = skntk.infinite_width(network(nn.SiLU()))
    np.testing.assert_allclose(
        kernel.gram(rows, compile=True), kernel.gram(rows), rtol=1e-12, atol=1e-12
    )


def test_failing_compiler_is_reported_and_not_needed(monkeypatch):
    def fail(*args, **kwargs):
        raise RuntimeError("no compiler here\nand more")

    monkeypatch.setattr(torch, "compile", fail)
    kernel = skntk.infinite_width(network("relu"))
    with pytest.warns(skntk.core.SkntkWarning, match=r"the plain path.*no compiler here$"):
        compiled = kernel.gram(X, compile=True)
    np.testing.assert_allclose(compiled, kernel.gram(X), rtol=1e-12, atol=1e-14)
