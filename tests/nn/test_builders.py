"""Networks for images: what they consist of, and what they compute."""

import copy
import math
import pickle

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import skntk.nn as snn
from skntk.nn.norm import NORMS, image_norm

BUILDERS = {
    "convnet": lambda **options: snn.ConvNet(2, 3, **{"depth": 2, "width": 6, **options}),
    "wideresnet": lambda **options: snn.WideResNet(2, 3, **{"depth": 10, "width": 4, **options}),
}
both = pytest.mark.parametrize("build", BUILDERS.values(), ids=BUILDERS)


@both
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("size", [(8, 8), (9, 14)])
def test_shapes(build, norm, size):
    net = build(norm=norm, activation="tanh")
    assert net(torch.randn(5, 2, *size)).shape == (5, 3)
    kinds = {type(module) for module in net.modules()}
    wanted = {None: set(), "batch": {nn.BatchNorm2d}}.get(norm, {nn.GroupNorm})
    assert kinds & {nn.BatchNorm2d, nn.GroupNorm} == wanted


def test_layers_of_the_convnet():
    net = snn.ConvNet(norm="batch", depth=2)
    block = [snn.Conv2d, nn.BatchNorm2d, nn.ReLU, nn.AvgPool2d]
    end = [nn.AdaptiveAvgPool2d, nn.Flatten, snn.Linear]
    assert [type(module) for module in net] == [*block, *block, *end]
    convs = [module for module in net if isinstance(module, snn.Conv2d)]
    assert [(conv.in_channels, conv.out_channels) for conv in convs] == [(3, 64), (64, 64)]
    plain = snn.ConvNet(depth=2, pool=1)
    assert [type(module) for module in plain] == [snn.Conv2d, nn.ReLU, snn.Conv2d, nn.ReLU, *end]
    assert plain[1] is not plain[3]


def test_function_of_the_convnet():
    net = snn.ConvNet(2, 3, depth=2, width=4, pool=3, activation="erf").double()
    h = x = torch.randn(5, 2, 10, 9, dtype=torch.float64)
    convs = [module for module in net if isinstance(module, snn.Conv2d)]
    for conv in convs:
        scale = math.sqrt(2 / (9 * h.shape[1]))
        h = F.conv2d(h, scale * conv.weight, 0.1 * conv.bias, padding=1)
        size = [s // 3 * 3 for s in h.shape[2:]]
        h = torch.erf(h)[..., : size[0], : size[1]]
        h = h.unflatten(3, (-1, 3)).unflatten(2, (-1, 3)).mean((3, 5))
    h = h.mean((2, 3)) @ net[-1].weight.T * math.sqrt(2 / 4) + 0.1 * net[-1].bias
    torch.testing.assert_close(net(x), h)


def test_any_kernel_of_the_convnet():
    net = snn.ConvNet(depth=1, kernel_size=(2, 5), pool=1)
    assert net[0].kernel_size == (2, 5)
    assert net[0](torch.zeros(1, 3, 6, 7)).shape == (1, 64, 6, 7)


@pytest.mark.parametrize("stride", [1, 2])
def test_function_of_the_wide_resnet(stride):
    """Stem, pre-activated blocks, and readout, written out from the state dict."""
    net = snn.WideResNet(2, 3, depth=16, width=4, norm=None, activation="erf").double()
    state = {name: tensor.detach() for name, tensor in net.named_parameters()}
    used = set()

    def conv(name, h, step=1):
        weight, bias = state[f"{name}.weight"], state[f"{name}.bias"]
        used.update((f"{name}.weight", f"{name}.bias"))
        scale = math.sqrt(2 / weight[0].numel())
        return F.conv2d(h, scale * weight, 0.1 * bias, step, weight.shape[-1] // 2)

    x = torch.randn(5, 2, 8, 7, dtype=torch.float64)
    h = conv("0", x)
    for i, step in enumerate([1, 1, 2, 1, 2, 1], start=1):
        a = torch.erf(h)
        branch = conv(f"{i}.conv2", torch.erf(conv(f"{i}.conv1", a, step)))
        h = branch + (conv(f"{i}.shortcut", a, step) if step == 2 else h)
        assert h.shape[1] == (4, 4, 8, 8, 16, 16)[i - 1]
    last = net[-1]
    h = torch.erf(h).mean((2, 3)) @ last.weight.T * math.sqrt(2 / 16) + 0.1 * last.bias
    torch.testing.assert_close(net(x), h)
    assert len(used) + 2 == len(state)


@pytest.mark.parametrize(("depth", "width"), [(10, 8), (16, 16), (22, 16)])
def test_parameters_of_the_wide_resnet(depth, width):
    """Counted by hand: kernels, biases, and the gains and offsets of the normalizations."""
    net = snn.WideResNet(depth=depth, width=width)
    b, k = (depth - 4) // 6, width
    convs, biases, norms = 27 * k, k, 0
    for a, c in ((k, k), (k, 2 * k), (2 * k, 4 * k)):
        convs += 9 * a * c + (2 * b - 1) * 9 * c * c + (a * c if a != c else 0)
        biases += 2 * b * c + (c if a != c else 0)
        norms += 2 * a + (2 * b - 1) * 2 * c  # the first one reads the group before
    expected = convs + norms + 2 * 4 * k + 4 * k * 10 + 10
    if (depth, width) == (16, 16):  # WRN-16-1, whose convolutions have no biases in the paper
        assert expected == 432 + 9216 + 32768 + 131072 + 928 + 650
    assert sum(p.numel() for p in net.parameters()) == expected + biases
    layers = [m for m in net.modules() if isinstance(m, snn.Conv2d | snn.Linear)]
    assert len(layers) == depth


@both
@pytest.mark.parametrize("norm", NORMS)
def test_only_batch_norm_sees_the_batch(build, norm):
    net = build(norm=norm).double()
    x = torch.randn(4, 2, 8, 8, dtype=torch.float64)
    alone = torch.cat([net(row[None]) for row in x])
    assert torch.allclose(net(x), alone, rtol=1e-9, atol=1e-9) == (norm != "batch")
    net.eval()
    alone = torch.cat([net(row[None]) for row in x])
    torch.testing.assert_close(net(x), alone)


@pytest.mark.parametrize(
    ("norm", "channels", "groups"),
    [("layer", 64, 1), ("group", 64, 32), ("group", 48, 24), ("group", 37, 1), ("group", 16, 8)],
)
def test_groups(norm, channels, groups):
    made = image_norm(norm, channels)
    assert made.num_groups == groups
    y = made(3 + 2 * torch.randn(2, channels, 5, 5)).reshape(2, groups, -1)
    torch.testing.assert_close(y.mean(-1), torch.zeros(2, groups), atol=1e-5, rtol=0)
    torch.testing.assert_close(y.var(-1, correction=0), torch.ones(2, groups), atol=1e-3, rtol=0)


@both
@pytest.mark.parametrize("parametrization", ["ntk", "standard", "mup"])
def test_scales_reach_every_layer(build, parametrization):
    net = build(weight_std=1.1, bias_std=0.2, parametrization=parametrization)
    layers = [m for m in net.modules() if isinstance(m, snn.Conv2d | snn.Linear)]
    found = {(m.weight_std, m.bias_std, m.parametrization) for m in layers}
    assert found == {(1.1, 0.2, parametrization)}


@both
def test_states_and_copies(build):
    net = build(norm="batch", activation=nn.LeakyReLU(0.3))
    x = torch.randn(4, 2, 8, 8)
    net(x)  # moves the running means
    net.eval()
    for again in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        torch.testing.assert_close(again(x), net(x))
    other = build(norm="batch", activation=nn.LeakyReLU(0.3)).eval()
    assert not torch.allclose(other(x), net(x))
    other.load_state_dict(net.state_dict())
    torch.testing.assert_close(other(x), net(x))


@both
def test_activations_are_copies_and_not_in_place(build):
    act = nn.ReLU()
    acts = [m for m in build(activation=act).modules() if isinstance(m, nn.ReLU)]
    assert len(acts) >= 2
    assert act not in acts
    assert not any(m.inplace for m in acts)


@both
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"norm": "instance"}, r"norm='instance' must be one of \(None, 'layer', 'group', 'batch'"),
        ({"width": 0}, "width=0 must be an integer of at least 1"),
        ({"width": 2.5}, "width=2.5 must be an integer"),
        ({"activation": "swish"}, "activation='swish' is unknown"),
        ({"parametrization": "NTK"}, "parametrization='NTK' must be one of"),
        ({"depth": 0}, "depth=0 must be"),
        ({"depth": 10.5}, "depth=10.5 must be"),
    ],
)
def test_bad_arguments(build, options, message):
    with pytest.raises(ValueError, match=message):
        build(**options)


def test_bad_arguments_of_one_builder():
    with pytest.raises(ValueError, match="pool=0 must be an integer of at least 1"):
        snn.ConvNet(pool=0)
    for depth in (4, 12):
        with pytest.raises(ValueError, match=rf"depth={depth} must be 6 b \+ 4 .*10, 16, 22"):
            snn.WideResNet(depth=depth)
    with pytest.raises(ValueError, match=r"activation=ReLU\(inplace=True\) must not work in place"):
        snn.WideResNet(activation=nn.ReLU(inplace=True))
