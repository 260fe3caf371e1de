"""Finite networks of the two UCI benchmarks: one, an ensemble, one with dropout, and Laplace's.

All have one hidden layer of 50 ReLU units and are trained alike, with settings that were fixed once
for all sets, so that they differ only in what they average over: nothing, five networks from other
seeds (Lakshminarayanan et al. 2017), 50 masks of dropout of the hidden units
(Gal & Ghahramani 2016), or the posterior of the one network by linearized Laplace.

A regression row is a function ``fit(X, y)`` that returns ``predict(X) -> mean, std``, with the
noise in the standard deviation; a classification row is a function ``fit(X, y)`` that returns
``predict_proba(X)``, columns in the order of the sorted labels in y. `REGRESSION` and
`CLASSIFICATION` name them, and the benchmarks take their rows from there.
"""

import math
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from _small_table_models import Trial, _all_columns
from sklearn.preprocessing import StandardScaler
from skorch.callbacks import LRScheduler
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR

import skntk.nn as snn
from skntk import (
    LinearizedLaplaceClassifier,
    LinearizedLaplaceRegressor,
    NetworkClassifier,
    NetworkRegressor,
)
from skntk.datasets import Dataset

DEPTH = 1
UNITS = 50
# Fixed once for all sets, with the cost in mind: by held out training rows in two splits
# of each regression set, and on the tuning splits of ten classification sets.
REGRESSION_TRAINING = {
    "learning_rate": 0.1,
    "weight_decay": 1e-6,
    "max_epochs": 80,
    "early_stopping": True,  # the held out rows are needed for the noise
    "validation_fraction": 0.1,
    "patience": 20,
}
CLASSIFICATION_TRAINING = {"learning_rate": 0.03, "weight_decay": 3e-4, "max_epochs": 50}
STEPS = 10
SMALLEST_BATCH = 16
MEMBERS = 5
DROPOUT = 0.05
MASKS = 50

Predict = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
PredictProba = Callable[[np.ndarray], np.ndarray]


class DropoutMLP(nn.Sequential):
    """The default network with dropout of its hidden units.

    Not of its inputs: some tables have six features, and the loss of one is no small perturbation.
    """

    def __init__(
        self, in_features: int, out_features: int, depth: int, width: int, rate: float
    ) -> None:
        layers: list[nn.Module] = []
        for layer in snn.MLP(in_features, out_features, depth=depth, width=width):
            if layers and isinstance(layer, snn.Linear):
                layers.append(nn.Dropout(rate))
            layers.append(layer)
        super().__init__(*layers)


def network_regressor(n: int, seed: int, **module: Any) -> NetworkRegressor:
    """Return the network that all regression rows train, for `n` standardized rows."""
    return NetworkRegressor(**_settings(REGRESSION_TRAINING, n, seed), **module)


def network_classifier(n: int, seed: int, **module: Any) -> NetworkClassifier:
    """Return the network that all classification rows train, for `n` standardized rows."""
    return NetworkClassifier(**_settings(CLASSIFICATION_TRAINING, n, seed), **module)


def fit_regression(
    X: np.ndarray, y: np.ndarray, seeds: Sequence[int], dropout: float | None = None
) -> Predict:
    """Fit a network for each seed; their predictions are mixed with equal weights.

    The noise variance of a network is its mean squared residual on the tenth of the rows that it
    was not trained on. Mean and variance are those of the mixture of normal distributions, one for
    each network or, with `dropout`, for each mask.

    Parameters
    ----------
    X : (n, d)
        Inputs, standardized here.
    y : (n,)
        Targets, in their units.
    seeds : sequence of int
        One for each network.
    dropout : float, optional
        Rate of dropout, in training and prediction; by default there is none.
    """
    scaler, centre, scale = StandardScaler().fit(X), y.mean(), y.std()
    Z, z = scaler.transform(X), (y - centre) / scale
    module = _dropout_module(X.shape[1], 1, dropout)
    networks = [network_regressor(len(y), seed, **module).fit(Z, z) for seed in seeds]
    # the loss is half the squared error, and the weights are those of its smallest value
    noise = np.mean([2 * min(network.history_[:, "valid_loss"]) for network in networks])

    def predict(X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        Z = scaler.transform(X)
        if dropout:
            means = np.concatenate([_masked(network, Z)[..., 0] for network in networks])
        else:
            means = np.stack([network.predict(Z) for network in networks])
        std = np.sqrt(noise + means.var(axis=0))
        return centre + scale * means.mean(axis=0), scale * std

    return predict


def fit_classification(
    X: np.ndarray, y: np.ndarray, seeds: Sequence[int], dropout: float | None = None
) -> PredictProba:
    """Fit a network for each seed; probabilities are means over networks and masks.

    Parameters
    ----------
    X : (n, d)
        Inputs, standardized already.
    y : (n,)
        Labels.
    seeds : sequence of int
        One for each network.
    dropout : float, optional
        Rate of dropout, in training and prediction; by default there is none.
    """
    module = _dropout_module(X.shape[1], len(np.unique(y)), dropout)
    networks = [network_classifier(len(y), seed, **module).fit(X, y) for seed in seeds]

    def predict_proba(X: np.ndarray) -> np.ndarray:
        if dropout:
            outputs = torch.as_tensor(np.concatenate([_masked(network, X) for network in networks]))
            return outputs.softmax(-1).mean(0).numpy()
        return np.mean([network.predict_proba(X) for network in networks], axis=0)

    return predict_proba


def laplace_regression(X: np.ndarray, y: np.ndarray, **options: Any) -> Predict:
    """Fit the posterior of one network, by the evidence; X is standardized here.

    With ``online=True`` no rows are held out: the evidence sets the weight decay.
    """
    scaler = StandardScaler().fit(X)
    network = network_regressor(len(y), seed=0)
    network.set_params(early_stopping=not options.get("online", False))
    model = LinearizedLaplaceRegressor(network, **options).fit(scaler.transform(X), y)

    def predict(X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        mean, std = model.predict(scaler.transform(X), return_std=True)
        return mean, np.sqrt(std**2 + model.noise_variance_)

    return predict


def laplace_classification(X: np.ndarray, y: np.ndarray, **options: Any) -> PredictProba:
    """Fit the posterior of one network; X is standardized already.

    By default a part of the rows chooses the prior, and then the network is trained on all. Where
    none can be spared, since each class has one row, the evidence does.
    """
    network = network_classifier(len(y), seed=0)
    if np.unique(y, return_counts=True)[1].max() < 3:
        options = {"prior_precision": "marginal_likelihood", **options}
    model = LinearizedLaplaceClassifier(network, random_state=0, **options)
    return model.fit(X, y).predict_proba


REGRESSION: dict[str, Callable[[np.ndarray, np.ndarray], Predict]] = {
    "network": partial(fit_regression, seeds=(0,)),
    f"ensemble of {MEMBERS}": partial(fit_regression, seeds=range(MEMBERS)),
    "MC dropout": partial(fit_regression, seeds=(0,), dropout=DROPOUT),
    "Laplace": laplace_regression,
    "Laplace (kron)": partial(laplace_regression, curvature="kron"),
    "Laplace (last layer)": partial(laplace_regression, parameters="last_layer"),
    "Laplace (online)": partial(laplace_regression, online=True),
}
CLASSIFICATION: dict[str, Callable[[np.ndarray, np.ndarray], PredictProba]] = {
    "network": partial(fit_classification, seeds=(0,)),
    f"ensemble of {MEMBERS}": partial(fit_classification, seeds=range(MEMBERS)),
    "MC dropout": partial(fit_classification, seeds=(0,), dropout=DROPOUT),
    "Laplace": laplace_classification,
    "Laplace (evidence)": partial(laplace_classification, prior_precision="marginal_likelihood"),
    "Laplace (last layer)": partial(laplace_classification, parameters="last_layer"),
    "Laplace (online)": partial(laplace_classification, online=True),
}
_NOTE = (
    f"The networks have one hidden layer of {UNITS} units and are trained alike by Adam, with"
    " nothing tuned per set: {}. MC dropout:"
    f" {MASKS} masks of the hidden units at rate {DROPOUT:g}. Laplace: the posterior of the one"
    " network, full up to 4000 parameters and Kronecker-factored beyond, with the defaults: the"
    " prior by the evidence for numbers, and by held out rows, after which the network is trained"
    " again, for classes; online: by the evidence during training, on all training rows."
)
REGRESSION_NOTE = _NOTE.format(
    f"at most {REGRESSION_TRAINING['max_epochs']} epochs, with the best weights on a held out tenth"
    " of the training rows, whose mean squared residual is the noise"
)
CLASSIFICATION_NOTE = _NOTE.format(
    f"{CLASSIFICATION_TRAINING['max_epochs']} epochs on all training rows"
)


def by_fold(fit: Callable[[np.ndarray, np.ndarray], PredictProba], data: Dataset) -> Trial:
    """Fit a classification row in each fold of one data set."""
    trial = Trial(chosen="fixed")
    for train, test in data.splits:
        start = time.perf_counter()
        predict_proba = fit(data.X[train], data.y[train])
        fitted = time.perf_counter()
        proba = predict_proba(data.X[test])
        trial.fit_seconds += fitted - start
        trial.predict_seconds += time.perf_counter() - fitted
        labels = np.unique(data.y[train])
        trial.labels.append(labels[proba.argmax(axis=1)])
        trial.proba.append(_all_columns(proba, labels, data))
    return trial


def _settings(training: dict[str, Any], n: int, seed: int) -> dict[str, Any]:
    """Arguments of a network: ten steps an epoch, fewer where batches would be too small."""
    return {
        "depth": DEPTH,
        "width": UNITS,
        "batch_size": max(SMALLEST_BATCH, math.ceil(n / STEPS)),
        "callbacks": [LRScheduler(CosineAnnealingLR, T_max=training["max_epochs"])],
        "random_state": seed,
        **training,
    }


def _dropout_module(in_features: int, out_features: int, rate: float | None) -> dict[str, Any]:
    """Arguments of a network with dropout, which has the initial weights of the one without."""
    if not rate:
        return {}
    return {
        "module": DropoutMLP,
        "module__in_features": in_features,
        "module__out_features": out_features,
        "module__depth": DEPTH,
        "module__rate": rate,
    }


def _masked(network: NetworkRegressor | NetworkClassifier, X: np.ndarray) -> np.ndarray:
    """Outputs under `MASKS` masks of dropout, always the same for a shape of X: (masks, m, k)."""
    module, rows = network.module_, torch.as_tensor(X, dtype=torch.float32)
    module.train()
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        outputs = torch.stack([module(rows) for _ in range(MASKS)])
    module.eval()
    return outputs.double().numpy()
