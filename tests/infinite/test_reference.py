"""Every dense network of the reference kernels, which another library computed."""

import json

import numpy as np
import pytest
import torch
from torch import nn

import skntk
import skntk.nn as snn

KINDS = ("nngp", "ntk")
DENSE = ("fc", "std", "img_flatten")


class Branches(nn.Module):
    def __init__(self, fan_in, branches):
        super().__init__()
        self.fan_in, self.branches = fan_in, nn.ModuleList(branches)

    def forward(self, x):
        outs = [branch(x) for branch in self.branches]
        if self.fan_in == "Concat":
            return torch.cat(outs, dim=1)
        total = outs[0]
        for out in outs[1:]:
            total = total + out if self.fan_in == "Sum" else total * out
        return total


def activation(layer):
    name, a, b, c = layer["layer"], layer.get("a", 1.0), layer.get("b", 1.0), layer.get("c", 0.0)
    return {
        "Relu": nn.ReLU,
        "Gelu": nn.GELU,
        "Abs": snn.Abs,
        "Sign": snn.Sign,
        "Identity": nn.Identity,
        "LeakyRelu": lambda: nn.LeakyReLU(layer["alpha"]),
        "Erf": lambda: snn.Erf(a, b, c),
        "Sin": lambda: snn.Sin(a, b, c),
        "Cos": lambda: snn.Cos(a, b, c),
        "Exp": lambda: snn.Exp(a, b),
        "Gaussian": lambda: snn.Gaussian(a, layer.get("b", -1.0)),
        "ABRelu": lambda: snn.ABReLU(a, b),
        "Polynomial": lambda: snn.Polynomial(layer["coef"]),
        "Hermite": lambda: snn.Hermite(layer["degree"]),
        "Dropout": lambda: nn.Dropout(1 - layer["rate"]),  # the rate is that of keeping
        "ElementwiseNumerical": lambda: {
            "tanh": nn.Tanh,
            "softplus": nn.Softplus,
            "silu": nn.SiLU,
        }[layer["fn"]](),
    }[name]()


def build(spec, features, width=8):
    """Modules for a list of layers, and the number of features that they return."""
    modules = []
    for layer in spec:
        if layer["layer"] == "Dense":
            out = layer.get("out_dim") or width
            kind = layer.get("parameterization", "ntk")
            modules.append(
                snn.Linear(
                    features,
                    out,
                    bias=layer["b_std"] is not None,
                    weight_std=layer["W_std"],
                    bias_std=layer["b_std"] or 0.0,
                    parametrization=kind,
                )
            )
            features = out
        elif layer["layer"] == "Parallel":
            built = [build(branch, features, width) for branch in layer["branches"]]
            modules.append(Branches(layer["fan_in"], [nn.Sequential(*m) for m, _ in built]))
            sizes = [size for _, size in built]
            features = sum(sizes) if layer["fan_in"] == "Concat" else sizes[0]
        elif layer["layer"] == "LayerNorm":
            modules.append(nn.LayerNorm(features, eps=layer["eps"], elementwise_affine=False))
        elif layer["layer"] == "Flatten":
            modules.append(nn.Flatten())
        else:
            modules.append(activation(layer))
    return modules, features


@pytest.fixture(scope="module")
def cases(reference_dir):
    """Cases by name, with their arrays."""
    manifest = json.loads((reference_dir / "manifest.json").read_text())
    return [
        (case, np.load(reference_dir / case["file"]))
        for case in manifest
        if case["name"].startswith(DENSE)
    ]


def load(case, arrays):
    """Kernel of a case, and its two inputs with channels first."""
    x1, x2 = (np.moveaxis(x, -1, 1) if x.ndim > 2 else x for x in (arrays["x1"], arrays["x2"]))
    modules, _ = build(case["spec"], int(np.prod(x1.shape[1:])))
    return skntk.infinite_width(nn.Sequential(*modules)), x1, x2


def coincident(case, n1, n2):
    """Masks of the pairs (11 and 12) of the same direction, antipodes included."""
    same11, same12 = np.eye(n1, dtype=bool), np.zeros((n1, n2), dtype=bool)
    for i, j in case["coincident_pairs_11_offdiag"]:
        same11[i, j] = same11[j, i] = True
    for i, j in case["coincident_pairs_12"]:
        same12[i, j] = True
    return same11, same12


def errors(ours, arrays, kind, which, scale, same):
    """Errors away from coincident pairs, and on them, relative to the diagonals."""
    reference, extended = arrays[f"{kind}_{which}"], arrays[f"extended_{kind}_{which}"]
    away = np.abs(ours - reference)[~same] / scale[~same]
    on = np.abs(ours - extended)[same] / scale[same]
    return max(away, default=0.0), max(on, default=0.0)


def worst(case, arrays, kind):
    """Largest errors of a case: away from coincident pairs, and on them."""
    kernel, x1, x2 = load(case, arrays)
    same11, same12 = coincident(case, len(x1), len(x2))
    d1 = np.sqrt(np.diag(arrays[f"extended_{kind}_11"]))
    d2 = np.sqrt(kernel.diag(x2, kind=kind))
    found = []
    for ours, which, scale, same in (
        (kernel(x1, kind=kind), "11", np.outer(d1, d1), same11),
        (kernel(x1, x2, kind=kind), "12", np.outer(d1, d2), same12),
        (kernel.gram(x1, x2, kind=kind, collapse=False), "12", np.outer(d1, d2), same12),
    ):
        assert np.isfinite(ours).all()
        scale = np.where(scale > 0, scale, 1.0)  # rows of zeros without a bias
        found.append(errors(ours, arrays, kind, which, scale, same))
    return kernel, *map(max, zip(*found, strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_closed_forms(cases, kind):
    checked = 0
    for case, arrays in cases:
        if "ElementwiseNumerical" in str(case["spec"]):
            continue
        kernel, away, on = worst(case, arrays, kind)
        assert kernel.quadrature_error == 0, case["name"]
        assert away <= 1e-10, (case["name"], away)
        assert on <= 1e-7, (case["name"], on)
        checked += 1
    assert checked >= 25


@pytest.mark.parametrize("kind", KINDS)
def test_quadrature(cases, kind):
    numerical = [c for c in cases if "ElementwiseNumerical" in str(c[0]["spec"])]
    for case, arrays in numerical:
        kernel, away, on = worst(case, arrays, kind)
        assert 0 < kernel.quadrature_error < 1e-9, case["name"]
        # The oracle has an error of its own.
        oracle = max(v for k, v in case["oracle_error"].items() if k != "metric")
        layers = len(case["spec"])
        assert max(away, on) <= layers * (kernel.quadrature_error + oracle), case["name"]
    assert len(numerical) >= 2
