"""A symbolic tracer whose proxies know their shapes.

`torch.fx` traces with proxies that have no shape, so ``x.ndim``, unpacking ``x.shape`` and branches
on sizes fail. Here the module runs on the meta device while it is traced: every proxy carries a
tensor without data, so shapes are concrete, and only a branch on *values* fails.
"""

from __future__ import annotations

import copy
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
        return iter(self[i] for i in range(len(self)))

    def __bool__(self) -> bool:
        raise UnsupportedModuleError(
            f"the module branches on the values of a tensor at {_place(self.node)}; a kernel limit "
            "exists only for a fixed sequence of operations."
        )


def _place(node: fx.Node) -> str:
    path = node.meta.get("path")
    return f"'{path}'" if path else "the top module"


class _Tracer(fx.Tracer):
    def __init__(self, is_leaf: Callable[[nn.Module], bool], example: torch.Tensor) -> None:
        super().__init__()
        self._is_leaf, self._example, self._path = is_leaf, example, [""]
        self._running = False

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return self._is_leaf(m)

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any
    ) -> Any:
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
        return made

    def _run(self, node: fx.Node) -> Any:
        """Result of one node on the meta device."""

        def value_of(a: Any) -> Any:
            return a.meta.get("value") if isinstance(a, fx.Node) else a

        args, kwargs = fx.map_arg(node.args, value_of), fx.map_arg(node.kwargs, value_of)
        if node.op == "placeholder":
            return self._example
        if node.op == "output":
            return args[0]
        self._running = True
        try:
            if node.op == "get_attr":
                value: Any = self.root
                for name in str(node.target).split("."):
                    value = getattr(value, name)
                return value
            if node.op == "call_module":
                return self.root.get_submodule(str(node.target))(*args, **kwargs)
            if node.op == "call_method":
                return getattr(args[0], str(node.target))(*args[1:], **kwargs)
            return node.target(*args, **kwargs)  # type: ignore[operator]
        except Exception as error:
            raise UnsupportedModuleError(
                f"{node.target} at {_place(node)} fails on its input: {error}"
            ) from error
        finally:
            self._running = False


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

    Examples
    --------
    >>> import torch
    >>> from skntk.tracing import trace
    >>> t = trace(torch.nn.Sequential(torch.nn.Linear(3, 2)), (3,), lambda m: True)
    >>> [node.op for node in t.graph.nodes]
    ['placeholder', 'call_module', 'output']
    """
    tensors = [*module.parameters(), *module.buffers()]
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
        except fx.proxy.TraceError as error:
            raise UnsupportedModuleError(f"the module cannot be traced: {error}") from error
    return Trace(graph, dict(nn.Sequential(module).named_modules()))
