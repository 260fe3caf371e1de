"""Features of random wide networks, which are drawn anew from their seeds."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn

from skntk.adam.features import GROUP, Half, Layer, Plain, Signal
from skntk.finite import AffineLayer, Capture, PlainLayer, capture, last_layer
from skntk.training.scaling import check_ntk_parametrized

#: Rows that go through a network at one time.
_ROWS = 512


class NetworkSampler:
    """Blocks of features, each of one random network of finite width.

    Parameters
    ----------
    make : callable
        Returns a network whose weights are drawn from a seed.
    X : Tensor of shape (n, ...)
        Training rows.

    Raises
    ------
    ValueError
        If the network has layers that are not in the NTK parametrization, or no affine layer that
        gives the outputs.
    """

    def __init__(self, make: Callable[[int], nn.Module], X: Tensor) -> None:
        self.make, self.X = make, X
        module = make(0)
        check_ntk_parametrized(module, "the limit of Adam")
        self._readout = set(last_layer(module, X[:2]))
        found = capture(module, X[:2])
        one = _affine(found)
        self._check_rules(found)
        rows = X[:2].flatten(1)
        self._inputs = {
            _key(layer)
            for layer in one
            if layer.a.shape[1:] == (1, rows.shape[1]) and torch.equal(layer.a[:, 0], rows)
        }
        self._check_widths(one)
        sizes = [
            layer.a.shape[-1] if not self._readout.isdisjoint(layer.names) else layer.B.shape[-1]
            for layer in one
        ]
        self.n_units = max(sizes)
        self.columns = X.flatten(1).ne(0).any(0).nonzero()[:, 0]

    def _check_rules(self, found: Capture) -> None:
        """Refuse what features could not be read from."""
        for layer in found.layers:
            if isinstance(layer, PlainLayer) and not layer.J.any():
                continue  # the output does not depend on it
            if not isinstance(layer, AffineLayer):
                raise ValueError(
                    f"parameters {layer.names} of the module are used in a way that has no rule; "
                    "the limit of Adam is drawn from layers of skntk.nn that are called."
                )
            if not self._readout.isdisjoint(layer.names):
                k = layer.B.shape[0]
                eye = torch.eye(k, device=layer.B.device, dtype=layer.B.dtype)
                if layer.B.shape[2] != 1 or not torch.equal(layer.B[:, :, 0], _each(eye, found)):
                    raise ValueError(
                        f"the module's outputs are not those of its last layer, of {layer.names}: "
                        "the limit of Adam needs a linear layer at the end, and nothing behind it."
                    )

    def _check_widths(self, layers: list[AffineLayer]) -> None:
        for layer in layers:
            width = layer.B.shape[-1]
            if width < GROUP and self._readout.isdisjoint(layer.names):
                raise ValueError(
                    f"module has {width} units in the layer of {layer.names}; the limit is drawn "
                    f"from random networks with at least {GROUP}, better hundreds: make it wider."
                )

    def draw(self, seed: int, rows: Tensor | None = None) -> list[Layer]:
        """Signals of the network of a seed: of training rows in half precision, or of others.

        Parameters
        ----------
        seed : int
            Of the weights.
        rows : Tensor of shape (m, ...), optional
            By default the training rows.
        """
        module = self.make(seed)
        X = self.X if rows is None else rows
        keep: Callable[[Tensor], Signal] = Half.of if rows is None else Plain
        parts = [_affine(capture(module, X[i : i + _ROWS])) for i in range(0, len(X), _ROWS)]
        generator = torch.Generator().manual_seed(seed)
        return [
            made
            for uses in zip(*parts, strict=True)
            for made in self._layers(uses, keep, generator)
        ]

    def _layers(
        self,
        parts: Sequence[AffineLayer],
        keep: Callable[[Tensor], Signal],
        generator: torch.Generator,
    ) -> Iterator[Layer]:
        """Signals of one layer's weight and bias, from parts of the rows."""
        first = parts[0]
        fan_in, fan_out = first.a.shape[-1], first.B.shape[-1]
        weight = None if first.weight is None else first.weight_scale * math.sqrt(fan_in)
        bias = None if first.bias is None else first.bias_scale
        root = math.sqrt(fan_out)  # makes the derivative by one unit O(1)
        if not self._readout.isdisjoint(first.names):
            yield Layer(None, keep(_units(parts, weight)), bias)
        elif first.a.shape[1] == 1:
            N = fan_out // GROUP * GROUP
            delta = keep(_last(torch.cat([root * p.B[:, :, 0, :N] for p in parts], 1)))
            if weight is None:
                yield Layer(delta, None, bias)
                return
            h = _units(parts, weight)
            if _key(first) in self._inputs:
                yield Layer(delta, Plain(h), bias, self.columns)
            else:  # widths may differ
                order = torch.randperm(fan_in, generator=generator).to(h.device)
                yield Layer(delta, keep(h[order[torch.arange(N, device=h.device) % fan_in]]), bias)
        else:
            if weight is not None:
                order = torch.randperm(fan_in, generator=generator).to(first.a.device)
                psi = torch.cat([_products(p.B, p.a, order) for p in parts], -1)
                yield Layer(keep(weight * root * psi), None, None)
            if bias is not None:
                summed = torch.cat([root * p.B.sum(2) for p in parts], 1)
                yield Layer(keep(_last(summed)), None, bias)


def _products(B: Tensor, a: Tensor, order: Tensor) -> Tensor:
    r"""Sums over positions of some products, :math:`\sum_s B_{so} a_{sj}`: (c, N J, n).

    Each group of output channels o meets J inputs j; groups take turns.

    Parameters
    ----------
    B, a : Tensor of shape (c, n, S, N), (n, S, d)
        As in `skntk.finite.AffineLayer`.
    order : Tensor of int of shape (d,)
        Of the inputs.
    """
    N, d = B.shape[-1], a.shape[-1]
    J = min(GROUP, d)
    made = []
    for start in range(0, N, GROUP):
        at = order[torch.arange(start, start + J, device=a.device) % d]
        made.append(torch.einsum("cnso,nsj->cojn", B[..., start : start + GROUP], a[..., at]))
    return torch.cat(made, 1).flatten(1, 2)


def _units(parts: Sequence[AffineLayer], scale: float | None) -> Tensor:
    """Forward signals of a layer with one position, scaled: (d, n)."""
    return torch.cat([p.a[:, 0] for p in parts]).T * (1.0 if scale is None else scale)


def _last(x: Tensor) -> Tensor:
    """Rows, the second axis, as the last."""
    return x.transpose(1, 2).contiguous()


def _each(eye: Tensor, found: Capture) -> Tensor:
    """The identity (k, k) for each row: (k, n, k)."""
    return eye[:, None].expand(len(eye), len(found.outputs), len(eye))


def _key(layer: AffineLayer) -> tuple[str, ...]:
    return tuple(layer.names)


def _affine(found: Capture) -> list[AffineLayer]:
    return [layer for layer in found.layers if isinstance(layer, AffineLayer)]
