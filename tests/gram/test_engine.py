"""The tile schedule on kernels that are plain matrices."""

import math

import joblib
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from skntk.core import KernelOverflowError, MemoryBudgetError, memory
from skntk.gram import check_finite, diagonal, engine, gram


class Table:
    """Kernel that looks up a matrix: a row is its number."""

    device = torch.device("cpu")
    axes, n_outputs, side = "ij", 1, None

    def __init__(self, matrix, compiled=False):
        self.matrix, self.dtype, self.compiled = matrix, matrix.dtype, compiled
        self.seen = torch.zeros(matrix.shape, dtype=torch.int64)
        self.shapes = set()

    def tile(self, x1, x2):
        self.seen[x1[:, None], x2[None]] += 1
        self.shapes.add((len(x1), len(x2)))
        return self.matrix[x1[:, None], x2[None]]

    def diag(self, x):
        return self.matrix[x, x]


def symmetric(n, seed=0):
    generator = torch.Generator().manual_seed(seed)
    A = torch.randn(n, n, generator=generator, dtype=torch.float64)
    return A + A.T


@given(st.integers(1, 30), st.integers(1, 12), st.booleans())
def test_each_pair_once(n, side, compiled):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "CPU_TILE", side)
        kernel = Table(symmetric(n), compiled)
        assert torch.equal(gram(kernel, torch.arange(n)), kernel.matrix)
        pairs = kernel.seen + kernel.seen.T
        pairs.diagonal().copy_(kernel.seen.diagonal())
        assert (pairs >= 1).all()
        if compiled:  # tiles of one shape; the last ones overlap their neighbours
            assert len(kernel.shapes) == 1
        else:
            side = math.ceil(n / math.ceil(n / side))  # tiles of about one size
            off = ~torch.block_diag(*[torch.ones(side, side)] * math.ceil(n / side)).bool()[:n, :n]
            assert (pairs[off] == 1).all()


@given(st.integers(1, 20), st.integers(1, 20), st.integers(1, 7), st.booleans())
def test_rectangles(n1, n2, side, compiled):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "CPU_TILE", side)
        kernel = Table(torch.arange(400.0, dtype=torch.float64).reshape(20, 20), compiled)
        expected = kernel.matrix[:n1, :n2]
        assert torch.equal(gram(kernel, torch.arange(n1), torch.arange(n2)), expected)


def test_symmetric_to_the_last_bit(monkeypatch):
    """Even where tiles are not, and with the diagonal of `diag`."""
    monkeypatch.setattr(engine, "CPU_TILE", 4)
    matrix = torch.randn(10, 10, generator=torch.Generator().manual_seed(0))
    kernel = Table(matrix)
    kernel.diag = lambda x: torch.full((len(x),), 7.0)
    K = gram(kernel, torch.arange(10))
    assert torch.equal(K, K.T)
    assert (K.diagonal() == 7).all()


@pytest.mark.parametrize("n_jobs", [1, 2, -1])
def test_workers(n_jobs, monkeypatch):
    monkeypatch.setattr(engine, "CPU_TILE", 3)
    kernel = Table(symmetric(10))
    assert torch.equal(gram(kernel, torch.arange(10), n_jobs=n_jobs), kernel.matrix)


def test_processes(monkeypatch):
    monkeypatch.setattr(engine, "CPU_TILE", 5)
    kernel = Table(symmetric(10))
    with joblib.parallel_config(backend="loky", n_jobs=2):
        K = gram(kernel, torch.arange(10), n_jobs=2)
    assert torch.equal(K, kernel.matrix)
    assert not kernel.seen.any()  # the tiles were computed elsewhere


def test_error_in_a_worker_is_raised(monkeypatch):
    monkeypatch.setattr(engine, "CPU_TILE", 3)
    kernel = Table(symmetric(10))

    def fail(x1, x2):
        raise ArithmeticError("in a tile")

    kernel.tile = fail
    threads = torch.get_num_threads()
    for n_jobs in (None, 1, 2):
        with pytest.raises(ArithmeticError, match="in a tile"):
            gram(kernel, torch.arange(10), n_jobs=n_jobs)
        assert torch.get_num_threads() == threads


def test_memory_is_asked_for_first(monkeypatch):
    monkeypatch.setattr(memory, "available_bytes", lambda device="cpu": 799)
    kernel = Table(symmetric(10))
    kernel.diag = None  # not reached
    with pytest.raises(MemoryBudgetError, match=r"10 x 10 numbers of 8 bytes.*dtype='float32'"):
        gram(kernel, torch.arange(10))


@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_overflow_is_found_on_either_diagonal(value):
    kernel = Table(symmetric(5))
    kernel.matrix[4, 4] = value
    for rows in ((torch.arange(5),), (torch.arange(4), torch.arange(5))):
        with pytest.raises(KernelOverflowError, match=r"not finite in torch\.float64"):
            gram(kernel, *rows)
    with pytest.raises(KernelOverflowError):
        diagonal(kernel, torch.arange(5))
    with pytest.raises(KernelOverflowError, match="or dtype='float64'"):
        check_finite(torch.tensor([math.inf]))


def test_diagonal_is_computed_in_blocks(monkeypatch):
    monkeypatch.setattr(engine, "DIAGONAL", 3)
    kernel, sizes = Table(symmetric(10)), []
    inner = kernel.diag
    kernel.diag = lambda x: sizes.append(len(x)) or inner(x)
    assert torch.equal(diagonal(kernel, torch.arange(10)), kernel.matrix.diagonal())
    assert sizes == [3, 3, 3, 1]


def test_compiled_tiles_have_one_shape_for_all_large_n(monkeypatch):
    """Another shape is compiled anew, which takes seconds."""
    monkeypatch.setattr(engine, "CPU_TILE", 4)
    kernel = Table(symmetric(20), compiled=True)
    for n in (5, 11, 20):
        gram(kernel, torch.arange(n))
    gram(kernel, torch.arange(9), torch.arange(13))
    assert kernel.shapes == {(4, 4)}
