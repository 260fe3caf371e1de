"""Kernels of the default network, which adapters and estimators ask for by its hyperparameters."""

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
    *,
    embedding: str = "none",
) -> InfiniteKernel:
    """Return the kernels of an infinitely wide `skntk.nn.MLP`, whose weights are never drawn.

    Networks with a named activation are kept: tracing is most of the time of a small fit, and an
    optimizer of hyperparameters asks for the same few again and again.

    Parameters
    ----------
    n_features : int
        Columns of the input.
    depth, activation, weight_std, bias_std
        Of the network.
    embedding : {"none", "featurewise"}, default="none"
        As of `infinite_width`.

    Examples
    --------
    >>> from skntk.infinite.network import network_kernel
    >>> network_kernel(2, 1, "relu") is network_kernel(2, 1, "relu")
    True
    """
    network = n_features, depth, activation, weight_std, bias_std, embedding
    if isinstance(activation, str):
        kept = _kept(*network)
        if not kept.program((n_features,)).series:  # these remember their error
            return kept
    return _made(*network)


def _made(
    n_features: int,
    depth: int,
    activation: str | nn.Module,
    weight_std: float,
    bias_std: float,
    embedding: str,
) -> InfiniteKernel:
    with torch.device("meta"):
        net = MLP(
            n_features,
            depth=depth,
            width=1,
            activation=activation,
            weight_std=weight_std,
            bias_std=bias_std,
        )
    return infinite_width(net, embedding=embedding)


_kept = functools.lru_cache(maxsize=128)(_made)
