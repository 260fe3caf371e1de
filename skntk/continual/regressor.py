"""`ContinualNTKRegressor`: regression tasks in sequence."""

from __future__ import annotations

import math
from collections.abc import Hashable
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from sklearn.base import RegressorMixin
from sklearn.metrics import r2_score
from torch import Tensor, nn

from skntk.continual.base import ContinualEstimator
from skntk.continual.heads import Heads
from skntk.machines.targets import Targets
from skntk.machines.validation import StrOptions, fit_context

#: In place of targets, of which the moments alone are kept.
_NOTHING = torch.zeros(0)


class ContinualNTKRegressor(RegressorMixin, ContinualEstimator):
    r"""Regression tasks that come one after the other, learnt by a network or its kernel.

    As `ContinualNTK`, whose parameters these are, with half the mean squared error as the loss.
    Targets are centred and scaled by the moments of the first task, with ``heads="multi"`` by those
    of each task at its first rows. A stored row has the gradients of all outputs of its task.

    Parameters
    ----------
    method, depth, width, activation, weight_std, bias_std
        As of `ContinualNTK`.
    heads : {"single", "multi"}, default="single"
        Whether all tasks have the same outputs, or each has its own and `predict` must be told the
        task.
    module, parametrization, regime, centered, learning_rate, momentum, max_epochs, tol, batch_size
        As of `ContinualNTK`.
    memory_size, penalty, fisher_decay, rate_decay, dropout, outputs, alpha, training_time
        As of `ContinualNTK`.
    checkpoint, input_shape, device, dtype, random_state, verbose
        As of `ContinualNTK`.

    Attributes
    ----------
    tasks_, memory_, distances_, losses_, learning_rates_, module_
        As of `ContinualNTK`.
    n_features_in_ : int
        Number of features; the product of the axes of an input.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Names of the features, if X had any.

    References
    ----------
    As of `ContinualNTK`.

    Examples
    --------
    >>> from skntk import ContinualNTKRegressor
    >>> from skntk.datasets import drifting_tasks
    >>> tasks = drifting_tasks("diabetes", n_tasks=2, random_state=0)
    >>> model = ContinualNTKRegressor("ogd", width=64, random_state=0)
    >>> for task in tasks:
    ...     model = model.partial_fit(task.X, task.y)
    >>> model.predict(tasks[0].X_test).shape
    (56,)
    """

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **ContinualEstimator._parameter_constraints,
        "heads": [StrOptions({"single", "multi"})],
    }
    _target_checks: ClassVar[dict[str, Any]] = {"multi_output": True, "y_numeric": True}

    def __init__(
        self,
        method: str = "ogd",
        depth: int = 2,
        width: float | None = None,
        activation: str | nn.Module = "relu",
        weight_std: float = math.sqrt(2),
        bias_std: float = 0.1,
        *,
        heads: str = "single",
        module: Any = None,
        parametrization: str = "ntk",
        regime: str = "full",
        centered: bool = False,
        learning_rate: float | str = "auto",
        momentum: float = 0.9,
        max_epochs: int = 10,
        tol: float = 0.0,
        batch_size: int | None = 32,
        memory_size: int | None = 200,
        penalty: float = 100.0,
        fisher_decay: float = 0.9,
        rate_decay: float = 0.8,
        dropout: float = 0.25,
        outputs: str = "trace",
        alpha: float = 1e-6,
        training_time: float = math.inf,
        checkpoint: str | Path | None = None,
        input_shape: tuple[int, ...] | None = None,
        device: str | torch.device = "cpu",
        dtype: str = "float32",
        random_state: Any = None,
        verbose: int = 0,
        **module__params: Any,
    ) -> None:
        self.method = method
        self.depth = depth
        self.width = width
        self.activation = activation
        self.weight_std = weight_std
        self.bias_std = bias_std
        self.heads = heads
        self.module = module
        self.parametrization = parametrization
        self.regime = regime
        self.centered = centered
        self.learning_rate = learning_rate
        self.momentum = momentum
        self.max_epochs = max_epochs
        self.tol = tol
        self.batch_size = batch_size
        self.memory_size = memory_size
        self.penalty = penalty
        self.fisher_decay = fisher_decay
        self.rate_decay = rate_decay
        self.dropout = dropout
        self.outputs = outputs
        self.alpha = alpha
        self.training_time = training_time
        self.checkpoint = checkpoint
        self.input_shape = input_shape
        self.device = device
        self.dtype = dtype
        self.random_state = random_state
        self.verbose = verbose
        self._set_module_params(module__params)

    def fit(self, X: Any, y: Any, task: Hashable | None = None) -> ContinualNTKRegressor:
        """Forget everything, and learn one task.

        Parameters are those of `partial_fit`.

        Returns
        -------
        ContinualNTKRegressor
            Itself.
        """
        self._forget()
        return self.partial_fit(X, y, task)

    @fit_context(prefer_skip_nested_validation=True)
    @torch.inference_mode(False)
    def partial_fit(self, X: Any, y: Any, task: Hashable | None = None) -> ContinualNTKRegressor:
        """Learn one task, or more of it. If that fails, the estimator is as it was.

        Parameters
        ----------
        X : array-like of shape (n, d) or (n,) + input_shape
            Rows of the task.
        y : array-like of shape (n,) or (n, k)
            Targets.
        task : hashable, optional
            Name of the task; by default the next number. A name that is known is learnt on.

        Returns
        -------
        ContinualNTKRegressor
            Itself.

        Raises
        ------
        ValueError
            If X or y has another number of columns than earlier; if the module does not run on the
            rows or has another number of outputs; if a checkpoint is that of another stream.
        TrainingDivergedError
            If the loss is not finite.
        """
        self._take(*self._encoded(X, y, task))
        return self

    def _encoded(
        self, X: Any, y: Any, task: Hashable | None
    ) -> tuple[Tensor, Tensor, Heads, dict[Hashable, Targets]]:
        """Rows, targets, the heads and the moments of all targets after the task."""
        X, y = self._rows(X, y)
        y = np.array(y, dtype=np.float64)
        heads = self._current_heads()
        task = heads.named(task)
        heads = heads.with_outputs(task, 1 if y.ndim == 1 else y.shape[1])
        units = {} if not self.__sklearn_is_fitted__() else dict(self._learnt.units)
        key = task if self.heads == "multi" else None
        if key not in units:
            units[key] = replace(Targets.of(y, torch.ones(len(y)).double()), Z=_NOTHING)
        at = units[key]
        Y = heads.empty_targets(task, len(y), self._dtype)
        scaled = (torch.as_tensor(y.reshape(len(y), -1)) - at.mean) / at.scale
        Y[:, heads.columns(task)] = scaled.to(self._dtype)
        return X, Y, heads, units

    def predict(self, X: Any, task: Hashable | None = None) -> np.ndarray:
        """Predict the targets.

        Parameters
        ----------
        X : array-like of shape (m, d) or (m,) + input_shape
            Test rows.
        task : hashable, optional
            Name of their task. It must be given with ``heads="multi"`` and several tasks, and makes
            no difference otherwise, but that it must have been learnt.

        Returns
        -------
        ndarray of shape (m,) or (m, k)
            Like the y of the task.

        Raises
        ------
        ValueError
            If there is no such task.
        """
        outputs = self._outputs(X, task)
        key = None
        if self.heads == "multi":
            key = self.tasks_[0] if task is None else task
        return self._learnt.units[key].back(outputs)

    def score(
        self, X: Any, y: Any, task: Hashable | None = None, sample_weight: Any = None
    ) -> float:
        """Return the coefficient of determination on rows of a task.

        Parameters
        ----------
        X, task
            As of `predict`.
        y : array-like of shape (m,) or (m, k)
            True targets.
        sample_weight : array-like of shape (m,), optional
            Weights of the rows.

        Returns
        -------
        float
        """
        return float(r2_score(y, self.predict(X, task), sample_weight=sample_weight))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags
