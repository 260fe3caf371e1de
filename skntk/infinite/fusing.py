"""Fusing the operations of a tile with ``torch.compile``."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx

from skntk.core import SkntkWarning
from skntk.infinite.state import recording


def fused(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """`function` through ``torch.compile``, from its first call on, for arguments of one shape.

    The operations are recorded once by running the function, so that the compiler sees a flat
    graph of tensors. If it fails, a warning says so and the function itself is called.
    """
    made: dict[tuple[Any, ...], Callable[..., Tensor]] = {}

    def run(*args: Tensor) -> Tensor:
        shapes = tuple((a.shape, a.dtype, a.device) for a in args)
        if shapes not in made:
            try:
                made[shapes] = _compiled(function, args)
                return made[shapes](*args)
            except Exception as error:
                made[shapes] = function
                warnings.warn(
                    "torch.compile failed and the plain path is used instead (same values, "
                    f"slower): {str(error).strip().splitlines()[0]}",
                    SkntkWarning,
                    stacklevel=4,
                )
        return made[shapes](*args)

    return run


def _compiled(function: Callable[..., Tensor], args: tuple[Tensor, ...]) -> Callable[..., Tensor]:
    """Compile what is computed once a row and what is computed once a pair, each by itself.

    In one piece the compiler would do the former again for each pair, to save the memory of a row.
    """
    # Imported when needed: these bring the whole compiler with them.
    from torch.fx.experimental.proxy_tensor import make_fx
    from torch.fx.passes.split_module import split_module

    with recording():
        graph = make_fx(lambda *flat: function(*flat))(*args)
    single = _of_single_rows(graph, max(a.numel() for a in args))
    parts = split_module(graph, graph, lambda node: int(node not in single))
    for name, part in list(parts.named_children()):
        setattr(parts, name, torch.compile(part, dynamic=False))
    return parts


def _of_single_rows(graph: fx.GraphModule, pairs: int) -> set[fx.Node]:
    """Nodes that depend on no argument of `pairs` numbers, and are themselves smaller."""
    single: set[fx.Node] = set()
    constants = []
    for node in graph.graph.nodes:
        value = node.meta.get("val", node.meta.get("tensor_meta"))
        if node.op == "output" or not hasattr(value, "shape") or value.shape.numel() >= pairs:
            continue
        if node.op == "placeholder":
            single.add(node)
        elif not node.all_input_nodes:
            constants.append(node)
        elif all(i in single or i in constants for i in node.all_input_nodes):
            single.add(node)
    return single | {node for node in constants if all(user in single for user in node.users)}
