"""Laws that hold for any network and any inputs."""

import copy
import pickle

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn
from written import Written

import skntk
import skntk.nn as snn
from skntk.gram import engine
from skntk.infinite.inputs import Inputs
from skntk.infinite.rules import Options

KINDS = ("nngp", "ntk")
few = settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])


@st.composite
def inputs(draw, rows=(1, 12), scales=(-3, 3)):
    """Rows of any scale with duplicates, antipodes, near-duplicates and zeros among them."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    d = draw(st.integers(1, 6))
    X = rng.normal(size=(draw(st.integers(*rows)), d))
    X *= 10.0 ** draw(st.integers(*scales))
    near = X[0] * (1 + 10.0 ** draw(st.integers(-12, -2)) * rng.normal(size=d))
    extra = np.stack([X[0], -X[0], 3 * X[0], near, np.zeros(d)])
    chosen = draw(st.lists(st.integers(0, 4), max_size=4))
    return rng.permutation(np.vstack([X, extra[chosen]]))


@st.composite
def networks(draw, features, homogeneous=False):
    """A network of `features` inputs."""
    acts = ["relu", "leaky_relu", "abs"]
    if not homogeneous:
        acts += ["erf", "gelu", "sin", "gaussian"]
    width = 4
    bias = {"bias": False} if homogeneous else {"bias_std": draw(st.sampled_from([0.0, 0.1, 1.0]))}

    def linear(m, n):
        return snn.Linear(m, n, weight_std=draw(st.sampled_from([0.7, 1.0, 1.4])), **bias)

    modules = [linear(features, width)]
    for _ in range(draw(st.integers(1, 4))):
        modules += [snn.activation(draw(st.sampled_from(acts))), linear(width, width)]
        if draw(st.booleans()):
            inner = nn.Sequential(snn.activation(draw(st.sampled_from(acts))), linear(width, width))
            modules.append(Residual(inner))
    return nn.Sequential(*modules)


class Residual(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return x + self.inner(x)


@st.composite
def problems(draw, homogeneous=False, **options):
    X = draw(inputs(**options))
    return skntk.infinite_width(draw(networks(X.shape[1], homogeneous))), X


def scale_of(K):
    d = np.sqrt(np.diag(K))
    return np.maximum(np.outer(d, d), 1e-300)


@few
@given(problems())
def test_symmetric_and_positive(problem):
    kernel, X = problem
    for kind in KINDS:
        K = kernel(X, kind=kind)
        np.testing.assert_array_equal(K, K.T)
        assert np.isfinite(K).all()
        assert (np.abs(K) <= scale_of(K) * (1 + 1e-9)).all()
        # Antipodes know their angle to sqrt(eps) only.
        assert np.linalg.eigvalsh(K).min() >= -1e-8 * np.trace(K)


@few
@given(problems(), st.booleans())
def test_diagonal_is_that_of_the_matrix(problem, collapse):
    kernel, X = problem
    for kind in KINDS:
        K = kernel.gram(X, kind=kind, collapse=collapse)
        np.testing.assert_array_equal(kernel.diag(X, kind=kind), np.diag(K))


@few
@given(problems(rows=(2, 12)), st.integers(1, 6), st.booleans())
def test_tiles_do_not_matter(problem, side, collapse):
    kernel, X = problem
    with pytest.MonkeyPatch.context() as patch:
        whole = [kernel.gram(X, kind=kind, collapse=collapse) for kind in KINDS]
        cross = kernel.gram(X[1:], X, collapse=collapse)
        patch.setattr(engine, "CPU_TILE", side)
        for kind, K in zip(KINDS, whole, strict=True):
            tiled = kernel.gram(X, kind=kind, collapse=collapse)
            np.testing.assert_allclose(tiled / scale_of(K), K / scale_of(K), rtol=0, atol=1e-8)
        np.testing.assert_allclose(
            kernel.gram(X[1:], X, collapse=collapse), cross, rtol=1e-8, atol=1e-8 * cross.max()
        )


@few
@given(problems())
def test_no_operand_is_overwritten_while_it_is_read(problem):
    """Without gradients results take the place of operands; with them, a place of their own."""
    kernel, X = problem
    assert_same_bits_with_gradients(kernel, X)


def test_no_operand_of_a_network_with_branches_is_overwritten():
    def forward(m, x):
        a, b = m.a(x), m.norm(m.b(x))
        joined = torch.cat([torch.relu(a), abs(a), torch.erf(b), a], 1)
        return m.last(torch.relu(m.d(joined)) * m.c(x)) + m.skip(torch.sin(a))

    sizes = {"a": (4, 4), "b": (4, 4), "c": (4, 16), "d": (16, 16), "last": (16, 1), "skip": (4, 1)}
    layers = {name: snn.Linear(*size, bias_std=0.3) for name, size in sizes.items()}
    net = Written(forward, norm=nn.LayerNorm(4), **layers)
    X = np.random.default_rng(0).normal(size=(7, 4))
    assert_same_bits_with_gradients(skntk.infinite_width(net), np.vstack([X, X[:2], -X[:1]]))


def assert_same_bits_with_gradients(kernel, X):
    x = Inputs.of(torch.as_tensor(X))
    program = kernel.program(X.shape[1:])
    for kind in KINDS:
        made = []
        for gradients in (False, True):
            with torch.set_grad_enabled(gradients):
                made.append(program.kernel(x.pairs(x), Options(kind == "ntk"), kind))
        assert torch.equal(*made)


@few
@given(problems(), st.integers(0, 2**32 - 1))
def test_order_of_rows_does_not_matter(problem, seed):
    kernel, X = problem
    order = np.random.default_rng(seed).permutation(len(X))
    K = kernel(X)
    permuted, scale = kernel(X[order]), scale_of(K)[np.ix_(order, order)]
    np.testing.assert_allclose(permuted / scale, K[np.ix_(order, order)] / scale, atol=1e-8)


@few
@given(problems(rows=(3, 12)), st.integers(1, 2))
def test_blocks_are_those_of_the_whole(problem, n1):
    kernel, X = problem
    for kind in KINDS:
        K = kernel.gram(X, kind=kind)
        scale = scale_of(K)[:n1, n1:]
        block = kernel(X[:n1], X[n1:], kind=kind)
        np.testing.assert_allclose(block / scale, K[:n1, n1:] / scale, rtol=0, atol=1e-8)
        flipped = kernel(X[n1:], X[:n1], kind=kind).T
        np.testing.assert_allclose(block / scale, flipped / scale, rtol=0, atol=1e-8)


@few
@given(problems(homogeneous=True, scales=(-1, 1)), st.floats(1e-3, 1e3), st.booleans())
def test_homogeneous_networks_scale(problem, factor, collapse):
    """Without biases k(a x, b y) = a b k(x, y)."""
    kernel, X = problem
    for kind in KINDS:
        K = kernel.gram(X, kind=kind)
        scaled = kernel.gram(factor * X, X, kind=kind, collapse=collapse)
        same = kernel.gram(X, X, kind=kind)
        np.testing.assert_allclose(
            scaled / scale_of(K), factor * same / scale_of(K), atol=1e-6 * factor
        )


@few
@given(problems(homogeneous=True, scales=(-2, 2)))
def test_collapsed_is_direct(problem):
    kernel, X = problem
    for kind in KINDS:
        direct = kernel.gram(X, kind=kind, collapse=False)
        scale = scale_of(direct)
        near_antipode = direct_angle_is_rounded(X)
        double = np.abs(kernel.gram(X, kind=kind) - direct) / scale
        assert double[~near_antipode].max(initial=0) <= 1e-10
        assert double.max() <= 1e-7
        # float32 against float64 on the same (rounded) rows.
        rows = X.astype(np.float32)
        exact = kernel.gram(rows.astype(np.float64), kind=kind, collapse=False)
        for collapse in (True, False):
            single = kernel.gram(rows, kind=kind, collapse=collapse)
            assert single.dtype == np.float32
            error = np.abs(single - exact) / np.maximum(scale_of(exact), 1e-30)
            assert error[~near_antipode].max(initial=0) <= 1e-5
            if collapse:
                assert error.max() <= 1e-5


def direct_angle_is_rounded(X):
    """Pairs that are nearly, not exactly, antipodal: their angle is known to sqrt(eps)."""
    norm = np.linalg.norm(X, axis=1, keepdims=True)
    U = X / np.where(norm > 0, norm, 1)
    together = np.linalg.norm(U[:, None] + U[None], axis=2)
    return (norm * norm.T > 0) & (together < 0.1)


@few
@given(inputs(rows=(2, 10)), st.sampled_from(["erf", "gelu", "sin", "relu"]), st.integers(1, 6))
def test_collapsed_is_direct_on_the_sphere(X, activation, depth):
    """Rows of one norm: any activation, with a bias."""
    norm = np.linalg.norm(X, axis=1, keepdims=True)
    X = (X / np.where(norm > 0, norm, 1))[norm[:, 0] > 0]
    kernel = skntk.infinite_width(snn.MLP(X.shape[1], depth=depth, width=2, activation=activation))
    for kind in KINDS:
        direct = kernel.gram(X, kind=kind, collapse=False)
        np.testing.assert_allclose(kernel.gram(X, kind=kind), direct, rtol=1e-10, atol=1e-10)
        single = X.astype(np.float32)
        np.testing.assert_allclose(
            kernel.gram(single, kind=kind),
            kernel.gram(single.astype(float), kind=kind, collapse=False),
            rtol=1e-5,
            atol=1e-5 * direct.max(),
        )


@pytest.mark.parametrize("distance", [0.0, *(10.0**-k for k in range(12, 1, -1))])
@pytest.mark.parametrize("depth", [1, 10, 50])
def test_near_coincident_rows(distance, depth, seed):
    """The tangent kernel of a ReLU network has a cusp at coincident rows, which survives."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(8, 5))
    Y = X + distance * rng.normal(size=X.shape)
    kernel = skntk.infinite_width(snn.MLP(5, depth=depth, width=2, bias_std=0.0))
    single, other = X.astype(np.float32), Y.astype(np.float32)
    own = kernel.diag(X)
    direct = kernel.gram(X, Y, collapse=False)
    np.testing.assert_allclose(kernel.gram(X, Y), direct, atol=1e-10 * own.max())
    exact = kernel.gram(single.astype(float), other.astype(float))
    for collapse in (True, False):
        ours = kernel.gram(single, other, collapse=collapse)
        np.testing.assert_allclose(ours, exact, atol=1e-5 * own.max())
    if distance == 0:
        np.testing.assert_allclose(np.diag(direct), own, rtol=1e-13)


@pytest.mark.parametrize("activation", ["relu", "abs", "leaky_relu", "erf", "gelu", "sin", "sign"])
@pytest.mark.parametrize("bias_std", [0.0, 0.3])
def test_exact_duplicates_and_antipodes(activation, bias_std, seed):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(6, 4))
    kernel = skntk.infinite_width(
        snn.MLP(4, depth=3, width=2, activation=activation, bias_std=bias_std)
    )
    for dtype, tol in ((np.float64, 1e-13), (np.float32, 1e-5)):
        rows = X.astype(dtype)
        for collapse in (True, False):
            K = kernel.gram(rows, rows.copy(), collapse=collapse)
            np.testing.assert_allclose(np.diag(K), kernel.diag(rows), rtol=tol)
            opposite = np.diag(kernel.gram(rows, -rows, collapse=collapse))
            assert (np.abs(opposite) <= kernel.diag(rows) * (1 + tol)).all()
            if bias_std == 0 and activation in ("erf", "sin", "sign"):  # odd networks
                np.testing.assert_allclose(opposite, -np.diag(K), rtol=1e-4)
            if bias_std == 0 and activation == "abs":
                nngp = np.diag(kernel.gram(rows, -rows, kind="nngp", collapse=collapse))
                np.testing.assert_allclose(nngp, kernel.diag(rows, kind="nngp"), rtol=tol)


@few
@given(problems(scales=(-1, 1)))
def test_kinds_of_arrays(problem):
    kernel, X = problem
    K = kernel(X)
    assert isinstance(K, np.ndarray)
    for given_rows, kind in (
        (torch.from_numpy(X), torch.Tensor),
        (X.tolist(), np.ndarray),
        (np.asfortranarray(X), np.ndarray),
        (X[::-1][::-1], np.ndarray),
    ):
        again = kernel(given_rows)
        assert isinstance(again, kind)
        np.testing.assert_allclose(np.asarray(again), K, rtol=1e-12)
    mixed = kernel(torch.from_numpy(X), X)
    assert isinstance(mixed, torch.Tensor)
    assert mixed.dtype == torch.float64


def test_dtypes():
    kernel = skntk.infinite_width(snn.MLP(2, width=2))
    X = np.array([[1, 2], [3, -1]])
    assert kernel(X).dtype == kernel(X.astype(bool)).dtype == np.float64
    assert kernel(X.astype(np.float32)).dtype == np.float32
    assert kernel(X.astype(np.float32), X).dtype == np.float32
    assert kernel(X, X.astype(np.float32)).dtype == np.float64
    assert kernel.diag(X.astype(np.float32)).dtype == np.float32
    assert kernel(torch.tensor(X, dtype=torch.float16)).dtype == torch.float64
    assert kernel.gram(X, dtype="float32").dtype == np.float32
    assert kernel.gram(X.astype(np.float32), dtype=torch.float64).dtype == np.float64


def test_inputs_are_left_alone():
    X = np.random.default_rng(0).normal(size=(5, 3))
    X.setflags(write=False)
    before = X.copy()
    for bias in (0.0, 0.1):
        skntk.infinite_width(snn.MLP(3, depth=2, width=2, bias_std=bias))(X)
    np.testing.assert_array_equal(X, before)


@pytest.mark.parametrize("activation", ["relu", "erf", nn.Tanh()])
def test_kernels_are_pickled_and_copied(activation):
    kernel = skntk.infinite_width(snn.MLP(3, depth=2, width=2, activation=activation))
    X = np.random.default_rng(0).normal(size=(5, 3))
    K = kernel(X)
    for again in (pickle.loads(pickle.dumps(kernel)), copy.deepcopy(kernel)):
        np.testing.assert_array_equal(again(X), K)
    assert "MLP" in repr(kernel)
