"""`NTKClassifier`: a leave-one-out average of kernel machines with calibrated probabilities."""

from __future__ import annotations

import math
from numbers import Real
from typing import Any, ClassVar

import numpy as np
import torch
from scipy.special import softmax
from sklearn.base import ClassifierMixin
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted
from torch import Tensor, nn

from skntk.core import require
from skntk.machines.averaging import (
    Average,
    margin_average,
    margin_start,
    ridge_average,
    stack,
    temperature,
)
from skntk.machines.base import Evaluated, KernelChoice, NTKMachine
from skntk.machines.categories import Categories
from skntk.machines.copies import row_ids, scatter_of_copies, share_of_noise
from skntk.machines.tuning import mean_diagonal, tune_evidence
from skntk.machines.validation import Interval, StrOptions, fit_context
from skntk.solvers import Spectral, cholesky, squared_hinge

#: Rows above which a random subset of that many is tuned on.
ROWS = 1000


class NTKClassifier(ClassifierMixin, NTKMachine):
    r"""Classification with the kernels of networks, infinitely wide or finite.

    Two kernel machines are stacked: ridge regression on one-hot labels, and a one-against-rest
    squared-hinge machine. Each is an average over kernels and ridges, of all whose leave-one-out
    Brier score is within half a standard error of the best; the same score says how much of each
    is taken. Probabilities are a softmax whose temperature minimizes the leave-one-out log loss.
    Nothing is left to tune by hand.

    Inputs are not scaled inside, so put a scaler in front.

    Parameters
    ----------
    depth : int or "auto", default="auto"
        Hidden layers of the default network. "auto" averages over 1 and 3, behind an embedding
        takes 1; 3 without tuning.
    activation : str or torch.nn.Module, default="relu"
        A name of `skntk.nn.activation_names` or an elementwise module.
    weight_std : float, default=sqrt(2)
        Standard deviation of the weights, per fan-in.
    bias_std : float or "auto", default="auto"
        Standard deviation of the biases. "auto" averages over 0.1 and 1; 0.1 without tuning.
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
        output for each class.
    centered : bool, default=False
        At a finite width, subtract the network's function at initialization, which otherwise is
        part of the predictions, as it is of a trained network's.
    input_shape : tuple of int, optional
        Shape of one input of the module, such as (C, H, W), for rows that come flat; X of several
        axes is known by itself.
    kind : {"ntk", "nngp"}, default="ntk"
        The kernel of all layers trained, or of the readout alone.
    alpha : float or "auto", default="auto"
        Ridge relative to the weighted mean diagonal of the kernel, positive. "auto" averages over
        10 values from 1e-4 to 3; 1e-2 without tuning.
    param_grid : dict, optional
        Candidates of the average by name: "depth", "activation", "weight_std", "bias_std",
        "embedding", "kind", "alpha". They replace the values of these parameters.
    tuning : {"loo", "marginal_likelihood"} or None, default="loo"
        Leave-one-out average over the candidates; or one kernel by the evidence of the one-hot
        labels, with gradients for weight_std, and for bias_std unless it is a number, then the
        average over alpha. Above 1000 rows, a random subset of 1000 is tuned on, and the best
        machine of each kind is trained on all rows. The temperature is by leave-one-out always.
    ard : bool, default=False
        Tune one input scale per feature, ``choices_[0].feature_scales``; needs
        ``tuning="marginal_likelihood"``.
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
    classes_ : ndarray of shape (n_classes,)
        Class labels.
    class_prior_ : ndarray of shape (n_classes,)
        Weighted frequencies of the classes.
    X_fit_ : ndarray of shape (n, d)
        Training rows, without those of weight 0; copies of a row that agree in
        their class are merged, unless other copies disagree.
    choices_ : list of KernelChoice
        The kernels in use.
    temperature_ : float
        Inverse temperature of the softmax.
    tuning_results_ : dict
        Candidate kernels and their best mean leave-one-out Brier score, the smaller the better.
    n_features_in_ : int
        Number of features.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Names of the features, if X had any.

    References
    ----------
    Arora et al. (2020), "Harnessing the power of infinitely wide deep nets on small-data tasks";
    Rasmussen & Williams (2006), equation 5.12; Chapelle (2007), section 4; Guo et al. (2017), "On
    calibration of modern neural networks", equation 9.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn.preprocessing import StandardScaler
    >>> from skntk import NTKClassifier
    >>> X, y = load_iris(return_X_y=True)
    >>> model = make_pipeline(StandardScaler(), NTKClassifier()).fit(X[::2], y[::2])
    >>> model.score(X[1::2], y[1::2]) > 0.9
    True
    """

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **NTKMachine._parameter_constraints,
        "alpha": [Interval(Real, 0, None, closed="neither"), StrOptions({"auto"})],
        "tuning": [StrOptions({"loo", "marginal_likelihood"}), None],
        "ard": ["boolean"],
    }
    _GRID: ClassVar[dict[str, tuple[Any, ...]]] = {
        "depth": (1, 3),
        "bias_std": (0.1, 1.0),
        "embedding": ("none", "featurewise", "categorical"),
    }
    _ALPHAS = np.logspace(-4, 0.5, 10)

    def __init__(
        self,
        depth: int | str = "auto",
        activation: str | nn.Module = "relu",
        weight_std: float = math.sqrt(2),
        bias_std: float | str = "auto",
        *,
        width: float | None = math.inf,
        embedding: str = "auto",
        module: Any = None,
        centered: bool = False,
        input_shape: tuple[int, ...] | None = None,
        kind: str = "ntk",
        alpha: float | str = "auto",
        param_grid: dict[str, Any] | None = None,
        tuning: str | None = "loo",
        ard: bool = False,
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
        self.tuning = tuning
        self.ard = ard
        self.device = device
        self.dtype = dtype
        self.n_jobs = n_jobs
        self.random_state = random_state
        self.verbose = verbose
        self._set_module_params(module__params)

    @fit_context(prefer_skip_nested_validation=True)
    @torch.inference_mode(False)
    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> NTKClassifier:
        """Train, tune and calibrate.

        Parameters
        ----------
        X : array-like of shape (n, d)
            Training rows.
        y : array-like of shape (n,)
            Class labels; a single class is predicted with certainty.
        sample_weight : array-like of shape (n,), optional
            Weights of the rows. Tuning divides them by their mean; without tuning a row of weight
            2 is that row twice.

        Returns
        -------
        NTKClassifier
            Itself.

        Raises
        ------
        MemoryBudgetError
            If a kernel matrix of all rows does not fit in memory.
        KernelOverflowError
            If the kernel overflows its dtype.
        """
        X, y = self._validated(X, y)
        check_classification_targets(y)
        self.__dict__.pop("tuning_results_", None)  # of an earlier fit
        self.X_fit_, y, w = self._weighted(X, y, sample_weight)
        self.classes_, labels = np.unique(y, return_inverse=True)
        self._categories = Categories.of(self._tensor(self.X_fit_), self._tensor(w))
        Y = self._tensor(np.eye(len(self.classes_))[labels])
        scatter, pairs = scatter_of_copies(self._tensor(self.X_fit_), Y, self._tensor(w))
        rows, w, whole = _merged(self.X_fit_, labels, w)
        self.X_fit_, labels = self.X_fit_[rows], labels[rows]
        if self.tuning is not None:
            w = w / w.mean()
        self._labels, self._weights = labels, w
        X, n = self.X_fit_, len(self.X_fit_)
        self._total = w.sum()
        self.class_prior_ = np.bincount(labels, weights=w) / self._total
        self.choices_: list[KernelChoice] = []
        self._members: list[tuple[Evaluated, Tensor, float]] = []
        self.temperature_, self._trust = 1.0, 0.0
        if self.ard and self.tuning != "marginal_likelihood":
            raise ValueError("ard=True needs tuning='marginal_likelihood'.")
        n_classes = len(self.classes_)
        candidates = self._candidates(self.tuning is not None, n_classes, "classes")
        kernels = [self._bound(c) for c in candidates]
        if len(self.classes_) > 1:
            self._require_square(min(n, ROWS), 2 * len(kernels) + 3.2)
            self._require_square(n, 4)
            left = w if self.tuning else np.where(whole, w, np.minimum(w, 1.0))
            error = self._train(
                kernels, self._tensor(X), labels, self._tensor(w), self._tensor(left)
            )
            if self.tuning is not None:
                self._trust = 1 - share_of_noise(float(scatter.sum()), pairs, error)
        return self

    def _train(
        self, kernels: list[Evaluated], X: Tensor, labels: np.ndarray, w: Tensor, left: Tensor
    ) -> float:
        """Tune on all rows or a subset; keep coefficients (n, C) of each kernel, and a constant.

        Returns the leave-one-out Brier score.
        """
        n, C = len(labels), len(self.classes_)
        Y = torch.zeros(n, C, dtype=torch.float64, device=X.device)
        Y[np.arange(n), labels] = 1.0
        rows = self._subset(labels) if n > ROWS else np.arange(n)
        at = torch.as_tensor(rows, device=X.device)
        X_at, Y_at, w_at = X[at], Y[at], w[at]
        alphas = self._alphas(self._ALPHAS if self.tuning else np.array([1e-2]))
        numbers = 6 * len(kernels) * len(alphas) * len(rows) * C
        require(
            8 * numbers,
            f"the leave-one-out scores of {len(kernels)} kernels x {len(alphas)} ridges for {C} "
            "classes",
            "Pass fewer candidates in param_grid, or numbers for depth, bias_std and alpha.",
            self._device,
        )
        if self.tuning == "marginal_likelihood":
            kernels = [self._by_evidence(kernels, alphas, X_at, Y_at, w_at)]
        grams, spectra, units, starts = [], [], [], []
        for kernel in self._progress(kernels, "tuning"):
            K = kernel.gram(X_at)
            units.append(mean_diagonal(K.diagonal(), w_at))
            spectra.append(Spectral.from_gram(K, w_at))
            grams.append(K)
            starts.append(kernel.function(X_at).expand(-1, C))
        ridges = torch.as_tensor(np.outer(units, alphas), device=X.device)
        ridge = ridge_average(spectra, ridges, Y_at, w_at, left[at], starts)
        del spectra
        margin = margin_average(grams, ridges, Y_at, w_at, left[at], starts, ridge)
        self.tuning_results_ = {
            "choice": [kernel.choice for kernel in kernels],
            "score": ridge.errors.amin(1).tolist(),
        }
        share = stack(ridge.left_out, margin.left_out, Y_at, w_at)
        scores = torch.lerp(ridge.left_out, margin.left_out, share)
        errors = (scores.clamp(0, 1) - Y_at).square().sum(1)
        self.temperature_ = temperature(scores, labels[rows], w_at.cpu().numpy())
        if n > ROWS:
            del grams
            ridge, margin = self._refit(kernels, ridges, X, Y, w, ridge, margin)
        self._constant = torch.lerp(ridge.constant, margin.constant, share).cpu().numpy()
        parts = zip(kernels, ridge.dual, margin.dual, ridge.shares, margin.shares, strict=True)
        for kernel, a, b, u, v in parts:
            dual = torch.lerp(a, b, share)
            if bool(dual.any()):
                self.choices_.append(kernel.choice)
                self._members.append((kernel, dual, u + share * (v - u)))
        return float((w_at * errors).sum() / w_at.sum())

    def _subset(self, labels: np.ndarray) -> np.ndarray:
        """Random rows to tune on, with at least one of each class."""
        order = check_random_state(self.random_state).permutation(len(labels))
        _, first = np.unique(labels[order], return_index=True)
        return np.union1d(order[:ROWS], order[first])

    def _by_evidence(
        self, kernels: list[Evaluated], alphas: np.ndarray, X: Tensor, Y: Tensor, w: Tensor
    ) -> Evaluated:
        centred = Y - (w[:, None] * Y).sum(0) / w.sum()
        tuned = tune_evidence(
            kernels,
            alphas,
            X,
            centred / centred.square().mean(0).sqrt(),
            w,
            free=self._free(),
            rebind=self._bound,
        )
        return tuned.kernel

    @staticmethod
    def _refit(
        kernels: list[Evaluated],
        ridges: Tensor,
        X: Tensor,
        Y: Tensor,
        w: Tensor,
        ridge: Average,
        margin: Average,
    ) -> tuple[Average, Average]:
        """Train the best machine of each loss on all rows."""
        duals = [[torch.zeros_like(Y) for _ in kernels] for _ in range(2)]
        (m, j), (q, i) = ridge.best, margin.best
        start = kernels[m].function(X)
        mean = (w[:, None] * (Y - start)).sum(0) / w.sum()
        K = kernels[m].gram(X)
        duals[0][m] = cholesky(K, ridges[m, j] / w, overwrite=m != q).solve(Y - start - mean)
        if m != q:
            K = kernels[q].gram(X)
        unit = mean_diagonal(K.diagonal(), w)
        K += unit
        binary = Y.shape[1] == 2
        start = kernels[q].function(X).expand(Y.shape)
        for c in range(1 if binary else Y.shape[1]):
            solved = squared_hinge(
                K, 2 * Y[:, c] - 1, ridges[q, i] / w, offset=margin_start(start, c)
            )
            duals[1][q][:, c] = 0.5 * solved.dual
        if binary:
            duals[1][q][:, 1] = -duals[1][q][:, 0]
        constant = 0.5 + unit * duals[1][q].sum(0)
        empty = K.new_empty(0)
        chosen = [[float(at == best) for at in range(len(kernels))] for best in (m, q)]
        return (
            Average(duals[0], mean, empty, ridge.best, ridge.errors, chosen[0]),
            Average(duals[1], constant, empty, margin.best, margin.errors, chosen[1]),
        )

    def predict_proba(self, X: Any) -> np.ndarray:
        """Predict calibrated class probabilities.

        Parameters
        ----------
        X : array-like of shape (m, d)
            Test rows.

        Returns
        -------
        ndarray of shape (m, n_classes)
            Columns in the order of `classes_`.
        """
        check_is_fitted(self)
        X = self._validated(X)
        if not self._members:
            return np.tile(self.class_prior_, (len(X), 1))
        train, test = self._tensor(self.X_fit_), self._tensor(X)
        blocks = []
        for rows in self._blocks(len(test), len(train)):
            shape = len(test[rows]), len(self.classes_)
            scores = torch.zeros(shape, dtype=torch.float64, device=self._device)
            for kernel, dual, weight in self._members:
                scores.addmm_(kernel.gram(test[rows], train), dual)
                scores.add_(kernel.function(test[rows]), alpha=weight)
            blocks.append(scores.cpu().numpy())
        n = self._total
        proba = softmax(self.temperature_ * (np.concatenate(blocks) + self._constant), axis=1)
        proba = (n * proba + self.class_prior_) / (n + 1)
        return self._recalled(train, test, proba) if self._trust else proba

    def _recalled(self, train: Tensor, test: Tensor, proba: np.ndarray) -> np.ndarray:
        """Mix in the labels of training rows where a test row is a copy of one."""
        ids, wanted = (i.cpu().numpy() for i in row_ids(train, test))
        seen = np.zeros((max(ids.max(), wanted.max()) + 1, len(self.classes_)))
        np.add.at(seen, (ids, self._labels), self._weights)
        seen = seen[wanted]
        total = seen.sum(1, keepdims=True)
        known = total[:, 0] > 0
        proba[known] += self._trust * (seen[known] / total[known] - proba[known])
        return proba

    def predict(self, X: Any) -> np.ndarray:
        """Predict the most probable class of each row.

        Parameters
        ----------
        X : array-like of shape (m, d)
            Test rows.

        Returns
        -------
        ndarray of shape (m,)
        """
        check_is_fitted(self)
        return self.classes_[self.predict_proba(X).argmax(axis=1)]


def _merged(
    X: np.ndarray, labels: np.ndarray, weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Merge the copies of a row that agree in their class, for these are left out together.

    Returns
    -------
    rows : ndarray of shape (m,)
        Indices of the rows that remain, in order.
    weights : ndarray of shape (m,)
        Their weights, those of their copies added.
    whole : ndarray of bool of shape (m,)
        Whether there is no other row with the same features.
    """
    which = row_ids(torch.as_tensor(X, device="cpu"))[0].numpy()
    low = np.full(which.max() + 1, labels.max())
    high = np.zeros_like(low)
    np.minimum.at(low, which, labels)
    np.maximum.at(high, which, labels)
    agree = (low == high)[which]
    key = np.where(agree, which, len(X) + np.arange(len(X)))
    _, rows, at = np.unique(key, return_index=True, return_inverse=True)
    order = rows.argsort()
    return rows[order], np.bincount(at, weights)[order], agree[rows[order]]
