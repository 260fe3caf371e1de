"""Jacobians by one backward pass for each row and output, and what follows from them."""

import torch
from torch import nn


def parameter(*shape):
    """A parameter to give to a `Written` network; `drawn` fills it."""
    return nn.Parameter(torch.zeros(shape))


def drawn(module):
    """The module in float64 and eval mode, with random parameters and running statistics."""
    module = module.double().eval()
    with torch.no_grad():
        for p in module.parameters():
            p.normal_()
        for name, buffer in module.named_buffers():
            if name.endswith("running_mean"):
                buffer.normal_()
            if name.endswith("running_var"):
                buffer.uniform_(0.5, 2.0)
    return module


def rows(*shape):
    """How to draw n rows of that shape."""
    return lambda n: torch.randn(n, *shape, dtype=torch.float64)


def tokens(size, *shape):
    """How to draw n rows of integers below `size`."""
    return lambda n: torch.randint(size, (n, *shape))


def call(module, X):
    """Output (n, k) of a module for one tensor, a tuple or a dict of tensors."""
    if isinstance(X, dict):
        f = module(**{name: x.clone() for name, x in X.items()})
    elif isinstance(X, tuple):
        f = module(*(x.clone() for x in X))
    else:
        f = module(X.clone())
    return f.reshape(len(f), -1)


def jacobians(module, X):
    """Jacobian (k, n, *shape) of each parameter that requires a gradient, by name."""
    names, tensors = zip(
        *((name, p) for name, p in module.named_parameters() if p.requires_grad), strict=True
    )
    with torch.enable_grad():
        f = call(module, X)
    rows = [
        [
            torch.autograd.grad(
                entry, tensors, retain_graph=True, allow_unused=True, materialize_grads=True
            )
            for entry in row
        ]
        for row in f
    ]
    return {
        name: torch.stack([torch.stack([one[i] for one in row]) for row in rows], 1)
        for i, name in enumerate(names)
    }


def contracted(J1, J2, outputs="full"):
    """Kernel (n1, n2, k, k), (n1, n2, k) or (n1, n2) from two dicts of Jacobians."""
    flat1, flat2 = (
        {name: J.reshape(*J.shape[:2], -1) for name, J in Js.items()} for Js in (J1, J2)
    )
    full = sum(torch.einsum("pix,qjx->ijpq", flat1[name], flat2[name]) for name in J1)
    diagonal = full.diagonal(0, 2, 3)
    return {"full": full, "diagonal": diagonal, "trace": diagonal.mean(-1)}[outputs]


def difference(found, expected):
    """Largest difference, relative to the largest number expected; absolute if all are 0."""
    found, expected = torch.as_tensor(found), torch.as_tensor(expected)
    assert found.shape == expected.shape, (found.shape, expected.shape)
    assert torch.isfinite(found).all()
    scale = float(expected.abs().max())
    return float((found - expected).abs().max()) / (scale or 1.0)
