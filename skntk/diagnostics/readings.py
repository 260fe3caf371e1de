"""The four readings of one network on one split: their scores, and how far apart they are."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from sklearn.base import clone
from torch import Tensor

from skntk.diagnostics.disconnect_verdict import DIFFERENCES
from skntk.diagnostics.flow import FlowMachine, PairKernel
from skntk.diagnostics.measures import analytic_limit, outputs_of
from skntk.diagnostics.recording import FAILURES, WATCH, start_of, watched
from skntk.diagnostics.subject import Network, Subject, named_callbacks, refuse_other_modes
from skntk.finite import EmpiricalKernel
from skntk.training import NetworkClassifier

READINGS = ("full", "linearized", "kernel", "limit")


def readings(
    subject: Subject, network: Network, train: tuple[Any, Any], test: tuple[Any, Any]
) -> dict[str, float]:
    """Scores, losses and differences of the four readings.

    Parameters
    ----------
    subject : Subject
        What the network is an instance of.
    network : NetworkRegressor or NetworkClassifier
        The network and its training, not fitted.
    train, test : tuple of array-like
        Rows as the network gets them, and their targets.

    Raises
    ------
    ValueError
        If the network is another function in training mode than in eval mode.
    TrainingDivergedError, KernelOverflowError, NotPositiveDefiniteError, RunFailedError
        If a training or a kernel fails.
    """
    (X, y), (X_test, y_test) = train, test
    if subject.classifies:
        network.set_params(loss="squared")
    module, inputs = start_of(network, X, y)
    refuse_other_modes(module, inputs)
    full = _trained(network, "full", X, y)
    # the same rate: what suits an optimizer by default may depend on the regime
    network.set_params(learning_rate=full.net_.lr, damping=full._damping)
    linearized = _trained(network, "linearized", X, y)

    Z, test_inputs = subject.targets(y), full._rows(X_test)
    functions = {"full": full._forward(X_test), "linearized": linearized._forward(X_test)}
    losses = {"full": _loss(full._forward(X), Z), "linearized": _loss(linearized._forward(X), Z)}
    start, start_at_test = (
        torch.zeros(len(A), Z.shape[1]) if network.centered else outputs_of(module, A)
        for A in (inputs, test_inputs)
    )
    kernel = PairKernel(EmpiricalKernel(module, "full", dtype="float64"))
    machine = FlowMachine(kernel, inputs, start, Z)
    time = _time(linearized, machine, losses["linearized"])
    machines = {"kernel": machine}
    if (limit := analytic_limit(module, inputs, Z.shape[1])) is not None:
        machines["limit"] = FlowMachine(PairKernel(limit), inputs, start, Z)
    for name, machine in machines.items():
        functions[name] = machine.predict(test_inputs, start_at_test, time)
        losses[name] = machine.loss(time)
    parts = {name: row_shares(full, f, y_test) for name, f in functions.items()}
    constant = Z.mean(0).expand(len(y_test), -1)
    found = {"constant": float(row_shares(full, constant, y_test).mean()), "time": time}
    return {**found, **_compared(functions, losses, parts, discrete=subject.classifies)}


def _compared(
    functions: dict[str, Tensor],
    losses: dict[str, float],
    shares: dict[str, np.ndarray],
    discrete: bool,
) -> dict[str, float]:
    """Scores, losses and differences of all readings, NaN where there is none."""
    found: dict[str, float] = {}
    for name in READINGS:
        known = name in functions
        found[name] = float(shares[name].mean()) if known else math.nan
        found[f"{name}_error"] = mean_error(shares[name], discrete) if known else math.nan
        found[f"{name}_loss"] = losses.get(name, math.nan)
    for name, (a, b) in DIFFERENCES.items():
        found |= {name: math.nan, f"{name}_error": math.nan, f"{name}_distance": math.nan}
        if a in functions and b in functions:
            apart = functions[a].double() - functions[b].double()
            found[name] = float((shares[a] - shares[b]).mean())
            found[f"{name}_distance"] = float(apart.square().mean().sqrt())
            same = not bool(apart.any())
            found[f"{name}_error"] = 0.0 if same else mean_error(shares[a] - shares[b], discrete)
    return found


def mean_error(shares: np.ndarray, discrete: bool) -> float:
    """Standard error of the mean over test rows, to which accuracies get one that disagrees."""
    n = len(shares)
    squares = float(((shares - shares.mean()) ** 2).sum()) + float(discrete)
    return math.sqrt(squares / (n - 1) / n)


def _trained(network: Network, regime: str, X: Any, y: Any) -> Network:
    try:
        return watched(clone(network).set_params(regime=regime)).fit(X, y)
    except FAILURES as error:
        raise type(error)(f"{regime}: {error}") from error


def _time(linearized: Network, machine: FlowMachine, loss: float) -> float:
    """Time of gradient flow that stands for the training of the linearized network."""
    net = linearized.net_
    own = [name for name, _ in named_callbacks(linearized) if name != WATCH]
    if linearized.optimizer == "gd" and linearized.momentum == 0 and not own:
        return float(net.lr) * len(net.history)
    return machine.time_of(loss)


def _loss(outputs: Tensor, Z: Tensor) -> float:
    return 0.5 * float((outputs.double() - Z).square().mean())


def row_shares(network: Network, outputs: Tensor, y: Any) -> np.ndarray:
    """What each test row adds to the score, which is their mean: accuracy, or R^2."""
    y = np.asarray(y)
    if isinstance(network, NetworkClassifier):
        return (network.classes_[outputs.argmax(1).numpy()] == y).astype(float)
    y = y.astype(float).reshape(len(y), -1)
    squares = (network._targets.back(outputs.double()).reshape(y.shape) - y) ** 2
    variances = y.var(0)
    spread = network._targets.scale.cpu().numpy() ** 2  # of the training rows
    return (1 - squares / np.where(variances > 0, variances, spread)).mean(1)
