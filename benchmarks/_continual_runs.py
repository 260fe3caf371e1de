"""Streams, networks and single runs of `continual.py`; every number of a run is in its record."""

import dataclasses
import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.utils import resample

from skntk import ContinualNTK
from skntk.continual import evaluate
from skntk.datasets import StreamTask, load, permuted_tasks, rotated_tasks, split_tasks
from skntk.nn import WideResNet

#: Widths of the network of one hidden layer, and channels of the residual network.
WIDTHS = (32, 128, 512, 2048, 8192)
CHANNELS = (4, 8, 16)
#: Of the study of methods.
WIDTH = 128
METHODS = (
    "sgd", "stable_sgd", "ogd", "ogd_plus", "pca_ogd", "ewc, 10", "online_ewc, 10", "replay",
    "joint",
)  # fmt: skip
#: Epochs, the training loss that ends a task earlier, momentum.
LENGTHS = {"brief": (5, 0.0, 0.0), "converged": (50, 0.05, 0.9)}
#: Rows of a step and its rate, for every width in the NTK parametrization; and the rate in the
#: standard one, where the tangent kernel grows with the width.
BATCH, RATE, STANDARD_RATE = 128, 3.0, 0.03
TEST = 0.2
#: The residual network learns fewer images of a task, in smaller batches, and longer: it takes up
#: to a hundred epochs to fit them.
FEW_ROWS, SMALL_BATCH, MANY_EPOCHS = 200, 32, 100
#: What methods keep of a task: gradients, or rows; the infinitely wide network all outputs of them.
STORED = 100


@dataclasses.dataclass(frozen=True)
class Stream:
    """A stream of tasks, by the seed of its split."""

    data: str
    heads: str
    make: Any


STREAMS = {
    "rotated": Stream(
        "mnist_10k",
        "single",
        lambda data, seed: rotated_tasks(
            data, 5, step=22.5, test_size=TEST, disjoint=True, random_state=seed
        ),
    ),
    "rotated slowly": Stream(
        "mnist_10k",
        "single",
        lambda data, seed: rotated_tasks(
            data, 15, step=5.0, test_size=TEST, disjoint=True, random_state=seed
        ),
    ),
    "permuted": Stream(
        "mnist_10k",
        "single",
        lambda data, seed: permuted_tasks(
            data, 5, test_size=TEST, disjoint=True, random_state=seed
        ),
    ),
    "split digits": Stream(
        "mnist_10k",
        "multi",
        lambda data, seed: split_tasks(data, test_size=TEST, random_state=seed),
    ),
    "split CIFAR-10": Stream(
        "cifar10_7k",
        "multi",
        lambda data, seed: split_tasks(data, test_size=TEST, random_state=seed),
    ),
}


class SmallWideResNet(WideResNet):
    """WRN-10 with layer normalization, which does not couple the rows of a batch."""

    def __init__(self, out_features: int = 2, width: int = 8) -> None:
        super().__init__(3, out_features, depth=10, width=width, norm="layer")


def closed_forms(stream: str, length: str) -> list[str]:
    """Methods of the infinitely wide network on a stream.

    Heads do not interact there, so that all methods are one. Gradient flow on all tasks together
    takes an eigendecomposition for each, and the long stream a large system for each.
    """
    if STREAMS[stream].heads == "multi":
        return ["sgd"]
    joint = length == "converged" and stream != "rotated slowly"
    return ["sgd", "ogd", "joint"] if joint else ["sgd", "ogd"]


def jobs(seeds: int) -> list[dict[str, Any]]:
    """All runs: seed by seed those of plain training, then those of other methods."""
    widths, methods = [], []
    for seed, stream, length in itertools.product(range(seeds), STREAMS, LENGTHS):
        kinds = [("MLP", width, "sgd") for width in WIDTHS]
        if stream == "rotated":
            kinds += [("MLP, standard", width, "sgd") for width in WIDTHS]
        if stream == "split CIFAR-10":
            kinds += [("WRN", width, "sgd") for width in CHANNELS]
        others = [("MLP", WIDTH, method) for method in METHODS[1:]]
        exact = closed_forms(stream, length)
        others += [("MLP", "inf", method) for method in exact]
        for found, pairs in ((widths, kinds), (methods, others)):
            found += [
                {"stream": stream, "length": length, "seed": seed,
                 "network": network, "width": width, "method": method}
                for network, width, method in pairs
            ]  # fmt: skip
    return widths + methods


def estimator(job: dict[str, Any], n_rows: int) -> ContinualNTK:
    epochs, tol, momentum = LENGTHS[job["length"]]
    standard = job["network"] == "MLP, standard"
    common = {
        "depth": 1,
        "heads": STREAMS[job["stream"]].heads,
        "momentum": momentum,
        "batch_size": BATCH,
        "learning_rate": STANDARD_RATE if standard else RATE,
        "max_epochs": epochs,
        "tol": tol,
        "random_state": job["seed"],
    }
    if job["width"] == "inf":
        steps = epochs * math.ceil(n_rows / BATCH)
        time = RATE * steps if job["length"] == "brief" else math.inf
        outputs = 2 if STREAMS[job["stream"]].heads == "multi" else 10
        return ContinualNTK(
            job["method"],
            width=math.inf,
            memory_size=STORED * outputs,
            training_time=time,
            **common,
        )
    if job["network"] == "WRN":
        long = {"max_epochs": MANY_EPOCHS} if job["length"] == "converged" else {}
        return ContinualNTK(
            job["method"], module=SmallWideResNet, width=job["width"], input_shape=(3, 32, 32),
            **common | {"learning_rate": "auto", "batch_size": SMALL_BATCH} | long,
        )  # fmt: skip
    scale = {"parametrization": "standard", "weight_std": 3**-0.5} if standard else {}
    method, _, penalty = job["method"].partition(", ")
    strength = {"penalty": float(penalty)} if penalty else {}
    return ContinualNTK(
        method, width=job["width"], memory_size=STORED, **strength, **scale, **common
    )


def standardized(tasks: Sequence[StreamTask]) -> list[StreamTask]:
    """All pixels, centred and scaled by the mean and deviation of those of the first task."""
    mean, scale = tasks[0].X.mean(), tasks[0].X.std()
    return [
        dataclasses.replace(t, X=(t.X - mean) / scale, X_test=(t.X_test - mean) / scale)
        for t in tasks
    ]


def _fewer_rows(task: StreamTask, seed: int) -> StreamTask:
    X, y = resample(task.X, task.y, replace=False, n_samples=FEW_ROWS, random_state=seed)
    return dataclasses.replace(task, X=X, y=y)


def run(job: dict[str, Any], data_dir: Path) -> dict[str, Any]:
    """Learn a stream once, on one thread."""
    torch.set_num_threads(1)
    stream = STREAMS[job["stream"]]
    data = load(stream.data, data_dir)
    tasks = standardized(stream.make(data, job["seed"]))
    if job["network"] == "WRN":
        tasks = [_fewer_rows(task, job["seed"]) for task in tasks]
    report = evaluate(estimator(job, len(tasks[0].X)), tasks)
    model = report.estimator
    return {
        **job,
        "scores": [[None if np.isnan(v) else v for v in row] for row in report.scores.tolist()],
        "baseline": report.baseline.tolist(),
        "distances": report.distances.tolist(),
        "losses": [None if np.isnan(v) else v for v in report.losses.tolist()],
        "epochs": [len(losses) for losses in model.losses_],
        "memory": report.memory.tolist(),
        "seconds": report.seconds.tolist(),
    }
