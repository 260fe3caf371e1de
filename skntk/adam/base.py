"""What both estimators of the Adam limit share: features, training, prediction."""

from __future__ import annotations

import functools
import inspect
import math
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from numbers import Integral, Real
from pathlib import Path
from typing import Any, ClassVar

import joblib
import numpy as np
import torch
from sklearn.base import clone
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor, nn

from skntk.adam.blocks import REPLICAS, Blocks, Sampler
from skntk.adam.dynamics import Batches, Dynamics, Progress
from skntk.adam.features import GROUP
from skntk.adam.gaussian import GaussianSampler
from skntk.adam.losses import Loss
from skntk.adam.networks import NetworkSampler
from skntk.adam.rule import AdamRule
from skntk.core import (
    MemoryBudgetError,
    SkntkWarning,
    UnsupportedModuleError,
    available_bytes,
    check_writable,
    require,
    resolve_device,
)
from skntk.infinite.kernel import InfiniteKernel
from skntk.machines.networks import ModuleParams, as_rows, check_outputs, drawn_mlp
from skntk.machines.validation import Interval, StrOptions
from skntk.nn.parametrization import Affine
from skntk.training.checkpoints import described, read_checkpoint, write_checkpoint
from skntk.training.held_out import held_out
from skntk.training.net import seeded

#: Units of a block: of a random network of dense layers, and channels of one with convolutions.
_WIDTH, _CHANNELS = 1024, 64
#: Least width of random networks, whose features are biased by the order of its inverse.
_LEAST_WIDTH = 128
#: Rows above which "auto" draws from random networks: the cost of the limit's own Gaussian
#: processes grows with the square of the rows.
_EXACT_ROWS = 3000
#: And columns: axes of the input are found among them.
_EXACT_COLUMNS = 1024
#: Test rows that are dealt with at one time; a fixed number, so that rounding is the same.
_TEST_ROWS = 256
_CHECKPOINT_SECONDS = 10.0
#: Features that "auto" starts with, and the most that it draws; rows at which it asks for
#: the error.
_FIRST_FEATURES, _MOST_FEATURES, _PROBES = 2**12, 2**22, 64


class AdamEstimator(ModuleParams):
    """Base of `AdamNTKRegressor` and `AdamNTKClassifier`; not used directly."""

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        "depth": [Interval(Integral, 0, None, closed="left")],
        "activation": [str, nn.Module],
        "weight_std": [Interval(Real, 0, None, closed="neither")],
        "bias_std": [Interval(Real, 0, None, closed="left")],
        "module": "no_validation",
        "learning_rate": [Interval(Real, 0, None, closed="neither"), StrOptions({"auto"})],
        "beta1": [Interval(Real, 0, 1, closed="left")],
        "beta2": [Interval(Real, 0, 1, closed="left")],
        "eps": [Interval(Real, 0, None, closed="both")],
        "amsgrad": ["boolean"],
        "weight_decay": [Interval(Real, 0, None, closed="left")],
        "max_epochs": [Interval(Integral, 0, None, closed="left")],
        "batch_size": [Interval(Integral, 1, None, closed="left"), None],
        "n_features": [Interval(Integral, 1, None, closed="left"), StrOptions({"auto"})],
        "mc_tol": [Interval(Real, 0, None, closed="neither")],
        "sampler": [StrOptions({"auto", "exact", "networks"})],
        "early_stopping": ["boolean"],
        "validation_fraction": [Interval(Real, 0, 1, closed="neither")],
        "patience": [Interval(Integral, 1, None, closed="left")],
        "memory_budget": [Interval(Real, 0, None, closed="left"), None],
        "checkpoint": [str, Path, None],
        "input_shape": "no_validation",
        "device": [str, torch.device],
        "random_state": ["random_state"],
        "verbose": ["verbose"],
    }
    _target_checks: ClassVar[dict[str, Any]] = {}

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
        largest = np.abs(X).max()
        if largest > np.finfo(np.float32).max:
            raise ValueError(
                f"X has values up to {largest:.3g}, beyond float32, in which features "
                "are: scale it, such as with sklearn.preprocessing.StandardScaler."
            )
        X = torch.tensor(np.array(X), dtype=torch.float32).reshape(-1, *self._input_shape)
        X = X.to(resolve_device(self.device))
        return X if predicting else (X, y)

    # Features

    def _drawn(self, seed: int, width: int) -> nn.Module:
        """A random network of the family; its weights are drawn from a seed."""
        device = resolve_device(self.device)
        if self.module is None and not self._module_params():
            names = ("depth", "activation", "weight_std", "bias_std")
            chosen = {name: getattr(self, name) for name in names}
            d = math.prod(self._input_shape)
            net = drawn_mlp(d, self._n_outputs, seed, width=width, **chosen)
            flat = len(self._input_shape) == 1
            return (net if flat else nn.Sequential(nn.Flatten(), *net)).to(device, torch.float32)
        by_width = inspect.isclass(self.module) and (
            "width" in inspect.signature(self.module).parameters
            and "width" not in self._module_params("module__")
        )
        module = self._built_module(width if by_width else None, seed)
        assert module is not None
        if not inspect.isclass(self.module):
            with seeded(seed):
                for layer in module.modules():
                    if isinstance(layer, Affine):
                        layer.reset_parameters()
        return module.to(device, torch.float32)

    def _features(self, X: Tensor, seed: int) -> Blocks:
        """All features at the training rows, of which some are kept."""
        module = self._drawn(0, GROUP)
        check_outputs(module, X, self._n_outputs, f"y with {self._n_outputs} outputs")
        sampler: Sampler | None = self._exact_sampler(module, X)
        if sampler is None:
            images = len(self._input_shape) > 1 and self.module is not None
            most, least = (_CHANNELS, _CHANNELS) if images else (_WIDTH, _LEAST_WIDTH)
            fixed = clone(self)  # parameters may be set after fit
            fixed._input_shape, fixed._n_outputs = self._input_shape, self._n_outputs
            width = max(self._width_of_blocks(most), least)
            sampler = NetworkSampler(functools.partial(fixed._drawn, width=width), X)
        n_blocks = REPLICAS * math.ceil(self._units / (REPLICAS * sampler.n_units))
        self.n_features_ = GROUP * n_blocks * sampler.n_units
        tensors = max(sum(p.ndim > 1 for p in module.parameters()) - 1, 1)  # the readout has fewer
        arrays = 2 * self._rule(1.0).n_arrays  # of all features together, and of their group
        require(
            4 * arrays * tensors * self.n_features_,
            f"weights and moments of n_features={self.n_features_} for {tensors} weight tensors",
            "Pass a smaller n_features.",
            X.device,
        )
        budget = self.memory_budget
        nbytes = available_bytes(X.device) // 2 if budget is None else int(budget * 2**30)
        return Blocks(sampler, n_blocks, seed, len(X), nbytes)

    def _exact_sampler(self, module: nn.Module, X: Tensor) -> GaussianSampler | None:
        """Draws from the limit itself; None if that is not asked for, or "auto" has reasons."""
        small = len(X) <= _EXACT_ROWS and X[0].numel() <= _EXACT_COLUMNS
        if self.sampler == "networks" or (self.sampler == "auto" and not small):
            return None
        try:
            if not all(p.requires_grad for p in module.parameters()):
                raise UnsupportedModuleError(
                    "sampler='exact' trains all parameters, but the module has frozen ones; pass "
                    "sampler='networks'."
                )
            program = InfiniteKernel(module).program(tuple(X.shape[1:]))
            width = self._width_of_blocks(_WIDTH)
            return GaussianSampler(program, X.flatten(1), self._n_outputs, width)
        except (UnsupportedModuleError, MemoryBudgetError):
            if self.sampler == "exact":
                raise
            return None

    def _width_of_blocks(self, most: int) -> int:
        """Units of each block, so that all have about as many as are asked for."""
        n_blocks = REPLICAS * math.ceil(self._units / (REPLICAS * most))
        step = GROUP if most < _WIDTH or self._units < n_blocks * most / 2 else 8 * GROUP
        return step * math.ceil(self._units / (n_blocks * step))

    # Training

    def _train(self, X: Tensor, targets: Tensor, labels: np.ndarray | None = None) -> None:
        """Train in the limit, with as many features as are asked for or needed.

        Parameters
        ----------
        X : Tensor of shape (n, ...)
            Rows.
        targets : Tensor of shape (c, n)
            Of the outputs.
        labels : ndarray of int, optional
            Classes of the rows.
        """
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        self._X, self._n_outputs = X, len(targets)
        loss = Loss(targets.to(X), self._cross_entropy)
        train, held = torch.arange(len(X)), torch.arange(0)
        if self.early_stopping:
            train, held = held_out(len(X), labels, self.validation_fraction, seed)
        size = len(train) if self.batch_size is None else min(self.batch_size, len(train))
        batches = Batches(train.to(X.device), held.to(X.device), size, seed)
        automatic = self.n_features == "auto"
        n_features = _FIRST_FEATURES if automatic else int(self.n_features)
        while True:
            self._units = math.ceil(n_features / GROUP)
            self._learn(X, seed, loss, batches)
            if not automatic:
                return
            error = self._probe_error()
            if error <= self.mc_tol or n_features >= _MOST_FEATURES:
                break
            needed = 1.2 * n_features * (error / self.mc_tol) ** 2
            n_features = int(min(max(needed, 2 * n_features), _MOST_FEATURES))
        if error > self.mc_tol:
            warnings.warn(
                f"the Monte-Carlo error is {error:.2g} with {n_features} features, which is as "
                f"many as are drawn, above mc_tol={self.mc_tol}: pass a larger mc_tol, or "
                "n_features as a number.",
                SkntkWarning,
                stacklevel=4,
            )

    def _learn(self, X: Tensor, seed: int, loss: Loss, batches: Batches) -> None:
        """Draw features and train, or go on with a checkpoint."""
        blocks = self._features(X, seed)
        n_steps = int(self.max_epochs) * batches.per_epoch
        dynamics = Dynamics(blocks, self._rule(1.0), loss, batches, n_steps, int(self.patience))
        rate = dynamics.usable_rate() if self.learning_rate == "auto" else self.learning_rate
        dynamics = replace(dynamics, rule=self._rule(float(rate)))
        now, write = self._resumed(dynamics, seed)
        with progress_bar(self.verbose, now.step, n_steps) as show:
            written = time.monotonic()

            def after_step(now: Progress) -> None:
                nonlocal written
                show(now)
                if write is not None and time.monotonic() - written >= _CHECKPOINT_SECONDS:
                    write(now)
                    written = time.monotonic()

            dynamics.run(now, after_step)
        if write is not None:
            write(now)
        dynamics.check(now)
        n_worse = dynamics.n_worse(now) if now.step == n_steps else 0
        if n_worse:
            warnings.warn(
                f"{n_worse} of {REPLICAS} groups of features, each trained alone, "
                "came out worse than they began, so the Monte-Carlo error is not to be relied on: "
                "pass a smaller learning_rate or more n_features.",
                SkntkWarning,
                stacklevel=5,
            )
        self._blocks, self._dynamics = blocks, dynamics
        best = bool(len(batches.held) and now.best_weights)
        self._weights = now.best_weights if best else [state.w for state in now.moments]
        self._residuals = now.residuals
        self.n_steps_ = now.best if best else now.step
        self.learning_rate_ = float(rate)
        self.loss_curve_ = np.array(now.losses)
        self.validation_loss_curve_ = np.array(now.held_losses)

    def _rule(self, rate: float) -> AdamRule:
        return AdamRule(
            rate,
            float(self.beta1),
            float(self.beta2),
            float(self.eps),
            float(self.weight_decay),
            bool(self.amsgrad),
        )

    def _resumed(
        self, dynamics: Dynamics, seed: int
    ) -> tuple[Progress, Callable[[Progress], None] | None]:
        """State to go on from, and what writes it down."""
        if self.checkpoint is None:
            return dynamics.start(), None
        if not isinstance(self.random_state, Integral):
            raise ValueError(
                f"checkpoint needs random_state to be an integer, not {self.random_state!r}: else "
                "each fit draws other features, and none could go on with another's checkpoint."
            )
        path = Path(self.checkpoint).absolute()
        if self.n_features == "auto":  # a file for each number of features that is tried
            path = path.with_name(f"{path.name}-{GROUP * self._units}")
        check_writable(path, "checkpoint")
        free = {"checkpoint", "verbose", "max_epochs", "memory_budget", "mc_tol"}
        free.add("random_state")  # the seed stands for it
        params = {k: described(v) for k, v in self.get_params().items() if k not in free}
        data = [t.cpu().numpy() for t in (self._X, dynamics.loss.targets)]
        mark = str(joblib.hash([params, seed, self._units, data]))
        found = read_checkpoint(path, mark, params)
        if found is not None and found.step > dynamics.n_steps:
            raise ValueError(
                f"checkpoint={str(path)!r} has been trained for {found.step} steps already, more "
                f"than max_epochs={self.max_epochs}; pass another path."
            )
        if found is not None and found.step < dynamics.n_steps:
            found = dynamics.reopened(found)
        return (
            dynamics.start() if found is None else found,
            lambda now: write_checkpoint(path, mark, params, now),
        )

    def _probe_error(self) -> float:
        """Root mean square of the Monte-Carlo error halfway between pairs of training rows."""
        n = len(self._X)
        pairs = np.random.default_rng(0).integers(n, size=(2, _PROBES))
        probes = 0.5 * (self._X[pairs[0]] + self._X[pairs[1]])
        _, std = self._with_mc_std(self._runs(probes))
        return float(std.square().mean().sqrt())

    # Predicting

    def _runs(self, X: Tensor) -> Tensor:
        """Outputs at rows: of all features together, and of each group alone: (1 + R, c, m)."""
        parts = []
        for start in range(0, len(X), _TEST_ROWS):
            rows = X[start : start + _TEST_ROWS]
            full = torch.cat([rows, rows[-1:].expand(_TEST_ROWS - len(rows), *rows.shape[1:])])
            out = self._dynamics.outputs(full, self._weights)
            parts.append(out[:, :, : len(rows)])
        return torch.cat(parts, 2)

    def _scores(self, f: Tensor) -> Tensor:
        """What is predicted of outputs (..., c, m)."""
        return f

    def _with_mc_std(self, runs: Tensor) -> tuple[Tensor, Tensor]:
        """Predicted scores (m, c), and the Monte-Carlo error of them."""
        scores = self._scores(runs.double())
        return scores[0].T, scores[1:].std(0).T / math.sqrt(len(scores) - 1)

    def _staged(self, X: Any, epochs: Any) -> Iterator[Tensor]:
        """Scores (m, c) after some epochs."""
        check_is_fitted(self)
        rows, per_epoch = self._rows(X), self._dynamics.batches.per_epoch
        made = math.ceil(len(self._residuals) / per_epoch)
        wanted = list(range(1, made + 1)) if epochs is None else [int(e) for e in epochs]
        whole = epochs is None or all(e == i for e, i in zip(epochs, wanted, strict=True))
        if not whole or wanted != sorted(set(wanted)) or not all(0 <= e <= made for e in wanted):
            raise ValueError(
                f"epochs={epochs!r} must be ascending numbers of epochs from 0 to {made}, as many "
                "as were trained."
            )
        steps = [min(e * per_epoch, len(self._residuals)) for e in wanted]
        for f in self._dynamics.replayed(rows, self._residuals, steps):
            yield self._scores(f.double()).T

    @property
    def residuals_(self) -> list[np.ndarray]:
        """Derivative of the loss by the outputs before each step: (rows of the batch, c)."""
        check_is_fitted(self)
        return [r.T.cpu().numpy() for r in self._residuals]

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "_weights")

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = False
        tags.non_deterministic = False
        return tags


@contextmanager
def progress_bar(verbose: int, done: int, total: int) -> Iterator[Callable[[Progress], None]]:
    """Show steps, loss and the time left, if that is asked for."""
    if not verbose:
        yield lambda now: None
        return
    from tqdm.auto import tqdm

    with tqdm(initial=done, total=total, unit="step") as bar:

        def show(now: Progress) -> None:
            bar.set_postfix(loss=f"{now.losses[-1]:.3g}", refresh=False)
            bar.update()

        yield show
