"""Networks written in different ways are the same network."""

import copy
import operator

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from written import Written

import skntk
import skntk.nn as snn
from skntk.core import SkntkWarning

X = np.random.default_rng(0).normal(size=(6, 4))
RTOL = {"rtol": 1e-12, "atol": 1e-12}


def layers(*names, features=4, width=6):
    out = {}
    for i, name in enumerate(names):
        out[name] = snn.Linear(features if i == 0 else width, width, weight_std=1.3, bias_std=0.2)
    return out


def same(one, other, X=X, **tolerance):
    for kind in ("nngp", "ntk"):
        a, b = (skntk.infinite_width(net)(X, kind=kind) for net in (one, other))
        np.testing.assert_allclose(a, b, **(tolerance or RTOL))


def hidden(function):
    """Network with one elementwise function of its hidden layer."""
    return Written(lambda m, x: m.b(function(m.a(x))), **layers("a", "b"))


def chain(*modules):
    parts = layers("a", "b")
    return nn.Sequential(parts["a"], *modules, parts["b"])


@pytest.mark.parametrize(
    "function",
    [
        lambda h: h * torch.sigmoid(h),
        lambda h: torch.sigmoid(h) * h,
        lambda h: h / (1 + torch.exp(-h)),
        lambda h: h * (1.0 / (1.0 + (-h).exp())),
        lambda h: h.mul(h.sigmoid()),
        lambda h: F.silu(h, inplace=True),
        lambda h: h * (0.5 * torch.tanh(h / 2) + 0.5),
    ],
)
def test_silu_by_hand(function):
    same(hidden(function), chain(nn.SiLU()), rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize(
    ("function", "module"),
    [
        (torch.relu, nn.ReLU()),
        (F.relu, nn.ReLU()),
        (lambda h: h.relu(), nn.ReLU()),
        (lambda h: h.relu_(), nn.ReLU()),
        (lambda h: F.leaky_relu(h, 0.2), nn.LeakyReLU(0.2)),
        (lambda h: F.leaky_relu(h, negative_slope=0.2), nn.LeakyReLU(0.2)),
        (abs, snn.Abs()),
        (F.gelu, nn.GELU()),
        (lambda h: F.gelu(h, approximate="tanh"), nn.GELU("tanh")),
        (torch.tanh, nn.Tanh()),
        (torch.erf, snn.Erf()),
        (torch.sin, snn.Sin()),
        (torch.cos, snn.Cos()),
        (lambda h: torch.sin(h + torch.pi / 2), snn.Cos()),
        (lambda h: h**2, snn.Polynomial([0, 0, 1])),
        (lambda h: h * h, snn.Polynomial([0, 0, 1])),
        (lambda h: h.square(), snn.Polynomial([0, 0, 1])),
        (lambda h: 2 * h**3 - h + 1, snn.Polynomial([1, -1, 0, 2])),
        (lambda h: torch.exp(-h.square()), snn.Gaussian()),
        (lambda h: (h.exp() + (-h).exp()) / 2, snn.Exp(0.5, 1.0)),
        (lambda h: 3 * h, snn.ABReLU(3.0, 3.0)),
        (lambda h: torch.erf(2 * h), snn.Erf(1.0, 2.0)),
    ],
)
def test_functions_are_modules(function, module):
    if isinstance(module, snn.Exp):  # cosh is the sum of two exponentials
        module = Written(lambda m, h: torch.cosh(h))
    same(hidden(function), chain(module), rtol=1e-10, atol=1e-10)


def test_composed_activations():
    same(chain(snn.Erf(), snn.Sin()), hidden(lambda h: torch.sin(torch.erf(h))))
    doubled = hidden(lambda h: torch.exp(2 * torch.log1p(torch.exp(torch.sin(h)))))
    same(doubled, hidden(lambda h: (1 + torch.exp(torch.sin(h))) ** 2))


def test_functional_dropout():
    def function(m, x):
        return m.b(F.dropout(torch.relu(m.a(x)), 0.3, m.training))

    net = Written(function, **layers("a", "b"))
    same(net, chain(nn.ReLU(), nn.Dropout(0.3)))
    same(net.eval(), chain(nn.ReLU()))


def test_residual_with_itself():
    """relu(h) + h is one elementwise function, not a sum of independent signals."""
    with pytest.warns(SkntkWarning):
        same(hidden(lambda h: h + torch.relu(h)), chain(snn.ABReLU(1.0, 2.0)), rtol=0.02, atol=0.02)
    same(hidden(lambda h: h + torch.erf(h) - h), chain(snn.Erf()), rtol=1e-9, atol=1e-9)
    same(hidden(lambda h: h + h**3), chain(snn.Polynomial([0, 1, 0, 1])), rtol=1e-9, atol=1e-9)


def test_sums_of_one_signal_add_coherently():
    same(Written(lambda m, x: m.a(x) + m.a(x), **layers("a")), chain_of_scale(2.0))
    same(Written(lambda m, x: 3 * m.a(x) - m.a(x), **layers("a")), chain_of_scale(2.0))


def chain_of_scale(scale):
    return Written(lambda m, x: m.a(x) * scale, **layers("a"))


def test_module_called_twice_on_the_same_input():
    def function(m, x):
        return m.c(m.block(x) + m.block(x))

    parts = layers("a", "b", "c")
    block = nn.Sequential(parts["a"], nn.ReLU(), parts["b"])
    twice = Written(function, block=block, c=parts["c"])
    once = Written(lambda m, x: m.c(2 * m.block(x)), block=block, c=parts["c"])
    same(twice, once)


@pytest.mark.parametrize(
    "function",
    [
        lambda m, h: m.act(h) + h,
        lambda m, h: F.relu(h, inplace=True) + h,
        lambda m, h: h.relu_() + h,
        lambda m, h: (h.relu_(), h + h)[1],
    ],
)
def test_what_is_changed_in_place_is_read_changed(function):
    parts = layers("a", "b")
    net = Written(lambda m, x: m.b(function(m, m.a(x))), act=nn.ReLU(inplace=True), **parts)
    plain = Written(lambda m, x: m.b(2 * torch.relu(m.a(x))), **parts)
    same(net, plain)
    z = torch.randn(3, 4)
    torch.testing.assert_close(net(z), plain(z))


def test_augmented_assignment_changes_its_target():
    def augmented(m, x):
        h = m.a(x)
        same_tensor = h
        h += m.b(torch.relu(h))
        h *= 0.5
        return m.c(torch.relu(same_tensor))

    def plain(m, x):
        h = m.a(x)
        return m.c(torch.relu(0.5 * (h + m.b(torch.relu(h)))))

    parts = layers("a", "b", "c")
    same(Written(augmented, **parts), Written(plain, **parts))


def test_clone_is_not_changed_in_place():
    parts = layers("a", "b")
    net = Written(lambda m, x: (lambda h: m.b(h.clone().sin_() + h))(m.a(x)), **parts)
    plain = Written(lambda m, x: (lambda h: m.b(torch.sin(h) + h))(m.a(x)), **parts)
    same(net, plain)


def test_concatenation():
    one, two = layers("a")["a"], layers("a")["a"]
    last = snn.Linear(12, 1, weight_std=1.1, bias_std=0.1)

    def first(m, x):
        return m.last(torch.cat([torch.relu(m.one(x)), torch.relu(m.two(x))], dim=1))

    def later(m, x):
        return m.last(torch.relu(torch.cat(tensors=[m.one(x), m.two(x)], dim=-1)))

    parts = {"one": one, "two": two, "last": last}
    same(Written(first, **parts), Written(later, **parts))
    # Two parts alike are one wide layer.
    wide = nn.Sequential(snn.Linear(4, 12, weight_std=1.3, bias_std=0.2), nn.ReLU(), last)
    same(Written(first, **parts), wide)


def test_concatenation_is_weighted_by_width():
    last = snn.Linear(8, 1)
    a, b = snn.Linear(4, 2), snn.Linear(4, 6)
    net = Written(
        lambda m, x: m.last(torch.cat([torch.relu(m.a(x)), torch.erf(m.b(x))], 1)),
        a=a, b=b, last=last,
    )  # fmt: skip
    parts = [
        skntk.infinite_width(nn.Sequential(layer, act, snn.Linear(layer.out_features, 1)))(X)
        for layer, act in ((a, nn.ReLU()), (b, snn.Erf()))
    ]
    np.testing.assert_allclose(
        skntk.infinite_width(net)(X), 0.25 * parts[0] + 0.75 * parts[1], **RTOL
    )


@pytest.mark.parametrize("embedding", ["none", "featurewise"])
@pytest.mark.parametrize("kind", ["nngp", "ntk"])
@pytest.mark.parametrize("activation", [torch.relu, lambda h: h])
def test_outputs_that_are_made_of_one_layer(activation, kind, embedding):
    """The kernel of the output is that of its parts times squares of their factors."""
    parts = layers("a", "b")

    def kernel(output):
        net = Written(lambda m, x: output(activation(m.b(torch.relu(m.a(x))))), **parts)
        made = skntk.infinite_width(net, embedding=embedding)
        np.testing.assert_allclose(np.diag(made(X, kind=kind)), made.diag(X, kind=kind), **RTOL)
        return made(X, kind=kind)

    plain = kernel(lambda h: h)
    for output, factor in (
        (lambda h: 2 * h, 4.0),
        (lambda h: -h, 1.0),
        (lambda h: h + h, 4.0),
        (lambda h: torch.cat([h], 1), 1.0),
        (lambda h: torch.cat([2 * h], 1), 4.0),
        (lambda h: torch.cat([h, 2 * h], 1), 2.5),
    ):
        np.testing.assert_allclose(kernel(output), factor * plain, **RTOL)


@pytest.mark.parametrize("parametrization", ["ntk", "standard"])
@pytest.mark.parametrize("bias_std", [None, 0.0, 0.3])
def test_the_output_layer_alone_is_as_in_a_larger_network(parametrization, bias_std):
    """A last layer computes its kernel alone; in front of the identity it computes its state."""
    how = {"parametrization": parametrization}
    first = snn.Linear(4, 6, weight_std=1.3, bias_std=0.2, **how)
    if bias_std is None:
        last = snn.Linear(6, 1, bias=False, weight_std=0.9, **how)
    else:
        last = snn.Linear(6, 1, weight_std=0.9, bias_std=bias_std, **how)
    alone = nn.Sequential(first, nn.LayerNorm(6), nn.ReLU(), last)
    doubled = Written(lambda m, x: 2 * m.net(x), net=alone)
    for kind in ("nngp", "ntk"):
        ours = skntk.infinite_width(alone)(X, kind=kind)
        np.testing.assert_allclose(skntk.infinite_width(doubled)(X, kind=kind), 4 * ours, **RTOL)


def test_product_rule():
    a, b = layers("a")["a"], snn.Linear(4, 6, weight_std=0.7, bias_std=0.5)
    product = skntk.infinite_width(Written(lambda m, x: m.a(x) * m.b(x), a=a, b=b))
    ka, kb = skntk.infinite_width(a), skntk.infinite_width(b)
    K = {k: (ka(X, kind=k), kb(X, kind=k)) for k in ("nngp", "ntk")}
    np.testing.assert_allclose(product(X, kind="nngp"), operator.mul(*K["nngp"]), **RTOL)
    expected = K["ntk"][0] * K["nngp"][1] + K["nngp"][0] * K["ntk"][1]
    np.testing.assert_allclose(product(X), expected, **RTOL)


def test_norms_agree_on_centred_signals():
    same(
        chain(nn.LayerNorm(6, eps=1e-6, elementwise_affine=False), nn.ReLU()),
        chain(nn.RMSNorm(6, eps=1e-6, elementwise_affine=False), nn.ReLU()),
    )


def test_flattened_images():
    net = nn.Sequential(nn.Flatten(), *chain(nn.ReLU()))
    images = X.reshape(6, 1, 2, 2)
    written = Written(lambda m, x: m.net(x.reshape(x.shape[0], -1) * 1.0), net=chain(nn.ReLU()))
    for network in (net, written):
        kernel = skntk.infinite_width(network)
        np.testing.assert_allclose(
            kernel(images), skntk.infinite_width(chain(nn.ReLU()))(X), **RTOL
        )


def test_widths_and_weights_do_not_matter():
    one, other = (snn.MLP(4, 3, depth=2, width=w, activation="erf") for w in (1, 77))
    same(one, other)
    for p in one.parameters():
        nn.init.constant_(p, 3.0)
    same(one, other)


def test_the_module_is_copied_and_not_changed():
    net = chain(nn.ReLU())
    before = copy.deepcopy(net.state_dict())
    kernel = skntk.infinite_width(net)
    first = kernel(X)
    net[0].weight_std = 100.0
    np.testing.assert_array_equal(kernel(X), first)
    assert kernel.module is not net
    for name, value in net.state_dict().items():
        torch.testing.assert_close(value, before[name])
        assert value.device.type == "cpu"


def test_the_global_generator_is_left_alone():
    net = chain(nn.Tanh(), nn.Dropout(0.5))
    state = torch.random.get_rng_state()
    skntk.infinite_width(net)(X)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_branches_on_shapes_are_traced():
    def function(m, x):
        n, d = x.shape
        if x.ndim == 2 and d == len(x[0]) and x.size(0) == n:
            return m.b(torch.relu(m.a(x)))
        return x

    same(Written(function, **layers("a", "b")), chain(nn.ReLU()))


def test_optional_arguments_keep_their_defaults():
    class Masked(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = chain(nn.ReLU())

        def forward(self, x, mask=None):
            return self.net(x) if mask is None else self.net(x * mask)

    net = Masked()
    same(net, net.net)
