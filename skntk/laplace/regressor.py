"""`LinearizedLaplaceRegressor`: a trained network with a normal posterior."""

from __future__ import annotations

import math
from numbers import Real
from typing import Any, ClassVar

import numpy as np
import torch
from sklearn.base import RegressorMixin
from torch import Tensor

from skntk.laplace.base import LaplaceEstimator, Uncertainty
from skntk.laplace.criteria import per_output, whole
from skntk.laplace.likelihoods import Gaussian, Likelihood
from skntk.laplace.tangent import Tangent
from skntk.machines.validation import Interval, StrOptions, fit_context
from skntk.training import NetworkRegressor


class LinearizedLaplaceRegressor(RegressorMixin, LaplaceEstimator):
    r"""Regression with a network whose weights have a normal posterior, by linearized Laplace.

    The network is trained, or given as trained; around its weights :math:`w_*` it is taken for
    linear, :math:`f(x; w) \approx f(x; w_*) + J(x)(w - w_*)`, and its weights for normal with
    precision :math:`\sum_i J_i^T J_i / \sigma^2 + T`. Predictions stay those of the network; their
    variances are :math:`J(x) \Sigma J(x)^T`. Prior and noise are found by the marginal likelihood.

    Parameters
    ----------
    module : NetworkRegressor, torch.nn.Module class or instance, or skorch net, optional
        What is trained in `fit`, a copy of it: a `NetworkRegressor`, or a module that one with
        its default parameters trains; by default its default network. With `prefit`, what is
        trained already: a module from rows to targets, a fitted skorch net, or a fitted
        `NetworkRegressor`.
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
        log-likelihood of rows that the network was not trained on, on a grid from 1e-4 to 1e4
        (where the posterior is nearly certain); or
        given. "auto" is "validation" where validation rows are given, else "marginal_likelihood".
    prior_structure : {"scalar", "layer", "parameter"}, default="scalar"
        One precision for all parameters, for each layer, or for each parameter (not with "kron").
    noise_variance : "auto", float or array of shape (k,), default="auto"
        In the squared units of y. "auto" finds it as the prior precision: by the evidence, or from
        the residuals of the validation rows. With several targets, the variances keep the
        proportions of the mean squared training residuals.
    online : bool, default=False
        Tune the prior and the noise in the second half of the training, and train with the weight
        decay that they imply (Immer et al. 2021), so that the evidence compares networks at their
        own optimum.
    validation_fraction : float, default=0.1
        Share of the rows that "validation" holds out, at least 50 of them or a third; with what
        they tell, the network is trained again on all rows.
    input_shape : tuple of int, optional
        Shape of one input, such as (C, H, W), for rows that come flat.
    random_state : int, RandomState or None, default=None
        For training a module and for holding out rows.
    verbose : int, default=0
        1 shows progress.

    Attributes
    ----------
    network_ : NetworkRegressor, skorch net or torch.nn.Module
        What was trained, or given.
    module_ : torch.nn.Module
        Its module.
    curvature_ : str
        The structure that "auto" chose.
    criterion_ : {"marginal_likelihood", "validation", "none"}
        What found the prior precision.
    prior_precision_ : float or ndarray
        As found or given, in the order of the layers or of ``named_parameters()``.
    noise_variance_ : float or ndarray of shape (k,)
        Of an observation, in the squared units of y; for rows of weight 1.
    n_effective_parameters_ : float
        How many the data determine, :math:`P - tr(T \Sigma)`.
    log_marginal_likelihood_ : float
        Of y in its units, in nats.
    validation_scores_ : ndarray of shape (25,)
        Log-likelihoods of the held out rows on the grid, if they were used; NaN where not tried,
        or lost in rounding.
    n_features_in_, feature_names_in_
        As of scikit-learn.

    References
    ----------
    MacKay (1992), "A practical Bayesian framework for backpropagation networks"; Immer, Korzepa &
    Bauer (2021), "Improving predictions of Bayesian neural nets via local linearization",
    equations 7 to 9; Daxberger et al. (2021), "Laplace Redux"; Immer et al. (2021), "Scalable
    marginal likelihood estimation for model selection in deep learning".

    Examples
    --------
    >>> import numpy as np
    >>> from skntk import LinearizedLaplaceRegressor, NetworkRegressor
    >>> X = np.linspace(-1, 1, 40)[:, None]
    >>> y = np.sin(3 * X[:, 0])
    >>> net = NetworkRegressor(depth=1, width=20, max_epochs=100, random_state=0)
    >>> laplace = LinearizedLaplaceRegressor(net).fit(X, y)
    >>> mean, std = laplace.predict(np.array([[0.0], [5.0]]), return_std=True)
    >>> bool(std[1] > std[0])
    True
    """

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **LaplaceEstimator._parameter_constraints,
        "noise_variance": [
            StrOptions({"auto"}),
            Interval(Real, 0, None, closed="neither"),
            "array-like",
        ],
    }
    _target_checks: ClassVar[dict[str, Any]] = {"multi_output": True, "y_numeric": True}
    _holds_out = False
    _trainer = NetworkRegressor

    def __init__(
        self,
        module: Any = None,
        *,
        prefit: bool = False,
        curvature: str = "auto",
        parameters: Any = None,
        prior_precision: Any = "auto",
        prior_structure: str = "scalar",
        noise_variance: Any = "auto",
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
        self.noise_variance = noise_variance
        self.online = online
        self.validation_fraction = validation_fraction
        self.input_shape = input_shape
        self.random_state = random_state
        self.verbose = verbose

    @fit_context(prefer_skip_nested_validation=True)
    @torch.inference_mode(False)
    def fit(
        self, X: Any, y: Any, *, row_weight: Any = None, X_val: Any = None, y_val: Any = None
    ) -> LinearizedLaplaceRegressor:
        """Train the network, unless it is trained, and find the posterior of its weights.

        Parameters
        ----------
        X : array-like of shape (n, d) or (n,) + input_shape
            Training rows.
        y : array-like of shape (n,) or (n, k)
            Targets.
        row_weight : array-like of shape (n,), optional
            A row's noise variance is `noise_variance_` over its weight; with `prefit`, of a network
            that was trained so.
        X_val, y_val : array-like, optional
            Rows for ``prior_precision="validation"``, which the network was not trained on.

        Returns
        -------
        LinearizedLaplaceRegressor
            Itself.

        Raises
        ------
        ValueError
            If parameters contradict each other, or the network's outputs do not fit y.
        NotFittedError
            If a net with `prefit` is not fitted.
        TrainingDivergedError
            If the network has diverged.
        MemoryBudgetError
            If the posterior does not fit in memory; the message names structures that may.
        """
        self._fit(X, y, row_weight, None, X_val, y_val)
        return self

    @fit_context(prefer_skip_nested_validation=True)
    @torch.inference_mode(False)
    def partial_fit(self, X: Any, y: Any, *, row_weight: Any = None) -> LinearizedLaplaceRegressor:
        """Add data to the posterior; the network, and so the mean, stays as it is.

        Hyperparameters that the evidence finds are found again, so that the result is that of one
        `fit` on all rows with ``prefit=True``. The first call is `fit`.

        Parameters
        ----------
        X, y, row_weight
            As of `fit`.

        Returns
        -------
        LinearizedLaplaceRegressor
            Itself.
        """
        if not self.__sklearn_is_fitted__():
            self._fit(X, y, row_weight, streamed=True)
        else:
            self._add_rows(X, y, row_weight)
        return self

    def _read_network(self, y: Any, classes: Any) -> None:
        Y = np.asarray(y, dtype=np.float64)
        self._flat = Y.ndim == 1
        self._n_outputs = 1 if self._flat else Y.shape[1]
        mean, scale = np.zeros(self._n_outputs), np.ones(self._n_outputs)
        if isinstance(self.network_, NetworkRegressor):
            mean, scale = self.network_.target_mean_, self.network_.target_scale_
        self._shift, self._scale = torch.as_tensor(mean), torch.as_tensor(scale)

    def _encoded(self, y: Any) -> Tensor:
        Y = np.asarray(y, dtype=np.float64)
        if (Y.ndim == 1) != self._flat or Y.reshape(len(Y), -1).shape[1] != self._n_outputs:
            wanted = "(n,)" if self._flat else f"(n, {self._n_outputs})"
            raise ValueError(f"y has shape {Y.shape}; wanted {wanted}, as in fit.")
        return (torch.tensor(Y.reshape(len(Y), -1)) - self._shift) / self._scale

    def _likelihood_of(self, tangent: Tangent, X: Tensor, T: Tensor) -> Likelihood:
        k, unit = self._n_outputs, (self._scale**2).numpy()
        device = next(iter(tangent.weights.values())).device
        if not isinstance(self.noise_variance, str):
            variances = per_output(self.noise_variance, k, "noise_variance") / unit
        elif k == 1:
            variances = np.ones(1)
        else:
            squares = (tangent.outputs(X.to(device)).cpu() - T).square().mean(0).numpy()
            floor = 1e-6 * max(float(squares.max()), 1e-12)
            variances = np.maximum(squares, floor)
        return Gaussian(torch.as_tensor(variances, device=device))

    def _check_given(self, y: Any, classes: Any) -> None:
        if not isinstance(self.noise_variance, str):
            per_output(self.noise_variance, 1 if y.ndim == 1 else y.shape[1], "noise_variance")

    def _given_scale(self) -> float | None:
        return None if isinstance(self.noise_variance, str) else 1.0

    def _validation_scale(self, tangent: Tangent, X: Tensor, T: Tensor) -> float:
        likelihood = self._curvature.likelihood
        assert isinstance(likelihood, Gaussian)
        residual = T.to(X.device) - tangent.outputs(X)
        return max(float((residual.square() / likelihood.variances).mean()), 1e-300)

    def _held_out(self, mean: Tensor, variance: Tensor, targets: Tensor, scale: float) -> float:
        likelihood = self._curvature.likelihood
        assert isinstance(likelihood, Gaussian)
        total = variance + scale * likelihood.variances
        z = (targets.to(mean.device) - mean).square() / total
        return float(-0.5 * (z + (2 * math.pi * total).log()).sum(1).mean())

    def _note(self, found: Any) -> None:
        super()._note(found)
        likelihood = self._curvature.likelihood
        assert isinstance(likelihood, Gaussian)
        variances = found.scale * likelihood.variances.cpu() * self._scale**2
        self.noise_variance_ = float(variances[0]) if self._flat else variances.numpy()

    def _log_density_shift(self) -> float:
        return -self._counts.rows * float(self._scale.log().sum())

    def _back(self, mean: Tensor) -> tuple[Tensor, Tensor]:
        scale = self._scale.to(mean.device)
        return mean * scale + self._shift.to(mean.device), scale

    def _as_scale(self, noise_variance: Any) -> float:
        given = float(noise_variance) if np.ndim(noise_variance) == 0 else math.nan
        if not (given > 0 and math.isfinite(given)) or not self._flat:
            raise ValueError(
                f"noise_variance={noise_variance!r} must be a positive number, for one target."
            )
        likelihood = self._curvature.likelihood
        assert isinstance(likelihood, Gaussian)
        return given / float(likelihood.variances[0] * self._scale[0] ** 2)

    def _shaped(self, A: Tensor) -> np.ndarray:
        return (A[..., 0] if self._flat else A).cpu().numpy()

    @torch.inference_mode(False)
    def predict(self, X: Any, return_std: bool = False, return_cov: bool = False) -> Any:
        """Predict the targets, which is what the network says, and how sure it is.

        Parameters
        ----------
        X : array-like of shape (m, d) or (m,) + input_shape
            Test rows.
        return_std : bool, default=False
            Whether to return the standard deviation of the network's function, without noise: of
            an observation it is ``sqrt(std**2 + noise_variance_)``.
        return_cov : bool, default=False
            Whether to return the covariance of the function between test rows.

        Returns
        -------
        mean : ndarray of shape (m,) or (m, k)
            Like the y of `fit`.
        std : ndarray of shape (m,) or (m, k)
            With `return_std`.
        cov : ndarray of shape (m, m) or (m, m, k)
            With `return_cov`.
        """
        if return_std and return_cov:
            raise ValueError("return_std and return_cov cannot both be True; pass one.")
        rows = self._predictable(X)
        posterior = self._optimum.posterior
        if return_std:
            mean, variance = posterior.moments(rows, diagonal=True)
            mean, scale = self._back(mean)
            return self._shaped(mean), self._shaped(variance.clamp_min(0).sqrt() * scale)
        mean, scale = self._back(self._mean(rows))
        if return_cov:
            self._require_joint(rows)
            cov = posterior.joint(rows).diagonal(dim1=0, dim2=2) * scale.square()
            return self._shaped(mean), self._shaped(cov)
        return self._shaped(mean)

    @torch.inference_mode(False)
    def sample_y(self, X: Any, n_samples: int = 1, random_state: Any = 0) -> np.ndarray:
        """Draw functions from the posterior at the test rows.

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
        ndarray of shape (m, n_samples) or (m, k, n_samples)
            The latent function, without noise.
        """
        rows, n = self._predictable(X), whole(n_samples, "n_samples")
        draws = [self._back(f)[0] for f in self._draws(rows, n, random_state)]
        found = torch.stack(draws, -1).cpu().numpy()
        return found[:, 0] if self._flat else found

    def uncertainty(self, X: Any) -> Uncertainty:
        """Variance of an observation, and the parts of it.

        Parameters
        ----------
        X : array-like of shape (m, d) or (m,) + input_shape
            Test rows.

        Returns
        -------
        Uncertainty
            With the fields `total`, `aleatoric` (the noise) and `epistemic` (of the function),
            each (m,) or (m, k), in the squared units of y; the first is the sum of the others.
        """
        mean, std = self.predict(X, return_std=True)
        epistemic = std**2
        aleatoric = np.broadcast_to(self.noise_variance_, mean.shape).copy()
        return Uncertainty(epistemic + aleatoric, aleatoric, epistemic)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags
