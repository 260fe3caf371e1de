"""What no rule explains is right too, and never silently wrong."""

import pytest
import torch
from explicit import contracted, difference, drawn, jacobians, parameter, rows, tokens
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint
from written import Written

from skntk.finite import EmpiricalKernel, capture, empirical_ntk

TOLERANCE = 1e-12


@pytest.fixture(autouse=True)
def random(seed):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


def net(function, **members):
    return Written(function, **members)


class Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, w):
        ctx.save_for_backward(x, w)
        return x @ w

    @staticmethod
    def backward(ctx, g):
        x, w = ctx.saved_tensors
        return g @ w.T, x.T @ g


@pytest.fixture(scope="module")
def old_weight_norm():
    with pytest.warns(FutureWarning):
        return nn.Sequential(nn.utils.weight_norm(nn.Linear(4, 5)), nn.Tanh(), nn.Linear(5, 2))


def attention(m, x):
    return m.l(x, x, x, need_weights=False)[0]


def gradient(m, x):
    """The slope of an energy, as of a conservative force."""
    x = x.detach().requires_grad_()
    return torch.autograd.grad(torch.erf(m.l(x)).square().sum(), x, create_graph=True)[0]


def slope(m, x):
    def energy(row):
        return torch.erf(m.l(row)).square().sum()

    return torch.func.vmap(torch.func.grad(energy))(x)


def mixed(m, x):
    return m.a(x).tanh() @ m.w**2


#: Networks, rows, and the parameters that no rule explains.
NAMED = {
    "grouped convolution": (
        lambda: nn.Sequential(nn.Conv2d(4, 6, 2, groups=2), nn.Tanh(), nn.Conv2d(6, 2, 1)),
        rows(4, 3, 4),
        ["0.weight", "0.bias"],
    ),
    "transposed convolution": (
        lambda: nn.Sequential(nn.ConvTranspose2d(2, 3, 2, stride=2), nn.Tanh(), nn.Conv2d(3, 1, 2)),
        rows(2, 2, 3),
        ["0.weight", "0.bias"],
    ),
    "bilinear": (
        lambda: net(lambda m, x: m.b(x, m.a(x)).tanh(), a=nn.Linear(4, 3), b=nn.Bilinear(4, 3, 2)),
        rows(4),
        ["b.weight", "b.bias"],
    ),
    "lstm": (
        lambda: net(
            lambda m, x: m.a(m.l(x)[0][:, -1]), a=nn.Linear(5, 2), l=nn.LSTM(4, 5, batch_first=True)
        ),
        rows(3, 4),
        ["l.weight_ih_l0", "l.weight_hh_l0", "l.bias_ih_l0", "l.bias_hh_l0"],
    ),
    "attention": (
        lambda: net(attention, l=nn.MultiheadAttention(4, 2, batch_first=True)),
        rows(3, 4),
        ["l.in_proj_weight", "l.in_proj_bias", "l.out_proj.weight", "l.out_proj.bias"],
    ),
    "transformer": (
        lambda: nn.TransformerEncoderLayer(4, 2, 6, batch_first=True),
        rows(3, 4),
        [
            "self_attn.in_proj_weight",
            "self_attn.in_proj_bias",
            "self_attn.out_proj.weight",
            "self_attn.out_proj.bias",
        ],
    ),
    "instance norm": (
        lambda: nn.Sequential(
            nn.Conv2d(2, 3, 2, bias=False), nn.InstanceNorm2d(3, 0.5, affine=True), nn.GELU()
        ),
        rows(2, 4, 3),
        ["1.weight", "1.bias"],
    ),
    "embedding bag": (
        lambda: net(lambda m, i: m.a(m.e(i).tanh()), a=nn.Linear(4, 2), e=nn.EmbeddingBag(5, 4)),
        tokens(5, 3),
        ["e.weight"],
    ),
    "embedding, max_norm": (
        lambda: net(lambda m, i: m.e(i).sum(1).tanh(), e=nn.Embedding(5, 4, max_norm=0.5)),
        tokens(5, 3),
        ["e.weight"],
    ),
    "weight norm": (
        lambda: nn.Sequential(
            parametrizations.weight_norm(nn.Linear(4, 5)), nn.Tanh(), nn.Linear(5, 2)
        ),
        rows(4),
        ["0.parametrizations.weight.original0", "0.parametrizations.weight.original1"],
    ),
    "spectral norm": (
        lambda: nn.Sequential(
            parametrizations.spectral_norm(nn.Linear(4, 5)), nn.Tanh(), nn.Linear(5, 2)
        ),
        rows(4),
        ["0.parametrizations.weight.original"],
    ),
    "custom function": (
        lambda: net(lambda m, x: m.a(Product.apply(x, m.w).tanh()), a=nn.Linear(3, 2),
                    w=parameter(4, 3)),
        rows(4),
        ["w"],
    ),
    "in a rule and outside of one": (
        lambda: net(lambda m, x: (F.linear(x, m.w) + m.w.sum()).tanh(), w=parameter(3, 4)),
        rows(4),
        ["w"],
    ),
    "a multiple in a rule and outside of one": (
        lambda: net(
            lambda m, x: (lambda v: F.linear(x, v) * v.square().sum().sqrt())(0.3 * m.w),
            w=parameter(3, 4),
        ),
        rows(4),
        ["w"],
    ),
    "W.T @ x": (
        lambda: net(lambda m, x: (m.w.T @ x.T).T.tanh(), w=parameter(4, 3)), rows(4), ["w"]
    ),
    "W @ x": (lambda: net(lambda m, x: (m.w @ x.T).T.tanh(), w=parameter(3, 4)), rows(4), ["w"]),
    "x @ w": (lambda: net(lambda m, x: (x @ m.w).tanh(), w=parameter(4)), rows(4), ["w"]),
    "einsum": (
        lambda: net(lambda m, x: torch.einsum("nd,dm->nm", x, m.w).tanh(), w=parameter(4, 3)),
        rows(4),
        ["w"],
    ),
    "a function of W": (lambda: net(mixed, a=nn.Linear(4, 3), w=parameter(3, 2)), rows(4), ["w"]),
    "product of parameters": (
        lambda: net(lambda m, x: (x * (m.v * m.w)).tanh(), v=parameter(4), w=parameter(4)),
        rows(4),
        ["v", "w"],
    ),
    "c - W": (
        lambda: net(lambda m, x: (x @ (1 - m.w)).tanh(), w=parameter(4, 3)), rows(4), ["w"]
    ),
    "a constant function": (
        lambda: net(lambda m, x: m.b.expand(len(x), -1), b=parameter(3)), rows(4), ["b"]
    ),
    "rows and positions on one axis": (
        lambda: net(
            lambda m, x: m.b(m.a(x.reshape(-1, 2)).tanh().reshape(len(x), -1)),
            a=nn.Linear(2, 3),
            b=nn.Linear(6, 2),
        ),
        rows(2, 2),
        ["a.weight", "a.bias"],
    ),
    "row by row": (
        lambda: net(lambda m, x: torch.stack([m.a(row) for row in x]).tanh(), a=nn.Linear(4, 3)),
        rows(4),
        ["a.weight", "a.bias"],
    ),
    "slope by torch.func": (
        lambda: net(slope, l=nn.Linear(4, 3)), rows(4), ["l.weight", "l.bias"]
    ),
    "vmap": (
        lambda: net(lambda m, x: torch.func.vmap(m.a)(x).tanh(), a=nn.Linear(4, 3)),
        rows(4),
        ["a.weight", "a.bias"],
    ),
}  # fmt: skip


def right(module, X):
    """Assert that Jacobians and kernels are the explicit ones."""
    expected = jacobians(module, X)
    J = capture(module, X).jacobians()
    assert set(J) == set(expected)
    for name, value in expected.items():
        assert difference(J[name], value) <= TOLERANCE, name
    for outputs in ("full", "diagonal", "trace"):
        K = empirical_ntk(module, X, outputs=outputs)
        assert difference(K, contracted(expected, expected, outputs)) <= TOLERANCE, outputs


@pytest.mark.parametrize("n", [1, 4])
@pytest.mark.parametrize("name", NAMED)
def test_no_rule(name, n, capsys):
    make, draw, rest = NAMED[name]
    module, X = drawn(make()), draw(n)
    right(module, X)
    capsys.readouterr()
    for call in (capture, empirical_ntk):
        call(module, X, verbose=1)
        said = capsys.readouterr().out
        assert "by torch.func, which is slower" in said
        assert said.count("\n") == 1
        total = len(list(module.parameters()))
        assert f"{total - len(rest)} of {total} parameters by the capture" in said
        for parameter_name in rest:
            assert repr(parameter_name) in said
    call(module, X)
    assert capsys.readouterr().out == ""


def test_many_names_are_counted(capsys):
    module = drawn(nn.LSTM(3, 2, num_layers=2, batch_first=True))
    capture(net(lambda m, x: m.l(x)[0], l=module), rows(2, 3)(3), verbose=1)
    said = capsys.readouterr().out
    assert "0 of 8 parameters" in said
    assert "'l.bias_hh_l0', 'l.weight_ih_l1' and 3 more" in said


def test_old_weight_norm(old_weight_norm):
    module, X = drawn(old_weight_norm), rows(4)(4)
    module(X)  # its weight is a tensor that was computed
    right(module, X)
    assert torch.isfinite(module[0].weight.detach()).all()  # and can be read
    assert not torch._C._functorch.is_functorch_wrapped_tensor(module[0].weight)


def test_old_spectral_norm():
    right(drawn(nn.Sequential(nn.utils.spectral_norm(nn.Linear(4, 3)), nn.Tanh())), rows(4)(4))


def test_tied_parameters():
    """A parameter of two places, one of which has no rule."""
    module = net(lambda m, x: m.a(x).tanh() + m.b(x, x), a=nn.Linear(4, 3), b=nn.Bilinear(4, 4, 3))
    module.b.bias = module.a.bias
    right(drawn(module), rows(4)(4))
    module = net(lambda m, x: m.b(m.a(x).tanh()) ** 2, a=nn.Linear(4, 4), b=nn.Linear(4, 4))
    parametrizations.weight_norm(module.a)
    module.b.bias = module.a.bias
    right(drawn(module), rows(4)(4))


def test_checkpointing():
    module = net(
        lambda m, x: m.c(checkpoint(m.b, m.a(x).tanh(), use_reentrant=False).tanh()),
        a=nn.Linear(4, 5), b=nn.Linear(5, 5), c=nn.Linear(5, 2),
    )  # fmt: skip
    right(drawn(module), rows(4)(4))


@pytest.mark.parametrize("size", [2, 3, 4, 5])
@pytest.mark.parametrize("name", ["lstm", "attention", "bilinear", "a function of W"])
def test_sizes_that_coincide(name, size):
    make, draw, _ = NAMED[name]
    right(drawn(make()), draw(size))


def test_all_sizes_equal():
    module = net(
        lambda m, x: m.t(m.a(x)) @ m.w**2,
        a=nn.Linear(4, 4), w=parameter(4, 4),
        t=nn.TransformerEncoderLayer(4, 2, 4, batch_first=True),
    )  # fmt: skip
    right(drawn(module), rows(4, 4)(4))


# Ways of writing a network with which a rule could be misled. Whether a rule takes them or
# `torch.func` does is not said here: only that the result is right.


def scaled_in_place(m, x):
    w = m.w * 0.5
    w.mul_(3.0)
    return F.linear(x, w).tanh()


def masked_in_place(m, x):
    w = m.w / 2
    w *= m.mask
    return F.linear(x, w).tanh()


def centered_in_place(m, x):
    w = -m.w
    w -= w.mean()
    return (x @ w).tanh()


def overwritten_in_place(m, x):
    w = 2 * m.w
    w[0] = 0.0
    return F.linear(x, w).tanh()


def slice_and_base(m, x):
    h = m.a(x)
    v = h[:, :2]
    v += m.w
    return torch.cat([h, v.square()], 1).tanh()


def slice_only(m, x):
    h = m.a(x)
    h[:, :2] += m.w
    return h.tanh()


def transposed_view(m, x):
    h = m.a(x)
    v = h.T
    v += m.v
    return torch.cat([h, v.T.square()], 1).tanh()


def squeezes(m, x):
    """A single row would lose its first axis, and the mean be over another one."""
    return m.a(x.squeeze().mean(1)) @ m.w**2


MISLEADING = {
    "a multiple is changed in place": (
        lambda: net(scaled_in_place, w=parameter(3, 4)), rows(4)
    ),
    "a multiple is masked in place": (
        lambda: net(masked_in_place, w=parameter(3, 4), mask=torch.eye(3, 4)), rows(4)
    ),
    "a multiple is centered in place": (
        lambda: net(centered_in_place, w=parameter(4, 3)), rows(4)
    ),
    "a multiple is overwritten": (
        lambda: net(overwritten_in_place, w=parameter(3, 4)), rows(4)
    ),
    "a slice is changed, and it and its base are used": (
        lambda: net(slice_and_base, a=nn.Linear(4, 3), w=parameter(2)), rows(4)
    ),
    "a slice is changed": (lambda: net(slice_only, a=nn.Linear(4, 3), w=parameter(2)), rows(4)),
    "a transpose is changed": (
        lambda: net(transposed_view, a=nn.Linear(4, 3), v=parameter(3, 1)), rows(4)
    ),
    "W and its transpose, square": (
        lambda: net(lambda m, x: F.linear((x @ m.w).tanh(), m.w), w=parameter(4, 4)), rows(4)
    ),
    "W and its transpose": (
        lambda: net(lambda m, x: F.linear((x @ m.w).tanh(), m.w), w=parameter(4, 3)), rows(4)
    ),
    "a bias of one number": (
        lambda: net(lambda m, x: F.linear(x, m.w, m.b).tanh(), w=parameter(3, 4), b=parameter(1)),
        rows(4),
    ),
    "a bias without axes": (
        lambda: net(lambda m, x: F.linear(x, m.w, m.b).tanh(), w=parameter(3, 4), b=parameter()),
        rows(4),
    ),
    "slope of an energy": (lambda: net(gradient, l=nn.Linear(4, 3)), rows(4)),
    "slope of an energy, no bias": (lambda: net(gradient, l=nn.Linear(4, 3, False)), rows(4)),
    "slope of an energy, 3-D": (lambda: net(gradient, l=nn.Linear(4, 3)), rows(2, 4)),
    "slope of an energy, convolution": (lambda: net(gradient, l=nn.Conv1d(2, 3, 2)), rows(2, 4)),
    "slope of an energy, norm": (lambda: net(gradient, l=nn.LayerNorm(4)), rows(4)),
    "squeeze, S = d": (lambda: net(squeezes, a=nn.Linear(4, 3), w=parameter(3, 2)), rows(4, 4)),
    "squeeze, S != d": (lambda: net(squeezes, a=nn.Linear(4, 3), w=parameter(3, 2)), rows(5, 4)),
    "W as the input": (
        lambda: net(lambda m, x: x @ F.linear(m.w, m.v).tanh(), w=parameter(4, 3),
                    v=parameter(2, 3)),
        rows(4),
    ),
    "W of the second layer as its input": (
        lambda: net(lambda m, x: F.linear(F.linear(x, m.w), m.w.T @ m.w), w=parameter(4, 4)),
        rows(4),
    ),
    "rows in parts": (
        lambda: net(lambda m, x: torch.cat([m.a(c) for c in x.split(4)]).tanh(), a=nn.Linear(4, 3)),
        rows(4),
    ),
    "rows in halves": (
        lambda: net(lambda m, x: torch.cat([m.a(c) for c in x.chunk(2)]).tanh(), a=nn.Linear(4, 3)),
        rows(4),
    ),
}  # fmt: skip


@pytest.mark.parametrize("n", [2, 6])
@pytest.mark.parametrize("name", MISLEADING)
def test_never_wrong(name, n):
    make, draw = MISLEADING[name]
    right(drawn(make()), draw(n))


def reversed_rows(m, x):
    return m.a(x.flip(0)).tanh().flip(0)


def sorted_rows(m, x):
    order = x[:, 0].argsort()
    return m.a(x[order]).tanh()[order.argsort()]


@pytest.mark.parametrize("function", [reversed_rows, sorted_rows])
def test_rows_in_another_order(function):
    """Right, or refused."""
    module, X = drawn(net(function, a=nn.Linear(4, 3))), rows(4)(6)
    X[:, 0] = torch.tensor([0.0, 1.0, 2.0, 5.0, 4.0, 3.0])  # the first three are in order
    expected = jacobians(module, X)
    try:
        J = capture(module, X).jacobians()
        K = empirical_ntk(module, X)
    except ValueError:
        return
    assert difference(J["a.weight"], expected["a.weight"]) <= TOLERANCE
    assert difference(K, contracted(expected, expected)) <= TOLERANCE


# Networks that do something else for later rows than for those that the plan is made from.


def extra_use(m, x):
    f, large = m.a(x), x[:, 0] > 1
    return f + large[:, None] * m.a.weight.sum() if large.any() else f


def extra_layer(m, x):
    f, large = m.a(x).tanh(), x[:, 0] > 1
    return f + large[:, None] * m.b(x) if large.any() else f


def later_reached(m, x):
    f, g, large = m.a(x).tanh(), m.b(x), x[:, 0] > 1
    return f + large[:, None] * g if large.any() else f


def other_layer(m, x):
    """Both branches run the same operations, on other parameters."""
    return m.a(x).tanh() if (x[:, 0] > 1).all() else m.b(x).tanh()


def earlier_branch(m, x):
    """The network for rows that are not large costs less."""
    large = x[:, 0] > 1
    if not large.any():
        return m.a(x).tanh()
    return torch.where(large[:, None], m.b(m.a(x)), m.a(x).tanh())


def experts(m, x):
    out, which = x.new_zeros(len(x), 3), x[:, 0] > 1
    for layer, rows_of in ((m.a, ~which), (m.b, which)):
        out[rows_of] = layer(x[rows_of])
    return out.tanh()


def scale_of_large_rows(m, x):
    """The same operations with another number."""
    large = (x[:, 0] > 1).any()
    half = (0.5 if large else 1.0) * m.a.weight
    f = F.linear(x, half)
    return 2 * f if large else f


BRANCHES = [
    extra_use, extra_layer, later_reached, earlier_branch, experts, scale_of_large_rows,
]  # fmt: skip


def branching(function):
    """The network, and rows of which only some after the first three are large."""
    module = drawn(net(function, a=nn.Linear(4, 3), b=nn.Linear(4, 3)))
    if function is earlier_branch:
        module.b = nn.Linear(3, 3).double()
    X = rows(4)(40)
    X[:, 0] = X[:, 0].clamp(max=0.5)
    X[4::5, 0] = 2.0
    return module, X


@pytest.mark.parametrize("function", BRANCHES)
def test_branches(function):
    module, X = branching(function)
    right(module, X[:10])


@pytest.mark.parametrize("function", BRANCHES)
@pytest.mark.parametrize("memory_budget", [None, 2000, 1])
def test_branches_in_blocks(function, memory_budget):
    """Blocks of rows take other paths than their neighbours."""
    module, X = branching(function)
    X = X[:12]
    J = jacobians(module, X)
    K = empirical_ntk(module, X, outputs="trace", memory_budget=memory_budget)
    assert difference(K, contracted(J, J, "trace")) <= TOLERANCE


@pytest.mark.parametrize("function", BRANCHES)
def test_branches_and_a_kept_plan(function):
    """A kernel that has seen rows of one kind meets those of another."""
    module, X = branching(function)
    kernel = EmpiricalKernel(module, "diagonal")
    kernel(X[:4])
    J, J4 = jacobians(module, X[:10]), jacobians(module, X[:4])
    assert difference(kernel(X[:10]), contracted(J, J, "diagonal")) <= TOLERANCE
    assert difference(kernel(X[:4], X[:10]), contracted(J4, J, "diagonal")) <= TOLERANCE
    own = contracted(J, J, "diagonal").diagonal().T
    assert difference(kernel.diag(X[:10]), own) <= TOLERANCE


def test_a_network_that_couples_rows_by_a_branch_is_not_followed():
    """The branch depends on all rows: no row has a Jacobian of its own, and rows are few."""
    module, X = drawn(net(other_layer, a=nn.Linear(4, 3), b=nn.Linear(4, 3))), rows(4)(3)
    X[:, 0] = torch.tensor([0.0, 2.0, 3.0])
    with pytest.raises(ValueError, match="couples the rows"):
        capture(module, X)


# Modules that change their input in place: it must not be the caller's, nor seen twice.


def shifted_in_place(m, x):
    x -= 1.5
    x /= 3.0
    return m.a(x).tanh()


CHANGING = {
    "leaky relu": lambda: nn.Sequential(nn.LeakyReLU(0.3, inplace=True), nn.Linear(4, 3)),
    "standardized": lambda: net(shifted_in_place, a=nn.Linear(4, 3)),
    "shifted by a parameter": lambda: net(lambda m, x: m.a(x.add_(m.b)), a=nn.Linear(4, 3),
                                          b=parameter(4)),
    "without a rule": lambda: net(lambda m, x: x.mul_(2) @ m.w**2, w=parameter(4, 3)),
}  # fmt: skip


@pytest.mark.parametrize("name", CHANGING)
def test_input_changed_in_place(name):
    module, X = drawn(CHANGING[name]()), rows(4)(5)
    kept = X.clone()
    expected = jacobians(module, X)
    J = capture(module, X).jacobians()
    for parameter_name, value in expected.items():
        assert difference(J[parameter_name], value) <= TOLERANCE
    assert torch.equal(X, kept)
    for memory_budget in (None, 1):
        K = empirical_ntk(module, X, memory_budget=memory_budget)
        assert difference(K, contracted(expected, expected)) <= TOLERANCE
        array = X.numpy().copy()
        K = empirical_ntk(module, array, array.copy(), memory_budget=memory_budget)
        assert difference(K, contracted(expected, expected)) <= TOLERANCE
        assert (array == kept.numpy()).all()
    assert not X.requires_grad
    assert torch.equal(X, kept)


@pytest.mark.parametrize("n", [1, 3, 10, 20])
@pytest.mark.parametrize("k", [2, 3, 10])
def test_a_wrong_batching_rule_is_noticed(n, k):
    """torch maps PReLU's derivative wrongly where there are as many rows as outputs."""
    layers = parametrizations.weight_norm(nn.Linear(5, 16)), nn.PReLU(), nn.Linear(16, k)
    right(drawn(nn.Sequential(*layers)), rows(5)(n))


class Trimmed(nn.Module):
    """Cuts a batch to its longest sequence."""

    def __init__(self):
        super().__init__()
        self.l, self.o = nn.Linear(6, 7), nn.Linear(7, 2)

    def forward(self, x):
        valid = (x != 0).any(-1)
        length = int(valid.any(0).nonzero().max()) + 1
        x, valid = x[:, :length], valid[:, :length]
        h = self.l(x).relu() * valid[..., None]
        return self.o(h.sum(1) / valid.sum(1, keepdim=True))


@pytest.mark.parametrize("short", [1, 2])
def test_as_many_positions_as_a_batch_needs(short, monkeypatch):
    monkeypatch.setattr("skntk.finite.tiles.SWEEP_BYTES", 1)  # two rows a sweep
    net, X = drawn(Trimmed()), rows(4, 6)(8)
    X[4:, short:] = 0
    J = jacobians(net, X)
    for outputs in ("full", "diagonal", "trace"):
        K = empirical_ntk(net, X, outputs=outputs)
        assert difference(K, contracted(J, J, outputs)) <= TOLERANCE
