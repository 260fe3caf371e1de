"""`LinearizedLaplaceClassifier`: a trained network with a normal posterior, and classes."""

from __future__ import annotations

from numbers import Integral
from typing import Any, ClassVar

import numpy as np
import torch
from sklearn.base import ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets
from torch import Tensor

from skntk.laplace.base import LaplaceEstimator, Uncertainty
from skntk.laplace.criteria import whole
from skntk.laplace.likelihoods import Categorical, Likelihood
from skntk.laplace.links import bridge, entropies, probit
from skntk.laplace.networks import n_outputs, trained_module
from skntk.laplace.tangent import Tangent
from skntk.machines.validation import Interval, StrOptions, fit_context
from skntk.metrics.probabilities import label_codes
from skntk.training import NetworkClassifier

#: Numbers that the covariances of a block of rows may take.
_BUDGET = 2**24


class LinearizedLaplaceClassifier(ClassifierMixin, LaplaceEstimator):
    r"""Classification with a network whose weights have a normal posterior, by linearized Laplace.

    The network is trained by cross-entropy, or given as trained; around its weights :math:`w_*` it
    is taken for linear, and its weights for normal with precision :math:`\sum_i J_i^T \Lambda_i
    J_i + T`, where :math:`\Lambda = diag(p) - p p^T`. Probabilities are averaged over that, which
    makes them less sure where the data say little.

    Parameters
    ----------
    module : NetworkClassifier, torch.nn.Module class or instance, or skorch net, optional
        What is trained in `fit`, a copy of it: a `NetworkClassifier`, or a module that one with
        its default parameters trains; by default its default network. With `prefit`, what is
        trained already: a module from rows to one logit a class, a fitted skorch net, or a fitted
        `NetworkClassifier`.
    prefit : bool, default=False
        Whether `module` is trained.
    curvature : {"auto", "full", "kron", "diag"}, default="auto"
        Structure of the posterior: full (in the space of the weights or of the training outputs,
        whichever is smaller), Kronecker factors of each layer, or a diagonal. "auto" is full up to
        4000 parameters or 2000 training outputs, else "kron".
    parameters : "last_layer", sequence of str, or callable, optional
        Which parameters are uncertain: the last layer's, those of some names or submodules, or
        those whose name passes a test; by default all that require gradients.
    prior_precision : {"auto", "marginal_likelihood", "validation"}, float or array, default="auto"
        Precision of the normal prior of the weights, around zero: found by the evidence; by the
        log-likelihood, by the probit link, of rows that the network was not trained on, on a grid
        from 1e-4 to 1e4 (where the posterior is nearly certain); or
        given. "auto" is "validation" where a network is trained here or validation rows are given,
        else "marginal_likelihood", and so with `online` or several precisions.
    prior_structure : {"scalar", "layer", "parameter"}, default="scalar"
        One precision for all parameters, for each layer, or for each parameter (not with "kron").
    link : {"probit", "bridge", "mc"}, default="probit"
        How probabilities come from normal outputs: scaled logits, the Laplace bridge, or the mean
        over draws of the weights. The bridge hardly reacts to variances where logits are large.
    n_samples : int, default=100
        Draws of ``link="mc"`` and of `uncertainty`.
    online : bool, default=False
        Tune the prior in the second half of the training, and train with the weight decay that it
        implies (Immer et al. 2021), so that the evidence compares networks at their own optimum.
    validation_fraction : float, default=0.1
        Share of the rows that "validation" holds out, at least 50 of them or a third; with what
        they tell, the network is trained again on all rows.
    input_shape : tuple of int, optional
        Shape of one input, such as (C, H, W), for rows that come flat.
    random_state : int, RandomState or None, default=None
        For training a module, for holding out rows, and for draws.
    verbose : int, default=0
        1 shows progress.

    Attributes
    ----------
    classes_ : ndarray of shape (k,)
        Labels, in the order of the columns of `predict_proba`.
    network_ : NetworkClassifier, skorch net or torch.nn.Module
        What was trained, or given.
    module_ : torch.nn.Module
        Its module.
    curvature_ : str
        The structure that "auto" chose.
    criterion_ : {"marginal_likelihood", "validation", "none"}
        What found the prior precision.
    prior_precision_ : float or ndarray
        As found or given, in the order of the layers or of ``named_parameters()``.
    n_effective_parameters_ : float
        How many the data determine, :math:`P - tr(T \Sigma)`.
    log_marginal_likelihood_ : float
        Of the labels, in nats.
    validation_scores_ : ndarray of shape (25,)
        Log-likelihoods of the held out rows on the grid, if they were used; NaN where not tried,
        or lost in rounding.
    n_features_in_, feature_names_in_
        As of scikit-learn.

    References
    ----------
    MacKay (1992), "The evidence framework applied to classification networks"; Immer, Korzepa &
    Bauer (2021), "Improving predictions of Bayesian neural nets via local linearization";
    Daxberger et al. (2021), "Laplace Redux"; Hobbhahn, Kristiadi & Hennig (2022), "Fast
    predictive uncertainty for classification with Bayesian deep networks".

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn.preprocessing import StandardScaler
    >>> from skntk import LinearizedLaplaceClassifier, NetworkClassifier
    >>> X, y = load_iris(return_X_y=True)
    >>> net = NetworkClassifier(depth=1, width=20, max_epochs=30, random_state=0)
    >>> model = make_pipeline(StandardScaler(), LinearizedLaplaceClassifier(net)).fit(X, y)
    >>> model.predict_proba(X[:2]).shape
    (2, 3)
    """

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **LaplaceEstimator._parameter_constraints,
        "link": [StrOptions({"probit", "bridge", "mc"})],
        "n_samples": [Interval(Integral, 1, None, closed="left")],
    }
    _target_checks: ClassVar[dict[str, Any]] = {}
    _holds_out = True
    _trainer = NetworkClassifier

    def __init__(
        self,
        module: Any = None,
        *,
        prefit: bool = False,
        curvature: str = "auto",
        parameters: Any = None,
        prior_precision: Any = "auto",
        prior_structure: str = "scalar",
        link: str = "probit",
        n_samples: int = 100,
        online: bool = False,
        validation_fraction: float = 0.1,
        input_shape: tuple[int, ...] | None = None,
        random_state: Any = None,
        verbose: int = 0,
    ) -> None:
        self.module = module
        self.prefit = prefit
        self.curvature = curvature
        self.parameters = parameters
        self.prior_precision = prior_precision
        self.prior_structure = prior_structure
        self.link = link
        self.n_samples = n_samples
        self.online = online
        self.validation_fraction = validation_fraction
        self.input_shape = input_shape
        self.random_state = random_state
        self.verbose = verbose

    @fit_context(prefer_skip_nested_validation=True)
    @torch.inference_mode(False)
    def fit(
        self,
        X: Any,
        y: Any,
        *,
        row_weight: Any = None,
        classes: Any = None,
        X_val: Any = None,
        y_val: Any = None,
    ) -> LinearizedLaplaceClassifier:
        """Train the network, unless it is trained, and find the posterior of its weights.

        Parameters
        ----------
        X : array-like of shape (n, d) or (n,) + input_shape
            Training rows.
        y : array-like of shape (n,)
            Class labels.
        row_weight : array-like of shape (n,), optional
            How often a row counts; with `prefit`, whose network should have been trained so.
        classes : array-like of shape (k,), optional
            With `prefit`, the label of each output of a module. By default the sorted labels of y
            if there are k of them, else 0, 1, ..., k - 1, if y holds such numbers.
        X_val, y_val : array-like, optional
            Rows for ``prior_precision="validation"``, which the network was not trained on.

        Returns
        -------
        LinearizedLaplaceClassifier
            Itself.

        Raises
        ------
        ValueError
            If parameters contradict each other, the network's outputs do not fit y, or it was
            trained by squared loss.
        NotFittedError
            If a net with `prefit` is not fitted.
        TrainingDivergedError
            If the network has diverged.
        MemoryBudgetError
            If the posterior does not fit in memory; the message names structures that may.
        """
        self._fit(X, y, row_weight, classes, X_val, y_val)
        return self

    @fit_context(prefer_skip_nested_validation=True)
    @torch.inference_mode(False)
    def partial_fit(
        self, X: Any, y: Any, classes: Any = None, *, row_weight: Any = None
    ) -> LinearizedLaplaceClassifier:
        """Add data to the posterior; the network, and so its logits, stay as they are.

        Hyperparameters that the evidence finds are found again, so that the result is that of one
        `fit` on all rows with ``prefit=True``. The first call is `fit`.

        Parameters
        ----------
        X, y, row_weight
            As of `fit`.
        classes : array-like of shape (k,), optional
            As of `fit`, in the first call.

        Returns
        -------
        LinearizedLaplaceClassifier
            Itself.
        """
        if not self.__sklearn_is_fitted__():
            if classes is not None and not self.prefit and len(np.unique(y)) < len(classes):
                raise ValueError(
                    f"classes has {len(classes)} labels, but y {len(np.unique(y))}, and the "
                    "network is trained on the rows of the first call; train it on all classes, "
                    "and pass it with prefit=True."
                )
            known = None if self._knows_labels else classes
            self._fit(X, y, row_weight, known, streamed=True)
        else:
            self._add_rows(X, y, row_weight)
        return self

    @property
    def _knows_labels(self) -> bool:
        return not self.prefit or hasattr(self.module, "classes_")

    def _check_given(self, y: Any, classes: Any) -> None:
        if classes is not None and self._knows_labels:
            raise ValueError(
                "classes is for prefit=True with a module, which does not know its labels; leave "
                "it out."
            )
        if isinstance(self.module, NetworkClassifier) and self.module.loss != "cross_entropy":
            raise ValueError(
                f"the network is one of loss={self.module.loss!r}, but the posterior is that of "
                "the cross-entropy; pass NetworkClassifier(loss='cross_entropy')."
            )
        check_classification_targets(y)
        if not self.prefit and len(np.unique(y)) < 2:
            raise ValueError(f"y has one class, {np.unique(y).tolist()}; at least two are needed.")

    def _read_network(self, y: Any, classes: Any) -> None:
        found, network = np.unique(y), self.network_
        k = n_outputs(trained_module(network), self._input_shape)
        if isinstance(network, NetworkClassifier):
            self.classes_ = network.classes_
        elif classes is not None:
            self.classes_ = np.asarray(classes)
            if self.classes_.ndim != 1 or len(np.unique(self.classes_)) != len(self.classes_):
                raise ValueError(f"classes={classes!r} must hold each label once.")
            if k != len(self.classes_):
                raise ValueError(f"classes={classes!r} must have a label for each of {k} outputs.")
        elif len(found) < k and (
            found.dtype.kind not in "iu" or found.min() < 0 or found.max() >= k
        ):
            raise ValueError(
                f"y has {len(found)} classes, {found.tolist()}, but the network has {k} outputs: "
                "pass classes=, the label of each output."
            )
        else:
            self.classes_ = found if len(found) >= k else np.arange(k)
        self._n_outputs = len(self.classes_)
        if k == 1:
            raise ValueError(
                "the network has one output; it must have one logit a class: of a single logit f "
                "for two classes, return torch.cat([torch.zeros_like(f), f], 1)."
            )

    def _check_likelihood(self, outputs: Tensor) -> None:
        ones = torch.ones_like(outputs[:, 0])
        if bool((outputs >= 0).all()) and torch.allclose(outputs.sum(1), ones, atol=1e-5):
            raise ValueError(
                "the outputs of the network are probabilities, as of a last layer nn.Softmax; it "
                "must return logits: leave that layer out (with skorch, train by "
                "criterion=nn.CrossEntropyLoss)."
            )

    def _encoded(self, y: Any) -> Tensor:
        codes, strangers = label_codes(np.asarray(y), self.classes_)
        if strangers.size:
            raise ValueError(
                f"y holds {strangers.tolist()}, which the network does not know; its classes are "
                f"{self.classes_.tolist()}."
            )
        return torch.as_tensor(codes)

    def _strata(self, y: Any) -> list[np.ndarray]:
        return [np.flatnonzero(y == label) for label in np.unique(y)]

    def _likelihood_of(self, tangent: Tangent, X: Tensor, T: Tensor) -> Likelihood:
        return Categorical()

    def _held_out(self, mean: Tensor, variance: Tensor, targets: Tensor, scale: float) -> float:
        p = probit(mean, variance).gather(1, targets.to(mean.device)[:, None])
        return float(p.log().mean())

    @torch.inference_mode(False)
    def predict_proba(self, X: Any) -> np.ndarray:
        """Predict class probabilities, averaged over the posterior by `link`.

        Parameters
        ----------
        X : array-like of shape (m, d) or (m,) + input_shape
            Test rows.

        Returns
        -------
        ndarray of shape (m, n_classes)
            Columns in the order of `classes_`.
        """
        rows = self._predictable(X)
        posterior = self._optimum.posterior
        if self.link == "mc":
            n = whole(self.n_samples, "n_samples")
            draws = self._draws(rows, n, self._draw_seed())
            return (sum(f.softmax(1) for f in draws) / n).cpu().numpy()
        if self.link == "probit":
            return probit(*posterior.moments(rows, diagonal=True)).cpu().numpy()
        blocks = rows.split(max(1, _BUDGET // self._n_outputs**2))
        return torch.cat([bridge(*posterior.moments(b)) for b in blocks]).cpu().numpy()

    def predict(self, X: Any) -> np.ndarray:
        """Predict the class of the largest probability.

        Parameters
        ----------
        X : array-like of shape (m, d) or (m,) + input_shape
            Test rows.

        Returns
        -------
        ndarray of shape (m,)
        """
        best = self.predict_proba(X).argmax(1)
        return self.classes_[best]

    @torch.inference_mode(False)
    def sample_proba(self, X: Any, n_samples: int = 1, random_state: Any = 0) -> np.ndarray:
        """Draw class probabilities from the posterior at the test rows.

        Parameters
        ----------
        X : array-like of shape (m, d) or (m,) + input_shape
            Test rows.
        n_samples : int, default=1
            Number of functions, each of one draw of the weights.
        random_state : int, RandomState or None, default=0
            For the draws.

        Returns
        -------
        ndarray of shape (m, n_classes, n_samples)
        """
        rows, n = self._predictable(X), whole(n_samples, "n_samples")
        draws = [f.softmax(1) for f in self._draws(rows, n, random_state)]
        return torch.stack(draws, -1).cpu().numpy()

    @torch.inference_mode(False)
    def uncertainty(self, X: Any) -> Uncertainty:
        """Entropy of the predicted class, and the parts of it, over `n_samples` draws.

        Parameters
        ----------
        X : array-like of shape (m, d) or (m,) + input_shape
            Test rows.

        Returns
        -------
        Uncertainty
            With the fields `total`, the entropy of the mean probabilities; `aleatoric`, the mean
            entropy of the draws; and `epistemic`, their difference, the mutual information of
            class and weights (Depeweg et al. 2018). Each (m,), in nats.
        """
        rows = self._predictable(X)
        n = whole(self.n_samples, "n_samples")
        _, total, aleatoric = entropies(self._draws(rows, n, self._draw_seed()))
        epistemic = (total - aleatoric).clamp_min(0)
        return Uncertainty(*(t.cpu().numpy() for t in (total, aleatoric, epistemic)))

    def _draw_seed(self) -> Any:
        """Seed of the draws: with none given, the same in every call all the same."""
        return 0 if self.random_state is None else self.random_state
