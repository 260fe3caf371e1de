"""From a traced module to a program: which operation means which rule."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional as F

import skntk.nn as snn
from skntk.core.errors import UnsupportedModuleError
from skntk.infinite import operations as ops
from skntk.infinite.composition import base_of, expression_in
from skntk.infinite.duals import QuadratureDual
from skntk.infinite.elementwise import (
    Call,
    Expression,
    Variable,
    closed_form,
    elementwise_function,
    is_elementwise_module,
)
from skntk.infinite.rules import (
    Activation,
    Concatenation,
    Dense,
    Dropout,
    Input,
    Norm,
    Product,
    Rule,
    Signal,
)
from skntk.tracing import Trace, place


class Lowering:
    """Reads the nodes of a graph in order and keeps the signal of each.

    Parameters
    ----------
    trace : Trace
        The traced module.
    """

    def __init__(self, trace: Trace) -> None:
        self.trace = trace
        self.input = Input()
        self.signals: dict[fx.Node, Any] = {}
        self.called: set[int] = set()
        self.read: dict[Any, list[tuple[Any, Signal]]] = {}

    def run(self) -> Signal:
        """Return the signal of the network's output."""
        live = ops.live_nodes(self.trace)
        for node in self.trace.graph.nodes:
            if node not in live:  # asked for its shape only
                continue
            args, kwargs = fx.map_arg(node.args, self.signals.get), dict(node.kwargs)
            kwargs = fx.map_arg(kwargs, self.signals.get)
            if node.op == "output":
                if not isinstance(args[0], Signal):
                    raise UnsupportedModuleError(
                        "the module must return one tensor; wrap it so that it does."
                    )
                return args[0]
            self.signals[node] = made = self._once(node, args, kwargs)
            if ops.in_place(node, self.trace):  # who reads the changed tensor reads the result
                changed = [n for n, s in self.signals.items() if s is not None and s is args[0]]
                self.signals.update(dict.fromkeys(changed, made))
        raise AssertionError("a graph ends with its output")

    # One node

    def _once(self, node: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Read a node; the same operation on the same signals is read once."""
        module = self.trace.modules[str(node.target)] if node.op == "call_module" else None
        if node.op in ("placeholder", "get_attr") or isinstance(module, ops.DROPOUT):
            return self._read(node, args, kwargs)
        known = self.read.setdefault((node.op, node.target), [])
        for inputs, signal in known:
            if inputs == (args, kwargs):
                return replace(signal)
        signal = self._read(node, args, kwargs)
        if node.target is not F.dropout:
            known.append(((args, kwargs), signal))
        return signal

    def _read(self, node: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if node.op == "placeholder":
            return Signal({self.input: 1.0})
        if node.op == "get_attr":
            return None
        if node.op == "call_module":
            module = self.trace.modules[str(node.target)]
            inputs = (*args, *kwargs.values())
            if len(inputs) != 1:
                raise self._refusal(node, f"{type(module).__name__} has no infinite-width rule")
            return self._module(node, module, self._expect(node, inputs[0]))
        return self._function(node, args, kwargs)

    def _module(self, node: fx.Node, module: nn.Module, signal: Signal) -> Signal:
        if isinstance(module, nn.Identity):
            return signal
        if isinstance(module, nn.Flatten):
            return self._flatten(node, signal)
        if is_elementwise_module(module):
            return self._elementwise(node, module, (signal,), {})
        if isinstance(module, ops.DROPOUT):
            return self._dropout(node, type(module), module.p, module.training, signal)
        if isinstance(module, snn.Linear | nn.Linear):
            self._flat(node)
            return self._dense(node, module, signal)
        if isinstance(module, nn.LayerNorm | nn.RMSNorm):
            self._flat(node)
            return self._norm(node, module, signal)
        raise self._refusal(node, f"{type(module).__name__} has no infinite-width rule")

    def _function(self, node: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Signal:
        target: Any = node.target
        if target in ops.PASS:
            signal = self._expect(node, args[0])
            return replace(signal) if target == "clone" else signal
        if target is F.dropout:
            return self._functional_dropout(node, *args, **kwargs)
        if target in ops.FLATTEN:
            return self._flatten(node, self._expect(node, args[0]))
        if target in ops.CAT:
            return self._concatenate(node, args, kwargs)
        plain = not kwargs and len(args) <= 2
        if target in ops.NEG:
            return self._expect(node, args[0]).scaled(-1.0)
        if plain and target in ops.ADD:
            return self._sum(node, args[0], args[1])
        if plain and target in ops.SUB:
            if isinstance(args[1], Signal):
                return self._sum(node, args[0], args[1].scaled(-1.0))
            return self._sum(node, args[0], -args[1])
        if plain and target in ops.MUL:
            return self._product(node, args[0], args[1])
        if plain and target in ops.DIV and isinstance(args[1], int | float):
            return self._expect(node, args[0]).scaled(1.0 / args[1])
        function = elementwise_function(target)
        if function is not None:
            return self._elementwise(node, function, args, kwargs)
        name = target if isinstance(target, str) else getattr(target, "__name__", repr(target))
        raise self._refusal(node, f"the operation {name!r} has no infinite-width rule")

    # Layers

    def _dense(self, node: fx.Node, module: Any, signal: Signal) -> Signal:
        if id(module) in self.called:
            raise self._refusal(
                node,
                f"{type(module).__name__} is called on two different inputs; shared weights "
                "have no rule",
            )
        self.called.add(id(module))
        if unknown := {name for name, _ in module.named_parameters()} - {"weight", "bias"}:
            raise self._refusal(
                node, f"{type(module).__name__} is reparametrized, with {sorted(unknown)}"
            )
        has_bias = module.bias is not None
        if isinstance(module, nn.Linear):  # U(-1/sqrt(N), 1/sqrt(N)), for weight and bias
            fan_in = module.in_features
            rule = Dense(signal, 1 / 3, 1 / (3 * fan_in), fan_in, float(has_bias), has_bias)
        elif module.parametrization == "mup":
            raise self._refusal(
                node,
                "a layer in the muP parametrization learns features at every width and has "
                "no kernel limit; train it as a finite network, or pass parametrization='ntk'",
            )
        else:
            rates: tuple[float | None, float | None] = (None, None)
            if module.parametrization == "standard":
                rates = (module.in_features, float(has_bias))
            variances = (module.weight_std**2, module.bias_std**2 if has_bias else 0.0)
            rule = Dense(signal, *variances, *rates, has_bias)
        return Signal({rule: 1.0})

    def _norm(self, node: fx.Node, module: Any, signal: Signal) -> Signal:
        if tuple(module.normalized_shape) != tuple(node.meta["shape"][1:]):
            raise self._refusal(node, f"{module} does not normalize over all features")
        if isinstance(signal, Concatenation):
            raise self._refusal(node, f"{type(module).__name__} right after a concatenation")
        if id(module) in self.called and module.elementwise_affine:
            raise self._refusal(
                node,
                f"{type(module).__name__} is called on two different inputs; shared weights "
                "have no rule",
            )
        self.called.add(id(module))
        if isinstance(module, nn.LayerNorm) and not signal.centred:
            raise self._refusal(
                node,
                "LayerNorm of a signal whose mean over features is not 0; put it right after "
                "a linear layer",
            )
        gain = module.weight is not None
        eps = torch.finfo(torch.get_default_dtype()).eps if module.eps is None else module.eps
        bias = getattr(module, "bias", None) is not None
        return Signal({Norm(signal, eps, gain, bias): 1.0})

    def _dropout(
        self, node: fx.Node, kind: type[nn.Module], p: float, training: bool, signal: Signal
    ) -> Signal:
        if not training or p == 0:
            return signal
        if kind is not nn.Dropout:
            raise self._refusal(node, f"{kind.__name__} has no infinite-width rule")
        if p >= 1:
            raise self._refusal(node, f"Dropout(p={p}) drops everything")
        return Signal({Dropout(signal, 1.0 - p): 1.0})

    def _functional_dropout(
        self,
        node: fx.Node,
        input: Any,
        p: float = 0.5,
        training: bool = True,
        inplace: bool = False,
    ) -> Signal:
        return self._dropout(node, nn.Dropout, p, training, self._expect(node, input))

    def _flatten(self, node: fx.Node, signal: Signal) -> Signal:
        before = node.all_input_nodes[0].meta["shape"]
        after = node.meta["shape"]
        if tuple(before) == tuple(after):
            return signal
        if after[0] != before[0] or len(after) != 2 or set(signal.terms) != {self.input}:
            raise self._refusal(
                node,
                f"a change of shape from (n, {str(tuple(before[1:]))[1:]} to "
                f"(n, {str(tuple(after[1:]))[1:]}; only the input can be flattened",
            )
        return signal

    # Arithmetic

    def _concatenate(self, node: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Signal:
        self._flat(node)
        sequence = list(args[0] if args else kwargs["tensors"])
        dim = args[1] if len(args) > 1 else kwargs.get("dim", 0)
        if dim not in (1, -1):
            raise self._refusal(node, f"concatenation along axis {dim}; only features (axis 1)")
        nodes = node.all_input_nodes
        parts: list[tuple[int, Signal]] = []
        by_node = {id(self.signals[n]): n for n in nodes}
        for signal in sequence:
            signal = self._expect(node, signal)
            if isinstance(signal, Concatenation):
                parts += signal.parts
            else:
                parts.append((int(by_node[id(signal)].meta["shape"][1]), signal))
        return Concatenation.of(parts)

    def _sum(self, node: fx.Node, a: Any, b: Any) -> Signal:
        if isinstance(a, int | float) or isinstance(b, int | float):
            signal, number = (b, a) if isinstance(a, int | float) else (a, b)
            if number == 0:
                return self._expect(node, signal)
            return self._elementwise(node, torch.add, (signal, float(number)), {})
        a, b = self._expect(node, a), self._expect(node, b)
        if isinstance(a, Concatenation) or isinstance(b, Concatenation):
            return self._partwise(node, a, b, self._sum)
        terms = dict(a.terms)
        for rule, c in b.terms.items():
            terms[rule] = terms.get(rule, 0.0) + c
        total = Signal({rule: c for rule, c in terms.items() if c})
        if not total.terms:
            raise self._refusal(node, "a difference that is 0 everywhere")
        if problem := self._correlated(total):
            base = base_of(total)
            expression = expression_in(total, base)
            if expression is None:
                raise self._refusal(node, problem)
            return self._activation(node, base, expression)
        return total

    def _correlated(self, signal: Signal) -> str | None:
        """Why the terms of `signal` may be correlated, or None if they are not."""
        seen: set[Rule] = set()
        for rule in signal.terms:
            if rule.sources & seen:
                return "a sum of terms that depend on the same layer's weights"
            seen |= rule.sources
        if sum(not rule.centred for rule in signal.terms) > 1:
            return (
                "a sum of two terms whose means over features are not 0 (activations, or the "
                "input): end each branch but one with a linear layer"
            )
        return None

    def _product(self, node: fx.Node, a: Any, b: Any) -> Signal:
        if isinstance(a, int | float) or isinstance(b, int | float):
            signal, number = (b, a) if isinstance(a, int | float) else (a, b)
            return self._expect(node, signal).scaled(float(number))
        a, b = self._expect(node, a), self._expect(node, b)
        if isinstance(a, Concatenation) or isinstance(b, Concatenation):
            return self._partwise(node, a, b, self._product)
        if not a.sources & b.sources:
            return Signal({Product((a, b)): 1.0})
        return self._elementwise(node, torch.mul, (a, b), {})

    def _partwise(self, node: fx.Node, a: Signal, b: Signal, operation: Callable[..., Any]) -> Any:
        if not (isinstance(a, Concatenation) and isinstance(b, Concatenation)):
            raise self._refusal(node, "arithmetic between a concatenation and another signal")
        if [w for w, _ in a.parts] != [w for w, _ in b.parts]:
            raise self._refusal(node, "arithmetic between concatenations of other widths")
        pairs = zip(a.parts, b.parts, strict=True)
        return Concatenation.of([(w, operation(node, p, q)) for (w, p), (_, q) in pairs])

    # Elementwise functions

    def _elementwise(
        self, node: fx.Node, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Signal:
        signals = [a for a in args if isinstance(a, Signal)]
        if not signals:
            self._expect(node, None)
        concatenated = [s for s in signals if isinstance(s, Concatenation)]
        if concatenated:
            if len(signals) > 1:
                raise self._refusal(node, "arithmetic between a concatenation and another signal")
            whole = concatenated[0]
            parts = [
                (w, self._elementwise(node, function, _replaced(args, whole, part), kwargs))
                for w, part in whole.parts
            ]
            return Concatenation.of(parts)
        base = base_of(signals[0])
        inner = [expression_in(a, base) if isinstance(a, Signal) else a for a in args]
        found = [e for e, a in zip(inner, args, strict=True) if isinstance(a, Signal)]
        if any(e is None for e in found) or not base.gaussian:
            raise self._refusal(
                node,
                f"{_name(function)} is applied to a signal that is not Gaussian in the "
                "limit; put a linear layer in front of it",
            )
        if any(not isinstance(e, Expression | int | float | str | bool) for e in inner):
            raise self._refusal(node, f"{_name(function)} takes an argument that is no number")
        if args[0] is signals[0] and len(signals) == 1 and signals[0].terms == base.terms:
            dual = closed_form(function, tuple(args[1:]), kwargs)
            if dual is not None:
                self._check_gains(node, base)
                call = Call(function, (Variable(), *args[1:]), kwargs)
                return Signal({Activation(base, call, dual, _name(function)): 1.0})
        return self._activation(node, base, Call(function, tuple(inner), kwargs))

    def _activation(self, node: fx.Node, base: Signal, expression: Expression) -> Signal:
        self._check_gains(node, base)
        name = _name(expression.function) if isinstance(expression, Call) else "identity"
        name = f"{name} at {place(node)}"
        return Signal({Activation(base, expression, QuadratureDual(expression, name), name): 1.0})

    def _check_gains(self, node: fx.Node, signal: Signal) -> None:
        """Refuse an activation of a sum with a trained gain on some of its terms."""
        while signal.gains:
            if len(signal.terms) > 1:
                raise self._refusal(
                    node,
                    "an activation of a sum in which a normalization has a trained gain; "
                    "pass elementwise_affine=False, or put a linear layer in between",
                )
            (rule,) = signal.terms
            (signal,) = rule.inputs

    # Messages

    def _expect(self, node: fx.Node, signal: Any) -> Signal:
        if not isinstance(signal, Signal):
            raise self._refusal(
                node,
                "a tensor that is not computed from the input (a parameter, a buffer or a "
                "constant) takes part in an operation",
            )
        return signal

    def _flat(self, node: fx.Node) -> None:
        shape = node.all_input_nodes[0].meta["shape"]
        if len(shape) != 2:
            raise self._refusal(
                node,
                f"the layer reads a signal of shape (n, {str(tuple(shape[1:]))[1:]}; "
                "only dense networks have a rule: flatten the input first",
            )

    def _refusal(self, node: fx.Node, problem: str) -> UnsupportedModuleError:
        return UnsupportedModuleError(f"at {place(node)}: {problem}.")


def _replaced(args: tuple[Any, ...], old: Any, new: Any) -> tuple[Any, ...]:
    return tuple(new if a is old else a for a in args)


def _name(function: Any) -> str:
    if isinstance(function, nn.Module):
        return type(function).__name__
    return str(getattr(function, "__name__", function))
