"""The skorch nets behind the estimators: batches, preconditioned steps, resumable checkpoints."""

from __future__ import annotations

import math
import pickle
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from skorch import NeuralNetClassifier, NeuralNetRegressor
from skorch.callbacks import Callback, EarlyStopping
from skorch.dataset import Dataset
from torch import Tensor, nn

from skntk.core import TrainingDivergedError, write_atomically
from skntk.training.preconditioners import Preconditioner

#: Seconds between two checkpoints, at least.
CHECKPOINT_SECONDS = 10.0


class HalfSquaredError(nn.Module):
    r"""Loss :math:`\frac1{2nk} \sum (f - y)^2`, whose gradient flow `training_time` counts."""

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean over rows and outputs of half the squared error."""
        return 0.5 * (as_matrix(outputs) - targets).square().mean()


class OneHotSquaredError(nn.Module):
    """`HalfSquaredError` with the indicators of the classes as targets."""

    def forward(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Return the mean over rows and classes of half the squared error."""
        targets = nn.functional.one_hot(labels, outputs.shape[1]).to(outputs.dtype)
        return 0.5 * (outputs - targets).square().mean()


def probabilities(outputs: Tensor, cross_entropy: bool, dim: int = -1) -> Tensor:
    """Class probabilities of outputs with an axis of classes.

    Parameters
    ----------
    outputs : Tensor
        Of a network.
    cross_entropy : bool
        Whether it was trained on that: then their softmax; else they are indicators, which are cut
        off at 0 and divided by their sum.
    dim : int, default=-1
        The axis of classes.
    """
    if cross_entropy:
        return outputs.softmax(dim)
    positive = outputs.clamp_min(0) + 1e-12
    return positive / positive.sum(dim, keepdim=True)


def as_matrix(outputs: Tensor) -> Tensor:
    """Outputs (n, k), of a module that returns (n,) or any axes behind the first."""
    return outputs.reshape(len(outputs), -1)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed torch, and leave its state as it was."""
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        yield


@contextmanager
def interrupts_kept() -> Iterator[None]:
    """Raise the KeyboardInterrupt of a signal, even if it is swallowed.

    Callbacks of skorch raise KeyboardInterrupt to stop early, so skorch takes each for that wish.
    """
    previous = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(previous):
        yield
        return
    interrupted = False

    def note(number: int, frame: Any) -> Any:
        nonlocal interrupted
        try:
            return previous(number, frame)
        except KeyboardInterrupt:
            interrupted = True
            raise

    signal.signal(signal.SIGINT, note)
    try:
        yield
    except Exception:
        if not interrupted:  # else it comes of that
            raise
    finally:
        signal.signal(signal.SIGINT, previous)
    if interrupted:
        raise KeyboardInterrupt


class Rows(Dataset):
    """Rows that are picked a batch at a time rather than one by one."""

    def __getitems__(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Rows and targets of a batch; zeros for targets that are not known."""
        at = torch.as_tensor(indices)
        y = torch.zeros(len(at)) if self.y is None else self.y[at]
        return self.X[at], y


def as_batch(batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """What is put together already."""
    return batch


class _Preconditioned:
    """Mixin of skorch nets that changes gradients between the backward pass and the step."""

    preconditioner: Preconditioner | None = None

    def __getstate__(self) -> dict[str, Any]:
        state: Any = super().__getstate__()
        return {k: v for k, v in state.items() if k != "preconditioner"}  # holds the module again

    def _set_training(self, training: bool = True) -> None:
        # Jacobians are those of eval mode, and so must the residuals be
        super()._set_training(training and self.preconditioner is None)  # type: ignore[misc]

    def train_step_single(self, batch: Any, **fit_params: Any) -> dict[str, Any]:
        """As skorch's, with the preconditioner's direction in place of the gradient."""
        step = super().train_step_single(batch, **fit_params)  # type: ignore[misc]
        if self.preconditioner is not None:
            X, y = batch
            outputs = as_matrix(step["y_pred"].detach())
            if isinstance(self.criterion_, HalfSquaredError):  # type: ignore[attr-defined]
                residual = outputs - y.to(outputs)
            else:
                targets = nn.functional.one_hot(y, outputs.shape[1]).to(outputs)
                categorical = self.preconditioner.likelihood == "categorical"
                residual = (outputs.softmax(1) if categorical else outputs) - targets
            try:
                self.preconditioner.apply(X.to(outputs.device), residual)
            except TrainingDivergedError as error:
                epoch, rate = len(self.history), self.lr  # type: ignore[attr-defined]
                raise TrainingDivergedError(
                    f"in epoch {epoch}, with learning_rate={rate:.3g}: {error}"
                ) from error
        return step


class RegressorNet(_Preconditioned, NeuralNetRegressor):
    """skorch regressor whose steps may be preconditioned."""


class ClassifierNet(_Preconditioned, NeuralNetClassifier):
    """skorch classifier whose steps may be preconditioned."""


class BestStopping(EarlyStopping):
    """skorch's early stopping, which lets an epoch end before it stops the training.

    Attributes
    ----------
    stopped_ : bool
        Whether the training is to end.
    """

    stopped_ = False

    def on_epoch_end(self, net: Any, **kwargs: Any) -> None:
        """Note whether the training is to end; `EpochEnd` ends it."""
        try:
            super().on_epoch_end(net, **kwargs)
        except KeyboardInterrupt:
            self.stopped_ = True

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__.copy()  # skorch's leaves out the best weights


class LossReached(Callback):
    """Ends a training, by `EpochEnd`, when the mean training loss of an epoch is small enough.

    Parameters
    ----------
    tol : float
        How small.
    """

    def __init__(self, tol: float) -> None:
        self.tol, self.stopped_ = tol, False

    def on_epoch_end(self, net: Any, **kwargs: Any) -> None:
        """Note whether it is."""
        self.stopped_ = net.history[-1]["train_loss"] <= self.tol


class Divergence(Callback):
    """Stops a training whose loss is not finite."""

    def on_epoch_end(self, net: Any, **kwargs: Any) -> None:
        """Raise `TrainingDivergedError` if so."""
        loss = net.history[-1]["train_loss"]
        if not math.isfinite(loss):
            raise TrainingDivergedError(
                f"the training loss is {loss} after epoch {len(net.history)}, with "
                f"learning_rate={net.lr:.3g}: pass a smaller learning_rate, less momentum or "
                "more damping if the optimizer has them, or scale inputs and targets."
            )


class Progress(Callback):
    """A bar over epochs with the training loss and an estimate of the time left."""

    def on_train_begin(self, net: Any, **kwargs: Any) -> None:
        """Open the bar."""
        from tqdm.auto import tqdm

        self.bar_ = tqdm(total=net.max_epochs, initial=len(net.history), unit="epoch")

    def on_epoch_end(self, net: Any, **kwargs: Any) -> None:
        """Move it."""
        if not hasattr(self, "bar_"):
            self.on_train_begin(net)
        self.bar_.n = len(net.history)
        shown = {k: v for k, v in net.history[-1].items() if k in ("train_loss", "valid_loss")}
        self.bar_.set_postfix(shown)

    def on_train_end(self, net: Any, **kwargs: Any) -> None:
        """Close it."""
        if hasattr(self, "bar_"):
            self.bar_.close()

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in vars(self).items() if k != "bar_"}


class EpochEnd(Callback):
    """The last callback of an epoch: writes a checkpoint now and then, and stops early.

    A checkpoint holds the whole net and the random state, at the end of an epoch after all other
    callbacks, so that what follows does not depend on where it was written.

    Parameters
    ----------
    path : Path, optional
        The file; by default no checkpoints are written.
    fingerprint : str
        Of the estimator and the data, that a resumed fit must agree in.
    """

    def __init__(self, path: Path | None = None, fingerprint: str = "") -> None:
        self.path, self.fingerprint = path, fingerprint
        self._written = time.monotonic()

    def on_epoch_end(self, net: Any, **kwargs: Any) -> None:
        """Write if the last checkpoint is old or the training ends; stop if that is asked for."""
        stopped = is_stopped(net)
        due = time.monotonic() - self._written >= CHECKPOINT_SECONDS
        if self.path is not None and (due or stopped or len(net.history) >= net.max_epochs):
            kept = {k: v for k, v in vars(net).items() if k != "preconditioner"}
            state = {
                "fingerprint": self.fingerprint,
                "kind": type(net),
                "net": kept,
                "rng": torch.get_rng_state(),
            }
            write_atomically(self.path, pickle.dumps(state))
            self._written = time.monotonic()
        if stopped:
            raise KeyboardInterrupt  # which skorch takes for the wish to stop


def is_stopped(net: Any) -> bool:
    """Whether early stopping has ended a net's training."""
    return any(getattr(callback, "stopped_", False) for _, callback in net.callbacks_)


def read_checkpoint(path: Path, fingerprint: str) -> Any:
    """Return a checkpoint's net, and set the random state to the checkpoint's; None without one.

    Raises
    ------
    ValueError
        If the file is no checkpoint, or that of another fit.
    """
    if not path.exists():
        return None
    try:
        state = pickle.loads(path.read_bytes())
        found = state["fingerprint"]
    except Exception as error:
        raise ValueError(
            f"checkpoint={str(path)!r} cannot be read as a checkpoint ({error}); delete it, or "
            "pass another path."
        ) from error
    if found != fingerprint:
        raise ValueError(
            f"checkpoint={str(path)!r} belongs to a fit with other parameters or other data; "
            "delete it to start anew, or pass another path."
        )
    torch.set_rng_state(state["rng"])
    net = state["kind"].__new__(state["kind"])
    vars(net).update(state["net"])  # not by skorch's unpickling, which parts optimizer and schedule
    return net
