"""From normal outputs to class probabilities."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor


def probit(mean: Tensor, variance: Tensor) -> Tensor:
    r"""Probabilities :math:`softmax(f_c / \sqrt{1 + \pi v_c / 8})`.

    Parameters
    ----------
    mean, variance : Tensor of shape (n, k)
        Of the outputs.

    References
    ----------
    MacKay (1992), "The evidence framework applied to classification networks", equation 3, for
    two classes; Gibbs (1997) and Daxberger et al. (2021), equation 10, for several.
    """
    return (mean / torch.sqrt(1 + math.pi / 8 * variance)).softmax(1)


def bridge(mean: Tensor, covariance: Tensor) -> Tensor:
    """Mean of the Dirichlet distribution that the Laplace bridge maps the normal one to.

    Parameters
    ----------
    mean : Tensor of shape (n, k)
        Of the outputs.
    covariance : Tensor of shape (n, k, k)
        Of the outputs of each row.

    References
    ----------
    Hobbhahn, Kristiadi & Hennig (2022), "Fast predictive uncertainty for classification with
    Bayesian deep networks", equations 7 and 8, after the correction to a sum of zero (appendix A).
    """
    k = mean.shape[1]
    rows, total = covariance.sum(2), covariance.sum((1, 2))[:, None]
    # where the outputs are certain, so is their sum
    safe = torch.where(total > 0, total, 1.0)
    mean = mean - torch.where(total > 0, rows * mean.sum(1, keepdim=True) / safe, 0.0)
    variance = covariance.diagonal(dim1=1, dim2=2) - torch.where(
        total > 0, rows.square() / safe, 0.0
    )
    variance = variance.clamp_min(torch.finfo(mean.dtype).tiny ** 0.5)
    # alpha_c = (1 - 2/k + e^f_c / k^2 sum_j e^-f_j) / v_c, in logarithms
    grown = mean + torch.logsumexp(-mean, 1, keepdim=True) - 2 * math.log(k)
    rest = 1 - 2 / k
    log_alpha = (
        grown if rest == 0 else torch.logaddexp(grown, torch.full_like(grown, math.log(rest)))
    )
    return (log_alpha - variance.log()).softmax(1)


def entropies(samples: Iterable[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Mean probabilities (n, k), their entropy (n,), and the mean entropy (n,) of the samples.

    Parameters
    ----------
    samples : iterable of Tensor of shape (n, k)
        Outputs under draws of the weights.

    References
    ----------
    Depeweg et al. (2018), "Decomposition of uncertainty in Bayesian deep learning", equation 3.
    """
    number, proba, inner = 0, torch.zeros(()), torch.zeros(())
    for outputs in samples:
        p = outputs.softmax(1)
        number, proba, inner = number + 1, proba.to(p) + p, inner.to(p) + entropy(p)
    proba = proba / number
    return proba, entropy(proba), inner / number


def entropy(p: Tensor) -> Tensor:
    """Entropy (n,) in nats of probabilities (n, k)."""
    return torch.special.entr(p).sum(1)
