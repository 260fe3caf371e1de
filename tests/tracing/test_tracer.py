"""A tracer that knows shapes, and leaves the module alone."""

import pytest
import torch
from torch import nn
from written import Written

from skntk.core import UnsupportedModuleError
from skntk.tracing import place, trace


def leaf(module):
    return isinstance(module, nn.Linear | nn.ReLU)


def nodes(module, shape=(4,)):
    return list(trace(module, shape, leaf).graph.nodes)


def operations(module, shape=(4,)):
    return [n.op for n in nodes(module, shape)][1:-1]


def test_shapes_of_all_nodes():
    found = nodes(nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2)))
    assert [n.meta["shape"][1:] for n in found[:-1]] == [(4,), (5,), (5,), (2,)]


def test_modules_are_the_users_own():
    net = nn.Sequential(nn.Linear(4, 5), nn.ReLU())
    traced = trace(net, (4,), leaf)
    calls = [n for n in traced.graph.nodes if n.op == "call_module"]
    assert [traced.modules[c.target] for c in calls] == [net[0], net[1]]
    assert [place(c) for c in calls] == ["'0'", "'1'"]
    assert net[0].weight.device.type == "cpu"


def test_a_module_that_is_a_leaf_itself():
    layer = nn.Linear(4, 5)
    traced = trace(layer, (4,), leaf)
    (call,) = (n for n in traced.graph.nodes if n.op == "call_module")
    assert traced.modules[call.target] is layer
    assert place(call) == "the top of the module"


@pytest.mark.parametrize(
    "function",
    [
        lambda m, x: m.a(x.view(x.shape[0], -1)),
        lambda m, x: m.a(x.reshape(x.size(0), x.size()[1:].numel())),
        lambda m, x: m.a(x.flatten(1)) if x.ndim == 3 else m.missing(x),
        lambda m, x: m.a(x.flatten(1)) if x.dim() > 2 and x.is_floating_point() else None,
        lambda m, x: m.a(torch.stack([*x.unbind(1)], 1).flatten(1)),
        lambda m, x: (lambda n, c, d: m.a(x.reshape(n, c * d)))(*x.shape),
        lambda m, x: m.a(x.reshape(-1, x.numel() // x.shape[0])),
    ],
)
def test_questions_about_shapes(function):
    found = nodes(Written(function, a=nn.Linear(6, 5)), (2, 3))
    assert found[-2].meta["shape"][1:] == (5,)


def test_length_and_iteration():
    def function(m, x):
        assert len(x) == x.shape[0]
        return sum(m.a(row[None]) for row in x)

    assert operations(Written(function, a=nn.Linear(4, 2))).count("call_module") == 7


def test_dtype_is_that_of_the_parameters():
    net = Written(lambda m, x: m.a(x) if x.dtype == torch.float64 else x, a=nn.Linear(4, 2))
    assert operations(net) == []
    assert operations(net.double()) == ["call_module"]


def test_places_inside_submodules():
    inner = Written(lambda m, x: torch.tanh(m.a(x)), a=nn.Linear(4, 4))
    found = nodes(nn.Sequential(nn.ModuleDict({"b": inner})["b"], inner))
    assert [place(n) for n in found[1:3]] == ["'0.a'", "'0'"]


def test_augmented_assignment_is_recorded_as_such():
    def function(m, x):
        h = m.a(x)
        h += x
        h -= 1.0
        h *= 2.0
        h /= 3.0
        return h

    found = nodes(Written(function, a=nn.Linear(4, 4)))
    assert [n.target.__name__ for n in found[2:-1]] == ["iadd", "isub", "imul", "itruediv"]


def test_the_module_is_left_alone():
    net = nn.Sequential(nn.Linear(4, 5), nn.Dropout(0.5), nn.ReLU())
    before = {k: v.clone() for k, v in net.state_dict().items()}
    state = torch.random.get_rng_state()
    trace(net, (4,), leaf)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert net.training
    for name, value in net.state_dict().items():
        assert torch.equal(value, before[name])


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda m, x: m.a(x) if (x > 0).all() else x, "branches on the values"),
        (lambda m, x: m.a(x) * float(x[0, 0]), "takes one as a number"),
        (lambda m, x: m.a(x) * int(x[0, 0]), "takes one as a number"),
        (lambda m, x: m.a(x)[x.sum().item() :], "'item' fails"),
        (lambda m, x: m.a(x) @ x, "'matmul' fails on its input"),
        (lambda m, x: list(zip(*x.sum(), strict=True)), "cannot be traced|fails"),
        (lambda m, x: m.a(x).item_that_is_missing(), "item_that_is_missing"),
    ],
)
def test_what_cannot_be_traced(function, message):
    with pytest.raises(UnsupportedModuleError, match=message):
        nodes(Written(function, a=nn.Linear(4, 3)))


def test_number_of_features():
    with pytest.raises(ValueError, match="at '1': Linear takes 6 features, but its input has 5"):
        nodes(nn.Sequential(nn.Linear(4, 5), nn.Linear(6, 2)))


def test_lazy_layers():
    with pytest.raises(UnsupportedModuleError, match="lazy layers; call it once"):
        nodes(nn.Sequential(nn.LazyLinear(4)))
