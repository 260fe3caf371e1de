"""Signals and rules: the vocabulary in which a network's limit is written.

A `Signal` is a linear combination of the outputs of rules that are uncorrelated with each other; a
`Rule` says how the limit of its output follows from those of its inputs. Rules point at the signals
they read, so a program is the signal that the network returns.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from skntk.infinite.state import State, superpose


@dataclass(frozen=True)
class Options:
    """What is asked of a run.

    Attributes
    ----------
    with_ntk : bool
        Whether the tangent kernel is wanted.
    weight_std, bias_std : Tensor or None
        Replace the scales of every dense layer, for gradients and batches of hyperparameters.
    """

    with_ntk: bool = True
    weight_std: Tensor | None = None
    bias_std: Tensor | None = None


class Rule(ABC):
    """One operation. Rules compare by identity.

    Attributes
    ----------
    inputs : tuple of Signal
        What it reads.
    gaussian : bool
        Whether its output is a centred Gaussian process over inputs, as an activation needs.
    centred : bool
        Whether its output has mean 0 over the draw of the weights.
    gains : bool
        Whether its state has a trained gain pending, see `State.gain`.
    sources : frozenset of Rule
        The layers whose fresh weights its output depends on; signals with disjoint sources are
        independent given the layers before them.
    """

    inputs: tuple[Signal, ...] = ()
    gaussian = False
    centred = False
    gains = False

    @property
    def sources(self) -> frozenset[Rule]:
        return frozenset().union(*(signal.sources for signal in self.inputs))

    @abstractmethod
    def apply(self, states: Sequence[State], options: Options) -> State:
        """State of the output from the states of the inputs."""

    def kernel(self, states: Sequence[State], options: Options, kind: str) -> Tensor:
        """Kernel of the output, where nothing else of its state is needed."""
        return self.apply(states, options).kernel(kind)

    @abstractmethod
    def degree(self, degrees: Sequence[float | None]) -> float | None:
        """Degree of homogeneity of the output in the network's input; None if there is none."""


class Input(Rule):
    """The network's input, flattened: variance |x|^2 / d and tangent kernel 0."""

    @property
    def sources(self) -> frozenset[Rule]:
        return frozenset({self})

    def apply(self, states: Sequence[State], options: Options) -> State:
        """Never called: a run starts with the input's state."""
        raise AssertionError("the state of the input is given")

    def degree(self, degrees: Sequence[float | None]) -> float | None:
        """Return 1."""
        return 1.0


@dataclass(frozen=True)
class Signal:
    """Linear combination of rule outputs.

    Attributes
    ----------
    terms : dict of Rule to float
        The coefficients.
    """

    terms: dict[Rule, float]

    @property
    def gaussian(self) -> bool:
        return all(rule.gaussian for rule in self.terms)

    @property
    def centred(self) -> bool:
        return all(rule.centred for rule in self.terms)

    @property
    def gains(self) -> bool:
        return any(rule.gains for rule in self.terms)

    @property
    def sources(self) -> frozenset[Rule]:
        return frozenset().union(*(rule.sources for rule in self.terms))

    @property
    def rules(self) -> tuple[Rule, ...]:
        return tuple(self.terms)

    @property
    def only(self) -> Rule | None:
        """The rule whose output this is, as it is; None for any other combination."""
        return next(iter(self.terms)) if list(self.terms.values()) == [1.0] else None

    def scaled(self, factor: float) -> Signal:
        """Multiply by a number."""
        return Signal({rule: factor * c for rule, c in self.terms.items()})

    def combine(self, states: dict[Rule, State]) -> State:
        """State of the combination from the states of its terms."""
        return superpose([weighted(states[rule], c**2) for rule, c in self.terms.items()])

    def degree(self, degrees: dict[Rule, float | None]) -> float | None:
        """Degree of homogeneity: that of all terms, if they agree."""
        found = {degrees[rule] for rule in self.terms}
        return found.pop() if len(found) == 1 else None


@dataclass(frozen=True)
class Concatenation(Signal):
    """Signals side by side along the features; an affine layer sees their weighted mean.

    Attributes
    ----------
    parts : tuple of (int, Signal)
        Widths and signals.
    """

    parts: tuple[tuple[int, Signal], ...] = ()

    @classmethod
    def of(cls, parts: Sequence[tuple[int, Signal]]) -> Concatenation:
        """Concatenate `parts`."""
        rules = {rule: 1.0 for _, signal in parts for rule in signal.terms}
        return cls(rules, tuple(parts))

    @property
    def only(self) -> None:
        return None

    def scaled(self, factor: float) -> Concatenation:
        """Multiply by a number."""
        return self.of([(width, signal.scaled(factor)) for width, signal in self.parts])

    def combine(self, states: dict[Rule, State]) -> State:
        """Mean over the features of all parts."""
        total = sum(width for width, _ in self.parts)
        return superpose([weighted(p.combine(states), w / total) for w, p in self.parts])

    def degree(self, degrees: dict[Rule, float | None]) -> float | None:
        """Degree of homogeneity: that of all parts, if they agree."""
        found = {signal.degree(degrees) for _, signal in self.parts}
        return found.pop() if len(found) == 1 else None


def weighted(state: State, weight: float | Tensor) -> State:
    """State of a signal multiplied by the square root of `weight`."""
    if isinstance(weight, float) and weight == 1.0:
        return state
    ntk = None if state.ntk is None else weight * state.ntk
    return replace(state, k1=weight * state.k1, k2=weight * state.k2, ntk=ntk)
