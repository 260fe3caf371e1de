"""Covariance of a gradient-flow ensemble: many wide networks, each trained for a time."""

import torch

from skntk.solvers import checks
from skntk.solvers.spectral import Spectral


def ensemble_covariance(
    tangent: Spectral,
    Theta_TD: torch.Tensor,
    K_DD: torch.Tensor,
    K_TD: torch.Tensor,
    K_TT: torch.Tensor,
    *,
    time: float,
    alpha: float,
    n_outputs: int,
) -> torch.Tensor:
    """Covariance over initializations of networks whose layers are all trained for a time.

    ``K_TT + B' K_DD B - B' K_DT - K_TD B`` with ``B = P(t) Theta_DT``: Lee et al. (2019), eq. 16.
    It can exceed the prior ``K_TT``. Each output has this covariance, independent of the others.

    Parameters
    ----------
    tangent : Spectral
        Decomposition of the tangent kernel between training rows, n x n.
    Theta_TD : torch.Tensor
        Tangent kernel between m test rows and the training rows, shape (m, n).
    K_DD, K_TD : torch.Tensor
        NNGP kernel between training rows (n, n), not regularised, and between test and training
        rows (m, n).
    K_TT : torch.Tensor
        NNGP kernel between test rows: shape (m, m) for the covariance, (m,) its diagonal for the
        variances alone.
    time : float
        Training time, >= 0, may be infinite; see `Spectral.time_coefficients`.
    alpha : float
        Ridge of the tangent kernel, in its units.
    n_outputs : int
        Number of outputs k in the loss 1/(2 n k).

    Returns
    -------
    torch.Tensor
        Shape (m, m) or (m,), like `K_TT`; variances below 0 by rounding are 0.

    Raises
    ------
    NotPositiveDefiniteError, ValueError
        As `Spectral.time_coefficients`.

    Examples
    --------
    >>> import torch
    >>> from skntk.solvers import Spectral, ensemble_covariance
    >>> K = torch.tensor([[2.0, 1.0], [1.0, 2.0]], dtype=torch.float64)
    >>> tangent = Spectral.from_gram(3 * K)
    >>> ensemble_covariance(tangent, 3 * K, K, K, K.diagonal(), time=0.0, alpha=0.0, n_outputs=1)
    tensor([2., 2.], dtype=torch.float64)
    """
    n = tangent.n_samples
    checks.matrix(K_DD, "K_DD", n)
    K_DT = checks.matrix(K_TD.mT, "K_TD transposed", n)
    B = _flow(tangent, Theta_TD, time, alpha, n_outputs)
    # B' K_DD B - 2 B' K_DT, symmetrised below: one product with B instead of two.
    return _reduce(K_TT, B, (K_DD @ B).sub_(K_DT, alpha=2.0))


def readout_ensemble_covariance(
    nngp: Spectral,
    K_TD: torch.Tensor,
    K_TT: torch.Tensor,
    *,
    time: float,
    alpha: float,
    n_outputs: int,
) -> torch.Tensor:
    """Covariance over initializations of networks whose last layer alone is trained for a time.

    ``K_TT - K_TD P(2t) K_DT``: Lee et al. (2019), eq. 15; at infinite time the GP posterior.

    Parameters
    ----------
    nngp : Spectral
        Decomposition of the NNGP kernel between training rows, n x n.
    K_TD, K_TT, time, alpha, n_outputs
        As in `ensemble_covariance`.

    Returns
    -------
    torch.Tensor
        Shape (m, m) or (m,), like `K_TT`; variances below 0 by rounding are 0.

    Raises
    ------
    NotPositiveDefiniteError, ValueError
        As `Spectral.time_coefficients`.

    Examples
    --------
    >>> import math, torch
    >>> from skntk.solvers import Spectral, readout_ensemble_covariance
    >>> K = torch.eye(2, dtype=torch.float64)
    >>> nngp = Spectral.from_gram(K)
    >>> readout_ensemble_covariance(nngp, K, K.diagonal(), time=math.inf, alpha=1.0, n_outputs=1)
    tensor([0.5000, 0.5000], dtype=torch.float64)
    """
    B = _flow(nngp, K_TD, 2.0 * time, alpha, n_outputs)
    return _reduce(K_TT, B, K_TD.mT.neg())


def _flow(
    spectral: Spectral, cross: torch.Tensor, time: float, alpha: float, n_outputs: int
) -> torch.Tensor:
    """P(t) applied to the kernel between training and test rows, (n, m)."""
    return spectral.time_coefficients(cross.mT, [time], alpha, n_outputs)[0]


def _reduce(K_TT: torch.Tensor, B: torch.Tensor, inner: torch.Tensor) -> torch.Tensor:
    """``K_TT + B' inner``, symmetrised, or its diagonal where `K_TT` is one."""
    m = B.shape[1]
    if K_TT.shape == (m,):
        return torch.clamp(K_TT + (B * inner).sum(0), min=0.0)
    if K_TT.shape != (m, m):
        raise ValueError(f"K_TT has shape {tuple(K_TT.shape)}; pass ({m}, {m}) or ({m},).")
    change = B.mT @ inner
    covariance = K_TT + 0.5 * (change + change.mT)
    covariance.diagonal().clamp_(min=0.0)
    return covariance
