"""Curvature from a capture: Kronecker factors, and the loss's Hessian in output space."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from skntk.finite.layers import AffineLayer

LIKELIHOODS = ("gaussian", "categorical")


def check_likelihood(likelihood: str) -> str:
    """Return it, or raise ValueError if it is unknown."""
    if likelihood not in LIKELIHOODS:
        raise ValueError(f"likelihood={likelihood!r} must be one of {LIKELIHOODS}.")
    return likelihood


def output_hessian(outputs: Tensor, likelihood: str) -> Tensor:
    r"""Hessian of a row's negative log-likelihood with respect to its outputs.

    Parameters
    ----------
    outputs : Tensor of shape (n, k)
        Of the network.
    likelihood : {"gaussian", "categorical"}
        Half the squared error, whose Hessian is the identity; or the cross-entropy of a softmax p,
        whose Hessian is :math:`diag(p) - p p^T`.

    Returns
    -------
    Tensor of shape (n, k, k)

    Examples
    --------
    >>> import torch
    >>> from skntk.finite.curvature import output_hessian
    >>> output_hessian(torch.zeros(1, 2), "categorical")
    tensor([[[ 0.2500, -0.2500],
             [-0.2500,  0.2500]]])
    """
    if check_likelihood(likelihood) == "gaussian":
        eye = torch.eye(outputs.shape[1], dtype=outputs.dtype, device=outputs.device)
        return eye.expand(len(outputs), -1, -1)
    p = outputs.softmax(1)
    return torch.diag_embed(p) - p[:, :, None] * p[:, None, :]


@dataclass(frozen=True)
class KroneckerFactors:
    r"""Kronecker-factored curvature of one affine layer: :math:`G \otimes A`.

    Attributes
    ----------
    weight, bias : str or None
        Names of the parameters; a bias is the last column of the layer's matrix (m, d + 1).
    A : Tensor of shape (d + 1, d + 1)
        Mean second moment of the inputs, with the constant that multiplies the bias.
    G : Tensor of shape (m, m)
        Second moment of the output gradients.
    """

    weight: str | None
    bias: str | None
    A: Tensor
    G: Tensor


def kronecker_factors(
    layer: AffineLayer, outputs: Tensor, likelihood: str = "gaussian"
) -> KroneckerFactors:
    r"""Kronecker factors of the generalized Gauss-Newton matrix of one layer.

    With inputs :math:`a_{is}` and output Jacobians :math:`B_{is}` at S positions,

    .. math::
        A = \frac1{n S} \sum_{is} a_{is} a_{is}^T, \qquad
        G = \sum_{is} B_{is}^T \Lambda_i B_{is},

    so that :math:`G \otimes A` approximates the sum over rows of :math:`J_i^T \Lambda_i J_i`. It is
    exact with one row, and for deep linear networks with a Gaussian likelihood, at S = 1.

    Parameters
    ----------
    layer : AffineLayer
        Of a capture; its `B` and `a` are used as they are, its scales enter A.
    outputs : Tensor of shape (n, k)
        Of the network.
    likelihood : {"gaussian", "categorical"}, default="gaussian"
        Whose Hessian :math:`\Lambda` is, see `output_hessian`.

    Returns
    -------
    KroneckerFactors

    References
    ----------
    Martens & Grosse (2015), "Optimizing neural networks with Kronecker-factored approximate
    curvature", equation 1; Grosse & Martens (2016) for convolutions; Eschenhagen et al. (2023),
    equation 7, where this is K-FAC-expand.

    Examples
    --------
    >>> import torch
    >>> from skntk.finite import capture
    >>> from skntk.finite.curvature import kronecker_factors
    >>> found = capture(torch.nn.Linear(3, 2), torch.eye(3))
    >>> factors = kronecker_factors(found.layers[0], found.outputs)
    >>> factors.A.shape, factors.G.shape
    (torch.Size([4, 4]), torch.Size([2, 2]))
    """
    a, g = kronecker_roots(layer, outputs, likelihood)
    return KroneckerFactors(layer.weight, layer.bias, a.T @ a, g.T @ g)


def kronecker_roots(
    layer: AffineLayer, outputs: Tensor, likelihood: str = "gaussian"
) -> tuple[Tensor, Tensor]:
    r"""Matrices a (r, d + 1) and g (q, m) with :math:`A = a^T a, G = g^T g`.

    Fewer rows than columns where the layer is wider than there are rows of data, so that the
    factors themselves need not be formed.

    Parameters
    ----------
    layer, outputs, likelihood
        As of `kronecker_factors`.

    Examples
    --------
    >>> import torch
    >>> from skntk.finite import capture
    >>> from skntk.finite.curvature import kronecker_roots
    >>> found = capture(torch.nn.Linear(300, 1), torch.ones(2, 300))
    >>> [tuple(root.shape) for root in kronecker_roots(found.layers[0], found.outputs)]
    [(2, 301), (2, 1)]
    """
    a = layer.columns().flatten(0, 1)
    B = layer.B
    if check_likelihood(likelihood) == "categorical":
        # diag(p) - p p^T = R R^T with R = diag(sqrt p) - p sqrt(p)^T
        p = outputs.softmax(1)
        R = torch.diag_embed(p.sqrt()) - p[:, :, None] * p.sqrt()[:, None, :]
        B = torch.einsum("npq,pnsm->qnsm", R, B)
    return a / len(a) ** 0.5, B.reshape(-1, B.shape[-1])
