"""The empirical NTK: outputs, blocks, types, what it leaves alone, and what it refuses."""

import copy
import gc
import pickle
import threading
import weakref

import joblib
import numpy as np
import pytest
import scipy.sparse
import torch
from explicit import call, contracted, difference, drawn, jacobians, parameter, rows, tokens
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F
from written import Written

import skntk.nn as snn
from skntk.core import KernelOverflowError, MemoryBudgetError
from skntk.finite import EmpiricalKernel, JacobianOperator, capture, empirical_ntk, linearize

TOLERANCE = 1e-12
OUTPUTS = ("full", "diagonal", "trace")


class Text(nn.Module):
    """Lookups, positions, norms and a parameter without a rule."""

    def __init__(self):
        super().__init__()
        self.embedding, self.positions = nn.Embedding(6, 5, padding_idx=0), parameter(1, 4, 5)
        self.norm, self.inner, self.last = nn.LayerNorm(5), nn.Linear(5, 6), nn.Linear(6, 2)
        self.gate = parameter(5)

    def forward(self, tokens):
        h = self.norm(self.embedding(tokens) + self.positions)
        h = self.inner(h * self.gate.square()).tanh()
        return self.last(h.mean(1))


def dense():
    return nn.Sequential(
        nn.Linear(4, 6), nn.Tanh(), nn.BatchNorm1d(6), nn.Dropout(0.5), nn.Linear(6, 3)
    )


def conv():
    return nn.Sequential(
        nn.Conv2d(2, 3, 2), nn.ReLU(inplace=True), nn.GroupNorm(1, 3),
        snn.Conv2d(3, 4, 2, padding=1), nn.Tanh(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(16, 3),
    )  # fmt: skip


NETS = {"dense": (dense, rows(4)), "conv": (conv, rows(2, 4, 5)), "text": (Text, tokens(6, 4))}


def made(name, *sizes, seed=0):
    """A network and batches of rows."""
    make, draw = NETS[name]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return drawn(make()), *(draw(n) for n in sizes)


@pytest.fixture(params=NETS)
def case(request, seed):
    return made(request.param, 7, 5, seed=seed)


@pytest.mark.parametrize("outputs", OUTPUTS)
def test_contractions(case, outputs):
    module, X1, X2 = case
    J1, J2 = jacobians(module, X1), jacobians(module, X2)
    K = empirical_ntk(module, X1, X2, outputs)
    assert difference(K, contracted(J1, J2, outputs)) <= TOLERANCE
    assert difference(empirical_ntk(module, X1, outputs=outputs), contracted(J1, J1, outputs)) <= (
        TOLERANCE
    )
    k = call(module, X1).shape[1]
    assert K.shape == {"full": (7, 5, k, k), "diagonal": (7, 5, k), "trace": (7, 5)}[outputs]


@pytest.mark.parametrize("outputs", OUTPUTS)
def test_kernel_object(case, outputs):
    module, X1, X2 = case
    kernel = EmpiricalKernel(module, outputs)
    J1, J2 = jacobians(module, X1), jacobians(module, X2)
    own = torch.stack([contracted(J1, J1, outputs)[i, i] for i in range(7)])
    assert difference(kernel.diag(X1), own) <= TOLERANCE
    assert difference(kernel(X1, X2), contracted(J1, J2, outputs)) <= TOLERANCE
    assert difference(kernel(X1), contracted(J1, J1, outputs)) <= TOLERANCE
    assert difference(kernel.function(X1), call(module, X1).detach()) <= TOLERANCE
    assert not kernel.function(X1).requires_grad
    back = pickle.loads(pickle.dumps(kernel))
    assert torch.equal(back(X1, X2), kernel(X1, X2))
    assert torch.equal(pickle.loads(pickle.dumps(EmpiricalKernel(module, outputs)))(X1), kernel(X1))


def test_the_copy_is_of_now(case):
    """What happens to the module later does not change the kernel."""
    module, X1, _ = case
    kernel = EmpiricalKernel(module)
    before = kernel(X1)
    with torch.no_grad():
        for p in module.parameters():
            p.mul_(2)
    assert torch.equal(kernel(X1), before)
    assert difference(empirical_ntk(module, X1), before) > 0.01


@pytest.mark.parametrize("outputs", OUTPUTS)
@pytest.mark.parametrize("memory_budget", [None, 5000, 1])
def test_symmetric_to_the_last_bit(case, outputs, memory_budget):
    module, X, _ = case
    K = empirical_ntk(module, X, outputs=outputs, memory_budget=memory_budget)
    swapped = K.permute(1, 0, 3, 2) if outputs == "full" else K.transpose(0, 1)
    assert torch.equal(K, swapped)
    if outputs == "full":
        own = EmpiricalKernel(module).diag(X)
        assert torch.equal(own, own.transpose(1, 2))
        assert difference(own, K.diagonal().permute(2, 0, 1)) <= TOLERANCE


def test_positive_semidefinite_and_laid_out_as_said(case):
    module, X, _ = case
    K = empirical_ntk(module, X, memory_budget=3000).numpy()
    n, _, k, _ = K.shape
    matrix = K.transpose(2, 0, 3, 1).reshape(k * n, k * n)
    assert np.shares_memory(matrix, K)
    values = np.linalg.eigvalsh(matrix)
    assert values[0] >= -1e-12 * values[-1]
    diagonal = empirical_ntk(module, X, outputs="diagonal").numpy()
    for p in range(k):
        values = np.linalg.eigvalsh(diagonal[:, :, p])
        assert values[0] >= -1e-12 * values[-1]


def test_modes_agree(case):
    module, X1, X2 = case
    full = empirical_ntk(module, X1, X2)
    diagonal = empirical_ntk(module, X1, X2, outputs="diagonal")
    assert difference(diagonal, full.diagonal(0, 2, 3)) <= TOLERANCE
    assert difference(empirical_ntk(module, X1, X2, "trace"), diagonal.mean(2)) <= TOLERANCE
    swapped = empirical_ntk(module, X2, X1)
    assert difference(swapped.permute(1, 0, 3, 2), full) <= TOLERANCE
    assert difference(empirical_ntk(module, X1, X1), empirical_ntk(module, X1)) <= TOLERANCE


WHOLE = {}


def whole(name, outputs, symmetric):
    """Kernel of all rows as one block."""
    if (name, outputs, symmetric) not in WHOLE:
        module, X1, X2 = made(name, 9, 8)
        WHOLE[name, outputs, symmetric] = empirical_ntk(
            module, X1, None if symmetric else X2, outputs
        )
    return WHOLE[name, outputs, symmetric]


@pytest.mark.parametrize("name", NETS)
@given(
    st.integers(1, 9),
    st.integers(0, 8),
    st.sampled_from(OUTPUTS),
    st.one_of(st.none(), st.integers(1, 40_000)),
    st.sampled_from([None, 1, 2]),
    st.sampled_from([1, 2]),
)
@settings(max_examples=15)
def test_blocks_do_not_matter(name, n1, n2, outputs, memory_budget, n_jobs, threads):
    """Nor does how many rows there are, nor who computes; n2 = 0 stands for the rows of X1."""
    module, X1, X2 = made(name, 9, 8)
    expected = whole(name, outputs, n2 == 0)[:n1, : n2 or n1]
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        K = empirical_ntk(
            module,
            X1[:n1],
            X2[:n2] if n2 else None,
            outputs,
            n_jobs=n_jobs,
            memory_budget=memory_budget,
        )
    finally:
        torch.set_num_threads(before)
    scale = float(whole(name, outputs, n2 == 0).abs().max())
    assert float((K - expected).abs().max()) <= TOLERANCE * scale


def test_workers_in_processes():
    module, X1, X2 = made("text", 7, 5)
    with joblib.parallel_config("loky"):
        K = empirical_ntk(module, X1, X2, n_jobs=2, memory_budget=20_000)
    assert difference(K, empirical_ntk(module, X1, X2)) <= TOLERANCE


@pytest.mark.parametrize("outputs", OUTPUTS)
def test_additive_over_parameters(case, outputs):
    module, X1, X2 = case
    names = [name for name, _ in module.named_parameters()]
    parts = names[:1], names[1:4], names[4:]
    total = sum(empirical_ntk(module, X1, X2, outputs, parameters=part) for part in parts)
    assert difference(total, empirical_ntk(module, X1, X2, outputs)) <= TOLERANCE
    J1, J2 = jacobians(module, X1), jacobians(module, X2)
    for part in parts:
        one = {name: J1[name] for name in part}
        K = empirical_ntk(module, X1, X2, outputs, parameters=part)
        assert difference(K, contracted(one, J2, outputs)) <= TOLERANCE


@pytest.mark.parametrize(
    ("parameters", "names"),
    [
        ("0", ["0.weight", "0.bias"]),
        (["0.bias"], ["0.bias"]),
        (("2", "4.bias"), ["2.weight", "2.bias", "4.bias"]),
        (lambda name: "weight" in name, ["0.weight", "2.weight", "4.weight"]),
        (["0", "0.weight"], ["0.weight", "0.bias"]),
    ],
)
def test_parameter_filters(parameters, names):
    module, X = made("dense", 5)
    J = jacobians(module, X)
    chosen = {name: J[name] for name in names}
    K = empirical_ntk(module, X, parameters=parameters)
    assert difference(K, contracted(chosen, chosen)) <= TOLERANCE


def test_frozen_parameters_do_not_count():
    module, X = made("dense", 5)
    module[0].requires_grad_(False)
    expected = empirical_ntk(module, X, parameters=["2", "4"])
    assert difference(empirical_ntk(module, X), expected) <= TOLERANCE
    assert difference(empirical_ntk(module, X, parameters=["0", "4"]), expected) > 0.01
    with pytest.raises(ValueError, match=r"parameters=\['0'\] are all frozen"):
        empirical_ntk(module, X, parameters=["0"])


@pytest.mark.parametrize("name", NETS)
def test_dtypes(name):
    module, X = made(name, 6)
    wide = empirical_ntk(module, X)
    assert wide.dtype == torch.float64
    narrow = copy.deepcopy(module).float()
    K = empirical_ntk(narrow, X)
    assert K.dtype == torch.float32
    assert difference(K.double(), wide) <= 1e-4
    for dtype in ("float64", torch.float64, np.float64):
        K = empirical_ntk(narrow, X, dtype=dtype)
        assert K.dtype == torch.float64
        assert difference(K, wide) <= 1e-5  # its parameters are rounded
    assert empirical_ntk(module, X, dtype="float32").dtype == torch.float32
    assert {p.dtype for p in narrow.parameters()} == {torch.float32}
    assert {p.dtype for p in module.parameters()} == {torch.float64}


def test_arrays_of_the_callers_kind():
    module, X = made("dense", 4)
    module = module.float()
    K = empirical_ntk(module, X.float())
    for same in (X.numpy(), X.numpy().astype(np.float32), X.tolist()):
        found = empirical_ntk(module, same)
        assert isinstance(found, np.ndarray)
        assert found.dtype == np.float32
        assert difference(found, K) <= 1e-6
    assert isinstance(K, torch.Tensor)
    assert not K.requires_grad
    read_only = X.numpy()[::-1].copy()
    read_only.flags.writeable = False
    assert difference(empirical_ntk(module, read_only[::-1]), K) <= 1e-6
    kernel = EmpiricalKernel(module)
    assert isinstance(kernel.diag(X.numpy()), np.ndarray)
    assert isinstance(kernel.function(X.numpy()), np.ndarray)
    assert isinstance(kernel.diag(X), torch.Tensor)
    module, X = made("text", 4)
    for same in (X.numpy(), X.numpy().astype(np.int32), X.numpy().astype(np.uint8)):
        found = empirical_ntk(module, same)
        assert isinstance(found, np.ndarray)
        assert difference(found, empirical_ntk(module, X)) <= TOLERANCE


@pytest.mark.parametrize("kind", [tuple, dict])
def test_several_inputs(kind):
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 3), nn.Bilinear(3, 2, 2)

        def forward(self, x, y):
            return self.b(self.a(x).tanh(), y)

    torch.manual_seed(0)
    module = drawn(Two())

    def packed(x, y):
        return (x, y) if kind is tuple else {"y": y, "x": x}

    X1, X2 = packed(rows(4)(5), rows(2)(5)), packed(rows(4)(3), rows(2)(3))
    J1, J2 = jacobians(module, X1), jacobians(module, X2)
    K = empirical_ntk(module, X1, X2, memory_budget=1500)
    assert difference(K, contracted(J1, J2)) <= TOLERANCE
    arrays = (
        tuple(x.numpy() for x in X1) if kind is tuple else {k: v.numpy() for k, v in X1.items()}
    )
    found = empirical_ntk(module, arrays)
    assert isinstance(found, np.ndarray)
    assert difference(found, contracted(J1, J1)) <= TOLERANCE


class Counts(nn.Module):
    """Buffers that a forward pass changes, in place and anew, in any mode."""

    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(2))
        self.register_buffer("last", torch.zeros(1))
        self.register_buffer("none", None)

    def forward(self, x):
        self.calls += 1
        self.last = x.detach().mean().reshape(1)
        return x


@pytest.mark.parametrize("function", [capture, empirical_ntk])
@pytest.mark.parametrize("training", [False, True])
def test_module_is_left_as_it_was(function, training):
    torch.manual_seed(0)
    module = drawn(
        nn.Sequential(
            nn.Linear(4, 6), nn.BatchNorm1d(6), Counts(), nn.Dropout(0.5), nn.PReLU(),
            nn.Linear(6, 2),
        )
    )  # fmt: skip
    module.train(training)
    module[1].eval()
    module[4].train(not training)
    module[0].bias.requires_grad_(False)
    before = {name: (value, value.clone()) for name, value in module.state_dict().items()}
    tensors = {id(t) for t in (*module.parameters(), *module.buffers())}
    modes = [m.training for m in module.modules()]
    free = [p.requires_grad for p in module.parameters()]
    attributes = [sorted(vars(m)) for m in module.modules()]
    X = rows(4)(5)
    generator = torch.get_rng_state()
    kept = X.clone()
    function(module, X)
    after = module.state_dict()
    assert list(after) == list(before)
    for name, (value, copied) in before.items():
        assert after[name].data_ptr() == value.data_ptr(), name
        assert torch.equal(after[name], copied), name
    assert {id(t) for t in (*module.parameters(), *module.buffers())} == tensors
    assert [m.training for m in module.modules()] == modes
    assert [p.requires_grad for p in module.parameters()] == free
    assert [sorted(vars(m)) for m in module.modules()] == attributes
    assert all(p.grad is None for p in module.parameters())
    for m in module.modules():
        assert not m._forward_hooks
        assert not m._forward_pre_hooks
        assert not m._backward_hooks
    assert torch.equal(torch.get_rng_state(), generator)
    assert torch.equal(X, kept)
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("function", [capture, empirical_ntk])
def test_expanded_buffers(function):
    """Several of their numbers are one in memory."""
    module, X = made("dense", 5)
    module[1].register_buffer("mask", torch.ones(1).expand(6))
    mask = module[1].mask
    function(module, X)
    assert module[1].mask is mask
    assert mask.stride() == (0,)


@pytest.mark.parametrize("function", [capture, empirical_ntk])
def test_module_is_left_as_it_was_after_an_error(function):
    module, X = made("dense", 5)
    module.train()
    module[2].eval()
    modes = [m.training for m in module.modules()]
    for bad in (X[:, :3], X * np.nan):
        with pytest.raises((ValueError, RuntimeError)):
            function(module, bad)
        assert [m.training for m in module.modules()] == modes


@pytest.mark.parametrize("function", [capture, empirical_ntk])
def test_a_graph_that_the_caller_keeps(function):
    """Between a caller's forward and backward pass nothing that it needs is changed."""
    module, X = made("dense", 5)
    loss = module(X).square().sum()
    (expected,) = torch.autograd.grad(loss, module[0].weight, retain_graph=True)
    function(module, X)
    loss.backward()
    assert torch.equal(module[0].weight.grad, expected)
    function(module, X)
    assert torch.equal(module[0].weight.grad, expected)


def test_dropout_is_off():
    torch.manual_seed(0)
    module = drawn(nn.Sequential(nn.Linear(4, 5), nn.Dropout(0.5), nn.Linear(5, 2))).train()
    X = rows(4)(5)
    K = empirical_ntk(module, X)
    assert torch.equal(K, empirical_ntk(module, X))
    J = jacobians(module.eval(), X)
    assert difference(K, contracted(J, J)) <= TOLERANCE


def test_user_hooks_run_and_stay():
    module, X = made("dense", 5)
    handle = module[1].register_forward_hook(lambda m, args, out: 2 * out)
    J = jacobians(module, X)
    assert difference(empirical_ntk(module, X), contracted(J, J)) <= TOLERANCE
    assert difference(capture(module, X).jacobians()["0.weight"], J["0.weight"]) <= TOLERANCE
    assert len(module[1]._forward_hooks) == 1
    handle.remove()


class Keeps(nn.Module):
    """Keeps what it computed, as an attribute or in a container."""

    def __init__(self, container):
        super().__init__()
        self.layer, self.kept = nn.Linear(4, 3), container

    def forward(self, x):
        h = self.layer(x)
        if isinstance(self.kept, list):
            self.kept.append(h)
        elif isinstance(self.kept, dict):
            self.kept["h"] = h
        else:
            self.kept = h
        return h.tanh()


@pytest.mark.parametrize("container", [None, [], {}], ids=["attribute", "list", "dict"])
def test_modules_that_deepcopy_refuses(container):
    torch.manual_seed(0)
    module, X = drawn(Keeps(container)), rows(4)(5)
    J = jacobians(module, X)
    with pytest.raises(RuntimeError, match="deepcopy"):
        copy.deepcopy(module)
    assert difference(empirical_ntk(module, X), contracted(J, J)) <= TOLERANCE
    assert module.kept is not None


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_without_gradients(mode):
    """The caller's mode does not matter."""
    module, X = made("dense", 5)
    K, J = empirical_ntk(module, X), capture(module, X).jacobians()
    text, tokens_ = made("text", 5)
    expected = empirical_ntk(text, tokens_)
    with mode():
        assert difference(empirical_ntk(module, X), K) <= TOLERANCE
        assert difference(empirical_ntk(module, X.clone()), K) <= TOLERANCE
        found = capture(module, X).jacobians()
        assert difference(found["0.weight"], J["0.weight"]) <= TOLERANCE
        assert difference(empirical_ntk(text, tokens_, n_jobs=2), expected) <= TOLERANCE


def test_threads_of_the_caller():
    """Several threads may share a kernel."""
    module, X1, X2 = made("dense", 7, 5)
    kernel = EmpiricalKernel(module, memory_budget=5000)
    expected, found = kernel(X1, X2), [None] * 4

    def run(i):
        found[i] = kernel(X1, X2)

    threads = [threading.Thread(target=run, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for K in found:
        assert difference(K, expected) <= TOLERANCE


# Refusals: one clear error each, by the capture as well.

X = np.random.default_rng(0).normal(size=(5, 4))
BOTH = pytest.mark.parametrize("function", [capture, empirical_ntk])


def with_value(value):
    bad = X.copy()
    bad[2, 1] = value
    return bad


@BOTH
@pytest.mark.parametrize(
    ("bad", "error", "message"),
    [
        (with_value(np.nan), ValueError, "NaN or infinity"),
        (torch.tensor(with_value(-np.inf)), ValueError, "NaN or infinity"),
        (X[:0], ValueError, "must not be empty"),
        (X[:, :0], ValueError, "must not be empty"),
        (torch.tensor(X[:0]), ValueError, "must not be empty"),
        (1.0, ValueError, "single number"),
        (X + 1j, ValueError, "complex"),
        (X.astype(str), ValueError, "dtype <U"),
        (scipy.sparse.csr_matrix(X), TypeError, "sparse"),
        ((X, X[:3]), ValueError, r"rows; all must have as many"),
        ({"x": X, "y": X[:3]}, ValueError, r"rows; all must have as many"),
        ((X, with_value(np.nan)), ValueError, r"X1?\[1\] contains NaN"),
        ({"input": with_value(np.nan)}, ValueError, r"X1?\['input'\] contains NaN"),
        ((), ValueError, "X"),
        ({}, ValueError, "X"),
    ],
)
def test_bad_rows(function, bad, error, message):
    with pytest.raises(error, match=message):
        function(nn.Linear(4, 3).double(), bad)


def test_second_input_is_named():
    module = nn.Linear(4, 3).double()
    with pytest.raises(ValueError, match="X2 contains NaN"):
        empirical_ntk(module, X, with_value(np.nan))
    with pytest.raises(ValueError, match=r"X2 has rows of shape \[\(3,\)\] but X1 has \[\(4,\)\]"):
        empirical_ntk(module, X, X[:, :3])
    with pytest.raises(ValueError, match=r"X2 has shape \(0, 4\); it must not be empty"):
        empirical_ntk(module, X, X[:0])
    with pytest.raises(ValueError, match="X2 has rows"):
        empirical_ntk(module, X, (X, X))


@BOTH
def test_frozen(function):
    module = nn.Linear(4, 3).requires_grad_(False)
    with pytest.raises(ValueError, match=r"Linear is frozen.*'weight'.*requires_grad_\(True\)"):
        function(module, X)
    with pytest.raises(ValueError, match="Flatten has no parameters"):
        function(nn.Flatten(), X)


@BOTH
def test_parameters_that_fit_nothing(function):
    module = nn.Sequential(nn.Linear(4, 3), nn.Tanh())
    for wrong in (["1"], ["0.weigh"], "weight", ["0", "2"]):
        with pytest.raises(ValueError, match=r"fits none of \['0.weight', '0.bias'\]"):
            function(module, X, parameters=wrong)
    for nothing in (lambda name: False, []):
        with pytest.raises(ValueError, match="parameters="):
            function(module, X, parameters=nothing)


@BOTH
def test_batch_norm(function):
    inner = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
    module = nn.Sequential(inner, nn.Linear(3, 2))
    with pytest.raises(ValueError, match=r"BatchNorm1d at '0\.1' is in training mode.*eval\(\)"):
        function(module, X)
    function(module.eval(), X)
    inner[1] = nn.BatchNorm1d(3, track_running_stats=False).eval()
    with pytest.raises(ValueError, match=r"BatchNorm1d at '0\.1' keeps no running statistics"):
        function(module, X)
    with pytest.raises(ValueError, match="BatchNorm1d at 'the top'"):
        function(nn.BatchNorm1d(4), X)


def written(function):
    return drawn(Written(function, l=nn.Linear(4, 3)))


@BOTH
@pytest.mark.parametrize(
    ("forward", "message"),
    [
        (lambda m, x: m.l(x - x.mean(0)), "couples the rows"),
        (lambda m, x: m.l(x).softmax(0), "couples the rows"),
        (lambda m, x: m.l(x) * torch.rand(3), "random numbers"),
        (lambda m, x: F.dropout(m.l(x)), "random numbers"),
        (lambda m, x: m.l(x) / len(x), "couples the rows"),
        (lambda m, x: m.l(x) @ m.l(x).T, "other batch sizes"),
        (lambda m, x: (m.l(x), x), "returns a tuple"),
        (lambda m, x: {"f": m.l(x)}, "returns a dict"),
        (lambda m, x: None, "returns a NoneType"),
        (lambda m, x: m.l(x).sum(), r"returns shape \(\)"),
        (lambda m, x: m.l(x).T, "the first axis must be the rows"),
        (lambda m, x: m.l(x)[:1], "the first axis must be the rows"),
        (lambda m, x: m.l(x)[:, :0], "returns no outputs"),
        (lambda m, x: m.l(x).argmax(1), "must be real numbers"),
        (lambda m, x: torch.complex(m.l(x), m.l(x)), "must be real numbers"),
        (lambda m, x: m.l(x).detach(), "does not depend on any of its parameters"),
        (lambda m, x: x.tanh(), "does not depend on any of its parameters"),
        (torch.no_grad()(lambda m, x: m.l(x)), "does not depend on any of its parameters"),
    ],
)
def test_what_the_module_returns(function, forward, message):
    with pytest.raises(ValueError, match=message):
        function(written(forward), X)


@BOTH
@pytest.mark.parametrize("n", [2, 3])
def test_wrong_first_axis_is_seen_where_sizes_coincide(function, n):
    module = drawn(Written(lambda m, x: m.l(x).T, l=nn.Linear(4, n)))
    with pytest.raises(ValueError, match="the first axis must be the rows"):
        function(module, X[:n])


@BOTH
@pytest.mark.parametrize("same", [X[:1], np.repeat(X[:1], 4, 0), np.vstack([X[[0, 0, 0]], X])])
def test_rows_are_coupled_though_the_first_are_the_same(function, same):
    """Outputs do not show it then; derivatives do."""
    with pytest.raises(ValueError, match="couples the rows"):
        function(written(lambda m, x: m.l(x - x.mean(0)).tanh()), same)


def test_arguments():
    module = nn.Linear(4, 3)
    with pytest.raises(ValueError, match=r"outputs='all' must be one of \['diagonal'"):
        empirical_ntk(module, X, outputs="all")
    with pytest.raises(ValueError, match="memory_budget=0 must be"):
        empirical_ntk(module, X, memory_budget=0)
    with pytest.raises(ValueError, match="dtype='int64'"):
        empirical_ntk(module, X, dtype="int64")
    with pytest.raises(
        ValueError, match=r"module Linear fails on rows of shape \(2,\) and .*shapes"
    ):
        empirical_ntk(module, X[:, :2])
    for function in (empirical_ntk, capture, JacobianOperator):
        with pytest.raises(TypeError, match=r"must be a torch\.nn\.Module"):
            function(lambda x: x, X)
    with pytest.raises(TypeError, match=r"must be a torch\.nn\.Module"):
        linearize(lambda x: x)


@pytest.mark.parametrize(("outputs", "numbers"), [("full", 225), ("diagonal", 75), ("trace", 25)])
def test_too_big_a_result(outputs, numbers, monkeypatch):
    module = nn.Linear(4, 3).double()
    limit = "skntk.core.memory.available_bytes"
    monkeypatch.setattr(limit, lambda device="cpu": 8 * numbers - 1)
    with pytest.raises(MemoryBudgetError, match="a kernel matrix of"):
        empirical_ntk(module, X, outputs=outputs)
    monkeypatch.setattr(limit, lambda device="cpu": 8 * numbers)
    assert np.isfinite(empirical_ntk(module, X, outputs=outputs)).all()


def test_overflow():
    module = drawn(nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3)))
    with torch.no_grad():
        for p in module.parameters():
            p.mul_(1e30).abs_()
    for outputs in OUTPUTS:
        with pytest.raises(KernelOverflowError, match=r"not finite in torch\.float32.*float64"):
            empirical_ntk(module.float(), np.abs(X), outputs=outputs)
        with pytest.raises(KernelOverflowError):
            empirical_ntk(module.float(), np.abs(X), np.abs(X[:2]), outputs=outputs)
    K = empirical_ntk(module.float(), np.abs(X), dtype="float64")
    assert np.isfinite(K).all()


def test_bool_inputs_stay_bool_beside_an_embedding():
    """A mask from NumPy means what it means from torch."""

    class Masked(nn.Module):
        def __init__(self):
            super().__init__()
            self.e, self.l = nn.Embedding(5, 4), nn.Linear(4, 2)

        def forward(self, tokens, hidden):
            return self.l(self.e(tokens).masked_fill(hidden[..., None], 0.0).tanh().sum(1))

    torch.manual_seed(0)
    module, i = drawn(Masked()), tokens(5, 3)(4)
    mask = torch.tensor([[False, True, False]] * 4)
    J = jacobians(module, (i, mask))
    assert difference(empirical_ntk(module, (i, mask)), contracted(J, J)) <= TOLERANCE
    K = empirical_ntk(module, (i.numpy(), mask.numpy()))
    assert difference(K, contracted(J, J)) <= TOLERANCE


def test_nothing_is_kept_alive():
    """A call leaves no reference to the graph behind: its copy of the module goes."""
    module, data = made("dense", 5)
    kernel = EmpiricalKernel(module)
    kernel(data)
    gone = weakref.ref(kernel.module)
    del kernel
    gc.collect()
    assert gone() is None
