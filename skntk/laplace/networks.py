"""The network of an estimator: to be trained, or trained already."""

from __future__ import annotations

from typing import Any

import skorch
import torch
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.utils.validation import check_is_fitted
from torch import nn

from skntk.core import TrainingDivergedError
from skntk.finite.network import NetworkInputs, eval_mode, evaluate, naming_failures
from skntk.training.base import PRECONDITIONERS, NetworkEstimator


def unfitted(
    module: Any, kind: type[NetworkEstimator], callbacks: list[Any], **options: Any
) -> NetworkEstimator:
    """Copy of the estimator that trains the network.

    Parameters
    ----------
    module : NetworkEstimator, torch.nn.Module class or instance, or None
        As of the Laplace estimators.
    kind : type
        Of the estimator.
    callbacks : list of skorch callbacks
        That it takes besides its own.
    **options
        Of an estimator that is made here.

    Raises
    ------
    TypeError
        If it is something else.
    ValueError
        If there are callbacks, but the optimizer has no weight decay of the loss.
    """
    trainer = module
    if module is None or isinstance(module, nn.Module | type):
        trainer = kind(module=module, **options)
    if not isinstance(trainer, kind):
        raise TypeError(
            f"module={module!r} must be a {kind.__name__}, a torch.nn.Module class or instance, or "
            "None; a fitted net needs prefit=True."
        )
    trainer = clone(trainer)
    if callbacks:
        if trainer.optimizer in PRECONDITIONERS:
            raise ValueError(
                "online=True needs an optimizer whose weight decay is that of the loss, not "
                f"{trainer.optimizer!r}; pass optimizer='adam', 'sgd' or 'gd'."
            )
        # in front: schedules look at the groups of parameters that a callback makes
        trainer.set_params(callbacks=[*callbacks, *(trainer.callbacks or [])])
    return trainer


def trained_module(network: Any) -> nn.Module:
    """Module of what is given as trained.

    Raises
    ------
    NotFittedError
        If it has not been trained.
    TypeError
        If it is nothing that has a module.
    """
    if isinstance(network, nn.Module):
        return network
    if isinstance(network, NetworkEstimator):
        check_is_fitted(network)
        return network.module_
    if isinstance(network, skorch.NeuralNet):
        if not getattr(network, "initialized_", False):
            raise NotFittedError(
                "module is a skorch net that has not been trained: call its fit first, or pass "
                "prefit=False with a NetworkRegressor or NetworkClassifier."
            )
        return network.module_
    raise TypeError(
        f"module={network!r} with prefit=True must be a trained torch.nn.Module, a fitted skorch "
        "net, or a fitted NetworkRegressor or NetworkClassifier."
    )


def n_outputs(module: nn.Module, input_shape: tuple[int, ...]) -> int:
    """Outputs of a module for one row of that shape."""
    like = next(iter(module.parameters()), torch.empty(0))
    inputs = NetworkInputs(torch.zeros(2, *input_shape).to(like))
    with naming_failures(module, inputs), torch.no_grad(), eval_mode(module):
        return evaluate(module, inputs).shape[1]


def check_finite(module: nn.Module) -> None:
    """Refuse a network with parameters or buffers that are not finite.

    Raises
    ------
    TrainingDivergedError
        Naming the first of them.
    """
    for name, value in (*module.named_parameters(), *module.named_buffers()):
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise TrainingDivergedError(
                f"{name!r} of the network holds NaN or infinity: it has diverged. Train it again "
                "with a smaller learning_rate, or scaled inputs."
            )
