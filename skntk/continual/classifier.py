"""`ContinualNTK`: classification tasks in sequence."""

from __future__ import annotations

import math
from collections.abc import Hashable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from sklearn.base import ClassifierMixin
from sklearn.metrics import accuracy_score
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted
from torch import Tensor, nn

from skntk.continual.base import ContinualEstimator
from skntk.continual.heads import Heads
from skntk.machines.validation import StrOptions, fit_context


class ContinualNTK(ClassifierMixin, ContinualEstimator):
    r"""Classification tasks that come one after the other, learnt by a network or its kernel.

    One call of `partial_fit` learns one task; rows of earlier tasks are not seen again, but for
    what `method` keeps of them. Inputs are not scaled inside.

    Parameters
    ----------
    method : str, default="ogd"
        How forgetting is held back. What is kept of a task is in brackets.

        - "sgd": plain gradient descent on one task after the other [nothing];
        - "stable_sgd": with dropout and a learning rate that decays from task to task (Mirzadeh et
          al. 2020) [nothing];
        - "ogd": orthogonal gradient descent (Farajtabar et al. 2020): steps are orthogonal to the
          gradients of outputs at earlier rows [`memory_size` gradients];
        - "ogd_plus": gradients of earlier rows are taken anew after each task (Bennani et al. 2020)
          [`memory_size` gradients and rows];
        - "pca_ogd": principal directions of five times as many gradients (Doan et al. 2021)
          [`memory_size` directions, in the memory of their gradients];
        - "ewc": elastic weight consolidation, a quadratic penalty by the Fisher information around
          the weights of each task (Kirkpatrick et al. 2017) [two numbers a parameter in all];
        - "online_ewc": the same with one anchor and information that decays (Schwarz et al. 2018);
        - "replay": rows of earlier tasks beside each batch (Chaudhry et al. 2019) [`memory_size`
          rows];
        - "joint": all rows so far, from the initial weights: the upper line [all rows].
    depth : int, default=2
        Hidden layers of the default network, `skntk.nn.MLP`.
    width : int, inf or None, default=None
        Units of each hidden layer; None is 512, or `module` as it stands. With a module class,
        passed to it as ``width``. `np.inf`: the limit of infinite width, in closed form.
    activation : str or torch.nn.Module, default="relu"
        A name of `skntk.nn.activation_names` or an elementwise module.
    weight_std, bias_std : float, default=sqrt(2), 0.1
        Standard deviations of the default network's weights, per fan-in, and biases.
    heads : {"single", "multi", "incremental"}, default="single"
        Whether all tasks have the same classes and outputs; each has outputs of its own, and
        `predict` must be told the task; or new classes get new outputs, and `predict` tells all
        classes apart. The last layer of a network that grows must be a linear one.
    module : torch.nn.Module class or instance, optional
        A network that replaces the default one, with one output for each class of the first task;
        parameters ``module__*`` go to a class. `depth`, `activation`, `weight_std`, `bias_std`,
        `parametrization` and `dropout` are then unused.
    parametrization : {"ntk", "standard", "mup"}, default="ntk"
        Of the default network, see `skntk.nn.Linear`.
    regime : {"full", "linearized", "kernel"}, default="full"
        Train the network; its linearization at initialization; or solve for each task in closed
        form with its empirical NTK, as gradient flow on squared loss would ("sgd", "ogd" and
        "joint"). ``width=np.inf`` is the latter with the NTK of the limit.
    centered : bool, default=False
        Subtract the function at initialization.
    loss : {"cross_entropy", "squared"}, default="cross_entropy"
        Of a softmax of the outputs; or half the mean squared distance from one-hot labels, which is
        what kernel theory speaks of. In closed form always squared.
    learning_rate : float or "auto", default="auto"
        Of gradient descent; "auto" is the inverse of the largest curvature of a batch's loss, for
        the rows of each task, from the empirical NTK at initialization; a network that is trained
        itself, and has other layers than those of `skntk.nn` in the NTK parametrization, takes it
        times one minus the momentum, for its kernel grows.
    momentum : float, default=0.9
        In [0, 1); starts anew with each task.
    max_epochs : int, default=10
        Passes over the rows of a task.
    tol : float, default=0.0
        A task's training ends when the mean loss of an epoch is not above it.
    batch_size : int or None, default=32
        Rows of a step; None for all.
    memory_size : int or None, default=200
        What is kept of each task: gradients for the projections (in closed form rows times
        outputs), rows for "replay". None keeps all; 0 nothing, which is plain gradient descent.
    stored_outputs : {"label", "all"}, default="label"
        Whether a stored row has one gradient, of its label's output, or one of each output of its
        task. With "label" the others may move, and with them the prediction. In closed form always
        all.
    penalty : float, default=100.0
        Strength of "ewc" and "online_ewc": what multiplies the mean Fisher information beside the
        mean loss of a task.
    fisher_decay : float, default=0.9
        By which "online_ewc" multiplies earlier information with each task.
    rate_decay : float, default=0.8
        By which "stable_sgd" multiplies the learning rate with each task.
    dropout : float, default=0.25
        Of the hidden layers of the default network under "stable_sgd", with ``regime="full"``.
    outputs : {"trace", "full"}, default="trace"
        Of the empirical NTK in closed form: the mean over outputs, which then do not interact, or
        all pairs of them, as training sees it. ``heads="multi"`` needs "full".
    alpha : float, default=1e-6
        Ridge in closed form, relative to the mean diagonal of the kernel between a task's rows.
    training_time : float, default=inf
        In closed form, of gradient flow on the loss :math:`1/(2nk) \sum (f - y)^2`.
    checkpoint : str or Path, optional
        Directory to which the whole state is written after each task; needs an integer
        `random_state`. Calls that have their task there read it instead of learning it again. The
        files are pickles: do not open those of others.
    input_shape : tuple of int, optional
        Shape of one input, such as (C, H, W), for rows that come flat; X of several axes is known
        by itself.
    device : str or torch.device, default="cpu"
        Where the network is trained.
    dtype : {"float32", "float64"}, default="float32"
        Of the network; closed forms are in float64.
    random_state : int, RandomState or None, default=None
        For initial weights, batches and what is kept; torch's own state is left as it was.
    verbose : int, default=0
        1 shows progress, and the memory after each task.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        All classes so far, sorted.
    tasks_ : list
        Names of the tasks that were learnt, in order.
    memory_ : dict
        "rows", "gradients" and "bytes" that are kept of them.
    distances_ : list of float
        Distance of all weights from their start after each task; in closed form the norm of what
        training added to the function.
    losses_ : list of list of float
        Mean training loss of each epoch, task by task; empty in closed form.
    learning_rates_ : list of float
        Of each task.
    module_ : torch.nn.Module
        The trained network; not in closed form.
    n_features_in_ : int
        Number of features; the product of the axes of an input.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Names of the features, if X had any.

    See Also
    --------
    skntk.continual.evaluate : Learn a stream of tasks and score all of them after each.

    References
    ----------
    Farajtabar et al. (2020), "Orthogonal gradient descent for continual learning"; Bennani, Doan &
    Sugiyama (2020), "Generalisation guarantees for continual learning with orthogonal gradient
    descent"; Doan et al. (2021), "A theoretical analysis of catastrophic forgetting through the NTK
    overlap matrix"; Kirkpatrick et al. (2017), "Overcoming catastrophic forgetting in neural
    networks"; Schwarz et al. (2018), "Progress & compress"; Chaudhry et al. (2019), "On tiny
    episodic memories in continual learning"; Mirzadeh et al. (2020), "Understanding the role of
    training regimes in continual learning".

    Examples
    --------
    >>> from skntk import ContinualNTK
    >>> from skntk.datasets import rotated_tasks
    >>> tasks = rotated_tasks("digits", n_tasks=2, step=45, random_state=0)
    >>> model = ContinualNTK("ogd", width=64, max_epochs=5, random_state=0)
    >>> for task in tasks:
    ...     model = model.partial_fit(task.X, task.y, task=task.name)
    >>> model.tasks_, model.memory_["gradients"]
    (['rotated 0°', 'rotated 45°'], 400)
    >>> model.score(tasks[1].X_test, tasks[1].y_test) > 0.8
    True
    """

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **ContinualEstimator._parameter_constraints,
        "loss": [StrOptions({"cross_entropy", "squared"})],
        "stored_outputs": [StrOptions({"label", "all"})],
    }

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
        loss: str = "cross_entropy",
        learning_rate: float | str = "auto",
        momentum: float = 0.9,
        max_epochs: int = 10,
        tol: float = 0.0,
        batch_size: int | None = 32,
        memory_size: int | None = 200,
        stored_outputs: str = "label",
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
        self.loss = loss
        self.learning_rate = learning_rate
        self.momentum = momentum
        self.max_epochs = max_epochs
        self.tol = tol
        self.batch_size = batch_size
        self.memory_size = memory_size
        self.stored_outputs = stored_outputs
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

    def fit(self, X: Any, y: Any, task: Hashable | None = None) -> ContinualNTK:
        """Forget everything, and learn one task.

        Parameters are those of `partial_fit`.

        Returns
        -------
        ContinualNTK
            Itself.
        """
        self._forget()
        return self.partial_fit(X, y, task)

    @fit_context(prefer_skip_nested_validation=True)
    @torch.inference_mode(False)
    def partial_fit(
        self, X: Any, y: Any, task: Hashable | None = None, classes: Any = None
    ) -> ContinualNTK:
        """Learn one task, or more of it. If that fails, the estimator is as it was.

        Parameters
        ----------
        X : array-like of shape (n, d) or (n,) + input_shape
            Rows of the task.
        y : array-like of shape (n,)
            Class labels.
        task : hashable, optional
            Name of the task; by default the next number. A name that is known is learnt on.
        classes : array-like of shape (n_classes,), optional
            All classes: of the stream with ``heads="single"`` (at the first call), else of the
            task; by default those in y.

        Returns
        -------
        ContinualNTK
            Itself.

        Raises
        ------
        ValueError
            If a parameter was another at the first task, but for those of the optimizer
            (`learning_rate`, `momentum`, `max_epochs`, `tol`, `batch_size`); if a class has no
            output and can get none; if X has another number of features than the
            first task; if the module does not run on the rows or has another number of outputs; if
            a checkpoint is that of another stream.
        TrainingDivergedError
            If the loss is not finite.
        """
        self._take(*self._encoded(X, y, task, classes))
        return self

    def _encoded(
        self, X: Any, y: Any, task: Hashable | None, classes: Any = None
    ) -> tuple[Tensor, Tensor, Heads]:
        """Rows, targets, and the heads after the task."""
        X, y = self._rows(X, y)
        check_classification_targets(y)
        if y.dtype.kind not in "biufOUS":
            raise ValueError(f"y is of dtype {y.dtype}; name classes by numbers or strings.")
        heads = self._current_heads()
        task = heads.named(task)
        declared = None if classes is None else np.asarray(classes)
        heads = heads.with_classes(task, np.unique(y), declared)
        return X, heads.indicators(task, y, self._dtype), heads

    @property
    def _loss(self) -> str:
        return self.loss

    @property
    def _picks_labels(self) -> bool:
        return self.stored_outputs == "label"

    @property
    def classes_(self) -> np.ndarray:
        """All classes so far."""
        check_is_fitted(self)
        return np.unique(np.array(self._learnt.heads.labels))

    def classes_of(self, task: Hashable | None = None) -> np.ndarray:
        """Classes that `predict` tells apart, sorted: the columns of `predict_proba`.

        Parameters
        ----------
        task : hashable, optional
            Name of a task; needed with ``heads="multi"`` and several tasks.

        Returns
        -------
        ndarray of shape (n_classes,)
        """
        check_is_fitted(self)
        return np.sort(self._labels(task))

    def _labels(self, task: Hashable | None) -> np.ndarray:
        """Classes of the outputs that answer for a task."""
        heads = self._learnt.heads
        return np.array([heads.labels[i] for i in heads.columns(task)])

    def predict_proba(self, X: Any, task: Hashable | None = None) -> np.ndarray:
        """Predict class probabilities.

        Parameters
        ----------
        X : array-like of shape (m, d) or (m,) + input_shape
            Test rows.
        task : hashable, optional
            Name of their task. It must be given with ``heads="multi"`` and several tasks, and makes
            no difference otherwise, but that it must have been learnt.

        Returns
        -------
        ndarray of shape (m, n_classes)
            The softmax of the outputs; with squared loss, the outputs cut off at 0 and divided by
            their sum. Columns as `classes_of` has them.

        Raises
        ------
        ValueError
            If there is no such task.
        """
        outputs = self._sorted_outputs(X, task)
        if self.loss == "cross_entropy" and not self._closed:
            return outputs.softmax(1).numpy()
        positive = outputs.clamp_min(0) + 1e-12
        return (positive / positive.sum(1, keepdim=True)).numpy()

    def predict(self, X: Any, task: Hashable | None = None) -> np.ndarray:
        """Predict the class of the largest output.

        Parameters
        ----------
        X, task
            As of `predict_proba`.

        Returns
        -------
        ndarray of shape (m,)
        """
        best = self._sorted_outputs(X, task).argmax(1).numpy()
        return self.classes_of(task)[best]

    def _sorted_outputs(self, X: Any, task: Hashable | None) -> Tensor:
        """Outputs in the order of the sorted classes."""
        outputs = self._outputs(X, task)
        return outputs[:, np.argsort(self._labels(task))]

    def score(
        self, X: Any, y: Any, task: Hashable | None = None, sample_weight: Any = None
    ) -> float:
        """Return the accuracy on rows of a task.

        Parameters
        ----------
        X, task
            As of `predict_proba`.
        y : array-like of shape (m,)
            True labels.
        sample_weight : array-like of shape (m,), optional
            Weights of the rows.

        Returns
        -------
        float
        """
        return float(accuracy_score(y, self.predict(X, task), sample_weight=sample_weight))
