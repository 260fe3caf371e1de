"""What is calibrated, by what, and on which rows, for the benchmark of calibration."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _cache import ResultCache
from scipy import ndimage
from sklearn.ensemble import VotingClassifier
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import train_test_split
from torch import nn

from skntk import LinearizedLaplaceClassifier, NetworkClassifier
from skntk.datasets import load
from skntk.metrics import (
    TemperatureScaling,
    brier_score,
    expected_calibration_error,
    negative_log_likelihood,
    ood_auroc,
    predictive_entropy,
)

SHAPE = (1, 28, 28)
TRAIN, HELD = 5000, 1000
MOVED = 500  # test rows that are rotated, and rows of each stand-in
ANGLES = tuple(range(0, 181, 30))
MEMBERS, DRAWS, BINS = 5, 30, 15


class LeNet(nn.Sequential):
    """Two convolutions of stride 2 and two linear layers, as torch has them."""

    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(1, 8, 5, stride=2),
            nn.ReLU(),
            nn.Conv2d(8, 16, 5, stride=2),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(256, 64),
            nn.ReLU(),
            nn.Linear(64, 10),
        )


NETWORKS: dict[str, dict[str, Any]] = {
    "MLP": {"depth": 2, "width": 100, "learning_rate": 1e-2, "max_epochs": 40},
    "LeNet": {"module": LeNet, "input_shape": SHAPE, "learning_rate": 2e-3, "max_epochs": 25},
}

# How the posterior is made, and the links that its probabilities come by.
_LAST = {"parameters": "last_layer", "curvature": "full"}
_EVIDENCE = {"prior_precision": "marginal_likelihood"}
_HELD = {"prior_precision": "validation"}
POSTERIORS: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "last layer, full, evidence": ({**_LAST, **_EVIDENCE}, ("probit", "bridge", "mc")),
    "last layer, full, held out": ({**_LAST, **_HELD}, ("probit",)),
    "all layers, kron, evidence": ({"curvature": "kron", **_EVIDENCE}, ("probit", "bridge")),
    "all layers, kron, held out": ({"curvature": "kron", **_HELD}, ("probit",)),
    "all layers, diag, evidence": ({"curvature": "diag", **_EVIDENCE}, ("probit",)),
    "all layers, diag, held out": ({"curvature": "diag", **_HELD}, ("probit",)),
}
MAP, SCALED = "MAP", "MAP, temperature"
ENSEMBLE, ENSEMBLE_SCALED = f"{MEMBERS} networks", f"{MEMBERS} networks, temperature"


def linked(posterior: str, link: str) -> str:
    """Name of the row in the tables."""
    return posterior if link == "probit" else f"{posterior}, {link}"


LAPLACE = tuple(linked(p, link) for p, (_, links) in POSTERIORS.items() for link in links)
METHODS = (MAP, SCALED, *LAPLACE, ENSEMBLE, ENSEMBLE_SCALED)


@dataclass(frozen=True)
class Case:
    """Rows of one split, standardized by mean and standard deviation of the training pixels."""

    train: tuple[np.ndarray, np.ndarray]
    held: tuple[np.ndarray, np.ndarray]
    test: tuple[np.ndarray, np.ndarray]
    rotated: dict[int, np.ndarray]
    outside: dict[str, np.ndarray]


def case(seed: int, data: Path) -> Case:
    """The split of a seed, its rotated digits, and what is no digit."""
    digits, rng = load("mnist_10k", data), np.random.default_rng(seed)
    train, rest = train_test_split(
        np.arange(len(digits.y)), train_size=TRAIN, stratify=digits.y, random_state=seed
    )
    held, test = train_test_split(rest, train_size=HELD, stratify=digits.y[rest], random_state=seed)
    mean, std = digits.X[train].mean(), digits.X[train].std()

    def scaled(X: np.ndarray) -> np.ndarray:
        return (X.reshape(len(X), -1) - mean) / std

    images, labels = digits.X[test].reshape(-1, *SHAPE[1:]), digits.y[test]
    moved = images[:MOVED]
    # a partner of another class for each
    partner = np.array([rng.choice(np.flatnonzero(labels != c)) for c in labels[:MOVED]])
    other = images[partner]
    halves = np.concatenate([moved[:, :, :14], other[:, :, :14][:, :, ::-1]], axis=2)
    outside = {
        "overlaid": np.maximum(moved, other),
        "halves": halves,
        "blocks": _shuffled(moved, rng),
        "CIFAR-10": _gray(data, rng),
        "noise": rng.normal(mean, std, moved.shape),
    }
    rotated = {
        angle: scaled(ndimage.rotate(moved, angle, axes=(1, 2), reshape=False, order=1))
        for angle in ANGLES
    }
    parts = [(scaled(digits.X[rows]), digits.y[rows]) for rows in (train, held, test)]
    return Case(*parts, rotated, {name: scaled(X) for name, X in outside.items()})


def _shuffled(images: np.ndarray, rng: np.random.Generator, side: int = 7) -> np.ndarray:
    """Each image cut into squares, which are put together in another order."""
    n, size = len(images), images.shape[1]
    cut = images.reshape(n, size // side, side, size // side, side).swapaxes(2, 3)
    blocks = cut.reshape(n, -1, side, side)
    blocks = np.stack([b[rng.permutation(len(b))] for b in blocks])
    return blocks.reshape(cut.shape).swapaxes(2, 3).reshape(images.shape)


def _gray(data: Path, rng: np.random.Generator) -> np.ndarray:
    """The middle of photographs, gray."""
    photos = load("cifar10_7k", data)
    X = photos.X[rng.permutation(len(photos.X))[:MOVED]].reshape(-1, *photos.image_shape)
    return np.einsum("ncij,c->nij", X[:, :, 2:-2, 2:-2], [0.299, 0.587, 0.114])


def scores(model: Any, rows: Case) -> dict[str, Any]:
    """All that is measured of one fitted model."""

    def nll(X: np.ndarray, y: np.ndarray) -> float:
        return negative_log_likelihood(y, model.predict_proba(X), labels=model.classes_)

    X, y = rows.test
    begin = time.perf_counter()
    P = model.predict_proba(X)
    seconds = time.perf_counter() - begin
    turned = {angle: model.predict_proba(Z) for angle, Z in rows.rotated.items()}
    truth, labels = y[:MOVED], model.classes_
    entropy = predictive_entropy(P)
    return {
        "held_nll": nll(*rows.held),
        "accuracy": float((labels[P.argmax(1)] == y).mean()),
        "confidence": float(P.max(1).mean()),
        "nll": negative_log_likelihood(y, P, labels),
        "ece": expected_calibration_error(y, P, BINS, labels),
        "brier": brier_score(y, P, labels),
        "predict": seconds,
        "rotated": {
            "nll": [negative_log_likelihood(truth, Q, labels) for Q in turned.values()],
            "ece": [expected_calibration_error(truth, Q, BINS, labels) for Q in turned.values()],
            "entropy": [float(predictive_entropy(Q).mean()) for Q in turned.values()],
            "accuracy": [float((labels[Q.argmax(1)] == truth).mean()) for Q in turned.values()],
        },
        "auroc": {
            name: ood_auroc(entropy, predictive_entropy(model.predict_proba(Z)))
            for name, Z in rows.outside.items()
        },
    }


def models(
    network: str, seed: int, rows: Case, folder: Path, wanted: Callable[[str], bool]
) -> Iterator[tuple[str, Any, float, float | None]]:
    """Fitted models that are wanted: name, model, seconds to fit, and the number that was chosen.

    The seconds of what calibrates one network are without its training.
    """

    @cache
    def member(i: int) -> NetworkClassifier:
        # the checkpoint of a finished training is the trained network
        net = NetworkClassifier(
            checkpoint=folder / f"{network}-{seed}-{i}.pt",
            random_state=1000 * seed + i,
            **NETWORKS[network],
        )
        return net.fit(*rows.train)

    def trained(i: int) -> float:
        return float(np.sum(member(i).history_[:, "dur"]))

    def temperature(of: Any) -> tuple[TemperatureScaling, float]:
        begin = time.perf_counter()
        found = TemperatureScaling(of).fit(*rows.held)
        return found, time.perf_counter() - begin

    if wanted(MAP):
        yield MAP, member(0), trained(0), float(member(0).history_[-1, "train_loss"])
    if wanted(SCALED):
        model, seconds = temperature(member(0))
        yield SCALED, model, seconds, model.temperature_
    for name, (params, links) in POSTERIORS.items():
        missing = [link for link in links if wanted(linked(name, link))]
        if not missing:
            continue
        net, held = member(0), {}
        if params["prior_precision"] == "validation":
            held = dict(zip(("X_val", "y_val"), rows.held, strict=True))
        begin = time.perf_counter()
        model = LinearizedLaplaceClassifier(net, prefit=True, n_samples=DRAWS, **params)
        model.fit(*rows.train, **held)
        seconds = time.perf_counter() - begin
        for link in missing:
            yield linked(name, link), model.set_params(link=link), seconds, model.prior_precision_
    if not (wanted(ENSEMBLE) or wanted(ENSEMBLE_SCALED)):
        return
    nets = [(str(i), FrozenEstimator(member(i))) for i in range(MEMBERS)]
    model = VotingClassifier(nets, voting="soft").fit(*rows.train)
    if wanted(ENSEMBLE):
        yield ENSEMBLE, model, sum(map(trained, range(MEMBERS))), None
    if wanted(ENSEMBLE_SCALED):
        model, seconds = temperature(model)
        yield ENSEMBLE_SCALED, model, seconds, model.temperature_


def run(network: str, seed: int, data: Path, folder: Path, kept: ResultCache) -> None:
    """Measure what is not kept yet of one network and seed."""

    def wanted(method: str) -> bool:
        return kept.get(network=network, seed=seed, method=method) is None

    if not any(map(wanted, METHODS)):
        return
    rows = case(seed, data)
    for method, model, seconds, chosen in models(network, seed, rows, folder, wanted):
        found = {**scores(model, rows), "fit": seconds, "chosen": chosen}
        found["threads"] = torch.get_num_threads()
        kept.add({"network": network, "seed": seed, "method": method, **found})
        print(
            f"{network}, seed {seed}, {method}: NLL {found['nll']:.4f}, ECE {found['ece']:.4f}",
            flush=True,
        )
