r"""The NTK overlap of tasks, and the forgetting that it predicts (Doan et al. 2021).

With a constant kernel and squared loss, learning task :math:`\tau` moves the outputs at the rows of
an earlier task :math:`\sigma` by

.. math::
    D^{\sigma \to \tau} = U_\sigma S_\sigma\, O^{\sigma \tau}\, S_\tau g(S_\tau^2)\,
    U_\tau^T r_\tau, \qquad O^{\sigma \tau} = V_\sigma^T V_\tau,

where :math:`J_\tau = U_\tau S_\tau V_\tau^T` are the Jacobians at the rows, :math:`r_\tau` the
residuals before the task is learnt, and :math:`g(s^2) = 1 / s^2` for training to convergence, or
:math:`(1 - (1 - \eta s^2)^m) / s^2` for m steps. All of it follows from kernels between rows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

#: What training makes of eigenvalues of the kernel: residuals r turn to coefficients g(K) r.
Share = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class TaskSpectrum:
    """Leading singular values of the Jacobians at a task's rows, and their left vectors.

    Attributes
    ----------
    U : Tensor of shape (n, r)
        Left singular vectors.
    s : Tensor of shape (r,)
        Singular values, the largest first; those that are zero to rounding are left out.
    """

    U: Tensor
    s: Tensor

    @classmethod
    def of(cls, K: Tensor, n_components: int | None = None) -> TaskSpectrum:
        """Decompose the kernel (n, n) between the rows of a task."""
        if n_components is not None and (int(n_components) != n_components or n_components < 1):
            raise ValueError(
                f"n_components={n_components!r} must be an integer of at least 1, or None."
            )
        values, vectors = torch.linalg.eigh(K.double())
        values, vectors = values.flip(0), vectors.flip(1)
        if n_components is not None:
            values, vectors = values[: int(n_components)], vectors[:, : int(n_components)]
        good = values > len(K) * torch.finfo(values.dtype).eps * values[0]
        return cls(vectors[:, good], values[good].sqrt())

    def overlap(self, other: TaskSpectrum, cross: Tensor) -> Tensor:
        r"""Return :math:`O = V^T V'`, (r, r'), given the kernel (n, n') between the rows.

        Its singular values are the cosines of the principal angles between the two tasks.
        """
        inner = self.U.mT @ cross.double() @ other.U
        return inner / self.s[:, None] / other.s

    def drift(
        self,
        other: TaskSpectrum,
        overlap: Tensor,
        residuals: Tensor,
        g: Share,
    ) -> Tensor:
        """By how much learning another task moves the outputs at the rows of this one.

        Parameters
        ----------
        other : TaskSpectrum
            Of the task that is learnt.
        overlap : Tensor of shape (r, r')
            Of both.
        residuals : Tensor of shape (n', k)
            Targets of that task, minus the outputs before it is learnt.
        g : callable
            What training makes of an eigenvalue of the kernel, as above.

        Returns
        -------
        Tensor of shape (n, k)
        """
        learnt = (other.s * g(other.s.square()))[:, None] * (other.U.mT @ residuals)
        return self.U @ (self.s[:, None] * (overlap @ learnt))


def mean_squared_cosine(overlap: Tensor) -> float:
    """Mean squared cosine of the principal angles between two tasks: from 0 to 1."""
    return float(overlap.square().sum()) / max(min(overlap.shape), 1)


def ntk_overlap(
    K: Tensor | np.ndarray,
    K_cross: Tensor | np.ndarray,
    K_other: Tensor | np.ndarray,
    *,
    n_components: int | None = None,
) -> Tensor:
    r"""Return the NTK overlap matrix of two tasks.

    Parameters
    ----------
    K, K_cross, K_other : Tensor or ndarray of shape (n, n), (n, m), (m, m)
        Kernels between the rows of the first task, of both, and of the second.
    n_components : int, optional
        Leading directions of each that are compared; by default all.

    Returns
    -------
    Tensor of shape (r, r')
        :math:`V^T V'`: products of the right singular vectors of the Jacobians.

    References
    ----------
    Doan et al. (2021), "A theoretical analysis of catastrophic forgetting through the NTK overlap
    matrix", definition 2.

    Examples
    --------
    >>> import torch
    >>> from skntk.continual import ntk_overlap
    >>> X, Z = torch.eye(3)[:2], torch.eye(3)[1:]
    >>> ntk_overlap(X @ X.T, X @ Z.T, Z @ Z.T).square().sum()
    tensor(1., dtype=torch.float64)
    """
    K, K_cross, K_other = (torch.as_tensor(M) for M in (K, K_cross, K_other))
    one, two = TaskSpectrum.of(K, n_components), TaskSpectrum.of(K_other, n_components)
    return one.overlap(two, K_cross)
