"""Three finite networks with their weights, whose empirical NTK another library computed."""

import json
import math

import numpy as np
import pytest
import torch
from torch import nn

import skntk.nn as snn
from skntk.finite import EmpiricalKernel, capture, empirical_ntk

TOLERANCE = 1e-10
NAMES = ("fc", "conv", "resfc")


class Residual(nn.Module):
    """Sum of a branch and the identity."""

    def __init__(self, branch):
        super().__init__()
        self.branch = branch

    def forward(self, x):
        return self.branch(x) + x


def same(size, kernel, stride):
    """Padding before and after an axis, of which the end gets the odd one."""
    total = max((math.ceil(size / stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


def build(spec, params, prefix, shape):
    """Network of a list of layers on rows of `shape` (channels first), with its weights."""
    modules = []
    for i, layer in enumerate(spec):
        kind = layer["layer"]
        name = f"{prefix}{i}"
        if kind in ("Dense", "Conv"):
            W = torch.from_numpy(params[f"{name}.W"])
            options = {"weight_std": layer["W_std"], "bias": layer["b_std"] is not None}
            options["bias_std"] = layer["b_std"] or 0.0
            if kind == "Dense":
                made = snn.Linear(*W.shape, **options)
                weight, shape = W.T, (W.shape[1],)
            else:
                height, width = (
                    same(size, k, s)
                    for size, k, s in zip(shape[1:], W.shape, layer["strides"], strict=False)
                )
                assert layer["padding"] == "SAME"
                modules.append(nn.ZeroPad2d((*width, *height)))
                strides = tuple(layer["strides"])
                made = snn.Conv2d(W.shape[2], W.shape[3], tuple(W.shape[:2]), strides, **options)
                weight = W.permute(3, 2, 0, 1)
                sizes = (math.ceil(n / s) for n, s in zip(shape[1:], strides, strict=True))
                shape = (W.shape[3], *sizes)
            made = made.double()
            with torch.no_grad():
                made.weight.copy_(weight)
                if made.bias is not None:
                    made.bias.copy_(torch.from_numpy(params[f"{name}.b"]))
            modules.append(made)
        elif kind == "Parallel":
            branch, identity = layer["branches"]
            assert layer["fan_in"] == "Sum"
            assert identity == []
            modules.append(Residual(build(branch, params, f"{name}.branch0.", shape)))
        elif kind == "AvgPool":
            assert layer["padding"] == "VALID"
            modules.append(nn.AvgPool2d(tuple(layer["window_shape"]), tuple(layer["strides"])))
            shape = (shape[0], *(n // s for n, s in zip(shape[1:], layer["strides"], strict=True)))
        elif kind == "GlobalAvgPool":
            modules += [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
            shape = shape[:1]
        else:
            modules.append({"Relu": nn.ReLU, "Erf": snn.Erf, "Gelu": nn.GELU}[kind]())
    return nn.Sequential(*modules)


@pytest.fixture(scope="module", params=NAMES)
def case(request, reference_dir):
    """The network, its arrays by name, and its inputs with channels first."""
    if not (reference_dir / "entk.npz").is_file():
        pytest.skip("the reference kernels of finite networks are not beside this checkout")
    nets = json.loads((reference_dir / "entk.json").read_text())["nets"]
    (found,) = (net for net in nets if net["name"] == request.param)
    with np.load(reference_dir / "entk.npz") as file:
        arrays = {
            key.removeprefix(f"{request.param}/"): file[key]
            for key in file
            if key.startswith(f"{request.param}/")
        }
    params = {k.removeprefix("param/"): v for k, v in arrays.items() if k.startswith("param/")}
    assert set(params) == set(found["params"])
    x1, x2 = (
        np.moveaxis(arrays[x], -1, 1) if arrays[x].ndim > 2 else arrays[x] for x in ("x1", "x2")
    )
    return build(found["spec"], params, "", x1.shape[1:]), arrays, x1, x2


def close(found, expected):
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= TOLERANCE * np.abs(expected).max()


def test_outputs(case):
    module, arrays, x1, x2 = case
    close(EmpiricalKernel(module).function(x1), arrays["f_x1"])
    close(EmpiricalKernel(module).function(x2), arrays["f_x2"])
    close(capture(module, x1).outputs.numpy(), arrays["f_x1"])


@pytest.mark.parametrize("memory_budget", [None, 1])
def test_kernels(case, memory_budget, capsys):
    module, arrays, x1, x2 = case
    options = {"memory_budget": memory_budget, "verbose": 1}
    close(empirical_ntk(module, x1, **options), arrays["entk_full_11"])
    total = len(list(module.parameters()))
    expected = f"[skntk] Sequential: all {total} parameters by the capture\n"
    assert capsys.readouterr().out == expected
    close(empirical_ntk(module, x1, x2, **options), arrays["entk_full_12"])
    close(empirical_ntk(module, x1, outputs="trace", **options), arrays["entk_trace_11"])
    close(empirical_ntk(module, x1, x2, "trace", **options), arrays["entk_trace_12"])
    diagonal = arrays["entk_full_12"].diagonal(0, 2, 3)
    close(empirical_ntk(module, x1, x2, "diagonal", **options), diagonal)


def test_jacobians(case):
    """Their products, from layers that the rules found."""
    module, arrays, x1, x2 = case
    one, two = capture(module, torch.from_numpy(x1)), capture(module, torch.from_numpy(x2))
    assert {type(layer).__name__ for layer in one.layers} == {"AffineLayer"}
    J1, J2 = one.jacobians(), two.jacobians()
    K = sum(torch.einsum("pix,qjx->ijpq", J1[k].flatten(2), J2[k].flatten(2)) for k in J1)
    close(K.numpy(), arrays["entk_full_12"])
