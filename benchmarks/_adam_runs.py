"""Data, splits and models of the benchmark of Adam's limit: one fit each."""

import time
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from sklearn.preprocessing import StandardScaler

import skntk
from skntk import (
    AdamNTKClassifier,
    AdamNTKRegressor,
    NetworkClassifier,
    NetworkRegressor,
    infinite_width,
)
from skntk.core import TrainingDivergedError
from skntk.datasets import load
from skntk.training.held_out import held_out

#: Rows to train on (a fifth of them held out to tune by) and to test on.
TRAIN, TEST, HELD = 400, 1000, 0.2
DEPTH, WIDTH, FEATURES, STEPS, MOMENTUM = 2, 256, 16384, 200, 0.9
#: Learning rates of Adam with a rate for each tensor, and of plain Adam in the standard
#: parametrization; of gradient descent, in units of the inverse of the largest curvature.
SCALED, PLAIN, GRADIENT = (0.01, 0.03, 0.1, 0.3), (3e-4, 1e-3, 3e-3, 1e-2), (0.3, 1.0, 3.0, 10.0)
SETS = (
    "uci_classification/tic-tac-toe",
    "uci_classification/statlog-vehicle",
    "uci_classification/conn-bench-sonar-mines-rocks",
    "uci_classification/oocytes_trisopterus_states_5b",
    "uci_regression/yacht",
    "uci_regression/energy",
    "uci_regression/concrete",
    "uci_regression/kin8nm",
    "sparse product",
    "mnist_10k",
)


@dataclass(frozen=True)
class Split:
    """Rows of one seed.

    Attributes
    ----------
    X, X_test : ndarray
        Standardized by the training rows.
    y, y_test : ndarray
        Labels, or standardized numbers.
    classes : bool
        Which of them.
    """

    X: np.ndarray
    y: np.ndarray
    X_test: np.ndarray
    y_test: np.ndarray
    classes: bool


def split(name: str, seed: int, data: str) -> Split:
    """Rows of a set, drawn from a seed."""
    rng = np.random.default_rng(seed)
    if name == "sparse product":
        # 30 features, of which the product of two matters: a network can find them
        X = rng.normal(size=(TRAIN + TEST, 30))
        y, classes = X[:, 0] * X[:, 1] + 0.1 * rng.normal(size=len(X)), False
    else:
        found = load(name, data)
        X, classes = found.X, found.task == "classification"
        y = np.unique(found.y, return_inverse=True)[1] if classes else found.y.reshape(len(X))
    order = rng.permutation(len(X))
    n = min(TRAIN, int(0.7 * len(X)))
    train, test = order[:n], order[n : n + TEST]
    if name == "mnist_10k":  # pixels have one scale
        mean, scale = X[train].mean(), X[train].std()
        X = (X - mean) / scale
    else:
        X = StandardScaler().fit(X[train]).transform(X)
    if not classes:
        y = (y - y[train].mean()) / y[train].std()
    return Split(X[train], y[train], X[test], y[test], classes)


def ntk_limit(rows: Split, seed: int) -> list[dict[str, float]]:
    """Gradient descent with momentum in the limit, by the analytic kernel: exact."""
    n = len(rows.X)
    train, held = held_out(n, rows.y if rows.classes else None, HELD, _seed_of(seed))
    c = int(rows.y.max()) + 1 if rows.classes else 1
    net = skntk.nn.MLP(rows.X.shape[1], c, depth=DEPTH, width=WIDTH)
    kernel = infinite_width(net)
    X = torch.as_tensor(np.concatenate([rows.X, rows.X_test]))
    K = kernel(X, X[:n][train])
    Y = torch.eye(c).double()[rows.y] if rows.classes else torch.as_tensor(rows.y)[:, None]
    if not rows.classes:  # as the estimators do, which see the held out rows, too
        Y = (Y - Y.mean()) / Y.std(correction=0)
    curvature = float(torch.linalg.eigvalsh(K[train])[-1]) / len(train)
    curvature *= 0.5 if rows.classes else 1.0
    trials = []
    for factor in GRADIENT:
        start = time.perf_counter()
        f, m, best, outputs, at = torch.zeros(len(X), c).double(), 0.0, np.inf, None, 0
        for t in range(1, STEPS + 1):
            r = (f[train].softmax(1) if rows.classes else f[train]) - Y[train]
            m = MOMENTUM * m + (1 - MOMENTUM) * r / len(train)
            f = f - factor / curvature / (1 - MOMENTUM**t) * (K @ m)
            loss = _loss(f[held], Y[held], rows.classes)
            if loss < best:
                best, outputs, at = loss, f[n:].clone(), t
        trials.append(_trial(rows, factor, best, at, outputs, time.perf_counter() - start))
    return trials


def adam_limit(rows: Split, seed: int) -> list[dict[str, float]]:
    """Adam's limit."""
    Estimator = AdamNTKClassifier if rows.classes else AdamNTKRegressor
    trials = []
    for rate in SCALED:
        model = Estimator(
            DEPTH,
            learning_rate=rate,
            max_epochs=STEPS,
            n_features=FEATURES,
            early_stopping=True,
            validation_fraction=HELD,
            patience=STEPS,
            random_state=seed,
        )
        start = time.perf_counter()
        model.fit(rows.X, rows.y)
        seconds = time.perf_counter() - start
        mean, std = _scores(model, rows, return_mc_std=True)
        best = float(model.validation_loss_curve_.min())
        trial = _trial(rows, rate, best, model.n_steps_, mean, seconds)
        trials.append({**trial, "mc": float(np.sqrt((std**2).mean()))})
    return trials


def network(regime: str, optimizer: str, parametrization: str = "ntk") -> Any:
    """Return what fits a finite network with each learning rate."""

    def run(rows: Split, seed: int) -> list[dict[str, float]]:
        Estimator = NetworkClassifier if rows.classes else NetworkRegressor
        params = {
            "depth": DEPTH,
            "width": WIDTH,
            "regime": regime,
            "centered": True,
            "optimizer": optimizer,
            "parametrization": parametrization,
            "batch_size": len(rows.X),
            "early_stopping": True,
            "validation_fraction": HELD,
            "patience": STEPS,
            "random_state": seed,
        }
        rates, scale = {"scaled_adam": SCALED, "adam": PLAIN, "gd": GRADIENT}[optimizer], 1.0
        if optimizer == "gd":
            params |= {"momentum": MOMENTUM, "batch_size": "auto"}
            # torch's momentum sums gradients where Adam's averages them
            scale = (1 - MOMENTUM) * Estimator(**params, max_epochs=1).fit(rows.X, rows.y).net_.lr
        trials = []
        for rate in rates:
            model = Estimator(**params, learning_rate=rate * scale, max_epochs=STEPS)
            start = time.perf_counter()
            try:
                model.fit(rows.X, rows.y)
            except TrainingDivergedError:
                continue
            seconds = time.perf_counter() - start
            losses = np.array(model.history_[:, "valid_loss"])
            at = int(np.nanargmin(losses))
            trials.append(
                _trial(rows, rate, float(losses[at]), at + 1, _scores(model, rows), seconds)
            )
        return trials

    return run


MODELS = {
    "NTK limit": ntk_limit,
    "Adam limit": adam_limit,
    "lazy, GD": network("linearized", "gd"),
    "lazy, Adam": network("linearized", "scaled_adam"),
    "full, GD": network("full", "gd"),
    "full, Adam": network("full", "scaled_adam"),
    "full, plain Adam": network("full", "adam", "standard"),
}


def run(model: str, name: str, seed: int, data: str) -> dict[str, Any]:
    """All trials of a model on a set, and the one that is least at the held out rows."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        trials = MODELS[model](split(name, seed, data), seed)
    chosen = min(trials, key=lambda trial: trial["held"])
    return {**chosen, "trials": len(trials), "all_seconds": sum(t["seconds"] for t in trials)}


def _seed_of(random_state: int) -> int:
    """The seed that the estimators make of a random_state, for one split of rows."""
    return int(np.random.RandomState(random_state).randint(2**31 - 1))


def _loss(f: torch.Tensor, Y: torch.Tensor, classes: bool) -> float:
    if classes:
        return float(-(f.log_softmax(1) * Y).sum(1).mean())
    return float(0.5 * (f - Y).square().mean())


def _scores(model: Any, rows: Split, **kwargs: Any) -> Any:
    return (model.predict_proba if rows.classes else model.predict)(rows.X_test, **kwargs)


def _trial(
    rows: Split, rate: float, held: float, step: int, outputs: Any, seconds: float
) -> dict[str, float]:
    """Score predictions: the error is that of labels, or the mean square per variance."""
    outputs = np.asarray(outputs)
    if rows.classes:
        error = float(np.mean(outputs.argmax(1) != rows.y_test))
    else:
        error = float(np.mean((outputs.reshape(-1) - rows.y_test) ** 2) / rows.y_test.var())
    return {"rate": rate, "held": held, "step": step, "error": error, "seconds": seconds}
