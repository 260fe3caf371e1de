"""Which operations use a parameter: recorded while a network runs.

The network is not changed, and gets no hooks: a mode of torch sees every function that is called.
Where a parameter enters one that has a rule (directly, or multiplied by a number, as in the NTK
parametrization), the rule says how the output depends on it. That these are *all* uses of the
parameter is found out afterwards from the graph that autograd keeps: every edge into a parameter
must belong to a recorded use, or the parameter is not explained, and left to `torch.func`.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from contextlib import suppress
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
    _versions: list[list[tuple[Tensor, int]]] = field(default_factory=list)

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
        users: defaultdict[Any, list[Any]] = defaultdict(list)  # of a node's result
        users[output.grad_fn].append(None)
        stack = [output.grad_fn]
        seen = {output.grad_fn}
        while stack:
            node = stack.pop()
            if node is None:
                continue
            for following, _ in node.next_functions:
                users[following].append(node)
                if following is not None and following not in seen:
                    seen.add(following)
                    stack.append(following)
        recorded: defaultdict[Any, Counter[Any]] = defaultdict(Counter)
        for node, consumer in self._consumed:
            if consumer in seen:
                recorded[node][consumer] += 1
        names = set(self._nodes.values())
        for node, name in self._nodes.items():
            found = Counter(_consumer(user, recorded[node], users) for user in users[node])
            if found != recorded[node]:
                names.discard(name)
        for use, versions in zip(self.uses, self._versions, strict=True):
            if any(tensor._version != version for tensor, version in versions):
                names -= {part.name for part in use.parts}  # its input has been overwritten since
        return names, [edge.node in seen for edge in self.edges]


def _consumer(user: Any, recorded: Counter[Any], users: dict[Any, list[Any]]) -> Any:
    """Recorded operation that a parameter's direct user belongs to: it may have several nodes."""
    while user not in recorded:
        if user is None or len(users[user]) != 1:
            return None
        user = users[user][0]
    return user


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
        if any(self._found(a) for a in (*args, *kwargs.values())):
            # called in a way that the rule does not know, or inside another transform
            with suppress(TypeError, AttributeError, RuntimeError):
                rule(self, out, *args, **kwargs)
        return out

    def _found(self, tensor: Any) -> _Tracked | None:
        found = self._tracked.get(id(tensor))
        if found is None or not (tensor.is_leaf or tensor.grad_fn is found.node):
            return None  # not tracked, or changed in place since
        return found

    def part(self, tensor: Any) -> Part | None:
        """What a rule needs to know of an argument, if that is a tracked parameter."""
        found = self._found(tensor)
        return None if found is None else Part(found.name, found.scale, tuple(tensor.shape))

    def multiple(self, out: Tensor, tensor: Tensor, factor: float) -> None:
        """Record that `out` is a multiple of a tracked tensor."""
        found = self._found(tensor)
        assert found is not None
        self._track(found.name, found.scale * factor, out)
        self.recording._consumed.append((found.node, get_gradient_edge(out).node))

    def used(self, out: Tensor, use: Use, *tensors: Any, saved: Any = None) -> None:
        """Record a use of some tracked tensors, which reads the tensor `saved` later."""
        # An operation in place on a view replaces the view's node, not that of its base.
        base = out._base if out._is_view() else None
        if base is not None and base.requires_grad and _same_order(base, out):
            edge = get_gradient_edge(base)
        elif base is not None and any(out is tensor for tensor in use.changed):
            return  # the rest of the base, and its other uses, would be missed
        else:
            edge = get_gradient_edge(out)
        self.recording.uses.append(use)
        self.recording.edges.append(edge)
        versions = [(saved, saved._version)] if isinstance(saved, Tensor) else []
        self.recording._versions.append(versions)
        for tensor in tensors:
            found = self._found(tensor)
            if found is not None:
                self.recording._consumed.append((found.node, edge.node))


# The rules. Each has the arguments of its function behind the recorder and the output.


def _linear(r: Recorder, out: Tensor, input: Tensor, weight: Tensor, bias: Any = None) -> None:
    def inputs() -> Tensor:
        return input.detach()

    if bias is None or bias.shape == out.shape[-1:]:
        use = Affine(r.part(weight), r.part(bias), out.shape, inputs)
        r.used(out, use, weight, bias, saved=input)


def _matmul(r: Recorder, out: Tensor, input: Tensor, other: Tensor) -> None:
    part = r.part(other)
    if part is None or other.ndim != 2 or input.ndim < 2 or r.part(input) is not None:
        return

    def inputs() -> Tensor:
        return input.detach()

    r.used(out, Affine(part, None, out.shape, inputs, transposed=True), other, saved=input)


def _mm(r: Recorder, out: Tensor, input: Tensor, mat2: Tensor) -> None:
    _matmul(r, out, input, mat2)


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
        r.used(out, use, weight, bias, saved=input)

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
    unused = None if padding_idx is None else padding_idx % len(weight)
    r.used(out, Lookup(part, out.shape, input, unused), weight, saved=input)


def _norm(
    r: Recorder,
    out: Tensor,
    normalized: Callable[[], Tensor],
    weight: Any,
    bias: Any,
    view: tuple[int, ...],
    input: Tensor,
) -> None:
    factors = [(r.part(weight), normalized), (r.part(bias), None)]
    parts = [(part, factor, view) for part, factor in factors if part is not None]
    r.used(out, Elementwise(parts, out.shape), weight, bias, saved=input)


def _layer_norm(
    r: Recorder,
    out: Tensor,
    input: Tensor,
    normalized_shape: Any,
    weight: Any = None,
    bias: Any = None,
    eps: float = 1e-5,
) -> None:
    shape, view = _last_axes(out, normalized_shape)
    _norm(r, out, lambda: F.layer_norm(input.detach(), shape, eps=eps), weight, bias, view, input)


def _rms_norm(
    r: Recorder,
    out: Tensor,
    input: Tensor,
    normalized_shape: Any,
    weight: Any = None,
    eps: float | None = None,
) -> None:
    shape, view = _last_axes(out, normalized_shape)
    _norm(r, out, lambda: F.rms_norm(input.detach(), shape, eps=eps), weight, None, view, input)


def _last_axes(out: Tensor, sizes: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Sizes of the normalized axes, and the shape in which scales of them are broadcast."""
    shape = tuple(sizes)
    return shape, (1,) * (out.ndim - len(shape)) + shape


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
    _norm(
        r, out, lambda: F.group_norm(input.detach(), num_groups, eps=eps), weight, bias, view, input
    )


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

    view = (1, out.shape[1], *(1,) * (out.ndim - 2))
    _norm(r, out, normalized, weight, bias, view, input)


def _prelu(r: Recorder, out: Tensor, input: Tensor, weight: Tensor) -> None:
    part = r.part(weight)
    if part is None or r.part(input) is not None:
        return
    view = (1, *weight.shape, *(1,) * (out.ndim - 2)) if weight.numel() > 1 else (1,) * out.ndim
    factor = lambda: input.detach().clamp(max=0)  # noqa: E731
    r.used(out, Elementwise([(part, factor, view)], out.shape), weight, saved=input)


def _mul(r: Recorder, out: Tensor, input: Any, other: Any) -> None:
    first, second = r.part(input), r.part(other)
    if first is not None and second is not None:
        return
    part, tensor, factor = (first, input, other) if second is None else (second, other, input)
    if isinstance(factor, Real):
        r.multiple(out, tensor, float(factor))
    elif part is not None and isinstance(factor, Tensor):
        use = Elementwise([(part, factor.detach, _aligned(part, out))], out.shape)
        r.used(out, use, tensor, saved=factor)


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
        r.used(out, Elementwise(parts, out.shape, changed=(input,)), *tensors)

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
    **dict.fromkeys((torch.matmul, _T.matmul, _T.__matmul__), _matmul),
    **dict.fromkeys((torch.mm, _T.mm), _mm),
    **dict.fromkeys((torch.mul, _T.mul, _T.__mul__, _T.__rmul__, torch.multiply), _mul),
    **dict.fromkeys((torch.div, _T.div, _T.__truediv__, torch.divide), _div),
    **dict.fromkeys((torch.neg, _T.neg, _T.__neg__), _neg),
    **dict.fromkeys(
        (torch.add, _T.add, _T.__add__, _T.__radd__, _T.add_, _T.__iadd__), _signed_sum((1, 1))
    ),
    **dict.fromkeys((torch.sub, _T.sub, _T.__sub__, _T.sub_, _T.__isub__), _signed_sum((1, -1))),
    _T.__rsub__: _signed_sum((-1, 1)),
}
