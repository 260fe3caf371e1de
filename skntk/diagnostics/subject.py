"""What a report is about: one network, at several widths and from several seeds, and its data."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, cast

import numpy as np
import torch
from scipy.sparse import issparse
from sklearn.base import clone
from sklearn.pipeline import Pipeline
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_consistent_length, column_or_1d
from skorch.callbacks import EarlyStopping
from torch import Tensor, nn

from skntk.finite import Centered
from skntk.finite.network import NetworkInputs, check_module, eval_mode, evaluate, rounding
from skntk.machines.networks import finite_width
from skntk.machines.targets import Targets
from skntk.training import NetworkClassifier, NetworkRegressor

Network = NetworkClassifier | NetworkRegressor
#: Width of the default network where an estimator does not say.
_DEFAULT_WIDTH = 512
#: Width of a class that says nothing of its own, where any will do.
_SOME_WIDTH = 8


@dataclass(frozen=True)
class Subject:
    """A network estimator, perhaps behind transformers, not fitted.

    Attributes
    ----------
    front : Pipeline or None
        Transformers of X, which are fitted on training rows.
    network : NetworkRegressor or NetworkClassifier
        The network and how it is trained.
    """

    front: Pipeline | None
    network: Network

    @classmethod
    def of(cls, module: Any, y: Any, module_params: dict[str, Any]) -> Subject:
        """Read what a report was given as its first argument.

        Parameters
        ----------
        module : NetworkRegressor, NetworkClassifier, Pipeline or torch.nn.Module
            An estimator, a pipeline that ends in one, or a module (class or instance), which is
            put into an estimator with default settings: `NetworkRegressor` if the targets are
            floating point numbers, else `NetworkClassifier`.
        y : array-like
            The targets.
        module_params : dict
            Arguments ``module__*`` of a module class.

        Raises
        ------
        TypeError
            If it is something else.
        ValueError
            If the estimator is set to what no report can be about.
        """
        front, network = None, module
        if isinstance(module, Pipeline):
            front, network = (module[:-1] if len(module) > 1 else None), module[-1]
        if _is_module(network):
            made = NetworkRegressor if _is_real(y) else NetworkClassifier
            network = made(module=network, **module_params)
        elif isinstance(network, (NetworkRegressor, NetworkClassifier)):
            if module_params:
                raise TypeError(
                    f"{sorted(module_params)} go to a module class; set them on the estimator "
                    f"{type(network).__name__} that was passed."
                )
        else:
            raise TypeError(
                f"module={module!r} must be a NetworkRegressor or NetworkClassifier, a pipeline "
                "that ends in one, or a torch.nn.Module class or instance."
            )
        _check_network(network)
        return cls(None if front is None else clone(front), clone(network))

    @property
    def classifies(self) -> bool:
        """Whether the targets are classes."""
        return isinstance(self.network, NetworkClassifier)

    @property
    def fixed(self) -> bool:
        """Whether the network comes as an instance, with weights of its own."""
        return isinstance(self.network.module, nn.Module)

    @property
    def own_width(self) -> int | None:
        """The width that the user has; None if it is not known."""
        network = self.network
        width = network.get_params().get("module__width", network.width)
        if width is not None:
            return finite_width(width)
        if network.module is None:
            return _DEFAULT_WIDTH
        if inspect.isclass(network.module):
            parameter = inspect.signature(network.module).parameters.get("width")
            if parameter is not None and isinstance(parameter.default, Integral):
                return int(parameter.default)
        return None

    @property
    def some_width(self) -> int | None:
        """A width of which the network can be made: its own, if it has one."""
        own = self.own_width
        return _SOME_WIDTH if own is None and _takes_width(self.network.module) else own

    def check_scalable(self) -> None:
        """Refuse a network that has no other widths than its own.

        Raises
        ------
        ValueError
            If it is an instance, or a class without an argument ``width``.
        """
        module = self.network.module
        if isinstance(module, nn.Module):
            raise ValueError(
                f"module is an instance of {type(module).__name__}, whose widths are fixed, so "
                "there are no other widths to compare with: pass its class, if that takes an "
                "argument width, or a NetworkRegressor or NetworkClassifier with module=None."
            )
        if module is not None and not _takes_width(module):
            raise ValueError(
                f"module {module.__name__} takes no argument width, so there are no other widths "
                "to compare with: add one to its constructor."
            )

    def sizes(self, widths: Any, infinite: bool = False) -> tuple[int | None, ...]:
        """Widths as they were asked for; by default its own, None for a module as it stands."""
        if widths is not None:
            self.check_scalable()
            return check_widths(widths, least=1, infinite=infinite)
        if self.own_width is None and _takes_width(self.network.module):
            raise ValueError(
                f"module {self.network.module.__name__} has no width by default; pass widths, or "
                "module__width."
            )
        return (None,) if self.fixed else (self.own_width,)

    def at(self, width: int | None, seed: int, **params: Any) -> Network:
        """An estimator of that width, not fitted.

        Parameters
        ----------
        width : int or None
            None for the module as it stands, or the width it has by default.
        seed : int
            For initial weights and batches.
        **params
            Other parameters that differ from the network's.
        """
        made = clone(self.network)
        made.set_params(random_state=seed, checkpoint=None, verbose=0, **params)
        name = "module__width" if "module__width" in made.get_params() else "width"
        return made if width is None else made.set_params(**{name: width})

    def prepared(self, X: Any, y: Any, *others: Any) -> tuple[Any, ...]:
        """X, and other rows, as the network gets them: transformers are fitted on X alone."""
        if self.front is None:
            return X, *others
        front = clone(self.front)
        return front.fit_transform(X, y), *(front.transform(other) for other in others)

    def behind(self) -> Subject:
        """The network alone, for data that are prepared already."""
        return Subject(None, self.network)

    def targets(self, y: Any) -> Tensor:
        """Targets as a network that is trained on squared loss has them, in float64: (n, k).

        Standardized, or the indicators of the classes.
        """
        y = np.asarray(y)
        if self.classifies:
            classes, labels = np.unique(y, return_inverse=True)
            return torch.eye(len(classes), dtype=torch.float64)[torch.as_tensor(labels)]
        return Targets.of(y.astype(np.float64), torch.ones(len(y), dtype=torch.float64)).Z

    def checked(self, X: Any, y: Any) -> tuple[Any, Any]:
        """X and y as something that can be indexed by rows, of which there are as many.

        Raises
        ------
        ValueError
            If there are not, or fewer than two; if there is one class, or classes come with
            several columns.
        """
        X, y = (A if hasattr(A, "shape") else np.asarray(A) for A in (X, y))
        if issparse(X):
            X = X.tocsr()  # has rows
        if self.classifies:
            y = column_or_1d(y)
            check_classification_targets(y)
            if len(y) and len(np.unique(y)) < 2:
                raise ValueError(f"y has one class only, {y.tolist()[0]!r}: nothing is learned.")
        check_consistent_length(X, y)
        if len(y) < 2:
            raise ValueError(f"X has {len(y)} row{'s' * (len(y) != 1)}; a report needs 2 at least.")
        return X, y

    def describe(self, trained: bool = True, loss: str | None = None) -> str:
        """One line that says what network it is and, if its training counts, how it is trained.

        A classifier's loss is that of the estimator, or another one.
        """
        net = self.network
        if net.module is None:
            text = f"{net.activation}, {net.depth} hidden layer{'s' * (net.depth != 1)}"
        else:
            kind = type(net.module) if isinstance(net.module, nn.Module) else net.module
            text = kind.__name__
        if not trained:
            return f"{text}; {net.max_epochs} epochs"
        loss = f", {(loss or net.loss).replace('_', '-')} loss" if self.classifies else ""
        rate = f", rate {net.learning_rate:g}" if net.learning_rate != "auto" else ""
        return f"{text}; {net.max_epochs} epochs of {net.optimizer}{rate}{loss}"


def base_module(module: nn.Module) -> nn.Module:
    """The network under a wrapper that subtracts its start."""
    return module.module if isinstance(module, Centered) else module


def refuse_coupled_rows(module: nn.Module) -> None:
    """Raise ValueError if the network, as it is trained, couples the rows of a batch."""
    with _training(module):
        try:
            check_module(module)
        except ValueError as error:
            raise ValueError(
                f"{error} A report follows the network as it is trained, also one that comes in "
                "eval mode: put a LayerNorm or GroupNorm in its place (norm='layer' or 'group' of "
                "the networks in skntk.nn)."
            ) from error


def refuse_other_modes(module: nn.Module, X: Tensor) -> None:
    """Raise ValueError if the network is another function in training than in eval mode."""
    rows = NetworkInputs.of(X[:8], module)
    with torch.no_grad(), torch.random.fork_rng(), _training(module):
        trained = evaluate(module, rows)
    with torch.no_grad(), eval_mode(module):
        used = evaluate(module, rows)
    if bool(((trained - used).abs() > rounding(used)).any()):
        named = [n or "the top" for n, m in module.named_modules() if "Dropout" in type(m).__name__]
        at = f", with Dropout at {', '.join(map(repr, named))}," if named else ""
        raise ValueError(
            f"{type(module).__name__}{at} is another function in training mode than in eval mode, "
            "which its linearization has: what separates the two would not be feature learning "
            "alone. Pass a rate of 0, or leave it out."
        )


@contextmanager
def _training(module: nn.Module) -> Iterator[None]:
    modes = [(layer, layer.training) for layer in module.modules()]
    module.train()
    try:
        yield
    finally:
        for layer, training in modes:
            layer.training = training


def check_widths(widths: Any, *, least: int, infinite: bool = False) -> tuple[int, ...]:
    """Finite widths in order, each once.

    Parameters
    ----------
    widths : sequence of int
        What the user gave.
    least : int
        How many finite ones there must be.
    infinite : bool, default=False
        Whether `np.inf` may be among them.

    Raises
    ------
    TypeError
        If it is no sequence.
    ValueError
        If one is no width, or there are too few.
    """
    if isinstance(widths, (str, bytes)) or not isinstance(widths, Iterable):
        raise TypeError(f"widths={widths!r} must be a sequence of integers, such as (64, 256).")
    found = set()
    for width in widths:
        if width is None or (width == math.inf and not infinite):
            raise ValueError(f"widths={widths!r} holds {width}; pass finite widths, at least 1.")
        if width != math.inf:
            found.add(cast("int", finite_width(width)))
    if len(found) < least:
        raise ValueError(
            f"widths={widths!r} has {len(found)} different finite width"
            f"{'s' * (len(found) != 1)}; pass at least {least}"
            + (", such as (64, 256, 1024): one width shows no law." if least > 1 else ".")
        )
    return tuple(sorted(found))


def check_count(name: str, value: Any, least: int) -> int:
    """An integer of at least so much, or ValueError."""
    whole = isinstance(value, Integral) and not isinstance(value, bool)
    if not whole or value < least:
        raise ValueError(f"{name}={value!r} must be an integer of at least {least}.")
    return int(value)


def check_positive(name: str, value: Any) -> float:
    """A positive number, or ValueError."""
    if not (isinstance(value, Real) and 0 < float(value) < math.inf):
        raise ValueError(f"{name}={value!r} must be a positive number.")
    return float(value)


def draw_seed(*numbers: int) -> int:
    """A seed that belongs to these numbers."""
    state = np.random.SeedSequence(numbers).generate_state(1)
    return int(state[0]) & (2**31 - 1)


def _is_module(value: Any) -> bool:
    return isinstance(value, nn.Module) or (inspect.isclass(value) and issubclass(value, nn.Module))


def _takes_width(module: Any) -> bool:
    return inspect.isclass(module) and "width" in inspect.signature(module).parameters


def _is_real(y: Any) -> bool:
    return np.asarray(y).dtype.kind == "f"


def _check_network(network: Network) -> None:
    if network.regime != "full":
        raise ValueError(
            f"regime={network.regime!r}: a report compares the trained network with its "
            "linearization by itself; pass regime='full'."
        )
    stopping = [
        c for _, c in named_callbacks(network) if isinstance(c, EarlyStopping) or c is EarlyStopping
    ]
    if network.early_stopping or stopping:
        raise ValueError(
            "early_stopping=True, or a callback EarlyStopping, ends each run at another epoch, and "
            "runs are compared at the same; leave it out, and pass the max_epochs that you mean."
        )
    if network.max_epochs < 1:
        raise ValueError(f"max_epochs={network.max_epochs} trains nothing; pass at least 1.")


def named_callbacks(network: Network) -> list[tuple[str, Any]]:
    """Callbacks of an estimator, with a name each."""
    given = network.callbacks or []
    return [c if isinstance(c, tuple) else (type(c).__name__, c) for c in given]
