"""Stored gradients, and the projection away from them, against written-out Jacobians."""

import copy

import pytest
import torch
from explicit import difference, drawn, jacobians
from networks import CONVOLUTIONS, LINEAR, seq
from torch import nn

import skntk.nn as snn
from skntk.continual.gradients import Factored, stored_gradients
from skntk.continual.projection import StoredDirections

NETWORKS = {
    "mlp": LINEAR["snn.MLP"][0],
    "3-D": LINEAR["linear 3-D"][0],
    "x @ W": LINEAR["x @ W"][0],
    "conv": CONVOLUTIONS["conv2d, two"][0],
    "wide conv": seq(
        nn.Conv2d(2, 40, 3), nn.ReLU(), nn.Conv2d(40, 40, 3), nn.Flatten(), nn.LazyLinear(3)
    ),
    "norm": seq(nn.Linear(4, 6), nn.LayerNorm(6), nn.Tanh(), nn.Linear(6, 3)),
    "no bias": seq(nn.Linear(4, 6, bias=False), nn.ReLU(), snn.Linear(6, 3)),
}
SHAPES = {"3-D": (3, 4), "conv": (2, 6, 5), "wide conv": (2, 6, 5)}


def made(name, n, seed):
    torch.manual_seed(seed)
    X = torch.randn(n, *SHAPES.get(name, (4,)), dtype=torch.float64)
    module = NETWORKS[name]().double()
    module(X)  # lazy layers
    return drawn(module), X


def picked(kind, n, k, seed):
    generator = torch.Generator().manual_seed(seed)
    if kind == "label":
        return nn.functional.one_hot(torch.randint(k, (n,), generator=generator), k) > 0
    which = torch.rand(n, k, generator=generator) < 0.6
    which[0], which[1] = True, False  # all outputs of a row, and none
    return which


def dense(module, X, which):
    """Gradients (N, P) of the chosen outputs, row by row."""
    flat = torch.cat([J.flatten(2) for J in jacobians(module, X).values()], 2)
    return flat.transpose(0, 1)[which]


def flat(vector, module):
    return torch.cat([vector[name].flatten() for name, _ in module.named_parameters()])


def random_vector(module):
    return {name: torch.randn_like(p) for name, p in module.named_parameters()}


@pytest.mark.parametrize("kind", ["label", "all"])
@pytest.mark.parametrize("name", NETWORKS)
def test_parts_are_the_gradients(name, kind, seed):
    module, X = made(name, 70, seed)  # more rows than one sweep
    k = module(X).flatten(1).shape[1]
    which = picked(kind, 70, k, seed)
    J = dense(module, X, which)
    parts = stored_gradients(module, X, which)
    assert sorted(n for part in parts for n in part.names) == sorted(
        n for n, _ in module.named_parameters()
    )
    v = random_vector(module)
    assert difference(sum(part.dot(v) for part in parts), J @ flat(v, module)) < 1e-12
    u = torch.randn(len(J), dtype=torch.float64)
    combined = {n: value for part in parts for n, value in part.combine(u).items()}
    assert difference(flat(combined, module), u @ J) < 1e-12
    assert difference(sum(part.gram(part) for part in parts), J @ J.T) < 1e-12


def test_factors_take_less_than_gradients():
    module, X = made("wide conv", 8, 0)
    parts = stored_gradients(module, X, picked("label", 8, 3, 0))
    second = next(part for part in parts if "2.weight" in part.names)
    assert isinstance(second, Factored)
    assert second.nbytes < 8 * second.size * len(second)


@pytest.mark.parametrize("name", ["mlp", "conv", "norm"])
def test_projection(name, seed):
    module, X = made(name, 9, seed)
    which = picked("all", 9, module(X).flatten(1).shape[1], seed)
    J = dense(module, X, which)
    stored = StoredDirections()
    for rows in (slice(0, 4), slice(4, 9)):
        stored.add(stored_gradients(module, X[rows], which[rows]))
    v = random_vector(module)
    before = flat(v, module)
    stored.project(v)
    after = flat(v, module)
    Q = torch.linalg.qr(J.T).Q
    rank = torch.linalg.matrix_rank(J)
    assert len(stored) == len(J)
    if rank == len(J):
        assert difference(after, before - Q @ (Q.T @ before)) < 1e-8
    assert float((J @ after).abs().max()) < 1e-8 * float((J @ before).abs().max())
    again = copy.deepcopy(v)
    stored.project(again)
    assert difference(flat(again, module), after) < 1e-9
    inside = {
        n: value
        for part in stored.parts
        for n, value in part.combine(torch.ones(len(J), dtype=torch.float64)).items()
    }
    size = float(flat(inside, module).norm())
    stored.project(inside)
    assert float(flat(inside, module).norm()) < 1e-8 * size


def test_copies_and_zeros_do_no_harm(seed):
    """The same rows twice, and a row on which nothing depends: the projection is that of one."""
    torch.manual_seed(seed)
    net = nn.Linear(5, 2, bias=False).double()
    X = torch.randn(3, 5, dtype=torch.float64)
    X[2] = 0.0
    which = torch.ones(3, 2) > 0
    once, twice = StoredDirections(), StoredDirections()
    once.add(stored_gradients(net, X, which))
    for _ in range(2):
        twice.add(stored_gradients(net, X, which))
    one, two = (random_vector(net) for _ in range(2))
    two["weight"] = one["weight"].clone()
    once.project(one)
    twice.project(two)
    assert len(once) == 4
    large = StoredDirections()  # a copy among rows of another size hides nothing
    large.add(stored_gradients(net, X[:1], which[:1]))
    large.add(stored_gradients(net, 1e6 * X[[1, 1]], which[:2]))
    v = random_vector(net)
    size = float(v["weight"].norm() * X[0].norm())
    large.project(v)
    assert float((v["weight"] @ X[0]).abs().max()) < 1e-8 * size
    assert difference(two["weight"], one["weight"]) < 1e-7


def test_principal_directions(seed):
    """As many of the leading right singular vectors, and what was stored before stays."""
    module, X = made("mlp", 12, seed)
    which = torch.ones(12, 3) > 0
    J = dense(module, X, which)
    stored = StoredDirections()
    stored.add(stored_gradients(module, X[:2], which[:2]))
    stored.add(stored_gradients(module, X, which), n_components=5)
    V = torch.linalg.svd(J, full_matrices=False).Vh[:5]
    span = torch.linalg.qr(torch.cat([J[:6], V]).T).Q
    v = random_vector(module)
    expected = flat(v, module) - span @ (span.T @ flat(v, module))
    stored.project(v)
    assert difference(flat(v, module), expected) < 1e-8


def test_growing_keeps_the_gradients(seed):
    """New outputs have no share in what was stored."""
    module, X = made("mlp", 6, seed)
    which = picked("label", 6, 3, seed)
    stored = StoredDirections()
    stored.add(stored_gradients(module, X, which))
    name = list(module._modules)[-1]
    stored.grow([f"{name}.weight", f"{name}.bias"], 2)
    v = random_vector(module)
    for part in (f"{name}.weight", f"{name}.bias"):
        v[part] = torch.cat([v[part], torch.randn_like(v[part][:2])])
    old = {n: value[:3].clone() if n.startswith(name) else value.clone() for n, value in v.items()}
    new = {n: value[3:].clone() for n, value in v.items() if n.startswith(name)}
    stored.project(v)
    for n, value in new.items():
        assert torch.equal(v[n][3:], value)
    again = StoredDirections()
    again.add(stored_gradients(module, X, which))
    again.project(old)
    for n, value in old.items():
        assert difference(v[n][: len(value)], value) < 1e-12
