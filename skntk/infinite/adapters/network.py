"""The network that the adapters' kernels are the limit of."""

from __future__ import annotations

import functools

import torch
from torch import nn

from skntk.infinite.kernel import InfiniteKernel, infinite_width
from skntk.nn import MLP


def network_kernel(
    n_features: int,
    depth: int,
    activation: str | nn.Module,
    weight_std: float = 1.0,
    bias_std: float = 1.0,
) -> InfiniteKernel:
    """Return the kernels of an infinitely wide `skntk.nn.MLP`.

    Networks with a named activation are kept, since an optimizer of hyperparameters and a model
    that predicts ask for the same few again and again. torch's random state is left as it was.

    Parameters
    ----------
    n_features : int
        Columns of the input.
    depth, activation, weight_std, bias_std
        Of the network.

    Examples
    --------
    >>> from skntk.infinite.adapters.network import network_kernel
    >>> network_kernel(2, 1, "relu") is network_kernel(2, 1, "relu")
    True
    """
    make = _kept if isinstance(activation, str) else _made
    return make(n_features, depth, activation, weight_std, bias_std)


def _made(
    n_features: int, depth: int, activation: str | nn.Module, weight_std: float, bias_std: float
) -> InfiniteKernel:
    with torch.random.fork_rng(devices=[]):
        net = MLP(
            n_features,
            depth=depth,
            width=1,
            activation=activation,
            weight_std=weight_std,
            bias_std=bias_std,
        )
    return infinite_width(net)


_kept = functools.lru_cache(maxsize=64)(_made)
