"""`AdamNTKClassifier`: classification in the infinite-width limit of Adam."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from sklearn.base import ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted
from torch import Tensor, nn

from skntk.adam.base import AdamEstimator
from skntk.machines.validation import StrOptions, fit_context
from skntk.training.net import probabilities


class AdamNTKClassifier(ClassifierMixin, AdamEstimator):
    r"""Classification with an infinitely wide network, trained by Adam.

    In the limit of infinite width, a network that is trained by Adam does not become a kernel
    machine: each weight's step depends nonlinearly on its gradients so far,

    .. math:: f_{t+1,c}(x) = f_{t,c}(x) - \eta \sum_\theta E_\omega \left[ \psi_c(x; \omega)
              \frac{\hat m_t(\omega)}{\sqrt{\hat v_t(\omega)} + \varepsilon} \right],

    with random features :math:`\psi` of each parameter tensor :math:`\theta`, their gradients
    :math:`g_t(\omega) = \sum_{i,c} r_t(i, c)\, \psi_c(x_i; \omega)`, the residuals
    :math:`r_t = \partial \mathrm{loss} / \partial f_t` and Adam's moments
    :math:`\hat m_t, \hat v_t` of them. The expectation is taken over `n_features` random features
    of each tensor, and its error is reported. The function starts at 0.

    There is an output for each class. Inputs are not scaled inside, so put a scaler in front.

    Parameters
    ----------
    depth : int, default=2
        Hidden layers of the default network, `skntk.nn.MLP`.
    activation : str or torch.nn.Module, default="relu"
        A name of `skntk.nn.activation_names` or an elementwise module.
    weight_std, bias_std : float, default=sqrt(2), 0.1
        Standard deviations of the default network's weights, per fan-in, and biases.
    module : torch.nn.Module class or instance, optional
        A network that replaces the default one, built from layers of `skntk.nn` in the NTK
        parametrization, with one output for each class; parameters ``module__*`` go to a class. A
        class with an argument ``width`` is given one; an instance is drawn anew by the
        ``reset_parameters`` of its layers. `depth`, `activation`, `weight_std` and `bias_std` are
        then unused.
    loss : {"cross_entropy", "squared"}, default="cross_entropy"
        Of a softmax of the outputs; or half the mean squared distance from one-hot labels.
    learning_rate : float or "auto", default="auto"
        :math:`\eta`. A finite network of width N moves alike if each tensor of p = fan-in times
        fan-out parameters has the rate :math:`\eta / \sqrt p` and :math:`\varepsilon / \sqrt p`.
        "auto" is a quarter of the largest that would be stable at the start without momentum.
    beta1, beta2 : float, default=0.9, 0.999
        Decay of the moments, in [0, 1). ``beta1=0`` is RMSProp.
    eps : float, default=1e-8
        :math:`\varepsilon`, at least 0, with 0/0 = 0. With ``beta1=beta2=eps=0`` it is sign
        descent; ``eps=np.inf`` is the limit of large :math:`\varepsilon` at a fixed
        :math:`\eta / \varepsilon`, which `learning_rate` then is: gradient descent with momentum,
        whose kernel is the NTK.
    amsgrad : bool, default=False
        Divide by the largest :math:`v` so far.
    weight_decay : float, default=0.0
        :math:`\lambda`: in each step the function shrinks by :math:`\eta \lambda` of itself, as
        parameters decay towards their initial values.
    max_epochs : int, default=100
        Passes over the training rows. Long training fits noise: tune it, or stop early.
    batch_size : int, optional
        Rows of a step; by default all of them.
    n_features : int or "auto", default=65536
        Random features of each weight tensor, rounded up to what eight groups of eight need.
        "auto" draws 4096 and then more, until the Monte-Carlo error of the
        probabilities, halfway between pairs of training rows, is at most `mc_tol`.
    mc_tol : float, default=0.02
        For ``n_features="auto"``.
    sampler : {"auto", "exact", "networks"}, default="auto"
        Features of the limit itself, for plain chains of layers, or of random wide networks, for
        every module. "auto" is "exact" where that is possible, up to 3000 rows.
    early_stopping : bool, default=False
        Hold out `validation_fraction` of the rows, stop when their loss has not improved for
        `patience` epochs, and keep the best weights.
    validation_fraction : float, default=0.1
        In (0, 1).
    patience : int, default=20
        Epochs.
    memory_budget : float, optional
        GiB that features may take in memory; what does not fit is drawn again in each step, with
        the same result. By default half of what is free.
    checkpoint : str or Path, optional
        File to which the state of the training is written every ten seconds and at its end; needs
        an integer `random_state`. A `fit` that finds its own file there goes on with it, and ends
        as if it had not been interrupted; with more `max_epochs` it trains the rest. The file is a
        pickle: do not open those of others.
    input_shape : tuple of int, optional
        Shape of one input, such as (C, H, W), for rows that come flat.
    device : str or torch.device, default="cpu"
        Where features are.
    random_state : int, RandomState or None, default=None
        For features, batches and held out rows; torch's own state is left as it was.
    verbose : int, default=0
        1 shows progress over steps.

    Attributes
    ----------
    learning_rate_ : float
        As given, or as chosen.
    n_features_ : int
        Features of each weight tensor.
    n_steps_ : int
        Steps of the training that is predicted from.
    loss_curve_ : ndarray of shape (steps,)
        Training loss of each batch before its step.
    validation_loss_curve_ : ndarray of shape (epochs,)
        Loss at held out rows after each epoch.
    classes_ : ndarray of shape (n_classes,)
        Class labels.
    residuals_ : list of ndarray of shape (rows of the batch, n_classes)
        History of the residuals, which with the random features determines the function.
    n_features_in_ : int
        Number of columns of X; the product of the axes of an input.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Names of the columns, if X had any.

    References
    ----------
    Sernau (2024), "Infinite width models that work: why feature learning doesn't matter as much as
    you think"; Yang & Littwin (2023), "Tensor programs IVb: adaptive optimization in the
    infinite-width limit"; Kingma & Ba (2015), "Adam", algorithm 1.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn.preprocessing import StandardScaler
    >>> from skntk import AdamNTKClassifier
    >>> X, y = load_iris(return_X_y=True)
    >>> limit = AdamNTKClassifier(n_features=4096, max_epochs=30, random_state=0)
    >>> model = make_pipeline(StandardScaler(), limit).fit(X[::2], y[::2])
    >>> model.predict_proba(X[1::2]).shape
    (75, 3)
    """

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **AdamEstimator._parameter_constraints,
        "loss": [StrOptions({"cross_entropy", "squared"})],
    }

    def __init__(
        self,
        depth: int = 2,
        activation: str | nn.Module = "relu",
        weight_std: float = math.sqrt(2),
        bias_std: float = 0.1,
        *,
        module: Any = None,
        loss: str = "cross_entropy",
        learning_rate: float | str = "auto",
        beta1: float = 0.9,
        beta2: float = 0.999,
        eps: float = 1e-8,
        amsgrad: bool = False,
        weight_decay: float = 0.0,
        max_epochs: int = 100,
        batch_size: int | None = None,
        n_features: int | str = 65536,
        mc_tol: float = 0.02,
        sampler: str = "auto",
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        patience: int = 20,
        memory_budget: float | None = None,
        checkpoint: str | Path | None = None,
        input_shape: tuple[int, ...] | None = None,
        device: str | torch.device = "cpu",
        random_state: Any = None,
        verbose: int = 0,
        **module__params: Any,
    ) -> None:
        self.depth = depth
        self.activation = activation
        self.weight_std = weight_std
        self.bias_std = bias_std
        self.module = module
        self.loss = loss
        self.learning_rate = learning_rate
        self.beta1 = beta1
        self.beta2 = beta2
        self.eps = eps
        self.amsgrad = amsgrad
        self.weight_decay = weight_decay
        self.max_epochs = max_epochs
        self.batch_size = batch_size
        self.n_features = n_features
        self.mc_tol = mc_tol
        self.sampler = sampler
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.patience = patience
        self.memory_budget = memory_budget
        self.checkpoint = checkpoint
        self.input_shape = input_shape
        self.device = device
        self.random_state = random_state
        self.verbose = verbose
        self._set_module_params(module__params)

    @fit_context(prefer_skip_nested_validation=True)
    @torch.inference_mode(False)
    @torch.no_grad()
    def fit(self, X: Any, y: Any) -> AdamNTKClassifier:
        """Train in the limit, or go on with a checkpoint.

        Parameters
        ----------
        X : array-like of shape (n, d) or (n,) + input_shape
            Training rows.
        y : array-like of shape (n,)
            Class labels; a single class is predicted with certainty.

        Returns
        -------
        AdamNTKClassifier
            Itself.

        Raises
        ------
        ValueError
            If the module does not run on the rows, has another number of outputs than there are
            classes, or layers for which the limit is not defined; if a checkpoint is that of
            another fit.
        UnsupportedModuleError
            If ``sampler="exact"`` and the module is no plain chain of layers.
        TrainingDivergedError
            If the training loss grows; the message names a learning rate that serves.
        """
        X, y = self._rows(X, y)
        check_classification_targets(y)
        self.classes_, labels = np.unique(y, return_inverse=True)
        targets = torch.eye(len(self.classes_))[:, torch.as_tensor(labels)]
        self._train(X, targets, labels)
        return self

    @property
    def _cross_entropy(self) -> bool:
        return bool(self.loss == "cross_entropy")

    def _scores(self, f: Tensor) -> Tensor:
        """Probabilities of outputs (..., c, m)."""
        return probabilities(f, self._dynamics.loss.cross_entropy, dim=-2)

    @torch.inference_mode(False)
    @torch.no_grad()
    def predict_proba(self, X: Any, return_mc_std: bool = False) -> Any:
        """Predict class probabilities.

        Parameters
        ----------
        X : array-like of shape (m, d) or (m,) + input_shape
            Test rows.
        return_mc_std : bool, default=False
            Return the standard error that the random features cause, too: how far this is from
            the limit with this learning rate and number of steps. It says nothing of how far
            the limit is from the truth.

        Returns
        -------
        probabilities : ndarray of shape (m, n_classes)
            The softmax of the outputs; with ``loss="squared"``, the outputs cut off at 0 and
            divided by their sum. Columns in the order of `classes_`.
        mc_std : ndarray of shape (m, n_classes)
            If `return_mc_std`.
        """
        check_is_fitted(self)
        mean, std = self._with_mc_std(self._runs(self._rows(X)))
        return (mean.cpu().numpy(), std.cpu().numpy()) if return_mc_std else mean.cpu().numpy()

    def predict(self, X: Any, return_mc_std: bool = False) -> Any:
        """Predict the most probable class.

        Parameters
        ----------
        X : array-like of shape (m, d) or (m,) + input_shape
            Test rows.
        return_mc_std : bool, default=False
            Return the Monte-Carlo error of that class's probability, too.

        Returns
        -------
        labels : ndarray of shape (m,)
        mc_std : ndarray of shape (m,)
            If `return_mc_std`.
        """
        mean, std = self.predict_proba(X, return_mc_std=True)
        best = mean.argmax(1)
        labels = self.classes_[best]
        if not return_mc_std:
            return labels
        return labels, np.take_along_axis(std, best[:, None], 1)[:, 0]

    @torch.inference_mode(False)
    @torch.no_grad()
    def staged_predict_proba(
        self, X: Any, epochs: Sequence[int] | None = None
    ) -> Iterator[np.ndarray]:
        """Predict class probabilities after some epochs, which takes as long as the training did.

        Parameters
        ----------
        X : array-like of shape (m, d) or (m,) + input_shape
            Test rows.
        epochs : sequence of int, optional
            Ascending numbers of epochs, 0 being the start; by default all, from 1.

        Yields
        ------
        ndarray of shape (m, n_classes)
            Probabilities after each of them.

        Raises
        ------
        ValueError
            If `epochs` does not ascend, or names more than were trained.
        """
        for scores in self._staged(X, epochs):
            yield scores.cpu().numpy()

    def staged_predict(self, X: Any, epochs: Sequence[int] | None = None) -> Iterator[np.ndarray]:
        """Predict the most probable class after some epochs.

        Parameters
        ----------
        X, epochs
            As of `staged_predict_proba`.

        Yields
        ------
        ndarray of shape (m,)
            Labels after each of them.
        """
        for proba in self.staged_predict_proba(X, epochs):
            yield self.classes_[proba.argmax(1)]
