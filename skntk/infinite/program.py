"""The program: a network's output signal, run on the state of its input."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from skntk.infinite.duals import QuadratureDual
from skntk.infinite.lowering import Lowering
from skntk.infinite.operations import is_leaf
from skntk.infinite.rules import Activation, Input, Options, Rule, Signal
from skntk.infinite.state import State
from skntk.tracing import trace


class Program:
    """Rules of one network in the order of their evaluation.

    Parameters
    ----------
    output : Signal
        What the network returns.

    Examples
    --------
    >>> import skntk.nn as snn
    >>> from skntk.infinite.program import Program
    >>> len(Program.of(snn.MLP(3, depth=2), (3,)).rules)
    6
    """

    def __init__(self, output: Signal) -> None:
        self.output = output
        self.rules: list[Rule] = []
        #: Evaluations that ``torch.compile`` made of this program, by kind of kernel.
        self.compiled: dict[str, Any] = {}
        #: Size of inputs and the series that stands for this program there, by kind and dtype.
        self.collapsed: dict[tuple[str, Any], tuple[float, Any]] = {}
        seen: set[Rule] = set()
        stack: list[tuple[Rule, bool]] = [(rule, False) for rule in reversed(output.rules)]
        while stack:
            rule, ready = stack.pop()
            if ready:
                self.rules.append(rule)
            elif rule not in seen:
                seen.add(rule)
                stack.append((rule, True))
                stack += [(r, False) for signal in rule.inputs for r in reversed(signal.rules)]
        #: Rules whose states no later rule reads, by the rule that reads them last.
        self._spent: dict[Rule, list[Rule]] = {rule: [] for rule in self.rules}
        kept = set(output.rules)
        for reader in reversed(self.rules):
            for read in {r for signal in reader.inputs for r in signal.rules} - kept:
                self._spent[reader].append(read)
                kept.add(read)

    @classmethod
    def of(cls, module: nn.Module, input_shape: tuple[int, ...]) -> Program:
        """Trace and read `module` for inputs of shape (n, *input_shape)."""
        return cls(Lowering(trace(module, input_shape, is_leaf)).run())

    def kernel(self, state: State, options: Options, kind: str) -> Tensor:
        """Kernel of the output alone ("ntk", "nngp") from the state of the input."""
        last = self.output.only
        if isinstance(last, Input):
            last = None
        states, finite = self._states(self.rules[:-1] if last else self.rules, state, options)
        if last is None:
            out = self.output.combine(states).kernel(kind)
        else:
            out = last.kernel([s.combine(states) for s in last.inputs], options, kind)
        return out if finite is None else torch.where(finite, out, torch.nan)

    def _states(
        self, rules: list[Rule], state: State, options: Options
    ) -> tuple[dict[Rule, State], Tensor | None]:
        """States that are still of use after `rules`.

        For inputs with themselves also whether all variances were finite, which a bounded
        activation afterwards would hide.
        """
        states: dict[Rule, State] = {}
        finite: Tensor | None = None
        for rule in rules:
            if isinstance(rule, Input):
                states[rule] = state
            else:
                inputs = [signal.combine(states) for signal in rule.inputs]
                states[rule] = rule.apply(inputs, options)
            if state.own:
                here = torch.isfinite(states[rule].k1)
                finite = here if finite is None else finite & here
            for spent in self._spent[rule]:
                del states[spent]
        return states, finite

    @property
    def degree(self) -> float | None:
        """Degree of homogeneity of the output in the norm of the input; None if it is none."""
        degrees: dict[Rule, float | None] = {}
        for rule in self.rules:
            degrees[rule] = rule.degree([signal.degree(degrees) for signal in rule.inputs])
        return self.output.degree(degrees)

    @property
    def quadrature_error(self) -> float:
        """Largest relative error of an activation's series met so far, 0 for closed forms."""
        return max((dual.error for dual in self.series), default=0.0)

    @property
    def series(self) -> list[QuadratureDual]:
        """Duals of activations without a closed form."""
        return [d for rule in self.rules if isinstance(rule, Activation) for d in rule.series]
