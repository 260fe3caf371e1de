"""`NetworkClassifier`: a finite network, fully trained or linearized."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from sklearn.base import ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets
from torch import nn

from skntk.machines.validation import StrOptions, fit_context
from skntk.training.base import PRECONDITIONERS, NetworkEstimator
from skntk.training.net import ClassifierNet, OneHotSquaredError, probabilities


class NetworkClassifier(ClassifierMixin, NetworkEstimator):
    r"""Classification with a finite network, trained by skorch.

    With ``regime="linearized"`` it is the lazy network: linear in its parameters around their
    initialization. Inputs are not scaled inside, so put a scaler in front.

    Parameters
    ----------
    depth : int, default=2
        Hidden layers of the default network, `skntk.nn.MLP`.
    width : int, optional
        Units of each hidden layer; by default 512. With a module class, passed to it as ``width``;
        with a module instance it must be None.
    activation : str or torch.nn.Module, default="relu"
        A name of `skntk.nn.activation_names` or an elementwise module.
    weight_std, bias_std : float, default=sqrt(2), 0.1
        Standard deviations of the default network's weights, per fan-in, and biases.
    module : torch.nn.Module class or instance, optional
        A network that replaces the default one, with one output for each class; parameters
        ``module__*`` go to a class. `depth`, `activation`, `weight_std`, `bias_std` and
        `parametrization` are then unused.
    parametrization : {"ntk", "standard", "mup"}, default="ntk"
        Of the default network, see `skntk.nn.Linear`.
    regime : {"full", "linearized"}, default="full"
        Train the network, or its linearization at initialization (`skntk.linearize`).
    centered : bool, default=False
        Subtract the function at initialization.
    loss : {"cross_entropy", "squared"}, default="cross_entropy"
        Of a softmax of the outputs; or half the mean squared distance from one-hot labels.
    optimizer : {"gd", "sgd", "adam", "scaled_adam", "natural_gradient", "kfac"}, default="adam"
        Gradient descent on all rows or on batches, Adam, Adam with a rate for each tensor, exact
        natural gradient in function space, or K-FAC. "scaled_adam" divides rate and epsilon of a
        tensor by the square root of its number of parameters per output, in the NTK
        parametrization: that has a limit of infinite width, `skntk.AdamNTKClassifier`.
    learning_rate : float or "auto", default="auto"
        "auto" is 0.03 for "scaled_adam"; 3e-3 for Adam on a network whose `skntk.nn` layers are all
        in the NTK parametrization and 1e-3 on any other; 0.5 for the natural gradient and K-FAC, 1
        if linearized; for "gd" and "sgd" the inverse of the largest curvature at initialization,
        from the empirical NTK, of the loss of all rows or of a batch.
    momentum : float, default=0.0
        Of all optimizers but Adam, in [0, 1).
    damping : float or "auto", default="auto"
        :math:`\lambda` of the natural gradient :math:`J^T (\Lambda J J^T + \lambda I)^{-1} r` and
        of K-FAC, in units of the empirical NTK summed over the rows of a batch; 0 is undamped.
        "auto" is a tenth of the mean diagonal of that kernel at initialization. The residual r is
        that of the probabilities, and :math:`\Lambda` their :math:`diag(p) - p p^T`.
    weight_decay : float, default=0.0
        Coefficient of half the squared parameters in the loss.
    max_epochs : int, default=200
        Passes over the training rows.
    batch_size : int or "auto", default="auto"
        Rows of a step; "auto" is all of them for "gd" and "natural_gradient", else 128.
    early_stopping : bool, default=False
        Hold out `validation_fraction` of the rows, stop when their loss has not improved for
        `patience` epochs, and keep the best weights.
    validation_fraction : float, default=0.1
        In (0, 1).
    patience : int, default=20
        Epochs.
    callbacks : list of skorch callbacks, optional
        Copies of them are used, as in `skorch.NeuralNet`.
    checkpoint : str or Path, optional
        File to which the state of the training, its callbacks included, is written every ten
        seconds and at its end; needs an integer `random_state`. A `fit` that finds its own file
        there goes on with it, and ends as if it had not been interrupted; with more `max_epochs` it
        trains the rest. The file is a pickle: do not open those of others.
    input_shape : tuple of int, optional
        Shape of one input, such as (C, H, W), for rows that come flat; X of several axes is known
        by itself.
    device : str or torch.device, default="cpu"
        Where the network is trained.
    dtype : {"float32", "float64"}, default="float32"
        Of the network.
    random_state : int, RandomState or None, default=None
        For initial weights, batches and the held out rows; torch's own state is left as it was.
    verbose : int, default=0
        1 shows progress over epochs.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        Class labels.
    net_ : skorch.NeuralNetClassifier
        The trained net, on the indices of the classes.
    module_ : torch.nn.Module
        Its module.
    history_ : skorch.history.History
        Losses of each epoch.
    n_features_in_ : int
        Number of features; the product of the axes of an input.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Names of the features, if X had any.

    References
    ----------
    Lee et al. (2019), "Wide neural networks of any depth evolve as linear models"; Zhang, Martens
    & Grosse (2019), "Fast convergence of natural gradient descent for overparameterized neural
    networks"; Martens & Grosse (2015), "Optimizing neural networks with Kronecker-factored
    approximate curvature".

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn.preprocessing import StandardScaler
    >>> from skntk import NetworkClassifier
    >>> X, y = load_iris(return_X_y=True)
    >>> net = NetworkClassifier(random_state=0)
    >>> model = make_pipeline(StandardScaler(), net).fit(X[::2], y[::2])
    >>> model.predict_proba(X[1::2]).shape
    (75, 3)
    """

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **NetworkEstimator._parameter_constraints,
        "loss": [StrOptions({"cross_entropy", "squared"})],
    }
    _target_checks: ClassVar[dict[str, Any]] = {}

    def __init__(
        self,
        depth: int = 2,
        width: int | None = None,
        activation: str | nn.Module = "relu",
        weight_std: float = math.sqrt(2),
        bias_std: float = 0.1,
        *,
        module: Any = None,
        parametrization: str = "ntk",
        regime: str = "full",
        centered: bool = False,
        loss: str = "cross_entropy",
        optimizer: str = "adam",
        learning_rate: float | str = "auto",
        momentum: float = 0.0,
        damping: float | str = "auto",
        weight_decay: float = 0.0,
        max_epochs: int = 200,
        batch_size: int | str = "auto",
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        patience: int = 20,
        callbacks: list[Any] | None = None,
        checkpoint: str | Path | None = None,
        input_shape: tuple[int, ...] | None = None,
        device: str | torch.device = "cpu",
        dtype: str = "float32",
        random_state: Any = None,
        verbose: int = 0,
        **module__params: Any,
    ) -> None:
        self.depth = depth
        self.width = width
        self.activation = activation
        self.weight_std = weight_std
        self.bias_std = bias_std
        self.module = module
        self.parametrization = parametrization
        self.regime = regime
        self.centered = centered
        self.loss = loss
        self.optimizer = optimizer
        self.learning_rate = learning_rate
        self.momentum = momentum
        self.damping = damping
        self.weight_decay = weight_decay
        self.max_epochs = max_epochs
        self.batch_size = batch_size
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.patience = patience
        self.callbacks = callbacks
        self.checkpoint = checkpoint
        self.input_shape = input_shape
        self.device = device
        self.dtype = dtype
        self.random_state = random_state
        self.verbose = verbose
        self._set_module_params(module__params)

    @fit_context(prefer_skip_nested_validation=True)
    @torch.inference_mode(False)
    def fit(self, X: Any, y: Any) -> NetworkClassifier:
        """Train the network, or go on with a checkpoint.

        Parameters
        ----------
        X : array-like of shape (n, d) or (n,) + input_shape
            Training rows.
        y : array-like of shape (n,)
            Class labels; a single class is predicted with certainty.

        Returns
        -------
        NetworkClassifier
            Itself.

        Raises
        ------
        ValueError
            If the module does not run on the rows, has another number of outputs than there are
            classes, or is frozen; if a checkpoint is that of another fit.
        """
        X, y = self._rows(X, y)
        check_classification_targets(y)
        self.classes_, labels = np.unique(y, return_inverse=True)
        self._n_outputs = len(self.classes_)
        self._likelihood = "categorical" if self.loss == "cross_entropy" else "gaussian"
        if (
            self._likelihood == "categorical"
            and self.damping == 0
            and (self.optimizer in PRECONDITIONERS)
        ):
            raise ValueError(
                f"damping=0 with optimizer={self.optimizer!r} needs loss='squared': the Hessian of "
                "the cross-entropy is singular. Pass a positive damping."
            )
        seed, classes = self._seed(), self._n_outputs
        module = self._network(X, classes, seed, f"y with {classes} classes")
        criterion = nn.CrossEntropyLoss if self.loss == "cross_entropy" else OneHotSquaredError
        self._train(ClassifierNet, module, criterion, X, torch.as_tensor(labels), seed, labels)
        return self

    def predict_proba(self, X: Any) -> np.ndarray:
        """Predict class probabilities.

        Parameters
        ----------
        X : array-like of shape (m, d) or (m,) + input_shape
            Test rows.

        Returns
        -------
        ndarray of shape (m, n_classes)
            The softmax of the outputs; with ``loss="squared"``, the outputs cut off at 0 and
            divided by their sum. Columns in the order of `classes_`.
        """
        outputs = self._forward(X).double()
        return probabilities(outputs, self.loss == "cross_entropy").numpy()

    def predict(self, X: Any) -> np.ndarray:
        """Predict the class of the largest output.

        Parameters
        ----------
        X : array-like of shape (m, d) or (m,) + input_shape
            Test rows.

        Returns
        -------
        ndarray of shape (m,)
        """
        best = self._forward(X).argmax(1).numpy()
        return self.classes_[best]
