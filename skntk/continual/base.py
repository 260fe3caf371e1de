"""What both continual estimators share: validation, the choice of a learner, checkpoints."""

from __future__ import annotations

import copy
import inspect
import math
import time
from collections.abc import Hashable
from dataclasses import dataclass
from numbers import Integral, Real
from pathlib import Path
from typing import Any, ClassVar

import joblib
import numpy as np
import torch
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor, nn

from skntk.continual.heads import Heads
from skntk.continual.kernel_learner import KernelLearner
from skntk.continual.kernels import FiniteTaskKernel, InfiniteTaskKernel
from skntk.continual.network_learner import NetworkLearner, Training
from skntk.continual.rules import (
    Consolidation,
    Joint,
    PrincipalProjection,
    Projection,
    ProjectionPlus,
    Replay,
    Rule,
)
from skntk.continual.tasks import TaskRows
from skntk.core import (
    check_writable,
    format_bytes,
    resolve_device,
    resolve_dtype,
)
from skntk.finite.network import check_module
from skntk.machines.networks import (
    ModuleParams,
    as_rows,
    finite_width,
)
from skntk.machines.targets import Targets
from skntk.machines.validation import Interval, StrOptions
from skntk.nn.parametrization import Affine
from skntk.training.base import NetworkEstimator
from skntk.training.building import drawn_network, in_regime, placed
from skntk.training.checkpoints import (
    check_pickles,
    described,
    read_checkpoint,
    write_checkpoint,
)
from skntk.training.net import seeded

PROJECTIONS = {"ogd": Projection, "ogd_plus": ProjectionPlus, "pca_ogd": PrincipalProjection}
METHODS = ("sgd", "stable_sgd", *PROJECTIONS, "ewc", "online_ewc", "replay", "joint")
#: Methods that have a closed form in the kernel regime.
CLOSED = ("sgd", "ogd", "joint")
#: Hidden units of the default network.
_WIDTH = 512


@dataclass(frozen=True)
class Learnt:
    """Everything that was learnt, and what is needed to go on.

    Attributes
    ----------
    heads : Heads
        The tasks and their outputs.
    learner : NetworkLearner or KernelLearner
        The network, and what is kept of the tasks.
    units : dict
        Moments of the targets of regression.
    seed : int
        From which the seeds of all tasks are made.
    count : int
        How often something was learnt.
    mark : str
        Of the parameters and all tasks so far.
    params : dict of str to str
        Parameters that all tasks have in common.
    distances : tuple of float
        Of the weights from their start.
    seconds : tuple of float
        That each call took to learn.
    """

    heads: Heads
    learner: Any
    units: dict[Hashable, Targets]
    seed: int
    count: int
    mark: str
    params: dict[str, str]
    distances: tuple[float, ...]
    seconds: tuple[float, ...]


#: Parameters that mean what they mean in `NetworkClassifier`.
_SHARED = (
    "depth", "width", "activation", "weight_std", "bias_std", "module", "parametrization",
    "centered", "learning_rate", "momentum", "max_epochs", "checkpoint", "input_shape", "device",
    "dtype", "random_state", "verbose",
)  # fmt: skip
#: Parameters that may change from task to task.
_FREE = frozenset(
    ("learning_rate", "momentum", "max_epochs", "tol", "batch_size", "checkpoint", "verbose",
     "random_state", "device")
)  # fmt: skip


class ContinualEstimator(ModuleParams):
    """Base of `ContinualNTK` and `ContinualNTKRegressor`; not used directly."""

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **{name: NetworkEstimator._parameter_constraints[name] for name in _SHARED},
        "method": [StrOptions(set(METHODS))],
        "heads": [StrOptions({"single", "multi", "incremental"})],
        "regime": [StrOptions({"full", "linearized", "kernel"})],
        "tol": [Interval(Real, 0, None, closed="left")],
        "batch_size": [Interval(Integral, 1, None, closed="left"), None],
        "memory_size": [Interval(Integral, 0, None, closed="left"), None],
        "penalty": [Interval(Real, 0, None, closed="left")],
        "fisher_decay": [Interval(Real, 0, 1, closed="both")],
        "rate_decay": [Interval(Real, 0, 1, closed="right")],
        "dropout": [Interval(Real, 0, 1, closed="left")],
        "outputs": [StrOptions({"trace", "full"})],
        "alpha": [Interval(Real, 0, None, closed="left")],
        "training_time": [Interval(Real, 0, None, closed="both")],
    }
    _input_shape: tuple[int, ...]
    _target_checks: ClassVar[dict[str, Any]] = {}

    # Data

    def _rows(self, X: Any, y: Any = "no_validation") -> Any:
        """Validate inputs (and targets): as tensors of shape (n, *input_shape)."""
        predicting, fitted = isinstance(y, str), self.__sklearn_is_fitted__()
        X, shape = as_rows(X, self.input_shape)
        if fitted and shape is not None and shape != self._input_shape:
            raise ValueError(
                f"X has inputs of shape {shape}, but those of the first task had "
                f"{self._input_shape}."
            )
        checked = {"dtype": [np.float64, np.float32]}
        if predicting:
            X = validate_data(self, X, reset=False, **checked)
        else:
            X, y = validate_data(self, X, y, reset=not fitted, **checked, **self._target_checks)
            if not fitted:
                self._input_shape = shape or (X.shape[1],)
        X = torch.tensor(np.array(X, order="C"), dtype=self._dtype).reshape(-1, *self._input_shape)
        return X if predicting else (X, y)

    @property
    def _closed(self) -> bool:
        """Whether tasks are learnt by their closed forms."""
        return bool(self.regime == "kernel" or self.width == math.inf)

    @property
    def _dtype(self) -> torch.dtype:
        dtype = resolve_dtype(self.dtype)
        return torch.float64 if self._closed else dtype

    # Learning

    def _forget(self) -> None:
        """Drop what was learnt."""
        self.__dict__.pop("_learnt", None)

    def _current_heads(self) -> Heads:
        """Return the heads so far; refuse at the first task what cannot be."""
        if self.checkpoint is not None and not isinstance(self.random_state, Integral):
            raise ValueError(
                f"checkpoint needs random_state to be an integer, not {self.random_state!r}: else "
                "each fit draws other weights, and none could go on with another's checkpoint."
            )
        if self.__sklearn_is_fitted__():
            self._check_params()
            return self._learnt.heads
        if self._closed and self.method not in CLOSED:
            raise ValueError(
                f"method={self.method!r} has no closed form; regime='kernel' and width=np.inf take "
                f"one of {list(CLOSED)}."
            )
        empirical = self.regime == "kernel" and self.width != math.inf
        if empirical and self.heads == "multi" and self.outputs == "trace":
            raise ValueError(
                "outputs='trace' takes all outputs for independent, so that with heads='multi' "
                "nothing could be forgotten; pass outputs='full', or width=np.inf for the limit, "
                "where they are."
            )
        return Heads(self.heads)

    def _take(
        self, X: Tensor, Y: Tensor, heads: Heads, units: dict[Hashable, Targets] | None = None
    ) -> None:
        """Learn one task, or read from a checkpoint what was learnt of it.

        If that fails the estimator is as it was.

        Parameters
        ----------
        X : Tensor of shape (n, ...)
            Rows.
        Y : Tensor of shape (n, k)
            Targets of the outputs; NaN where they have none.
        heads : Heads
            After the task.
        units : dict, optional
            Of the targets, after the task.
        """
        before: Learnt | None = self._learnt if self.__sklearn_is_fitted__() else None
        count = before.count if before else 0
        path, params = None, before.params if before else self._settled_params()
        described_now = self._described_params()
        chain = (before.mark, before.seed) if before else ()
        mark = _mark(chain, described_now, X, Y, heads, units)
        if self.checkpoint is not None:
            path = Path(self.checkpoint).absolute() / f"task-{count:03d}.pkl"
            check_writable(path, "checkpoint")
            found = read_checkpoint(path, mark, described_now)
            if found is not None:
                self._learnt: Learnt = found
                return
        begun = time.perf_counter()
        seed, learner = self._prepared(X, heads)
        if path is not None:
            check_pickles(learner)
        learner.learn(TaskRows(X, Y), _task_seed(seed, count, 1))
        distances = (*(before.distances if before else ()), learner.distance())
        seconds = (*(before.seconds if before else ()), time.perf_counter() - begun)
        learnt = Learnt(
            heads, learner, units or {}, seed, count + 1, mark, params, distances, seconds
        )
        if path is not None:
            write_checkpoint(path, mark, described_now, learnt)
        self._learnt = learnt
        if self.verbose:
            kept = self.memory_
            print(
                f"[skntk] {self.method}: {count + 1} tasks learnt, {kept['rows']} rows and "
                f"{kept['gradients']} gradients kept in {format_bytes(kept['bytes'])}"
            )

    def _prepared(self, X: Tensor, heads: Heads) -> tuple[int, Any]:
        """Seed of all tasks, and what is to learn the next one, with its outputs."""
        if not self.__sklearn_is_fitted__():
            seed = int(check_random_state(self.random_state).randint(2**31 - 1))
            return seed, self._learner_for(X, heads.n_outputs, seed)
        before = self._learnt
        learner, n_new = copy.deepcopy(before.learner), heads.n_outputs - before.heads.n_outputs
        if isinstance(learner, NetworkLearner):  # what may change from task to task
            learner.training = self._training(learner.training.device)
        if n_new:
            fill = 0.0 if heads.kind == "incremental" else math.nan
            learner.grow(X, n_new, _task_seed(before.seed, before.count, 0), fill)
        return before.seed, learner

    def _learner_for(self, X: Tensor, n_outputs: int, seed: int) -> NetworkLearner | KernelLearner:
        """Return what learns, before its first task."""
        closed, width = self._closed, finite_width(self.width)
        infinite = self.width == math.inf
        module = self._built_module(width, seed)
        if module is None:
            width = (1 if infinite else _WIDTH) if width is None else width
            module = drawn_network(self, X, n_outputs, seed, width)
            if self.method == "stable_sgd" and self.dropout:
                module = _with_dropout(module, self.dropout)
        if infinite:
            kernel: Any = InfiniteTaskKernel(module, n_outputs)
            kernel.gram(X[:1], X[:1])  # refuses layers without a limit
        else:
            device, what = resolve_device(self.device), f"the first task of {n_outputs} outputs"
            with seeded(seed):  # lazy layers are drawn when they see a row
                module = placed(module, X, n_outputs, what, device, self._dtype)
        if closed:
            if not infinite:
                module = module.eval() if inspect.isclass(self.module) else module
                check_module(module)
                kernel = FiniteTaskKernel(module, self.outputs, self.centered)
            return KernelLearner(
                kernel, self.method, self.memory_size, float(self.alpha), float(self.training_time)
            )
        if self.method in PROJECTIONS:
            _check_norms(module, self.method)
        module = in_regime(module, self.regime, self.centered, inspect.isclass(self.module))
        return NetworkLearner(module, self._rule(), self._training(device))

    def _training(self, device: torch.device) -> Training:
        return Training(
            loss=self._loss,
            learning_rate=self.learning_rate,
            rate_decay=self.rate_decay if self.method == "stable_sgd" else 1.0,
            momentum=self.momentum,
            max_epochs=int(self.max_epochs),
            tol=float(self.tol),
            batch_size=self.batch_size,
            device=device,
            verbose=int(self.verbose),
        )

    def _rule(self) -> Rule:
        """Return what the method does beside gradient descent."""
        if self.method in PROJECTIONS:
            return PROJECTIONS[self.method](self.memory_size, self._picks_labels)
        if self.method in ("ewc", "online_ewc"):
            likelihood = "categorical" if self._loss == "cross_entropy" else "gaussian"
            decay = float(self.fisher_decay) if self.method == "online_ewc" else None
            return Consolidation(float(self.penalty), likelihood, decay)
        if self.method == "replay":
            return Replay(self.memory_size)
        return Joint() if self.method == "joint" else Rule()

    @property
    def _loss(self) -> str:
        return "squared"

    @property
    def _picks_labels(self) -> bool:
        """Whether gradients are stored of the label's output alone."""
        return False

    # Checkpoints

    def _described_params(self) -> dict[str, str]:
        """Parameters that a checkpoint must agree in."""
        free = {"checkpoint", "verbose", "device"}
        return {k: described(v) for k, v in self.get_params().items() if k not in free}

    def _settled_params(self) -> dict[str, str]:
        """Parameters that cannot change from task to task."""
        return {k: described(v) for k, v in self.get_params().items() if k not in _FREE}

    def _check_params(self) -> None:
        """Refuse parameters that were others at the first task."""
        now, first = self._settled_params(), self._learnt.params
        changed = sorted(k for k in {*now, *first} if now.get(k) != first.get(k))
        if changed:
            raise ValueError(
                f"{', '.join(changed)} cannot change from task to task: set it back, or start anew "
                "with fit or a clone."
            )

    # What was learnt

    def _outputs(self, X: Any, task: Hashable | None) -> Tensor:
        """Outputs that answer for a task: (m, k)."""
        check_is_fitted(self)
        X = self._rows(X)
        columns = self._learnt.heads.columns(task)
        return self._learnt.learner.outputs(X)[:, columns]

    @property
    def tasks_(self) -> list[Hashable]:
        """Names of the tasks that were learnt, in order."""
        check_is_fitted(self)
        return list(self._learnt.heads.tasks)

    @property
    def memory_(self) -> dict[str, int]:
        """Numbers of rows and gradients that are kept of earlier tasks, and their bytes."""
        check_is_fitted(self)
        return self._learnt.learner.kept()

    @property
    def module_(self) -> nn.Module:
        """The trained network; with ``regime="linearized"`` a `skntk.finite.Linearized`."""
        check_is_fitted(self)
        if isinstance(self._learnt.learner, KernelLearner):
            raise AttributeError("in the kernel regime there is no trained network.")
        return self._learnt.learner.module

    @property
    def distances_(self) -> list[float]:
        """Distance of all weights from their start after each task."""
        check_is_fitted(self)
        return list(self._learnt.distances)

    @property
    def losses_(self) -> list[list[float]]:
        """Mean training loss of each epoch, task by task."""
        check_is_fitted(self)
        return list(self._learnt.learner.losses)

    @property
    def learning_rates_(self) -> list[float]:
        """Learning rate of each task."""
        check_is_fitted(self)
        return list(self._learnt.learner.rates)

    def __sklearn_is_fitted__(self) -> bool:
        return "_learnt" in vars(self)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = False
        tags.non_deterministic = False
        return tags


def _mark(
    chain: tuple[Any, ...],
    params: dict[str, str],
    X: Tensor,
    Y: Tensor,
    heads: Heads,
    units: dict[Hashable, Targets] | None,
) -> str:
    """What a checkpoint must agree in: parameters, and all tasks so far."""
    arrays = [t.detach().cpu().numpy() for t in (X, Y)]
    moments = [(repr(task), t.mean.tolist(), t.scale.tolist()) for task, t in (units or {}).items()]
    return str(joblib.hash([*chain, sorted(params.items()), arrays, repr(heads), moments]))


def _task_seed(seed: int, task: int, purpose: int) -> int:
    """Seed of one task, for one purpose."""
    return int(np.random.SeedSequence([seed, task, purpose]).generate_state(1)[0])


def _check_norms(module: nn.Module, method: str) -> None:
    """Refuse running statistics, which would move the outputs that a projection holds."""
    check_module(copy.deepcopy(module).eval())  # norms that have none
    for path, layer in module.named_modules():
        if getattr(layer, "running_mean", None) is not None:
            raise ValueError(
                f"{type(layer).__name__} at {path or 'the top'!r} has running statistics that move "
                f"in training, and with them the outputs that method={method!r} is to hold: use "
                "another norm, such as GroupNorm, or another method, such as 'replay'."
            )


def _with_dropout(module: nn.Module, p: float) -> nn.Module:
    """Return the default network with dropout of its hidden units, in front of the next layer."""
    layers: list[nn.Module] = []
    for layer in module.children():
        hidden = any(isinstance(other, Affine) for other in layers)
        layers += [nn.Dropout(p), layer] if hidden and isinstance(layer, Affine) else [layer]
    return nn.Sequential(*layers)
