"""What the posterior needs of a likelihood: log density, and its Hessian by a row's outputs."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import final

import torch
from torch import Tensor


class Likelihood(ABC):
    r"""Likelihood of a row's targets given the network's outputs f (k,).

    All sums are over rows, each times its weight. :math:`\Lambda_i` is the Hessian of row i's
    negative log-likelihood with respect to its outputs, at noise scale 1.
    """

    #: Whether there is a noise whose scale may be tuned.
    noisy: bool

    @abstractmethod
    def loss(self, outputs: Tensor, targets: Tensor, weights: Tensor) -> float:
        """Sum of the negative log-likelihoods at noise scale 1, without constants."""

    @abstractmethod
    def root(self, outputs: Tensor, weights: Tensor) -> Tensor:
        r"""Roots R (n, k, r) with :math:`R_i R_i^T = w_i \Lambda_i`."""

    @abstractmethod
    def hessian_sum(self, outputs: Tensor, weights: Tensor) -> Tensor:
        r"""Sum :math:`\sum_i w_i \Lambda_i`: (k, k)."""

    @abstractmethod
    def hessian_diagonal(self, outputs: Tensor, weights: Tensor) -> Tensor:
        r"""Diagonals of :math:`w_i \Lambda_i`: (n, k)."""

    @abstractmethod
    def log_likelihood(self, loss: float, scale: float, counts: Counts) -> float:
        """Log-likelihood of all rows, given their `loss`, at a scale of the noise."""


class Counts:
    """How much data there is.

    Attributes
    ----------
    rows, weight, log_weight : float
        Number of rows, sum of their weights, and of the logarithms of these.
    """

    def __init__(self) -> None:
        self.rows, self.weight, self.log_weight = 0, 0.0, 0.0

    def add(self, weights: Tensor) -> None:
        """Count rows with their weights (n,)."""
        self.rows += len(weights)
        self.weight += float(weights.sum())
        self.log_weight += float(weights.log().sum())


@final
class Gaussian(Likelihood):
    r"""Independent normal noise: output p of row i has variance :math:`c \rho_p / w_i`.

    Parameters
    ----------
    variances : Tensor of shape (k,)
        :math:`\rho`; the scale c multiplies all.
    """

    noisy = True

    def __init__(self, variances: Tensor) -> None:
        self.variances = variances

    def loss(self, outputs: Tensor, targets: Tensor, weights: Tensor) -> float:
        """Half the sum of squared errors, each over its variance."""
        squares = (targets - outputs).square() / self.variances
        return 0.5 * float((weights[:, None] * squares).sum())

    def root(self, outputs: Tensor, weights: Tensor) -> Tensor:
        """Diagonal roots."""
        return torch.diag_embed(self.hessian_diagonal(outputs, weights).sqrt())

    def hessian_sum(self, outputs: Tensor, weights: Tensor) -> Tensor:
        """Diagonal."""
        return torch.diag(weights.sum() / self.variances)

    def hessian_diagonal(self, outputs: Tensor, weights: Tensor) -> Tensor:
        """Weights over variances."""
        return weights[:, None] / self.variances

    def log_likelihood(self, loss: float, scale: float, counts: Counts) -> float:
        """Log density of all targets."""
        k = len(self.variances)
        constant = counts.rows * float((2 * math.pi * scale * self.variances).log().sum())
        return -loss / scale - 0.5 * (constant - k * counts.log_weight)


@final
class Categorical(Likelihood):
    """Classes with the softmax of the outputs as probabilities."""

    noisy = False

    def loss(self, outputs: Tensor, targets: Tensor, weights: Tensor) -> float:
        """Cross-entropy, given the number of each row's class."""
        log_p = outputs.log_softmax(1).gather(1, targets[:, None])[:, 0]
        return -float((weights * log_p).sum())

    def root(self, outputs: Tensor, weights: Tensor) -> Tensor:
        r"""Roots of rank k - 1 of :math:`diag(p) - p p^T`.

        :math:`diag(\sqrt p) U`, where the columns of U are an orthonormal basis of all that is
        orthogonal to :math:`\sqrt p`, from the reflection that takes that to the first axis.
        """
        v = outputs.softmax(1).sqrt()
        u = v.clone()
        u[:, 0] += 1.0  # v has no negative entry, so this does not cancel
        U = torch.eye(v.shape[1], dtype=v.dtype, device=v.device) - (
            u[:, :, None] * u[:, None, :] / (1.0 + v[:, :1, None])
        )
        return (weights.sqrt()[:, None] * v)[:, :, None] * U[:, :, 1:]

    def hessian_sum(self, outputs: Tensor, weights: Tensor) -> Tensor:
        """Sum without the Hessian of any row."""
        p = outputs.softmax(1)
        return torch.diag(weights @ p) - (weights[:, None] * p).mT @ p

    def hessian_diagonal(self, outputs: Tensor, weights: Tensor) -> Tensor:
        """Variances of the classes' indicators."""
        p = outputs.softmax(1)
        return weights[:, None] * p * (1 - p)

    def log_likelihood(self, loss: float, scale: float, counts: Counts) -> float:
        """Minus the loss."""
        return -loss
