"""Which operations of a graph mean what, and which of them change their input."""

from __future__ import annotations

import inspect
import operator
from typing import Any

import torch
from torch import fx, nn

from skntk.tracing import Trace

ADD = (operator.add, operator.iadd, torch.add, "add", "add_")
SUB = (operator.sub, operator.isub, torch.sub, "sub", "sub_")
MUL = (operator.mul, operator.imul, torch.mul, "mul", "mul_")
DIV = (operator.truediv, operator.itruediv, torch.div, "div", "div_")
NEG = (operator.neg, torch.neg, "neg")
CAT = (torch.cat, torch.concat, torch.concatenate)
FLATTEN = (torch.flatten, "flatten", "reshape", "view", torch.reshape)
PASS = ("contiguous", "clone", "float", "double", "to")
DROPOUT = (nn.Dropout, nn.AlphaDropout, nn.FeatureAlphaDropout)

_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
_IN_PLACE = (operator.iadd, operator.isub, operator.imul, operator.itruediv)


def is_leaf(module: nn.Module) -> bool:
    """Whether a module is read by a rule (or refused by name) rather than traced through."""
    if isinstance(module, _CONTAINERS):
        return False
    inside = type(module).__module__
    return inside.startswith(("torch.nn.modules", "torch.ao", "skntk.nn"))


def live_nodes(trace: Trace) -> set[fx.Node]:
    """Nodes on which the output depends, or that change what others read."""
    nodes = list(trace.graph.nodes)
    stack = [nodes[-1], *(node for node in nodes if in_place(node, trace))]
    live: set[fx.Node] = set()
    while stack:
        node = stack.pop()
        if node not in live:
            live.add(node)
            stack += node.all_input_nodes
    return live


def in_place(node: fx.Node, trace: Trace) -> bool:
    """Whether a node changes its first argument."""
    target: Any = node.target
    if node.op == "call_module":
        return bool(getattr(trace.modules[str(target)], "inplace", False))
    if node.op == "call_method":
        return target.endswith("_") and not target.endswith("__")
    if node.op != "call_function":
        return False
    if target in _IN_PLACE:
        return True
    try:
        bound = inspect.signature(target).bind(*node.args, **node.kwargs)
    except (TypeError, ValueError):  # of a built-in function
        return False
    return bool(bound.arguments.get("inplace", False))
