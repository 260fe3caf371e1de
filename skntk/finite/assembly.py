"""From a network's sweeps to forms: which form each layer takes, written as the sweep goes on."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from skntk.core import empty
from skntk.finite.contraction import Flat, Form, LookupPair, Pair, Scaled
from skntk.finite.layers import AffineLayer, Layer, LookupLayer
from skntk.finite.network import NetworkInputs
from skntk.finite.plan import Plan
from skntk.finite.run import Group, Run
from skntk.finite.uses import Affine

#: How much longer a multiplication takes in the many small products of pairs of positions.
_SMALL_PRODUCTS = 3
#: Outputs on which it is tried whether output Jacobians are multiples of each other.
_TRIED = 3
#: Parameters up to which Jacobians are joined with others.
_NARROW = 1024
#: Inputs of a layer below which its Jacobian takes less than to keep derivatives of all outputs.
_FEW_INPUTS = 64
#: Rounding errors within which output Jacobians are multiples of each other.
_ROUNDINGS = 64


class LayoutError(Exception):
    """A layer does not have the structure on some rows that it had on the first."""


@dataclass(frozen=True)
class Layout:
    """How a network's Jacobians are kept.

    Attributes
    ----------
    kinds : tuple of {"pair", "scaled", "flat"}
        For each group of parameters with rules.
    outputs : {"full", "diagonal", "trace"}
        Which pairs of outputs are wanted.
    row_bytes : int
        What is kept of a row.
    """

    kinds: tuple[str, ...]
    outputs: str
    row_bytes: int

    @classmethod
    def of(cls, run: Run, module: nn.Module, outputs: str, *, structured: bool) -> Layout:
        """Choose by a run on a few rows.

        Parameters
        ----------
        run : Run
            The run.
        module : torch.nn.Module
            What has been run.
        outputs : {"full", "diagonal", "trace"}
            Which pairs of outputs are wanted.
        structured : bool
            Whether to look for anything but written-out Jacobians.
        """
        k = run.outputs.shape[1]
        live = dict(module.named_parameters())
        tried = list(run.derivatives(_TRIED))
        kinds, numbers = [], k * sum(live[name].numel() for name in run.rest)
        for group in run.groups:
            B = [torch.stack([found[i] for found in tried]) for i in group.at]
            layer = group.layer(B)
            kind = _cheapest(layer, k, outputs) if structured else "flat"
            several = structured and kind == "flat" and k > 1
            if several and isinstance(layer, AffineLayer) and _common(layer):
                kind = "scaled"
            kinds.append(kind)
            if kind == "flat":
                numbers += k * sum(live[name].numel() for name in group.names)
            else:
                numbers += _numbers(layer, k, kind)
        return cls(tuple(kinds), outputs, numbers * run.outputs.element_size())


def _cheapest(layer: Layer, k: int, outputs: str) -> str:
    """Whether pairs of positions or written-out Jacobians take fewer operations a pair of rows."""
    if not isinstance(layer, AffineLayer | LookupLayer):
        return "flat"
    _, _, S, m = layer.B.shape
    if isinstance(layer, LookupLayer):
        products, columns = 0, layer.shapes[layer.weight][0]
    else:
        products = layer.a.shape[2] * (layer.weight is not None)
        columns = products + (layer.bias is not None)
    entries = k**2 if outputs == "full" else k
    pairs = S**2 * (products + k * m) + S * entries * m
    if S == 1:
        pairs = products + entries * (m + 1)
    return "pair" if pairs * (_SMALL_PRODUCTS if S > 1 else 1) < entries * m * columns else "flat"


def _numbers(layer: Layer, k: int, kind: str) -> int:
    """Numbers kept of a row in pairs of positions, or in a common Jacobian."""
    assert isinstance(layer, AffineLayer | LookupLayer)
    _, _, S, m = layer.B.shape
    columns = 1 if isinstance(layer, LookupLayer) else layer.columns().shape[2]
    return m * columns if kind == "scaled" else S * (columns + k * m)


def _common(layer: AffineLayer) -> bool:
    """Whether all output Jacobians are multiples of the first, channel by channel."""
    first = layer.B[0].flatten(0, 1)
    known = torch.zeros(first.shape[1], dtype=torch.bool, device=first.device)
    factors = torch.ones_like(layer.B[:, 0, 0])
    try:
        for p, B in enumerate(layer.B):
            _factors(first, B.flatten(0, 1), factors[p], known)
    except LayoutError:
        return False
    return True


def _factors(first: Tensor, B: Tensor, factors: Tensor, known: Tensor) -> None:
    """Write into `factors` (m,), where not `known`, by what B (N, m) is a multiple of `first`."""
    largest, at = first.abs().max(0)
    ratio = B.gather(0, at[None])[0] / first.gather(0, at[None])[0]
    new = ~known & (largest > 0)
    factors[new] = ratio[new]
    bound = _ROUNDINGS * torch.finfo(B.dtype).eps * B.abs().amax(0)
    if bool(((B - factors * first).abs().amax(0) > bound).any()):
        raise LayoutError


class _Builder(ABC):
    """Collects what a group contributes, output by output and some rows at a time."""

    group: Group
    rows: slice

    def begin(self, group: Group, rows: slice) -> None:
        """Take the group of another run, on these rows."""
        self.group, self.rows = group, rows

    @abstractmethod
    def take(self, p: int, B: list[Tensor]) -> None:
        """Take the derivatives of output p by the outputs of the group's uses."""

    @abstractmethod
    def forms(self) -> list[Form]:
        """Return what has been collected of all rows."""

    def _outputs(self, B: list[Tensor]) -> Tensor:
        return self.group.outputs([b[None] for b in B])[0]  # (n, S, m)


class _PairBuilder(_Builder):
    def __init__(self, n: int, k: int, outputs: str) -> None:
        self._n, self._k, self._trace = n, k, outputs == "trace"
        self._inputs: Tensor | None = None
        self._B: Tensor | None = None

    def begin(self, group: Group, rows: slice) -> None:
        super().begin(group, rows)
        affine = isinstance(group.uses[0], Affine)
        scale = 1 / math.sqrt(self._k) if self._trace and affine else 1.0
        inputs = group.columns(scale) if affine else group.inputs()
        if self._inputs is None:
            self._inputs = inputs.new_empty(self._n, *inputs.shape[1:])
        if inputs.shape[1:] != self._inputs.shape[1:]:
            raise LayoutError  # other positions than for the first rows
        self._inputs[rows] = inputs

    def take(self, p: int, B: list[Tensor]) -> None:
        found = self._outputs(B)
        n, k = self._n, self._k
        _, S, m = found.shape
        if self._B is None:
            shape = (n, S, k, m) if self._trace else (k, n, S, m)
            self._B = empty(shape, found.dtype, found.device)
        if not isinstance(self.group.uses[0], Affine):
            scale = self.group.uses[0].parts[0].scale
            found = found * (scale / math.sqrt(k) if self._trace else scale)
        if self._trace:
            self._B[self.rows, :, p] = found
        else:
            self._B[p, self.rows] = found

    def forms(self) -> list[Form]:
        assert self._B is not None
        assert self._inputs is not None
        B = self._B.flatten(2)[None] if self._trace else self._B
        if isinstance(self.group.uses[0], Affine):
            return [Pair(self._inputs, B)]
        return [LookupPair(self._inputs, B)]


class _ScaledBuilder(_Builder):
    def __init__(self, n: int, k: int, outputs: str) -> None:
        self._n, self._k = n, k
        self._scale = 1 / math.sqrt(k) if outputs == "trace" else 1.0
        self._r: Tensor | None = None
        self._M: Tensor | None = None

    def begin(self, group: Group, rows: slice) -> None:
        super().begin(group, rows)
        self._a = group.columns(self._scale)

    def take(self, p: int, B: list[Tensor]) -> None:
        found = self._outputs(B)
        m = found.shape[2]
        if self._M is None or self._r is None:
            self._M = empty((self._n, m, self._a.shape[2]), found.dtype, found.device)
            self._r = found.new_ones(self._k, m)
            self._known = torch.zeros(self._k, m, dtype=torch.bool, device=found.device)
        if p == 0:
            self._first = found.flatten(0, 1).clone()
            self._M[self.rows] = found.transpose(1, 2) @ self._a
            return
        _factors(self._first, found.flatten(0, 1), self._r[p], self._known[p])
        self._known[p] |= self._first.abs().amax(0) > 0

    def forms(self) -> list[Form]:
        assert self._r is not None
        assert self._M is not None
        return [Scaled(self._r, self._M)]


class _FlatBuilder(_Builder):
    """Jacobians (n, k, P): of an affine layer by one product for all outputs, else one by one."""

    def __init__(self, n: int, k: int, outputs: str) -> None:
        self._n, self._k, self._trace = n, k, outputs == "trace"
        self._scale = 1 / math.sqrt(k) if self._trace else 1.0
        self._J: dict[str, Tensor] = {}
        self._B = torch.empty(0)

    def begin(self, group: Group, rows: slice) -> None:
        super().begin(group, rows)
        self._whole = group.joined and isinstance(group.uses[0], Affine)

    def take(self, p: int, B: list[Tensor]) -> None:
        if not self._whole:
            self.write(p, self.group.names[0], self.group.jacobian([b[None] for b in B])[0])
            return
        first, found = self.group.uses[0], self._outputs(B)
        assert isinstance(first, Affine)
        if p == 0:
            self._a = None if first.weight is None else self.group.inputs()
        if first.bias is not None:
            summed = self._scale * first.bias.scale * found.sum(1)
            self._rows(first.bias.name, found.shape[2], found)[:, p] = summed
        if first.weight is None or self._a is None:
            return
        n, S, m = found.shape
        J = self._rows(first.weight.name, m * self._a.shape[2], found).view(n, self._k, m, -1)
        scale = self._scale * first.weight.scale
        if self._a.shape[2] < _FEW_INPUTS:
            J[:, p].baddbmm_(found.mT, self._a, beta=0, alpha=scale)
            return
        if p == 0:
            self._at_hand = self._buffer(n, S, m, found)
        self._at_hand[:, p] = found
        if p + 1 == self._k:
            B_all = self._at_hand.transpose(2, 3).flatten(1, 2)  # (n, k m, S)
            J.flatten(1, 2).baddbmm_(B_all, self._a, beta=0, alpha=scale)
            self._a = None

    def write(self, p: int, name: str, J: Tensor) -> None:
        """Write the Jacobian (n, *shape) of output p."""
        J = J.reshape(len(J), -1)
        self._rows(name, J.shape[1], J)[:, p] = self._scale * J

    def _buffer(self, n: int, S: int, m: int, like: Tensor) -> Tensor:
        """Memory for derivatives (n, k, S, m), in the order in which they are found."""
        numbers = n * self._k * S * m
        if self._B.numel() < numbers:  # kept from sweep to sweep: fresh memory is slow
            self._B = empty((numbers,), like.dtype, like.device)
        if like.stride(2) == 1:
            return self._B[:numbers].view(n, S, self._k, m).transpose(1, 2)
        return self._B[:numbers].view(n, self._k, m, S).transpose(2, 3)

    def _rows(self, name: str, size: int, like: Tensor) -> Tensor:
        """Return where the Jacobian (n, k, size) of the rows at hand is written."""
        if name not in self._J:
            self._J[name] = empty((self._n, self._k, size), like.dtype, like.device)
        return self._J[name][self.rows]

    def forms(self) -> list[Form]:
        return [Flat(J.view(self._n, 1, -1) if self._trace else J) for J in self._J.values()]


_BUILDERS: dict[str, Any] = {"pair": _PairBuilder, "scaled": _ScaledBuilder, "flat": _FlatBuilder}


def assembled(
    module: nn.Module, inputs: NetworkInputs, plan: Plan, layout: Layout, sweep_rows: int
) -> list[Form]:
    """Jacobians of some rows in the forms of a layout, by sweeps over a few rows at a time.

    Raises
    ------
    OtherPathError
        If the module runs other operations on these rows than on those of the plan.
    LayoutError
        If a layer's structure is not that of the layout on these rows.
    """
    n, k, outputs = len(inputs), plan.n_outputs, layout.outputs
    if n == 1:  # some modules drop an axis of length one
        found = assembled(module, inputs[torch.tensor([0, 0])], plan, layout, sweep_rows)
        return [_first(form) for form in found]
    builders: list[_Builder] = [_BUILDERS[kind](n, k, outputs) for kind in layout.kinds]
    rest = {name: _FlatBuilder(n, k, outputs) for name in plan.rest}
    for start in _starts(n, sweep_rows):
        rows = slice(start, min(start + max(sweep_rows, 2), n))
        run = Run.of(module, inputs[rows], plan)
        for builder, group in zip(builders, run.groups, strict=True):
            builder.begin(group, rows)
        for p, found_p in enumerate(run.derivatives()):
            for builder in builders:
                builder.take(p, [found_p[i] for i in builder.group.at])
        for name, jacobian in run.without_rule(module, inputs[rows]):
            rest[name].rows = rows
            for p in range(k):
                rest[name].write(p, name, jacobian[p])
    return _merged([form for one in (*builders, *rest.values()) for form in one.forms()])


def _merged(forms: list[Form]) -> list[Form]:
    """Make one of all small written-out Jacobians: one large product is faster than many."""
    narrow = [form.J for form in forms if isinstance(form, Flat) and form.J.shape[2] <= _NARROW]
    if len(narrow) < 2:
        return forms
    others = [form for form in forms if not isinstance(form, Flat) or form.J.shape[2] > _NARROW]
    return [*others, Flat(torch.cat(narrow, 2))]


def _starts(n: int, size: int) -> list[int]:
    """First rows of blocks of that size, of which none is left with a single row."""
    starts = list(range(0, n, max(size, 2)))
    if n - starts[-1] == 1:
        starts[-1] -= 1
    return starts


def _first(form: Form) -> Form:
    if isinstance(form, Pair):
        return Pair(form.a[:1], form.B[:, :1])
    if isinstance(form, LookupPair):
        return LookupPair(form.indices[:1], form.B[:, :1])
    if isinstance(form, Scaled):
        return Scaled(form.r, form.M[:1])
    assert isinstance(form, Flat)
    return Flat(form.J[:1])
