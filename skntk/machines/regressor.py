"""`NTKRegressor`: Gaussian process and gradient-flow regression with a network's kernel."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from numbers import Real
from typing import Any, ClassVar

import numpy as np
import torch
from sklearn.base import RegressorMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted
from torch import Tensor, nn

from skntk.core import SkntkWarning, resolve_dtype
from skntk.machines.base import EVIDENCE_ROWS, TUNING_ROWS, KernelChoice, NTKMachine
from skntk.machines.categories import Categories
from skntk.machines.copies import scatter_of_copies, share_of_noise
from skntk.machines.solution import Solution
from skntk.machines.targets import Targets
from skntk.machines.tuning import Tuned, mean_diagonal, tune_evidence, tune_loo
from skntk.machines.validation import Interval, StrOptions, fit_context

#: Outputs at initialization, in standard deviations of the targets, that are warned about: of a
#: module, which may mean other units, and of any network, since rounding swamps the targets.
_LARGE_START, _SWAMPING_START = 10.0, 1e6


class NTKRegressor(RegressorMixin, NTKMachine):
    r"""Regression with the kernel of a network, infinitely wide or finite.

    Read as a Gaussian process, the prior covariance of each output is :math:`s^2 K` and the noise
    variance :math:`s^2 \alpha` times the mean diagonal of :math:`K`. Read as a network, its mean
    is that of a wide network trained by gradient flow, to convergence or for `training_time`.

    Targets are centred and scaled inside; inputs are not, so put a scaler in front.

    Parameters
    ----------
    depth : int or "auto", default="auto"
        Hidden layers of the default network. "auto" is tuned over 1 and 3, behind an embedding
        takes 1; 1 without tuning.
    activation : str or torch.nn.Module, default="auto"
        A name of `skntk.nn.activation_names` or an elementwise module. "auto" is tuned over "relu"
        and the smoother "gelu"; "relu" without tuning.
    weight_std : float, default=sqrt(2)
        Standard deviation of the weights, per fan-in.
    bias_std : float or "auto", default="auto"
        Standard deviation of the biases. "auto" is tuned over 0.1 and 1; 0.1 without tuning.
    width : int, inf or None, default=inf
        `np.inf` is the limit of infinite width. A number: the kernel machine of one random network
        of that width, drawn by `random_state`; a module class gets it as ``width``. None: `module`
        as it stands, with the weights it has.
    embedding : {"none", "featurewise", "categorical", "auto"}, default="auto"
        What suits tables: "featurewise" puts an infinitely wide network of one hidden layer in
        front of each feature (see `skntk.infinite_width`); "categorical" makes an indicator of each
        value of the columns that have 3 to 16 distinct values, each 4 times on average. "auto"
        tries all of them, at a finite width all but "featurewise"; "none" without tuning.
    module : torch.nn.Module class or instance, optional
        A network that replaces the default one; parameters ``module__*`` go to a class. `depth`,
        `activation`, `weight_std` and `bias_std` are then unused. At a finite width it needs one
        output for each target.
    centered : bool, default=False
        At a finite width, subtract the network's function at initialization, which otherwise is
        part of the predictions, as it is of a trained network's.
    input_shape : tuple of int, optional
        Shape of one input of the module, such as (C, H, W), for rows that come flat; X of several
        axes is known by itself.
    kind : {"ntk", "nngp"}, default="ntk"
        The kernel of all layers trained, or of the readout alone.
    alpha : float, array-like of shape (n_outputs,), or "auto", default="auto"
        Ridge relative to the weighted mean diagonal of the kernel, at least 0. "auto" is tuned
        over 22 values from 1e-6 to 10; 1e-3 without tuning.
    param_grid : dict, optional
        Candidates of the tuning by name: "depth", "activation", "weight_std", "bias_std",
        "embedding", "kind", "alpha". They replace the values of these parameters.
    training_time : float, default=inf
        Time of gradient flow on the loss :math:`\frac1{2nk}\sum (f - y)^2`, as regularization of
        the mean; hyperparameters and ``uncertainty="gp"`` are those at infinite time.
    tuning : {"loo", "marginal_likelihood"} or None, default="loo"
        Leave-one-out log predictive density over the candidates, with one eigendecomposition a
        kernel; or the evidence, with gradients through the kernel, from the best candidate, for
        weight_std, and for bias_std and alpha unless these are numbers. Above 2000 (1000) rows, a
        random subset of that many is tuned on.
    ard : bool, default=False
        Tune one input scale per feature, ``choice_.feature_scales``; needs
        ``tuning="marginal_likelihood"``.
    uncertainty : {"gp", "ensemble"}, default="gp"
        What standard deviations are: the posterior of the Gaussian process, or the spread of
        networks trained from different initializations, which can exceed the prior.
    device : str or torch.device, default="cpu"
        Where kernels are computed and solved.
    dtype : {"float64", "float32"}, default="float64"
        Of the kernel; it is solved in float64.
    n_jobs : int, optional
        Workers of joblib for kernel tiles; by default torch's threads.
    random_state : int, RandomState or None, default=None
        For the subset that is tuned on, and the weights of a finite network.
    verbose : int, default=0
        1 shows progress.

    Attributes
    ----------
    X_fit_ : ndarray of shape (n, d)
        Training rows, without those of weight 0.
    choice_ : KernelChoice
        The kernel in use.
    alpha_ : float or ndarray of shape (n_outputs,)
        Absolute ridge.
    scale_ : ndarray of shape (n_outputs,)
        Signal variance :math:`s^2`, for standardized targets; 1 without tuning.
    noise_variance_ : float or ndarray of shape (n_outputs,)
        Variance of the noise of a row of weight 1, in squared units of y: what, added to the
        square of the latent function's standard deviation, gives that of an observation.
    jitter_ : float
        What had to be added to the diagonal beyond alpha.
    location_variance_ : float or ndarray of shape (n_outputs,)
        Variance of what belongs to a row of X and its copies alone, in squared units of y: by how
        much copies agree better than the noise would let them. 0 without copies, and unless alpha
        is tuned by leave-one-out. It is part of the latent function: a new copy of a training row
        is predicted by its target.
    log_marginal_likelihood_value_ : float
        Evidence of the standardized targets, summed over outputs.
    tuning_results_ : dict
        The candidate kernels, the best ridge of each (relative, like `alpha`) and its score, the
        larger the better; absent without tuning.
    n_features_in_ : int
        Number of features.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Names of the features, if X had any.

    References
    ----------
    Jacot, Gabriel & Hongler (2018); Lee et al. (2019), "Wide neural networks of any depth evolve
    as linear models", equations 13 to 16; Rasmussen & Williams (2006), chapters 2 and 5.

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn.preprocessing import StandardScaler
    >>> from skntk import NTKRegressor
    >>> X, y = load_diabetes(return_X_y=True)
    >>> model = make_pipeline(StandardScaler(), NTKRegressor()).fit(X[:300], y[:300])
    >>> mean, std = model.predict(X[300:], return_std=True)
    >>> mean.shape, std.shape
    ((142,), (142,))
    """

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **NTKMachine._parameter_constraints,
        "alpha": [Interval(Real, 0, None, closed="left"), "array-like", StrOptions({"auto"})],
        "training_time": [Interval(Real, 0, None, closed="both")],
        "tuning": [StrOptions({"loo", "marginal_likelihood"}), None],
        "ard": ["boolean"],
        "uncertainty": [StrOptions({"gp", "ensemble"})],
    }
    _DEFAULTS: ClassVar[dict[str, Any]] = {**NTKMachine._DEFAULTS, "depth": 1}
    _GRID: ClassVar[dict[str, tuple[Any, ...]]] = {
        "depth": (1, 3),
        "activation": ("relu", "gelu"),
        "bias_std": (0.1, 1.0),
        "embedding": ("none", "featurewise", "categorical"),
    }
    _ALPHAS = np.logspace(-6, 1, 22)

    def __init__(
        self,
        depth: int | str = "auto",
        activation: str | nn.Module = "auto",
        weight_std: float = math.sqrt(2),
        bias_std: float | str = "auto",
        *,
        width: float | None = math.inf,
        embedding: str = "auto",
        module: Any = None,
        centered: bool = False,
        input_shape: tuple[int, ...] | None = None,
        kind: str = "ntk",
        alpha: Any = "auto",
        param_grid: dict[str, Any] | None = None,
        training_time: float = math.inf,
        tuning: str | None = "loo",
        ard: bool = False,
        uncertainty: str = "gp",
        device: str | torch.device = "cpu",
        dtype: str = "float64",
        n_jobs: int | None = None,
        random_state: Any = None,
        verbose: int = 0,
        **module__params: Any,
    ) -> None:
        self.depth = depth
        self.activation = activation
        self.weight_std = weight_std
        self.bias_std = bias_std
        self.width = width
        self.embedding = embedding
        self.module = module
        self.centered = centered
        self.input_shape = input_shape
        self.kind = kind
        self.alpha = alpha
        self.param_grid = param_grid
        self.training_time = training_time
        self.tuning = tuning
        self.ard = ard
        self.uncertainty = uncertainty
        self.device = device
        self.dtype = dtype
        self.n_jobs = n_jobs
        self.random_state = random_state
        self.verbose = verbose
        self._set_module_params(module__params)

    # Fitting

    @fit_context(prefer_skip_nested_validation=True)
    @torch.inference_mode(False)
    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> NTKRegressor:
        """Tune the kernel and solve for the training targets.

        Parameters
        ----------
        X : array-like of shape (n, d)
            Training rows.
        y : array-like of shape (n,) or (n, k)
            Targets.
        sample_weight : array-like of shape (n,), optional
            Weights; the noise variance of a row is inversely proportional to its weight. Tuning
            divides them by their mean; without tuning a row of weight 2 is that row twice.

        Returns
        -------
        NTKRegressor
            Itself.

        Raises
        ------
        MemoryBudgetError
            If a kernel matrix of all rows does not fit in memory.
        KernelOverflowError
            If the kernel overflows its dtype.
        NotPositiveDefiniteError
            If the regularized kernel cannot be factorized.
        """
        X, y = self._validated(X, y, multi_output=True, y_numeric=True)
        self.__dict__.pop("tuning_results_", None)  # of an earlier fit
        self.X_fit_, y, weights = self._weighted(X, y, sample_weight)
        X, n = self.X_fit_, len(self.X_fit_)
        narrow = 0.5 if resolve_dtype(self.dtype) == torch.float32 else 0.0
        decomposed = (self.tuning == "loo" and n <= TUNING_ROWS) or not self._by_cholesky()
        self._require_square(n, narrow + (3.2 if decomposed else 1.2))
        w = torch.as_tensor(weights, device=self._device)
        self._targets = Targets.of(y.astype(np.float64), w)
        self._weights_fit = w
        self._categories = Categories.of(self._tensor(X), w)
        self._solve(self._tune(self._tensor(X), self._targets.Z, w))
        return self

    def _by_cholesky(self) -> bool:
        """Whether one Cholesky factorization solves for all rows that are not decomposed yet."""
        per_target = not isinstance(self.alpha, str) and np.size(self.alpha) > 1
        return not (per_target or math.isfinite(self.training_time))

    def _tune(self, X: Tensor, Z: Tensor, w: Tensor) -> Tuned:
        """Choose kernel, ridge and scale, on all rows or a random subset."""
        n, k = Z.shape
        tuned = self.tuning is not None and n > 2
        if self.ard and self.tuning != "marginal_likelihood":
            raise ValueError("ard=True needs tuning='marginal_likelihood'.")
        alpha = 1e-3 if isinstance(self.alpha, str) else self._fixed_alpha(k)
        kernels = [self._bound(c) for c in self._candidates(tuned, k, "targets")]
        self._check_finite(kernels[0].choice)
        alphas = self._alphas(self._ALPHAS)
        if not tuned:
            one = torch.ones(k, dtype=torch.float64, device=Z.device)
            return Tuned(kernels[0], alpha, one, None, {})
        most = TUNING_ROWS if self.tuning == "loo" else EVIDENCE_ROWS
        if n > most:
            subset = check_random_state(self.random_state).permutation(n)[:most]
            rows = torch.as_tensor(np.sort(subset), device=X.device)
            X, Z, w = X[rows], Z[rows], w[rows]
        if self.tuning == "loo":
            result = tune_loo(self._progress(kernels, "tuning"), alphas, X, Z, w)
        else:
            result = tune_evidence(
                kernels,
                alphas,
                X,
                Z,
                w,
                free=self._free(),
                rebind=self._bound,
            )
        self.tuning_results_ = result.results
        return result

    def _check_finite(self, choice: KernelChoice) -> None:
        if choice.finite and self.uncertainty == "ensemble":
            raise ValueError(
                "uncertainty='ensemble' is over all initializations of an infinitely wide network; "
                f"pass width=np.inf, or uncertainty='gp', with width={self.width}."
            )

    def _fixed_alpha(self, k: int) -> Any:
        alpha = np.asarray(self.alpha, dtype=float)
        if alpha.ndim > 1 or (alpha.ndim == 1 and alpha.shape != (k,)):
            raise ValueError(
                f"alpha has shape {alpha.shape}; pass one number or one per target ({k},)."
            )
        if not (np.isfinite(alpha).all() and (alpha >= 0).all()):
            raise ValueError(f"alpha={self.alpha!r} must be finite and at least 0.")
        if alpha.size > 1 and self.tuning is not None:
            raise ValueError("alpha with one value per target needs tuning=None.")
        if alpha.size > 1 and self.uncertainty == "ensemble":
            raise ValueError("uncertainty='ensemble' needs one alpha for all targets.")
        return float(alpha) if alpha.ndim == 0 else alpha

    def _solve(self, tuned: Tuned) -> None:
        """Solve for all rows with the tuned hyperparameters."""
        X, Z, w = self._tensor(self.X_fit_), self._targets.Z, self._weights_fit
        n, k = Z.shape
        kernel, self.choice_ = tuned.kernel, tuned.kernel.choice
        start = float(kernel.function(X).square().mean().sqrt())
        if self.module is not None and start > _LARGE_START:
            warnings.warn(
                f"the module's outputs are of size {start:.3g} on the training rows, but are read "
                "in units of standardized targets (mean 0, standard deviation 1): train it on "
                "such targets, or pass centered=True.",
                SkntkWarning,
                stacklevel=4,
            )
        elif start > _SWAMPING_START:
            warnings.warn(
                f"the network's outputs at initialization are of size {start:.3g}, those of "
                "standardized targets 1: their rounding errors swamp the predictions. Scale X, or "
                "pass centered=True.",
                SkntkWarning,
                stacklevel=4,
            )
        self.alpha_ = tuned.alpha * mean_diagonal(kernel.diag(X), w)
        share = self._share_of_noise(X, Z, w, tuned.scale)
        if share < 1:
            kernel.location, self.alpha_ = (1 - share) * self.alpha_, share * self.alpha_
        ridges = torch.as_tensor(np.broadcast_to(self.alpha_, k).copy(), device=Z.device)
        self._solution = Solution(
            kernel,
            X,
            Z,
            w,
            ridges,
            time=self._pace(self.training_time),
            by_cholesky=self._by_cholesky(),
            spectral=tuned.spectral if tuned.spectral and tuned.spectral.n_samples == n else None,
        )
        self.jitter_ = self._solution.jitter
        self.log_marginal_likelihood_value_ = self._solution.log_marginal_likelihood(tuned.scale)
        self.scale_ = tuned.scale.cpu().numpy()
        unit = self.scale_ * self._targets.scale.cpu().numpy() ** 2
        noise, location = self.alpha_ * unit * self._weight_unit, kernel.location * unit
        flat = self._targets.flat
        self.noise_variance_ = float(noise[0]) if flat else noise
        self.location_variance_ = float(location[0]) if flat else location
        if k == 1:
            self.alpha_ = float(ridges[0])

    def _share_of_noise(self, X: Tensor, Z: Tensor, w: Tensor, scale: Tensor) -> float:
        """Which share of the tuned ridge differs between copies of a row; 1 if it was not tuned."""
        fixed = not isinstance(self.alpha, str) and "alpha" not in (self.param_grid or {})
        if self.tuning != "loo" or fixed or self.uncertainty == "ensemble" or len(X) <= 2:
            return 1.0
        scatter, pairs = scatter_of_copies(X, Z, w)
        if not pairs:
            return 1.0
        scatter = scatter / scale.clamp_min(torch.finfo(scale.dtype).tiny)
        return share_of_noise(float(scatter.mean()), pairs, float(self.alpha_))

    def _pace(self, time: float) -> float:
        """Training time for n rows as the solvers count them; a row of weight w is w rows."""
        return time * len(self._weights_fit) / float(self._weights_fit.sum())

    # Predicting

    def predict(self, X: Any, return_std: bool = False, return_cov: bool = False) -> Any:
        """Predict the mean, and on request the uncertainty of the latent function.

        Parameters
        ----------
        X : array-like of shape (m, d)
            Test rows.
        return_std : bool, default=False
            Return the standard deviation too; add `noise_variance_` to its square for that of a
            new observation.
        return_cov : bool, default=False
            Return the joint covariance of the test rows too.

        Returns
        -------
        mean : ndarray of shape (m,) or (m, k)
            Like the y of `fit`.
        std : ndarray of shape (m,) or (m, k)
            With `return_std`.
        cov : ndarray of shape (m, m) or (m, m, k)
            With `return_cov`.

        Raises
        ------
        ValueError
            If both are asked for.
        """
        if return_std and return_cov:
            raise ValueError("return_std and return_cov cannot both be True; ask for one of them.")
        check_is_fitted(self)
        X = self._tensor(self._validated(X))
        solution = self._solution
        if return_cov:
            outputs = len(self.scale_)
            matrices = 2 + len(solution.factors) + 2 * outputs
            self._require_square(len(X), matrices, "the covariance of")
            cross = solution.kernel.gram(X, solution.X)
            latent = solution.mean(X, cross, solution.dual)
            return self._targets.back(latent), self._targets.back_variance(
                self._uncertainty(X, cross, full=True)
            )
        means, variances = [], []
        for rows in self._blocks(len(X), len(solution.X)):
            cross = solution.kernel.gram(X[rows], solution.X)
            means.append(solution.mean(X[rows], cross, solution.dual))
            if return_std:
                variances.append(self._uncertainty(X[rows], cross, full=False))
            del cross
        mean = self._targets.back(torch.cat(means))
        if not return_std:
            return mean
        return mean, np.sqrt(self._targets.back_variance(torch.cat(variances)))

    def _uncertainty(self, X: Tensor, cross: Tensor, full: bool) -> Tensor:
        """Variances (m, k), or covariances (m, m, k), of standardized outputs; consumes `cross`."""
        if self.uncertainty == "ensemble":
            return self._solution.ensemble(X, cross, full=full)
        scale = torch.as_tensor(self.scale_, device=cross.device)
        return scale * self._solution.posterior(X, cross, full=full)

    def staged_predict(self, X: Any, times: Any) -> Iterator[np.ndarray]:
        """Predict after each of several training times, from one eigendecomposition.

        Parameters
        ----------
        X : array-like of shape (m, d)
            Test rows.
        times : array-like of shape (T,)
            Times of gradient flow, at least 0; infinity is convergence.

        Yields
        ------
        ndarray of shape (m,) or (m, k)
            The mean at each time.
        """
        check_is_fitted(self)
        X = self._tensor(self._validated(X))
        solution = self._solution
        times = np.atleast_1d(np.asarray(times, dtype=float))
        duals = solution.flow([self._pace(t) for t in times.tolist()])
        blocks = self._blocks(len(X), len(solution.X))
        stages = torch.cat(
            [solution.mean(X[b], solution.kernel.gram(X[b], solution.X), duals) for b in blocks], 1
        )
        for stage in stages:
            yield self._targets.back(stage)

    def sample_y(self, X: Any, n_samples: int = 1, random_state: Any = 0) -> np.ndarray:
        """Draw functions from the posterior (or the ensemble) at the test rows.

        Parameters
        ----------
        X : array-like of shape (m, d)
            Test rows.
        n_samples : int, default=1
            Number of functions.
        random_state : int, RandomState or None, default=0
            For the draws.

        Returns
        -------
        ndarray of shape (m, n_samples) or (m, k, n_samples)
            The latent function, without noise.
        """
        mean, cov = self.predict(X, return_cov=True)
        rng = check_random_state(random_state)
        if mean.ndim == 1:
            return _draw(mean, cov, n_samples, rng)
        draws = [_draw(mean[:, j], cov[:, :, j], n_samples, rng) for j in range(mean.shape[1])]
        return np.stack(draws, axis=1)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags


def _draw(mean: np.ndarray, cov: np.ndarray, n_samples: int, rng: Any) -> np.ndarray:
    """Gaussian draws through an eigendecomposition, which a singular covariance does not stop."""
    values, vectors = np.linalg.eigh(cov)
    root = vectors * np.sqrt(np.clip(values, 0.0, None))
    return mean[:, None] + root @ rng.standard_normal((len(mean), n_samples))
