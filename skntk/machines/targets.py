"""Targets centred and scaled by weighted moments, and predictions carried back."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Targets:
    """Standardized targets and what standardized them.

    Attributes
    ----------
    Z : Tensor of shape (n, k)
        Centred and scaled targets; a constant target is all zeros.
    mean, scale : Tensor of shape (k,)
        Weighted mean, and weighted standard deviation (1 for a constant target).
    flat : bool
        Whether y had no axis of outputs.
    """

    Z: Tensor
    mean: Tensor
    scale: Tensor
    flat: bool

    @classmethod
    def of(cls, y: np.ndarray, weights: Tensor) -> Targets:
        """Standardize y of shape (n,) or (n, k) with weights of mean 1."""
        Y = torch.as_tensor(y.reshape(len(y), -1), dtype=torch.float64, device=weights.device)
        share = (weights / weights.sum())[:, None]
        mean = (share * Y).sum(0)
        centred = Y - mean
        largest = centred.abs().amax(0)
        unit = torch.where(largest > 0, largest, 1.0)  # keeps squares in range
        scale = unit * (share * (centred / unit).square()).sum(0).sqrt()
        tiny = 10 * torch.finfo(torch.float64).eps * Y.abs().amax(0)
        constant = scale <= tiny
        scale = torch.where(constant, 1.0, scale)
        Z = torch.where(constant, 0.0, centred) / scale
        return cls(Z, mean, scale, y.ndim == 1)

    def back(self, F: Tensor) -> np.ndarray:
        """Predictions (..., m, k) in the units and shape of y."""
        return self._shaped(F * self.scale + self.mean)

    def back_variance(self, V: Tensor) -> np.ndarray:
        """Variances or covariances (..., k) in the squared units of y."""
        return self._shaped(V * self.scale.square())

    def _shaped(self, A: Tensor) -> np.ndarray:
        return (A[..., 0] if self.flat else A).cpu().numpy()
