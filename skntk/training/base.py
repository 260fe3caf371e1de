"""What both network estimators share: building, learning rates, training, resuming."""

from __future__ import annotations

import inspect
import math
from contextlib import suppress
from numbers import Integral, Real
from pathlib import Path
from typing import Any, ClassVar

import joblib
import numpy as np
import torch
from sklearn.base import clone
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data
from skorch.helper import predefined_split
from torch import Tensor, nn

from skntk.core import TrainingDivergedError, check_writable, resolve_device, resolve_dtype
from skntk.finite import EmpiricalKernel
from skntk.finite.network import check_module
from skntk.machines.networks import (
    ModuleParams,
    as_rows,
    finite_width,
)
from skntk.machines.validation import Interval, StrOptions
from skntk.training.building import drawn_network, in_regime, placed
from skntk.training.held_out import held_out
from skntk.training.net import (
    BestStopping,
    Divergence,
    EpochEnd,
    Progress,
    Rows,
    as_batch,
    as_matrix,
    interrupts_kept,
    is_stopped,
    read_checkpoint,
    seeded,
)
from skntk.training.preconditioners import KFAC, NaturalGradient, tangent_module
from skntk.training.rates import is_ntk_parametrized, stable_rate
from skntk.training.scaling import tensor_groups

OPTIMIZERS = ("gd", "sgd", "adam", "scaled_adam", "natural_gradient", "kfac")
PRECONDITIONERS = {"natural_gradient": NaturalGradient, "kfac": KFAC}
#: Rows of a batch, and of test data that go through the network at one time.
_BATCH, _TEST_BATCH = 128, 1024


class NetworkEstimator(ModuleParams):
    """Base of `NetworkRegressor` and `NetworkClassifier`; not used directly."""

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        "depth": [Interval(Integral, 0, None, closed="left")],
        "width": [Interval(Real, 1, None, closed="both"), None],
        "activation": [str, nn.Module],
        "weight_std": [Interval(Real, 0, None, closed="neither")],
        "bias_std": [Interval(Real, 0, None, closed="left")],
        "module": "no_validation",
        "parametrization": [StrOptions({"ntk", "standard", "mup"})],
        "regime": [StrOptions({"full", "linearized"})],
        "centered": ["boolean"],
        "optimizer": [StrOptions(set(OPTIMIZERS))],
        "learning_rate": [Interval(Real, 0, None, closed="neither"), StrOptions({"auto"})],
        "momentum": [Interval(Real, 0, 1, closed="left")],
        "damping": [Interval(Real, 0, None, closed="left"), StrOptions({"auto"})],
        "weight_decay": [Interval(Real, 0, None, closed="left")],
        "max_epochs": [Interval(Integral, 0, None, closed="left")],
        "batch_size": [Interval(Integral, 1, None, closed="left"), StrOptions({"auto"})],
        "early_stopping": ["boolean"],
        "validation_fraction": [Interval(Real, 0, 1, closed="neither")],
        "patience": [Interval(Integral, 1, None, closed="left")],
        "callbacks": [list, None],
        "checkpoint": [str, Path, None],
        "input_shape": "no_validation",
        "device": [str, torch.device],
        "dtype": "no_validation",
        "random_state": ["random_state"],
        "verbose": ["verbose"],
    }

    # Data

    def _rows(self, X: Any, y: Any = "no_validation") -> Any:
        """Validate inputs (and targets): as tensors of shape (n, *input_shape)."""
        predicting = isinstance(y, str)
        X, shape = as_rows(X, self.input_shape)
        checked = {"dtype": [np.float64, np.float32]}
        if predicting:
            X = validate_data(self, X, reset=False, **checked)
        else:
            X, y = validate_data(self, X, y, **checked, **self._target_checks)
            self._input_shape = shape or (X.shape[1],)
            if math.prod(self._input_shape) != X.shape[1]:
                raise ValueError(
                    f"X has {X.shape[1]} features, but input_shape={self._input_shape} needs "
                    f"{math.prod(self._input_shape)}."
                )
        X = torch.tensor(np.array(X), dtype=resolve_dtype(self.dtype)).reshape(
            -1, *self._input_shape
        )
        return X if predicting else (X, y)

    # The network

    def _network(self, X: Tensor, n_outputs: int, seed: int, what: str) -> nn.Module:
        """Return the module that is trained."""
        width = finite_width(self.width)
        if self.width is not None and width is None:
            raise ValueError(
                f"width={self.width} has no network that could be trained; NTKRegressor and "
                "NTKClassifier have the kernel machine of that limit."
            )
        module = self._built_module(width, seed)
        if module is None:
            module = drawn_network(self, X, n_outputs, seed, 512 if width is None else width)
        device, dtype = resolve_device(self.device), resolve_dtype(self.dtype)
        with seeded(seed):  # lazy layers are drawn when they see a row
            module = placed(module, X, n_outputs, what, device, dtype)
        if self.regime == "full" and self.optimizer in PRECONDITIONERS:
            check_module(module)
        return in_regime(module, self.regime, self.centered, inspect.isclass(self.module))

    def _rate(self, module: nn.Module, X: Tensor, batch_size: int) -> float:
        """Learning rate: as given, or what suits the optimizer."""
        if self.learning_rate != "auto":
            return float(self.learning_rate)
        if self.optimizer in PRECONDITIONERS:
            return 1.0 if self.regime == "linearized" else 0.5
        if self.optimizer == "scaled_adam":
            return 0.03
        if self.optimizer == "adam":
            return 3e-3 if is_ntk_parametrized(tangent_module(module)) else 1e-3
        return stable_rate(
            tangent_module(module),
            X.to(resolve_device(self.device)),
            batch_size,
            categorical=self._likelihood == "categorical",
        )

    def _absolute_damping(self, module: nn.Module, X: Tensor) -> float:
        """Damping: as given, or a tenth of the mean diagonal of the kernel at initialization."""
        if self.damping != "auto":
            return float(self.damping)
        if self.optimizer not in PRECONDITIONERS:
            return 0.0
        kernel = EmpiricalKernel(tangent_module(module).eval(), "diagonal")
        return 0.1 * float(kernel.diag(X[:_BATCH].to(resolve_device(self.device))).mean())

    def _steps(self, module: nn.Module, X: Tensor, n_outputs: int) -> dict[str, Any]:
        """Arguments of the skorch net that are about the optimizer."""
        n = len(X)
        whole = self.optimizer in ("gd", "natural_gradient")
        size = self.batch_size
        if self.optimizer == "gd" and size not in ("auto", n):
            raise ValueError(
                f"optimizer='gd' takes all rows in each step, but batch_size={size}; leave it at "
                "'auto', or take optimizer='sgd'."
            )
        size = (n if whole else min(_BATCH, n)) if size == "auto" else min(int(size), n)
        rate = self._rate(module, X, size)
        common = {"lr": rate, "batch_size": size, "optimizer__weight_decay": self.weight_decay}
        if self.optimizer == "adam":
            return {**common, "optimizer": torch.optim.Adam}
        if self.optimizer == "scaled_adam":
            if self.weight_decay:
                raise ValueError(
                    f"weight_decay={self.weight_decay} with optimizer='scaled_adam': the decay of "
                    "torch's Adam enters its moments, and has no limit of infinite width. Pass "
                    "weight_decay=0, or optimizer='adam'."
                )
            groups = tensor_groups(module, X.to(resolve_device(self.device)), rate)
            return {**common, "optimizer": torch.optim.Adam, "optimizer__param_groups": groups}
        return {**common, "optimizer": torch.optim.SGD, "optimizer__momentum": self.momentum}

    # Training

    def _train(
        self,
        kind: Any,
        module: nn.Module,
        criterion: type[nn.Module],
        X: Tensor,
        y: Tensor,
        seed: int,
        labels: np.ndarray | None = None,
    ) -> None:
        """Train `net_`, or go on with a checkpoint."""
        n_outputs = self._n_outputs
        rows, held = self._split(len(X), labels, seed)
        order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))
        mixed = X[rows[order]]  # of which the first stand for all
        steps = self._steps(module, mixed, n_outputs)
        self._damping = self._absolute_damping(module, mixed)
        callbacks = [clone(c, safe=False) for c in self.callbacks or []]
        callbacks.append(("divergence", Divergence()))
        if self.early_stopping:
            stop = BestStopping(patience=self.patience, load_best=True, sink=_silent)
            callbacks.append(("early_stopping", stop))
        if self.verbose:
            callbacks.append(("progress", Progress()))
        valid = None if held is None else predefined_split(Rows(X[held], y[held]))
        net, end = None, EpochEnd()
        with seeded(seed + 1):
            if self.checkpoint is not None:
                if self.random_state is None:
                    raise ValueError(
                        "checkpoint needs random_state to be an integer: with None each fit draws "
                        "other weights, and none could go on with another's checkpoint."
                    )
                path, mark = Path(self.checkpoint).absolute(), self._fingerprint(X, y, seed)
                check_writable(path, "checkpoint")
                net, end = read_checkpoint(path, mark), EpochEnd(path, mark)
            resumed = net is not None
            if net is None:
                net = kind(
                    module,
                    criterion=criterion,
                    callbacks=[*callbacks, ("epoch_end", end)],
                    callbacks__print_log=None,
                    dataset=Rows,
                    iterator_train__collate_fn=as_batch,
                    iterator_train__shuffle=steps["batch_size"] < len(rows),
                    iterator_valid__collate_fn=as_batch,
                    iterator_valid__batch_size=_TEST_BATCH,
                    device=str(self.device),
                    verbose=0,
                    **steps,
                )
                net.initialize()
            vars(net).update(max_epochs=int(self.max_epochs), train_split=valid)
            if self.optimizer in PRECONDITIONERS:
                made = PRECONDITIONERS[self.optimizer]
                net.preconditioner = made(net.module_, self._likelihood, self._damping)
            with interrupts_kept():
                if resumed:
                    last = dict(net.callbacks_)["epoch_end"]
                    last.__dict__.update(vars(end))  # the path may have changed, and the clock
                    self._resume(net, X[rows], y[rows])
                else:
                    net.partial_fit(X[rows], y[rows])
            net.train_split = None
            if not torch.isfinite(net.forward(X[rows])).all():
                raise TrainingDivergedError(
                    f"the outputs of the trained network are not finite, after {len(net.history)} "
                    f"epochs with learning_rate={net.lr:.3g}: pass a smaller learning_rate, more "
                    "damping if the optimizer has it, or scale the inputs."
                )
        self.net_ = net

    def _resume(self, net: Any, X: Tensor, y: Tensor) -> None:
        """Train the epochs that are missing; callbacks keep what they knew."""
        missing = int(self.max_epochs) - len(net.history)
        if missing < 0:
            raise ValueError(
                f"checkpoint={str(self.checkpoint)!r} has been trained for {len(net.history)} "
                f"epochs already, more than max_epochs={self.max_epochs}; pass another path."
            )
        if missing > 0 and not is_stopped(net):
            with suppress(KeyboardInterrupt):
                net.fit_loop(X, y, epochs=missing)
        net.notify("on_train_end", X=X, y=y)

    def _split(self, n: int, labels: np.ndarray | None, seed: int) -> tuple[Tensor, Tensor | None]:
        """Rows to train on, and to stop early by."""
        if not self.early_stopping:
            return torch.arange(n), None
        return held_out(n, labels, self.validation_fraction, seed)

    def _fingerprint(self, X: Tensor, y: Tensor, seed: int) -> str:
        """What a checkpoint must agree in with the fit that goes on with it."""
        free = {"max_epochs", "checkpoint", "verbose", "device", "callbacks", "module"}
        free.add("random_state")  # the seed stands for it
        params = {k: v for k, v in self.get_params().items() if k not in free}
        weights = self.module.state_dict() if isinstance(self.module, nn.Module) else {}
        arrays = [t.detach().cpu().numpy() for t in (X, y, *weights.values())]
        described = [f"{k}={v!r}" for k, v in sorted(params.items())]
        module = "" if self.module is None else repr(self.module)
        # callbacks are kept with the net, but for those that say that they change what is trained
        described += [c.fingerprint for c in self.callbacks or [] if hasattr(c, "fingerprint")]
        return joblib.hash([described, seed, module, arrays])

    def _seed(self) -> int:
        return int(check_random_state(self.random_state).randint(2**31 - 1))

    # Predicting

    def _forward(self, X: Any) -> Tensor:
        """Outputs of the trained network: (m, k)."""
        check_is_fitted(self)
        with seeded(0):  # torch's loaders draw a seed
            return as_matrix(self.net_.forward(self._rows(X)))

    @property
    def history_(self) -> Any:
        """History of the training by skorch: one entry an epoch."""
        check_is_fitted(self)
        return self.net_.history

    @property
    def module_(self) -> nn.Module:
        """The trained module; a `skntk.finite.Linearized` with ``regime="linearized"``."""
        check_is_fitted(self)
        return self.net_.module_

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "net_")

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = False
        tags.non_deterministic = False
        return tags


def _silent(*_: Any) -> None:
    """Take a message and drop it."""
