"""What both Laplace estimators share: the network, its curvature, and its hyperparameters."""

from __future__ import annotations

from abc import abstractmethod
from numbers import Real
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from sklearn.base import BaseEstimator
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor, nn
from tqdm.auto import tqdm

from skntk.core import require
from skntk.laplace.criteria import chosen_criterion, positive, row_weights
from skntk.laplace.differentiable import differentiable_posterior
from skntk.laplace.evidence import Evidence, Optimum, evaluate, maximize
from skntk.laplace.factored import NotOneProductError
from skntk.laplace.held_out import best_precision, hold_out
from skntk.laplace.keeping import restore, state_of
from skntk.laplace.likelihoods import Counts, Likelihood
from skntk.laplace.networks import check_finite, trained_module, unfitted
from skntk.laplace.online import OnlineEvidence
from skntk.laplace.structures import chosen_curvature
from skntk.laplace.tangent import Tangent
from skntk.machines.networks import as_rows, check_outputs
from skntk.machines.validation import Interval, StrOptions
from skntk.training.base import NetworkEstimator


class Uncertainty(NamedTuple):
    """Parts of a prediction's uncertainty; see `uncertainty` of the estimators."""

    total: np.ndarray
    aleatoric: np.ndarray
    epistemic: np.ndarray


class LaplaceEstimator(BaseEstimator):
    """Base of `LinearizedLaplaceRegressor` and `LinearizedLaplaceClassifier`; not used directly."""

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        "module": "no_validation",
        "prefit": ["boolean"],
        "curvature": [StrOptions({"auto", "full", "kron", "diag"})],
        "parameters": "no_validation",
        "prior_precision": [
            StrOptions({"auto", "marginal_likelihood", "validation"}),
            Interval(Real, 0, None, closed="neither"),
            "array-like",
        ],
        "prior_structure": [StrOptions({"scalar", "layer", "parameter"})],
        "online": ["boolean"],
        "validation_fraction": [Interval(Real, 0, 1, closed="neither")],
        "input_shape": "no_validation",
        "random_state": ["random_state"],
        "verbose": ["verbose"],
    }
    _target_checks: ClassVar[dict[str, Any]]
    #: Whether "auto" holds out rows where the network is trained here.
    _holds_out: ClassVar[bool]
    #: The estimator that trains a network.
    _trainer: ClassVar[type[NetworkEstimator]]

    # What the two differ in

    @abstractmethod
    def _encoded(self, y: Any) -> Tensor:
        """Targets as the likelihood takes them, refusing what the network does not know."""

    @abstractmethod
    def _likelihood_of(self, tangent: Tangent, X: Tensor, T: Tensor) -> Likelihood:
        """Make the likelihood, given training rows and their targets."""

    @abstractmethod
    def _held_out(self, mean: Tensor, variance: Tensor, targets: Tensor, scale: float) -> float:
        """Mean log density of held out targets, given the outputs' moments."""

    @abstractmethod
    def _read_network(self, y: Any, classes: Any) -> None:
        """Note what the trained network says of its targets."""

    def _given_scale(self) -> float | None:
        """Scale of the noise, if it is given."""
        return 1.0

    def _validation_scale(self, tangent: Tangent, X: Tensor, T: Tensor) -> float:
        """Scale of the noise by held out rows."""
        return 1.0

    def _check_given(self, y: Any, classes: Any) -> None:
        """Refuse, before anything is trained, what the posterior cannot be of."""

    # Data

    def _rows(self, X: Any, y: Any = "no_validation", *, reset: bool = True) -> Any:
        """Validate inputs (and targets): as a float64 tensor of shape (n, *input_shape)."""
        inner = getattr(self.module, "input_shape", None)
        X, shape = as_rows(X, inner if self.input_shape is None else self.input_shape)
        checked = {"dtype": [np.float64, np.float32]}
        seen = getattr(self, "_input_shape", shape)
        if not (reset and not isinstance(y, str)) and shape is not None and shape != seen:
            raise ValueError(f"X has inputs of shape {shape}, but those of fit had {seen}.")
        if isinstance(y, str):
            X = validate_data(self, X, reset=False, **checked)
        else:
            X, y = validate_data(self, X, y, reset=reset, **checked, **self._target_checks)
            if reset:
                self._input_shape = shape or (X.shape[1],)
        rows = torch.tensor(np.array(X, dtype=np.float64)).reshape(-1, *self._input_shape)
        return rows if isinstance(y, str) else (rows, y)

    # Fitting

    def _fit(
        self,
        X: Any,
        y: Any,
        row_weight: Any,
        classes: Any = None,
        X_val: Any = None,
        y_val: Any = None,
        *,
        streamed: bool = False,
    ) -> None:
        """Train the network, unless it is trained, and fit the posterior.

        `streamed` says that more rows are to be expected.
        """
        self._streamed = streamed
        for name in ("validation_scores_", "_optimum"):  # of another fit
            self.__dict__.pop(name, None)
        self.criterion_ = chosen_criterion(self, X_val, y_val)
        rows, y = self._rows(X, y)
        self._check_given(y, classes)
        weights = row_weights(row_weight, len(rows), self.prefit)
        held = None if X_val is None else self._rows(X_val, y_val, reset=False)
        if self._by_held_out and held is None:
            self._tune_by_held_out(rows, y)
        self.network_ = self.module if self.prefit else self._trained(rows, y)
        self._around(rows, y, weights, classes)
        self._tune(None if held is None else (held[0], self._encoded(held[1])))

    def _tune_by_held_out(self, rows: Tensor, y: Any) -> None:
        """Train on a part of the rows, and choose the hyperparameters by the others."""
        rng = np.random.default_rng(check_random_state(self.random_state).randint(2**31 - 1))
        out = hold_out(self._strata(y), self.validation_fraction, rng)
        self.network_ = self._trained(rows[~out], y[~out], final=False)
        self._around(rows[~out], y[~out], np.ones(int((~out).sum())), None)
        self._tune((rows[out], self._encoded(y[out])))

    def _around(self, rows: Tensor, y: Any, weights: np.ndarray, classes: Any) -> None:
        """Sum the curvature of rows around a trained network."""
        module = trained_module(self.network_)
        check_finite(module)
        self._read_network(y, classes)
        self._check_rows(module, rows)
        targets = self._encoded(y)
        try:
            self._sum(module, rows, targets, weights)
        except NotOneProductError:  # which the first rows did not show
            self._sum(module, rows, targets, weights, factors=False)

    def _sum(
        self,
        module: nn.Module,
        rows: Tensor,
        targets: Tensor,
        weights: np.ndarray,
        *,
        factors: bool = True,
    ) -> None:
        self.curvature_, self._curvature = chosen_curvature(
            module,
            rows,
            lambda tangent: self._likelihood_of(tangent, rows, targets),
            curvature=self.curvature,
            parameters=self.parameters,
            prior_structure=self.prior_structure,
            streamed=self._streamed,
            factors=factors,
        )
        self._loss, self._counts = 0.0, Counts()
        self._add(rows, targets, weights)

    @property
    def _by_held_out(self) -> bool:
        return self.criterion_ == "validation"

    def _strata(self, y: Any) -> list[np.ndarray]:
        """Rows of which the same share is held out, and at least one is not."""
        return [np.arange(len(y))]

    def _trained(self, rows: Tensor, y: Any, *, final: bool = True) -> Any:
        """A copy of the network, trained on rows; only the final one on its checkpoint."""
        callbacks = []
        if self.online:
            callbacks = [OnlineEvidence(self.curvature, self.prior_structure, self.parameters)]
        options = {"random_state": self.random_state, "verbose": self.verbose}
        trainer = unfitted(self.module, self._trainer, callbacks, **options)
        if not final:
            trainer.set_params(checkpoint=None)
        return trainer.fit(rows.numpy(), y)

    def _check_rows(self, module: nn.Module, rows: Tensor) -> None:
        like = next(iter(module.parameters()), torch.empty(0))
        check_outputs(module, rows.to(like), self._n_outputs, "y")

    def _add(self, rows: Tensor, targets: Tensor, weights: np.ndarray) -> None:
        """Take in rows."""
        curvature = self._curvature
        device = next(iter(curvature.tangent.weights.values())).device
        given = torch.as_tensor(weights, dtype=torch.float64, device=device)
        targets = targets.to(device)
        progress = tqdm(total=len(rows), unit="row", disable=not self.verbose)
        for outputs, loss in curvature.take(rows.to(device), targets, given):
            progress.update(len(outputs))
            self._check_likelihood(outputs)
            self._loss += loss
        progress.close()
        self._counts.add(given)

    def _check_likelihood(self, outputs: Tensor) -> None:
        """Refuse outputs (n, k) that the likelihood cannot mean."""

    def _add_rows(self, X: Any, y: Any, row_weight: Any) -> None:
        """Take in more rows, and find the posterior again."""
        rows, y = self._rows(X, y, reset=False)
        weights = row_weights(row_weight, len(rows), self.prefit)
        self._add(rows, self._encoded(y), weights)
        self._tune()

    def _tune(self, held: tuple[Tensor, Tensor] | None = None) -> None:
        """Find the hyperparameters that are not given, and the posterior at them."""
        evidence = self._evidence()
        precision, scale = self._given_precision(evidence), self._given_scale()
        if self._by_held_out:
            if held is not None:
                self._chosen = self._by_validation(evidence, scale, *held)
            precision, scale = self._chosen
        found = maximize(evidence, precision, scale)
        self._note(found)

    def _evidence(self) -> Evidence:
        return Evidence.of(self._curvature, self.prior_structure, self._loss, self._counts)

    def _given_precision(self, evidence: Evidence) -> Tensor | None:
        """Prior precisions of the groups, if they are given."""
        if isinstance(self.prior_precision, str):
            return None
        return self._as_precision(self.prior_precision, evidence)

    def _as_precision(self, given: Any, evidence: Evidence) -> Tensor:
        like, G = evidence.squares, len(evidence.squares)
        values = torch.as_tensor(positive(given, "prior_precision"), device=like.device)
        if values.ndim == 0:
            values = values.expand(G)
        if values.shape != (G,):
            names = self._curvature.tangent.group_names(self.prior_structure)
            more = {"scalar": "", "layer": f", or {G}: {names}", "parameter": f", or {G}"}
            raise ValueError(
                f"prior_precision has shape {tuple(values.shape)}, but prior_structure="
                f"{self.prior_structure!r} needs one number{more[self.prior_structure]}."
            )
        return values.to(like.dtype)

    def _by_validation(
        self, evidence: Evidence, scale: float | None, X: Tensor, targets: Tensor
    ) -> tuple[Tensor, float]:
        """Prior precision and noise that held out rows ask for."""
        tangent = self._curvature.tangent
        c = self._validation_scale(tangent, X, targets) if scale is None else scale
        mean = tangent.outputs(X)
        precision, self.validation_scores_ = best_precision(
            evidence, c, X, lambda variance: self._held_out(mean, variance, targets, c)
        )
        return precision, c

    def _note(self, found: Optimum) -> None:
        """Store what was found as fitted attributes."""
        self._optimum = found
        precision = found.precision.cpu().numpy()
        self.prior_precision_ = float(precision[0]) if len(precision) == 1 else precision
        self.log_marginal_likelihood_ = found.value + self._log_density_shift()

    def _log_density_shift(self) -> float:
        """What turns the log density of the targets inside into that of y."""
        return 0.0

    @property
    def n_effective_parameters_(self) -> float:
        r"""How many parameters the data determine, :math:`P - tr(T \Sigma)`."""
        check_is_fitted(self)
        return float(self._optimum.posterior.effective.sum())

    # Predicting

    @property
    def module_(self) -> nn.Module:
        """The trained module that the posterior is around."""
        check_is_fitted(self)
        return trained_module(self.network_)

    def _predictable(self, X: Any) -> Tensor:
        """Test rows, where the network is."""
        check_is_fitted(self)
        weights = self._curvature.tangent.weights
        return self._rows(X).to(next(iter(weights.values())).device)

    def _require_joint(self, rows: Tensor) -> None:
        """Refuse covariances between so many rows that they do not fit in memory."""
        require(
            3 * 8 * (len(rows) * self._n_outputs) ** 2,
            f"the joint covariance of {len(rows)} rows x {self._n_outputs} outputs",
            "Pass fewer rows, or ask for the standard deviation.",
            rows.device,
        )

    def _mean(self, rows: Tensor) -> Tensor:
        """Outputs of the network, in the units inside."""
        return self._curvature.tangent.outputs(rows)

    def _draws(self, rows: Tensor, n: int, random_state: Any) -> Any:
        """Outputs (m, k) under n draws of the weights, one after the other."""
        seed = int(check_random_state(random_state).randint(2**31 - 1))
        generator = torch.Generator().manual_seed(seed)
        moves = self._optimum.posterior.draw(n, generator)
        return self._curvature.tangent.drawn(rows, moves)

    @torch.inference_mode(False)
    def predict_function(self, X: Any, *, joint: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """Mean and covariance of the network's outputs, before any link or noise.

        Parameters
        ----------
        X : array-like of shape (m, d) or (m,) + input_shape
            Test rows.
        joint : bool, default=False
            Whether to give the covariances between rows too.

        Returns
        -------
        mean : ndarray of shape (m, k)
            Outputs of the trained network; of a regressor in the units of y.
        cov : ndarray of shape (m, k, k), or (m, k, m, k) with `joint`
            Their covariance.
        """
        rows = self._predictable(X)
        posterior = self._optimum.posterior
        if joint:
            self._require_joint(rows)
            mean, cov = self._mean(rows), posterior.joint(rows).permute(1, 0, 3, 2)
        else:
            mean, cov = posterior.moments(rows)
        mean, scale = self._back(mean)
        if joint:
            cov = cov * scale[:, None, None] * scale
        else:
            cov = cov * scale[:, None] * scale
        return mean.cpu().numpy(), cov.cpu().numpy()

    def _back(self, mean: Tensor) -> tuple[Tensor, Tensor]:
        """Outputs in the units of y, and the scale (k,) of their standard deviations."""
        return mean, torch.ones_like(mean[0])

    @torch.inference_mode(False)
    def differentiable(self, X: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and covariance of the outputs as differentiable functions of the inputs.

        For acquisition functions and the like; slower than `predict_function`.

        Parameters
        ----------
        X : Tensor of shape (..., q, d) or (..., q) + input_shape
            Rows; leading axes are batches.

        Returns
        -------
        mean : Tensor of shape (..., q, k)
            As of `predict_function`, float64.
        cov : Tensor of shape (..., q, k, q, k)
            Joint covariance of the q rows of a batch.
        """
        check_is_fitted(self)
        inner = len(self._input_shape)
        shape = X.shape[-inner:] if X.ndim > inner else None
        if shape != self._input_shape:
            raise ValueError(
                f"X has shape {tuple(X.shape)}; wanted (..., q, "
                f"{', '.join(map(str, self._input_shape))})."
            )
        X = X.clone() if X.is_inference() else X  # of which there is no graph
        front = X.shape[: X.ndim - inner]
        mean, cov = differentiable_posterior(self._optimum.posterior, X.double(), front)
        mean, scale = self._back(mean)
        return mean, cov * scale[:, None, None] * scale

    def log_marginal_likelihood(
        self, prior_precision: Any = None, noise_variance: Any = None
    ) -> float:
        """Evidence at other hyperparameters, for the same network.

        Parameters
        ----------
        prior_precision : float or array-like, optional
            As of the constructor; by default `prior_precision_`.
        noise_variance : float, optional
            Of a regressor; by default `noise_variance_`.

        Returns
        -------
        float
            Log marginal likelihood in nats, of y in its units.
        """
        check_is_fitted(self)
        evidence = self._evidence()
        precision = self._optimum.precision
        if prior_precision is not None:
            precision = self._as_precision(prior_precision, evidence)
        scale = self._optimum.scale if noise_variance is None else self._as_scale(noise_variance)
        return evaluate(evidence, precision, scale).value + self._log_density_shift()

    def _as_scale(self, noise_variance: Any) -> float:
        raise ValueError("noise_variance has no meaning here: classes have no noise.")

    # Keeping

    def state_dict(self) -> dict[str, Any]:
        """Return the fitted state as a dictionary of tensors and plain values.

        It can be written by `torch.save` and read with ``weights_only=True``.
        """
        check_is_fitted(self)
        return state_of(self)

    @torch.inference_mode(False)
    def load_state_dict(self, state: dict[str, Any]) -> LaplaceEstimator:
        """Become fitted as the estimator was whose `state_dict` is given.

        Parameters
        ----------
        state : dict
            Of `state_dict`.

        Returns
        -------
        LaplaceEstimator
            Itself.

        Raises
        ------
        ValueError
            If `module` is no torch module of the same architecture.
        """
        restore(self, state)
        self._note(evaluate(self._evidence(), state["precision"], state["scale"]))
        return self

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "_optimum")

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = False
        tags.non_deterministic = False
        return tags
