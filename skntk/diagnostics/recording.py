"""A look at a network at some epochs of its training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from sklearn.base import clone
from skorch.callbacks import Callback
from torch import Tensor, nn

from skntk.core import KernelOverflowError, NotPositiveDefiniteError, TrainingDivergedError
from skntk.diagnostics.subject import Network, base_module, refuse_coupled_rows
from skntk.finite.network import eval_mode


class RunFailedError(RuntimeError):
    """A training ended before its last epoch."""


#: Name of the callback that looks.
WATCH = "skntk_looking"
#: What ends a run, but not the study.
FAILURES = (
    TrainingDivergedError,
    KernelOverflowError,
    NotPositiveDefiniteError,
    RunFailedError,
)
#: Called with the network (which goes on being trained), all training rows, and how far it is:
#: ``epoch``, ``step`` and ``train_loss``.
Look = Callable[[nn.Module, Tensor, dict[str, Any]], None]
#: Rows that go through the network at one time.
_ROWS = 1024
#: A loss so many times larger than at the start does not come back, and nothing can be measured.
_BEYOND_DOUBT = 1e6


class AtEpochs(Callback):
    """Calls a function before training, and after some of the epochs.

    A training that ends with a larger loss than it began with, and larger than that of zero
    outputs, has diverged, too.

    Parameters
    ----------
    look : callable
        Called with the module, the training rows, and how far the training is: ``epoch`` and
        ``step``, the numbers of epochs and steps done, and ``train_loss``, of all rows. A plain
        function: skorch copies callbacks, but not functions.
    epochs : sequence of int
        When; 0 is before training.
    """

    def __init__(self, look: Look, epochs: Sequence[int]) -> None:
        self.look, self.epochs = look, epochs

    def on_train_begin(self, net: Any, X: Any = None, y: Any = None, **kwargs: Any) -> None:
        """Look at the network at initialization."""
        self.rows_ = X, y
        refuse_coupled_rows(base_module(net.module_))
        outputs = self._outputs(net)
        self.start_ = self._loss(net, outputs)
        self.most_ = max(self.start_, self._loss(net, torch.zeros_like(outputs)))
        self.step_ = 0
        self._due(net, 0)

    def on_batch_end(self, net: Any, training: bool = False, **kwargs: Any) -> None:
        """Count steps."""
        self.step_ += training

    def on_epoch_end(self, net: Any, **kwargs: Any) -> None:
        """Look at the network after an epoch."""
        self._due(net, len(net.history))

    def on_train_end(self, net: Any, **kwargs: Any) -> None:
        """Raise `TrainingDivergedError` if the loss has risen, `RunFailedError` if it is early."""
        done = len(net.history)
        if done < net.max_epochs:
            raise RunFailedError(f"a callback stopped it after {done} of {net.max_epochs} epochs.")
        loss = self._loss(net, self._outputs(net))
        if not loss <= self.most_ * (1 + 1e-6):
            raise self._diverged(net, loss)

    def _diverged(self, net: Any, loss: float) -> TrainingDivergedError:
        return TrainingDivergedError(
            f"the training loss rose from {self.start_:.3g} to {loss:.3g} in {len(net.history)} "
            f"epochs with learning_rate={net.lr:.3g}."
        )

    def _due(self, net: Any, epoch: int) -> None:
        if epoch in self.epochs:
            loss = self._loss(net, self._outputs(net))
            if not loss <= _BEYOND_DOUBT * max(self.most_, 1.0):
                raise self._diverged(net, loss)
            when = {"epoch": epoch, "step": self.step_, "train_loss": loss}
            self.look(base_module(net.module_), self.rows_[0], when)

    def _outputs(self, net: Any) -> Tensor:
        module = net.module_
        with torch.no_grad(), eval_mode(module):
            return torch.cat([module(r.to(net.device)) for r in self.rows_[0].split(_ROWS)])

    def _loss(self, net: Any, outputs: Tensor) -> float:
        return float(net.criterion_(outputs, self.rows_[1].to(outputs.device)))


def start_of(network: Network, X: Any, y: Any) -> tuple[nn.Module, Tensor]:
    """The module that an estimator starts from, and the training rows as it reads them.

    Raises
    ------
    ValueError
        If it has a BatchNorm, with which Jacobians of single rows do not describe the training.
    """
    found: list[tuple[nn.Module, Tensor]] = []

    def look(module: nn.Module, rows: Tensor, when: dict[str, Any]) -> None:
        found.append((module, rows))

    params = {"max_epochs": 0, "learning_rate": 1.0, "damping": 1.0}
    watched(clone(network).set_params(callbacks=None, **params), look, (0,)).fit(X, y)
    return found[0]


def watched(network: Network, look: Look | None = None, epochs: Sequence[int] = ()) -> Network:
    """The estimator, whose `fit` looks at its network, and notices if the loss rises."""
    looking = AtEpochs(look or _overlook, tuple(epochs))
    return network.set_params(callbacks=[*(network.callbacks or []), (WATCH, looking)])


def train_looking(
    network: Network, X: Any, y: Any, look: Look, epochs: Sequence[int]
) -> tuple[Network, str]:
    """Fit an estimator and look at its network at some epochs.

    Returns
    -------
    network : NetworkRegressor or NetworkClassifier
        The estimator, fitted if all went well.
    status : str
        "ok", or how the run failed; what was looked at until then has been looked at.
    """
    try:
        watched(network, look, epochs).fit(X, y)
    except FAILURES as error:
        return network, failed_status(error)
    return network, "ok"


def failed_status(error: Exception) -> str:
    """What a row says of a run that did not end as it should."""
    kind = "stopped" if isinstance(error, RunFailedError) else "diverged"
    return f"{kind}: {error}"


def spread_epochs(last: int, n_times: int) -> tuple[int, ...]:
    """Epochs from 0 to the last, at ratios that are about equal.

    Examples
    --------
    >>> from skntk.diagnostics.recording import spread_epochs
    >>> spread_epochs(100, 5)
    (0, 1, 5, 22, 100)
    """
    later = np.geomspace(1, last, n_times - 1) if n_times > 2 else [last]
    return (0, *sorted({round(float(e)) for e in later}))


def _overlook(module: nn.Module, X: Tensor, when: dict[str, Any]) -> None:
    """Look at nothing."""
