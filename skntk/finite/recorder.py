"""Which operations use a parameter: recorded while a network runs.

The network is not changed, and gets no hooks: a mode of torch sees every function that is called.
Where a parameter enters one that has a rule (directly, or multiplied by a number, as in the NTK
parametrization), the rule says how the output depends on it. That these are *all* uses of the
parameter is found out afterwards from the graph that autograd keeps: every edge into a parameter
must belong to a recorded use, or the parameter is not explained, and left to `torch.func`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from numbers import Real
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from skntk.finite.uses import Affine, Elementwise, Lookup, Part, Use, convolution, same_padding


@dataclass(frozen=True)
class _Tracked:
    """A parameter, or a multiple of one."""

    name: str
    scale: float
    tensor: Tensor
    node: Any


@dataclass
class Recording:
    """What one run has shown.

    Attributes
    ----------
    uses : list of Use
        In the order of execution.
    edges : list of GradientEdge
        Of the output of each use, as it was before anything changed it in place.
    """

    uses: list[Use] = field(default_factory=list)
    edges: list[GradientEdge] = field(default_factory=list)
    _consumed: list[tuple[Any, Any]] = field(default_factory=list)
    _nodes: dict[Any, str] = field(default_factory=dict)

    def explained(self, output: Tensor) -> tuple[set[str], list[bool]]:
        """Tell which parameters are used in recorded ways alone, and which uses reach `output`.

        Parameters
        ----------
        output : Tensor
            The network's output.

        Returns
        -------
        names : set of str
            Parameters whose every path to the output starts with a recorded use. One that does
            not reach the output is among them.
        reached : list of bool
            For each use, whether the output depends on it.
        """
        found: Counter[Any] = Counter()
        seen = {output.grad_fn}
        stack = [output.grad_fn]
        while stack:
            node = stack.pop()
            if node is None:
                continue
            for following, _ in node.next_functions:
                if following in self._nodes:
                    found[following] += 1
                if following is not None and following not in seen:
                    seen.add(following)
                    stack.append(following)
        if output.grad_fn in self._nodes:  # the output is the parameter itself
            found[output.grad_fn] += 1
        recorded = Counter(node for node, consumer in self._consumed if consumer in seen)
        names = set(self._nodes.values())
        names -= {name for node, name in self._nodes.items() if found[node] != recorded[node]}
        return names, [edge.node in seen for edge in self.edges]


class Recorder(TorchFunctionMode):
    """Mode that records the uses of some parameters, as a context manager.

    Parameters
    ----------
    parameters : dict of str to Tensor
        Leaves that require gradients.
    """

    def __init__(self, parameters: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.recording = Recording()
        self._tracked: dict[int, _Tracked] = {}
        for name, tensor in parameters.items():
            self._track(name, 1.0, tensor)

    def _track(self, name: str, scale: float, tensor: Tensor) -> None:
        node = get_gradient_edge(tensor).node
        self._tracked[id(tensor)] = _Tracked(name, scale, tensor, node)
        self.recording._nodes[node] = name

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        rule = RULES.get(func)
        if rule is None or not isinstance(out, Tensor) or not out.requires_grad:
            return out
        if any(id(a) in self._tracked for a in (*args, *kwargs.values())):
            rule(self, out, *args, **kwargs)
        return out

    def part(self, tensor: Any) -> Part | None:
        """What a rule needs to know of an argument, if that is a tracked parameter."""
        found = self._tracked.get(id(tensor))
        return None if found is None else Part(found.name, found.scale, tuple(tensor.shape))

    def multiple(self, out: Tensor, tensor: Tensor, factor: float) -> None:
        """Record that `out` is a multiple of a tracked tensor."""
        found = self._tracked[id(tensor)]
        self._track(found.name, found.scale * factor, out)
        self.recording._consumed.append((found.node, get_gradient_edge(out).node))

    def used(self, out: Tensor, use: Use, *tensors: Any) -> None:
        """Record a use of some tracked tensors."""
        # An operation in place on a view replaces the view's node, not that of its base.
        base = out._base if out._is_view() else None
        if base is not None and base.requires_grad and _same_order(base, out):
            edge = get_gradient_edge(base)
        else:
            edge = get_gradient_edge(out)
        self.recording.uses.append(use)
        self.recording.edges.append(edge)
        for tensor in tensors:
            if id(tensor) in self._tracked:
                self.recording._consumed.append((self._tracked[id(tensor)].node, edge.node))


# The rules. Each has the arguments of its function behind the recorder and the output.


def _linear(r: Recorder, out: Tensor, input: Tensor, weight: Tensor, bias: Any = None) -> None:
    def inputs() -> Tensor:
        return input.detach()

    r.used(out, Affine(r.part(weight), r.part(bias), out.shape, inputs), weight, bias)


def _matmul(r: Recorder, out: Tensor, input: Tensor, other: Tensor) -> None:
    part = r.part(other)
    if part is None or other.ndim != 2 or id(input) in r._tracked:
        return

    def inputs() -> Tensor:
        return input.detach()

    r.used(out, Affine(part, None, out.shape, inputs, transposed=True), other)


def _conv(dims: int) -> Callable[..., None]:
    def rule(
        r: Recorder,
        out: Tensor,
        input: Tensor,
        weight: Tensor,
        bias: Any = None,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
    ) -> None:
        if groups != 1 or out.ndim != dims + 2:
            return
        kernel = tuple(weight.shape[2:])
        stride, dilation = (
            (v,) * dims if isinstance(v, int) else tuple(v) * (dims // len(v))
            for v in (stride, dilation)
        )
        if padding == "same":
            pads = same_padding(kernel, dilation)
        else:
            sizes = 0 if padding == "valid" else padding
            sizes = (
                (sizes,) * dims if isinstance(sizes, int) else tuple(sizes) * (dims // len(sizes))
            )
            pads = tuple((p, p) for p in sizes)

        def inputs() -> Tensor:
            return convolution(input.detach(), kernel, stride, pads, dilation)

        use = Affine(r.part(weight), r.part(bias), out.shape, inputs, channels_first=True)
        r.used(out, use, weight, bias)

    return rule


def _embedding(
    r: Recorder,
    out: Tensor,
    input: Tensor,
    weight: Tensor,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> None:
    part = r.part(weight)
    if part is None or max_norm is not None or scale_grad_by_freq:
        return
    unused = None
    if padding_idx is not None and padding_idx != -1:
        unused = padding_idx % len(weight)
    r.used(out, Lookup(part, out.shape, input, unused), weight)


def _norm(
    r: Recorder,
    out: Tensor,
    normalized: Callable[[], Tensor],
    weight: Any,
    bias: Any,
    view: tuple[int, ...],
) -> None:
    factors = [(r.part(weight), normalized), (r.part(bias), None)]
    parts = [(part, factor, view) for part, factor in factors if part is not None]
    r.used(out, Elementwise(parts, out.shape), weight, bias)


def _layer_norm(
    r: Recorder,
    out: Tensor,
    input: Tensor,
    normalized_shape: Any,
    weight: Any = None,
    bias: Any = None,
    eps: float = 1e-5,
) -> None:
    shape = tuple(normalized_shape)
    view = (1,) * (out.ndim - len(shape)) + shape
    _norm(r, out, lambda: F.layer_norm(input.detach(), shape, eps=eps), weight, bias, view)


def _rms_norm(
    r: Recorder,
    out: Tensor,
    input: Tensor,
    normalized_shape: Any,
    weight: Any = None,
    eps: float | None = None,
) -> None:
    shape = tuple(normalized_shape)
    view = (1,) * (out.ndim - len(shape)) + shape
    _norm(r, out, lambda: F.rms_norm(input.detach(), shape, eps=eps), weight, None, view)


def _group_norm(
    r: Recorder,
    out: Tensor,
    input: Tensor,
    num_groups: int,
    weight: Any = None,
    bias: Any = None,
    eps: float = 1e-5,
) -> None:
    view = (1, out.shape[1], *(1,) * (out.ndim - 2))
    _norm(r, out, lambda: F.group_norm(input.detach(), num_groups, eps=eps), weight, bias, view)


def _batch_norm(
    r: Recorder,
    out: Tensor,
    input: Tensor,
    running_mean: Any,
    running_var: Any,
    weight: Any = None,
    bias: Any = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> None:
    if training:
        return

    def normalized() -> Tensor:
        return F.batch_norm(input.detach(), running_mean, running_var, eps=eps)

    _norm(r, out, normalized, weight, bias, (1, out.shape[1], *(1,) * (out.ndim - 2)))


def _prelu(r: Recorder, out: Tensor, input: Tensor, weight: Tensor) -> None:
    part = r.part(weight)
    if part is None or id(input) in r._tracked:
        return
    view = (1, *weight.shape, *(1,) * (out.ndim - 2)) if weight.numel() > 1 else (1,) * out.ndim
    factor = lambda: input.detach().clamp(max=0)  # noqa: E731
    r.used(out, Elementwise([(part, factor, view)], out.shape), weight)


def _mul(r: Recorder, out: Tensor, input: Any, other: Any) -> None:
    first, second = r.part(input), r.part(other)
    if first is not None and second is not None:
        return
    part, tensor, factor = (first, input, other) if second is None else (second, other, input)
    if isinstance(factor, Real):
        r.multiple(out, tensor, float(factor))
    elif part is not None and isinstance(factor, Tensor):
        use = Elementwise([(part, factor.detach, _aligned(part, out))], out.shape)
        r.used(out, use, tensor)


def _div(r: Recorder, out: Tensor, input: Any, other: Any, **options: Any) -> None:
    if isinstance(other, Real) and not options:
        r.multiple(out, input, 1 / float(other))


def _neg(r: Recorder, out: Tensor, input: Tensor) -> None:
    r.multiple(out, input, -1.0)


def _signed_sum(signs: tuple[float, float]) -> Callable[..., None]:
    def rule(r: Recorder, out: Tensor, input: Any, other: Any, alpha: float = 1) -> None:
        parts, tensors = [], []
        for tensor, sign in ((input, signs[0]), (other, signs[1] * alpha)):
            part = r.part(tensor)
            if part is not None:
                signed = Part(part.name, part.scale * sign, part.shape)
                parts.append((signed, None, _aligned(part, out)))
                tensors.append(tensor)
        r.used(out, Elementwise(parts, out.shape), *tensors)

    return rule


def _same_order(base: Tensor, view: Tensor) -> bool:
    """Whether a view has all numbers of its base, in the same order."""
    return base.numel() == view.numel() and base.is_contiguous() and view.is_contiguous()


def _aligned(part: Part, out: Tensor) -> tuple[int, ...]:
    return (1,) * (out.ndim - len(part.shape)) + part.shape


_T = torch.Tensor
#: A rule for each function that may use a parameter.
RULES: dict[Any, Callable[..., None]] = {
    F.linear: _linear,
    F.conv1d: _conv(1),
    F.conv2d: _conv(2),
    F.conv3d: _conv(3),
    F.embedding: _embedding,
    F.layer_norm: _layer_norm,
    F.rms_norm: _rms_norm,
    F.group_norm: _group_norm,
    F.batch_norm: _batch_norm,
    F.prelu: _prelu,
    torch.prelu: _prelu,
    **dict.fromkeys((torch.matmul, _T.matmul, _T.__matmul__, torch.mm, _T.mm), _matmul),
    **dict.fromkeys((torch.mul, _T.mul, _T.__mul__, _T.__rmul__, torch.multiply), _mul),
    **dict.fromkeys((torch.div, _T.div, _T.__truediv__, torch.divide), _div),
    **dict.fromkeys((torch.neg, _T.neg, _T.__neg__), _neg),
    **dict.fromkeys(
        (torch.add, _T.add, _T.__add__, _T.__radd__, _T.add_, _T.__iadd__), _signed_sum((1, 1))
    ),
    **dict.fromkeys((torch.sub, _T.sub, _T.__sub__, _T.sub_, _T.__isub__), _signed_sum((1, -1))),
    _T.__rsub__: _signed_sum((-1, 1)),
}
