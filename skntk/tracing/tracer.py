"""A symbolic tracer whose proxies know their shapes.

`torch.fx` traces with proxies that have no shape, so ``x.ndim``, unpacking ``x.shape`` and branches
on sizes fail. Here the module runs on the meta device while it is traced: every proxy carries a
tensor without data, so shapes are concrete, and only a branch on *values* fails.
"""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn

from skntk.core.errors import UnsupportedModuleError

#: Rows of the example input: a size that no feature axis is likely to have.
ROWS = 7


@dataclass(frozen=True)
class Trace:
    """A traced module.

    Attributes
    ----------
    graph : torch.fx.Graph
        Its nodes; ``node.meta["shape"]`` is the shape of a tensor, with `ROWS` rows, and
        ``node.meta["path"]`` the place in the module.
    modules : dict of str to torch.nn.Module
        The user's own submodules by the names that the graph calls them.
    """

    graph: fx.Graph
    modules: dict[str, nn.Module]


class _Proxy(fx.Proxy):
    """A proxy that answers questions about its shape from a meta tensor."""

    @property
    def meta(self) -> Any:
        return self.node.meta.get("value")

    @property
    def shape(self) -> Any:
        return self.meta.shape

    @property
    def ndim(self) -> int:
        return int(self.meta.ndim)

    @property
    def dtype(self) -> torch.dtype:
        return self.meta.dtype

    def size(self, dim: int | None = None) -> Any:
        return self.meta.size() if dim is None else self.meta.size(dim)

    def dim(self) -> int:
        return self.ndim

    def __len__(self) -> int:
        return len(self.meta)

    def __iter__(self) -> Iterator[Any]:
        return iter(operator.getitem(self, i) for i in range(len(self)))

    def __bool__(self) -> bool:
        raise UnsupportedModuleError(
            f"at {place(self.node)}: the module branches on the values of a tensor, or takes one "
            "as a number; a kernel limit exists only for a fixed sequence of operations."
        )

    def __float__(self) -> float:
        return float(bool(self))

    def __int__(self) -> int:
        return int(bool(self))

    def _changed(self, target: Callable[..., Any], other: Any) -> Any:
        return self.tracer.create_proxy("call_function", target, (self, other), {})

    def __iadd__(self, other: Any) -> Any:
        return self._changed(operator.iadd, other)

    def __isub__(self, other: Any) -> Any:
        return self._changed(operator.isub, other)

    def __imul__(self, other: Any) -> Any:
        return self._changed(operator.imul, other)

    def __itruediv__(self, other: Any) -> Any:
        return self._changed(operator.itruediv, other)


def place(node: fx.Node) -> str:
    """Name a node's place in the user's module, which is the submodule '0' of the traced one."""
    path = str(node.target) if node.op == "call_module" else str(node.meta.get("path", ""))
    path = path[2:] if path.startswith("0.") else ""
    return f"'{path}'" if path else "the top of the module"


class _Tracer(fx.Tracer):
    def __init__(self, is_leaf: Callable[[nn.Module], bool], example: torch.Tensor) -> None:
        super().__init__()
        self._is_leaf, self._example, self._path = is_leaf, example, [""]
        self._running = False

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return self._is_leaf(m)

    def call_module(self, m: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        if self._running:  # on the meta device, inside `_run`
            return forward(*args, **kwargs)
        self._path.append(self.path_of_module(m))
        try:
            return super().call_module(m, forward, args, kwargs)
        finally:
            self._path.pop()

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        if self._running:
            return attr_val
        return super().getattr(attr, attr_val, parameter_proxy_cache)

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Proxy(node, self)

    def create_proxy(
        self, kind: str, target: Any, args: Any, kwargs: Any, *rest: Any, **options: Any
    ) -> Any:
        made = super().create_proxy(kind, target, args, kwargs, *rest, **options)
        node = made.node
        node.meta["path"] = self._path[-1]
        node.meta["value"] = value = self._run(node)
        if isinstance(value, torch.Tensor):
            node.meta["shape"] = tuple(value.shape)
        # What a tensor without data can tell is known: a size, a dtype.
        known = isinstance(value, bool | int | torch.Size | torch.dtype | torch.device)
        return value if known else made

    def _run(self, node: fx.Node) -> Any:
        """Result of one node on the meta device."""

        def value_of(a: fx.Node) -> Any:
            if "value" not in a.meta:  # a constant that the module made, found by its name
                a.meta["value"] = self._attribute(a)
            return a.meta["value"]

        args, kwargs = fx.map_arg(node.args, value_of), fx.map_arg(node.kwargs, value_of)
        if node.op == "placeholder":
            return self._example
        if node.op == "output":
            return args[0]
        if node.op == "call_module":
            self._check_features(node, args)
        self._running = True
        try:
            if node.op == "get_attr":
                return self._attribute(node)
            if node.op == "call_module":
                return self.root.get_submodule(str(node.target))(*args, **kwargs)
            if node.op == "call_method":
                return getattr(args[0], str(node.target))(*args[1:], **kwargs)
            return node.target(*args, **kwargs)  # type: ignore[operator]
        except Exception as error:
            name = getattr(node.target, "__name__", node.target)
            raise UnsupportedModuleError(
                f"at {place(node)}: {name!r} fails on its input: {error}"
            ) from error
        finally:
            self._running = False

    def _attribute(self, node: fx.Node) -> Any:
        """Parameter, buffer or constant that a node stands for, on the meta device."""
        value: Any = self.root
        for name in str(node.target).split("."):
            value = getattr(value, name)
        return value.to("meta") if isinstance(value, torch.Tensor) else value

    def _check_features(self, node: fx.Node, args: tuple[Any, ...]) -> None:
        module = self.root.get_submodule(str(node.target))
        wanted = getattr(module, "in_features", None)
        if not isinstance(wanted, int) or not args or not isinstance(args[0], torch.Tensor):
            return
        found = args[0].shape[-1]
        if found != wanted:
            raise ValueError(
                f"at {place(node)}: {type(module).__name__} takes {wanted} features, but its "
                f"input has {found}."
            )


def trace(
    module: nn.Module, input_shape: tuple[int, ...], is_leaf: Callable[[nn.Module], bool]
) -> Trace:
    """Trace `module` on inputs whose rows have `input_shape`; the module itself is not touched.

    Parameters
    ----------
    module : torch.nn.Module
        Called with one tensor of shape (n, *input_shape).
    input_shape : tuple of int
        Shape of one row.
    is_leaf : callable
        Which submodules stay whole; the others are traced through.

    Returns
    -------
    Trace

    Raises
    ------
    UnsupportedModuleError
        If the module cannot be run on this shape, or branches on the values of a tensor.
    ValueError
        If a layer takes another number of features than it is given.

    Examples
    --------
    >>> import torch
    >>> from skntk.tracing import trace
    >>> t = trace(torch.nn.Sequential(torch.nn.Linear(3, 2)), (3,), lambda m: True)
    >>> [node.op for node in t.graph.nodes]
    ['placeholder', 'call_module', 'output']
    """
    tensors = [*module.parameters(), *module.buffers()]
    if any(isinstance(p, nn.UninitializedParameter | nn.UninitializedBuffer) for p in tensors):
        raise UnsupportedModuleError(
            "the module has lazy layers; call it once on an input, which gives them their sizes."
        )
    memo: dict[int, Any] = {}
    for p in tensors:
        empty = torch.empty_like(p, device="meta")
        memo[id(p)] = nn.Parameter(empty) if isinstance(p, nn.Parameter) else empty
    dtype = next((p.dtype for p in tensors if p.is_floating_point()), torch.get_default_dtype())
    shadow = nn.Sequential(copy.deepcopy(module, memo))  # the module itself may be a leaf
    example = torch.empty((ROWS, *input_shape), dtype=dtype, device="meta")
    with torch.no_grad():
        try:
            graph = _Tracer(is_leaf, example).trace(shadow)
        except (fx.proxy.TraceError, TypeError) as error:
            raise UnsupportedModuleError(f"the module cannot be traced: {error}") from error
    return Trace(graph, dict(nn.Sequential(module).named_modules()))
