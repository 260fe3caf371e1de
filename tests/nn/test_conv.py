"""Convolutions in their three parametrizations, against sums over patches."""

import copy
import math
import pickle
import warnings

import pytest
import torch
from torch.func import functional_call, grad, vmap

import skntk.nn as snn

SCALES = {  # of weight and bias, for fan-in m q = 4 * 6, n = 5, weight_std = 1.4, bias_std = 0.1
    "ntk": (1.4 / math.sqrt(24), 0.1),
    "standard": (1.0, 1.0),
    "mup": (math.sqrt(5 / 24), math.sqrt(5)),
}
STD = {"weight_std": 1.4, "bias_std": 0.1}


def patches(x, kernel, stride):
    """Windows of `x` (n, c, *space): (n, c, *positions, *kernel)."""
    for axis, (k, s) in enumerate(zip(kernel, stride, strict=True)):
        x = x.unfold(axis + 2, k, s)
    return x


def surrounded(x, before, after):
    """`x` with zeros before and after each spatial axis."""
    space = [b + s + a for b, s, a in zip(before, x.shape[2:], after, strict=True)]
    out = x.new_zeros(*x.shape[:2], *space)
    out[(..., *(slice(b, b + s) for b, s in zip(before, x.shape[2:], strict=True)))] = x
    return out


@pytest.mark.parametrize("parametrization", SCALES)
@pytest.mark.parametrize(
    ("stride", "padding", "steps", "pad"),
    [
        (1, 0, (1, 1), (0, 0)),
        (2, "valid", (2, 2), (0, 0)),
        (1, 1, (1, 1), (1, 1)),
        ((2, 3), (1, 2), (2, 3), (1, 2)),
    ],
)
def test_images_are_summed_over_patches(parametrization, stride, padding, steps, pad):
    options = {**STD, "parametrization": parametrization}
    layer = snn.Conv2d(4, 5, (2, 3), stride, padding, **options).double()
    x = torch.randn(3, 4, 7, 8, dtype=torch.float64)
    seen = patches(surrounded(x, pad, pad), (2, 3), steps)
    weight, bias = SCALES[parametrization]
    expected = weight * torch.einsum("nchwij,ocij->nohw", seen, layer.weight)
    torch.testing.assert_close(layer(x), expected + bias * layer.bias[:, None, None])


@pytest.mark.parametrize("parametrization", SCALES)
@pytest.mark.parametrize(("stride", "padding"), [(1, 0), (2, (3,)), ((3,), 1)])
def test_sequences_are_summed_over_patches(parametrization, stride, padding):
    layer = snn.Conv1d(4, 5, 6, stride, padding, parametrization=parametrization, **STD).double()
    x = torch.randn(3, 4, 9, dtype=torch.float64)
    seen = patches(surrounded(x, layer.padding, layer.padding), (6,), layer.stride)
    weight, bias = SCALES[parametrization]
    expected = weight * torch.einsum("nchi,oci->noh", seen, layer.weight)
    torch.testing.assert_close(layer(x), expected + bias * layer.bias[:, None])


@pytest.mark.parametrize("kernel", [(3, 5), (2, 3), (4, 1)])
@pytest.mark.parametrize("mode", ["zeros", "circular"])
def test_same_padding(kernel, mode):
    """The size stays, the middle of the kernel is on the pixel, and nothing is warned about."""
    layer = snn.Conv2d(2, 3, kernel, padding="same", padding_mode=mode, bias=False).double()
    x = torch.randn(2, 2, 6, 7, dtype=torch.float64)
    before = [(k - 1) // 2 for k in kernel]
    if mode == "zeros":
        around = surrounded(x, before, [k // 2 for k in kernel])
        seen = patches(around, kernel, (1, 1))
        expected = torch.einsum("nchwij,ocij->nohw", seen, layer.weight)
    else:
        expected = sum(
            torch.einsum(
                "nchw,oc->nohw",
                x.roll((before[0] - i, before[1] - j), (2, 3)),
                layer.weight[:, :, i, j],
            )
            for i in range(kernel[0])
            for j in range(kernel[1])
        )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        torch.testing.assert_close(layer(x), layer.scales[0] * expected)


@pytest.mark.parametrize("padding", [2, "same"])
def test_circular_padding_of_sequences(padding):
    layer = snn.Conv1d(2, 3, 5, padding=padding, padding_mode="circular", **STD).double()
    x = torch.randn(2, 2, 8, dtype=torch.float64)
    rolled = [torch.einsum("nch,oc->noh", x.roll(2 - i, 2), layer.weight[..., i]) for i in range(5)]
    expected = layer.scales[0] * sum(rolled) + 0.1 * layer.bias[:, None]
    torch.testing.assert_close(layer(x), expected)
    torch.testing.assert_close(layer(x.roll(3, 2)), layer(x).roll(3, 2))


@pytest.mark.parametrize("parametrization", SCALES)
@pytest.mark.parametrize("channels", [(12, 8), (8, 12), (20, 1)])
def test_scale_of_the_function_at_initialization(parametrization, channels, seed):
    """The variance is weight_std^2 mean(patch^2) + bias_std^2; the mean counts padding too.

    As in `Linear`, the first term has a factor n / m in a muP layer with less outputs than inputs.
    """
    torch.manual_seed(seed)
    m, n = channels
    x = torch.randn(1, m, 3, 3, dtype=torch.float64)
    options = {"weight_std": 1.3, "bias_std": 0.4, "parametrization": parametrization}
    layers = [snn.Conv2d(m, n, 3, padding=1, **options).double() for _ in range(1200 // n + 1)]
    draws = torch.cat([layer(x)[0] for layer in layers]).detach()
    factor = min(1.0, n / m) if parametrization == "mup" else 1.0
    for row, column, seen in ((1, 1, x), (0, 0, x[..., :2, :2])):  # the middle, a corner
        mean_square = float(seen.square().sum()) / (9 * m)
        expected = 1.3**2 * factor * mean_square + 0.4**2
        # Channels are independent. The variance of k Gaussian draws scatters by sqrt(2 / k).
        assert float(draws[:, row, column].square().mean()) == pytest.approx(
            expected, rel=5 * math.sqrt(2 / len(draws))
        )


@pytest.mark.parametrize("layer", [snn.Conv1d, snn.Conv2d])
def test_parametrizations_are_one_function_of_rescaled_weights(layer):
    ntk = layer(4, 3, 3, padding=1, **STD).double()
    standard = layer(4, 3, 3, padding=1, parametrization="standard", **STD).double()
    mup = layer(4, 3, 3, padding=1, parametrization="mup", **STD).double()
    x = torch.randn(2, 4, *[5] * ntk.axes, dtype=torch.float64)
    with torch.no_grad():
        for other in (standard, mup):
            weight, bias = (a / b for a, b in zip(ntk.scales, other.scales, strict=True))
            other.weight.copy_(weight * ntk.weight)
            other.bias.copy_(bias * ntk.bias)
            torch.testing.assert_close(other(x), ntk(x))


@pytest.mark.parametrize("parametrization", SCALES)
def test_a_kernel_of_one_pixel_is_linear(parametrization, seed):
    options = {**STD, "parametrization": parametrization}
    torch.manual_seed(seed)
    linear = snn.Linear(4, 3, **options)
    torch.manual_seed(seed)
    conv = snn.Conv2d(4, 3, 1, **options)
    x = torch.randn(2, 4, 5, 6)
    torch.testing.assert_close(conv(x), linear(x.movedim(1, -1)).movedim(-1, 1))


@pytest.mark.parametrize("mode", ["zeros", "circular"])
def test_gradients_row_by_row(mode):
    layer = snn.Conv2d(2, 3, 3, padding="same", padding_mode=mode, **STD).double()
    x = torch.randn(4, 2, 5, 5, dtype=torch.float64)
    parameters = {k: p.detach() for k, p in layer.named_parameters()}

    def total(parameters, row):
        return functional_call(layer, parameters, (row[None],)).sum()

    rows = vmap(grad(total), (None, 0))(parameters, x)
    layer(x).sum().backward()
    for name, parameter in layer.named_parameters():
        torch.testing.assert_close(rows[name].sum(0), parameter.grad)


def test_attributes_and_repr():
    layer = snn.Conv2d(3, 5, 3, 2, 1, bias=False, padding_mode="circular", **STD)
    assert (layer.in_channels, layer.out_channels) == (3, 5)
    assert (layer.kernel_size, layer.stride, layer.padding) == ((3, 3), (2, 2), (1, 1))
    assert layer.bias is None
    assert not layer(torch.zeros(1, 3, 4, 4)).any()
    assert repr(layer) == (
        "Conv2d(3, 5, kernel_size=(3, 3), stride=(2, 2), padding=(1, 1), "
        "padding_mode='circular', bias=False, weight_std=1.4, bias_std=0.1, parametrization='ntk')"
    )
    assert snn.Conv1d(3, 5, 2, padding="same").padding == "same"


@pytest.mark.parametrize("kind", [snn.Conv1d, snn.Conv2d])
def test_states_and_copies(kind):
    layer = kind(4, 5, 3, padding="same", parametrization="standard", **STD)
    x = torch.randn(2, 4, *[6] * layer.axes)
    for again in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        torch.testing.assert_close(again(x), layer(x))
        assert again.extra_repr() == layer.extra_repr()
    other = kind(4, 5, 3, padding="same", parametrization="standard", **STD)
    assert not torch.equal(other.weight, layer.weight)
    other.load_state_dict(layer.state_dict())
    torch.testing.assert_close(other(x), layer(x))
    layer.reset_parameters()
    assert not torch.equal(other.weight, layer.weight)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"in_channels": 0}, "in_channels=0 must be an integer of at least 1"),
        ({"out_channels": 2.5}, "out_channels=2.5 must be an integer"),
        ({"kernel_size": 0}, "kernel_size=0 must be an integer of at least 1, or a tuple of 2"),
        ({"kernel_size": (3, 3, 3)}, r"kernel_size=\(3, 3, 3\) must be an integer"),
        ({"stride": (1, 0.5)}, r"stride=\(1, 0.5\) must be an integer of at least 1"),
        ({"padding": -1}, "padding=-1 must be an integer of at least 0"),
        ({"padding": "full"}, "padding='full' must be 'same', 'valid' or integers"),
        ({"padding": "same", "stride": 2}, "padding='same' needs stride=1, not stride=2"),
        ({"padding_mode": "reflect"}, "padding_mode='reflect' must be one of"),
        ({"weight_std": -1.0}, "weight_std=-1.0 must be a finite number of at least 0"),
        ({"parametrization": "NTK"}, "parametrization='NTK' must be one of"),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        snn.Conv2d(**{"in_channels": 3, "out_channels": 2, "kernel_size": 3, **options})
