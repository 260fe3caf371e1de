"""One eigendecomposition of a kernel matrix: every ridge, every training time, the evidence."""

import math
from dataclasses import dataclass, field
from typing import Any, NamedTuple, final

import torch

from skntk.core.errors import NotPositiveDefiniteError
from skntk.core.memory import require
from skntk.solvers import backends, checks
from skntk.solvers.factor import Factor, LeaveOneOut

_CHUNK = 2**22  # entries of a temporary made from a block of rows


class ProfileEvidence(NamedTuple):
    """Evidence with the signal scale at its maximum.

    Attributes
    ----------
    log_marginal_likelihood : torch.Tensor
        Shape (A, k).
    scale : torch.Tensor
        The signal variance s² that attains it, shape (A, k).
    """

    log_marginal_likelihood: torch.Tensor
    scale: torch.Tensor


@final
@dataclass(frozen=True, eq=False)
class Spectral:
    """Eigendecomposition ``W^½ K W^½ = Q Λ Qᵀ`` of a Gram matrix; made by `from_gram`.

    The noise of row i is ``alpha / w_i``, so the regularised matrix is ``K + alpha W⁻¹`` and its
    inverse ``W^½ Q (Λ + alpha)⁻¹ Qᵀ W^½``: any number of ridges costs a few matrix products.
    Ridges are absolute, in the units of K. ``alphas`` is (A,), each for all k outputs, or (A, k),
    one per output.

    Attributes
    ----------
    eigenvalues : torch.Tensor
        Λ, ascending, none below 0, shape (n,).
    eigenvectors : torch.Tensor
        Q, in columns, shape (n, n).
    weights : torch.Tensor
        w, shape (n,).
    clipped : float
        How far below 0 the lowest eigenvalue lay before it was set to 0, in the units of K.

    References
    ----------
    Rasmussen and Williams (2006), Gaussian Processes for Machine Learning, eqs. 2.30 and 5.12.
    Lee et al. (2019), Wide neural networks of any depth evolve as linear models, eq. 10.

    Examples
    --------
    >>> import torch
    >>> from skntk.solvers import Spectral
    >>> K = torch.tensor([[2.0, 1.0], [1.0, 2.0]], dtype=torch.float64)
    >>> Y = torch.tensor([[4.0], [4.0]], dtype=torch.float64)
    >>> spectral = Spectral.from_gram(K)
    >>> spectral.coefficients(Y, [1.0, 5.0])[:, :, 0].round(decimals=6)
    tensor([[1.0000, 1.0000],
            [0.5000, 0.5000]], dtype=torch.float64)
    """

    eigenvalues: torch.Tensor = field(repr=False)
    eigenvectors: torch.Tensor = field(repr=False)
    weights: torch.Tensor = field(repr=False)
    clipped: float

    @classmethod
    def from_gram(
        cls, K: torch.Tensor, weights: Any = None, *, overwrite: bool = False
    ) -> "Spectral":
        """Decompose a Gram matrix.

        Parameters
        ----------
        K : torch.Tensor
            Symmetric positive semi-definite, shape (n, n), float64.
        weights : array-like, optional
            Positive weight of each row, shape (n,), with mean one if `alpha` is to mean the same
            as without. By default all one.
        overwrite : bool, default=False
            Give up `K`: its memory is used, and what it holds afterwards is undefined.

        Returns
        -------
        Spectral
            On the device of `K`.

        Raises
        ------
        NotPositiveDefiniteError
            If an eigenvalue lies below -1e-4 times the mean of all.
        ValueError
            If shapes do not fit, `K` holds NaN, or a weight is not positive and finite.
        KernelOverflowError
            If `K` holds an infinity.
        MemoryBudgetError
            If the workspace does not fit.
        """
        K = checks.gram(K)
        n = len(K)
        w = torch.ones(n, dtype=K.dtype, device=K.device)
        if weights is not None:
            w = checks.nonnegative(weights, "weights", K.device, positive=True).clone()
            if w.shape != (n,):
                raise ValueError(f"weights has shape {tuple(w.shape)}; pass ({n},).")
        method = backends.for_device(K.device)
        M = K if K.is_contiguous() else K.mT
        copy = not (overwrite and M.is_contiguous())
        need = method.eigh_bytes(n) + (M.nbytes if copy else 0)
        require(need, "the eigendecomposition", "Use tuning=None or fewer rows.", K.device)
        if copy:
            M = M.clone(memory_format=torch.contiguous_format)
        if weights is not None:
            root = w.sqrt()
            M.mul_(root[:, None]).mul_(root)
        eigenvalues, Q = method.eigh_(M)
        mean, lowest = max(float((eigenvalues / n).sum()), 0.0), float(eigenvalues[0])
        if lowest < -checks.INDEFINITE_LIMIT * mean:
            raise NotPositiveDefiniteError(
                f"K ({n} x {n}) has the eigenvalue {lowest:.3g} where their mean is {mean:.3g}: "
                "it is not a kernel matrix. Compute the kernel in float64, or raise alpha and "
                "factor it by Cholesky."
            )
        return cls(eigenvalues.clamp_(min=0.0), Q, w, max(0.0, -lowest))

    @property
    def n_samples(self) -> int:
        """Number of rows n of the matrix."""
        return len(self.eigenvalues)

    def at(self, alpha: float) -> "SpectralFactor":
        """Return the factorization of ``K + alpha W⁻¹``, at no cost.

        Raises
        ------
        NotPositiveDefiniteError
            If that matrix is singular to rounding.
        """
        self._shifted(self._ridges([alpha]))
        return SpectralFactor(self, float(alpha))

    def coefficients(self, Y: torch.Tensor, alphas: Any) -> torch.Tensor:
        """Ridge coefficients ``c = (K + alpha W⁻¹)⁻¹ Y``.

        Parameters
        ----------
        Y : torch.Tensor
            Targets, shape (n, k).
        alphas : array-like
            Ridges, shape (A,) or (A, k), each >= 0.

        Returns
        -------
        torch.Tensor
            Shape (A, n, k).

        Raises
        ------
        NotPositiveDefiniteError
            If a ridge is so small that the matrix is singular to rounding.
        ValueError
            If shapes do not fit, or a ridge is negative or not finite.
        """
        Z = self._project(Y)
        return self._expand(Z / self._shifted(self._ridges(alphas, Y.shape[1])))

    def leave_one_out(self, Y: torch.Tensor, alphas: Any) -> LeaveOneOut:
        """Predict each target from all the others, for every ridge: see `Factor.leave_one_out`.

        Parameters and errors are those of `coefficients`.

        Returns
        -------
        LeaveOneOut
            ``residual`` (A, n, k); ``variance`` (A, n), or (A, n, k) for ridges (A, k).
        """
        precision = self._inverse_diagonal(self._ridges(alphas, Y.shape[1]))
        residual = self.coefficients(Y, alphas) / precision
        per_output = torch.as_tensor(alphas).ndim == 2
        return LeaveOneOut(residual, 1.0 / (precision if per_output else precision[..., 0]))

    def inverse_diagonal(self, alphas: Any) -> torch.Tensor:
        """Return the diagonal of (K + alpha W⁻¹)⁻¹ for every ridge, (A, n)."""
        return self._inverse_diagonal(self._ridges(alphas))[..., 0]

    def log_marginal_likelihood(self, Y: torch.Tensor, alphas: Any) -> torch.Tensor:
        """Log density of each output under N(0, K + alpha W⁻¹), for every ridge, (A, k).

        Parameters and errors are those of `coefficients`.
        """
        quadratic, logdet = self._evidence_terms(Y, alphas)
        return -0.5 * (quadratic + logdet + self.n_samples * math.log(2 * math.pi))

    def profile_log_marginal_likelihood(self, Y: torch.Tensor, alphas: Any) -> ProfileEvidence:
        """Log density of each output under N(0, s² (K + alpha W⁻¹)) at the best s², per output.

        The maximum is at ``s² = yᵀ(K + alpha W⁻¹)⁻¹y / n``. A target that is 0 throughout has
        s² = 0, and the evidence of the smallest positive scale, so that it stays finite.
        Parameters and errors are those of `coefficients`.

        Returns
        -------
        ProfileEvidence
            ``log_marginal_likelihood`` and ``scale``, each (A, k).
        """
        n = self.n_samples
        quadratic, logdet = self._evidence_terms(Y, alphas)
        scale = quadratic / n
        log_scale = scale.clamp(min=torch.finfo(scale.dtype).tiny).log()
        evidence = -0.5 * (n * (1.0 + math.log(2 * math.pi) + log_scale) + logdet)
        return ProfileEvidence(evidence, scale)

    def time_coefficients(
        self, Y: torch.Tensor, times: Any, alpha: Any, n_outputs: int | None = None
    ) -> torch.Tensor:
        """Coefficients of gradient flow from zero: ``f_t(x) = K_xX c_t`` with ``c_t = P(t) Y``.

        The loss is 1/(2 n k) times the weighted sum of squares, and
        ``P(t) = K_reg⁻¹ (I - exp(-K_reg W t / (n k)))`` with ``K_reg = K + alpha W⁻¹``
        (Lee et al. 2019, eq. 10). A learning rate multiplies the time.

        Parameters
        ----------
        Y : torch.Tensor
            What P(t) is applied to, shape (n, m).
        times : array-like
            Shape (T,), each >= 0; infinity gives the ridge coefficients.
        alpha : float or array-like
            Ridge, one number or one per column of `Y`, shape (m,). It may be 0 at finite times.
        n_outputs : int, optional
            k in the loss; by default m.

        Returns
        -------
        torch.Tensor
            Shape (T, n, m).

        Raises
        ------
        NotPositiveDefiniteError
            If a time is infinite and the regularised matrix is singular to rounding.
        ValueError
            If shapes do not fit, or a time or ridge is negative or NaN.
        """
        Z = self._project(Y)
        m = Y.shape[1]
        k = m if n_outputs is None else n_outputs
        times = checks.nonnegative(times, "times", Y.device, inf=True)
        alpha = checks.nonnegative(alpha, "alpha", Y.device)
        if times.ndim != 1:
            raise ValueError(f"times has shape {tuple(times.shape)}; pass (T,).")
        if alpha.shape not in ((), (m,)):
            raise ValueError(f"alpha has shape {tuple(alpha.shape)}; pass one number or ({m},).")
        ridges = alpha.reshape(1, -1)
        if bool(torch.isinf(times).any()):
            self._shifted(ridges)  # refuses a singular matrix
        shifted = self.eigenvalues[:, None] + ridges  # (n, 1 or m)
        filtered = [Z * _flow_filter(shifted, t / (self.n_samples * k)) for t in times]
        return self._expand(torch.stack(filtered) if filtered else Z.new_empty(0, *Z.shape))

    def _ridges(self, alphas: Any, n_outputs: int = 1) -> torch.Tensor:
        """Check ridges and give them as (A, 1) or (A, k)."""
        alphas = checks.nonnegative(alphas, "alphas", self.eigenvalues.device)
        if alphas.ndim == 1:
            return alphas[:, None]
        if alphas.ndim == 2 and alphas.shape[1] == n_outputs:
            return alphas
        raise ValueError(
            f"alphas has shape {tuple(alphas.shape)}; pass (A,), or (A, {n_outputs}) for one "
            "ridge per output."
        )

    def _shifted(self, ridges: torch.Tensor) -> torch.Tensor:
        """Λ + alpha, (A, n, 1 or k); refuse what cannot be told from singular."""
        shifted = self.eigenvalues[:, None] + ridges[:, None, :]
        resolution = checks.EPS * float(self.eigenvalues[-1])
        if shifted.numel() and not float(shifted.min()) > resolution:
            raise NotPositiveDefiniteError(
                f"K + alpha is singular to rounding: its smallest eigenvalue is "
                f"{float(shifted.min()):.3g} and its largest {float(shifted.max()):.3g}. "
                "Raise alpha."
            )
        return shifted

    def _project(self, Y: torch.Tensor) -> torch.Tensor:
        """Qᵀ W^½ Y, (n, k)."""
        checks.matrix(Y, "Y", self.n_samples)
        return self.eigenvectors.mT @ (Y * self.weights.sqrt()[:, None])

    def _expand(self, Z: torch.Tensor) -> torch.Tensor:
        """W^½ Q Z for a stack Z (A, n, k), as one product of (A k, n) with (n, n)."""
        A, n, k = Z.shape
        flat = Z.mT.reshape(A * k, n) @ self.eigenvectors.mT
        return flat.mul_(self.weights.sqrt()).reshape(A, k, n).mT

    def _inverse_diagonal(self, ridges: torch.Tensor) -> torch.Tensor:
        """``w_i Σ_j Q_ij² / (λ_j + alpha)``, (A, n, 1 or k), a block of rows of Q² at a time."""
        inverse = self._shifted(ridges).reciprocal()
        A, n, k = inverse.shape
        inverse = inverse.transpose(0, 1).reshape(n, A * k)
        result = inverse.new_empty(n, A * k)
        rows = max(1, _CHUNK // n)
        for i in range(0, n, rows):
            torch.mm(self.eigenvectors[i : i + rows].square(), inverse, out=result[i : i + rows])
        return result.mul_(self.weights[:, None]).reshape(n, A, k).transpose(0, 1)

    def _evidence_terms(self, Y: torch.Tensor, alphas: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """``yᵀ(K + alpha W⁻¹)⁻¹y``, (A, k), and its log determinant, (A, 1 or k)."""
        Z = self._project(Y)
        shifted = self._shifted(self._ridges(alphas, Y.shape[1]))
        return (Z.square() / shifted).sum(1), shifted.log().sum(1) - self.weights.log().sum()


@final
@dataclass(frozen=True, eq=False)
class SpectralFactor(Factor):
    """``K + alpha W⁻¹`` in the eigenbasis of a `Spectral`; made by `Spectral.at`.

    Attributes
    ----------
    spectral : Spectral
        The decomposition.
    alpha : float
        The ridge, in the units of K.
    """

    spectral: Spectral
    alpha: float

    @property
    def n_samples(self) -> int:
        """Number of rows n of the matrix."""
        return self.spectral.n_samples

    def solve(self, B: torch.Tensor) -> torch.Tensor:
        """Return (K + alpha W⁻¹)⁻¹B, (n, m)."""
        return self.spectral.coefficients(B, [self.alpha])[0]

    def half_solve(self, B: torch.Tensor, *, overwrite: bool = False) -> torch.Tensor:
        """Return (Λ + alpha)^-½ Qᵀ W^½ B, (n, m); `overwrite` changes nothing here."""
        shifted = self.spectral.eigenvalues + self.alpha
        return self.spectral._project(B).mul_(shifted.rsqrt()[:, None])

    def logdet(self) -> torch.Tensor:
        """Return log det(K + alpha W⁻¹), a tensor without axes."""
        shifted = self.spectral.eigenvalues + self.alpha
        return shifted.log().sum() - self.spectral.weights.log().sum()

    def inverse_diagonal(self) -> torch.Tensor:
        """Return the diagonal of (K + alpha W⁻¹)⁻¹, (n,)."""
        return self.spectral._inverse_diagonal(self.spectral._ridges([self.alpha]))[0, :, 0]


def _flow_filter(shifted: torch.Tensor, tau: torch.Tensor) -> torch.Tensor:
    """``(1 - exp(-λ tau)) / λ``, stable for every λ >= 0 and tau in [0, inf]; tau where λ is 0."""
    exponent = shifted * tau
    # Where λ tau < eps the quotient is tau to rounding; that also covers λ = 0 (nan at tau = inf).
    early = ~(exponent > checks.EPS)
    safe = torch.where(early, torch.ones_like(shifted), shifted)
    return torch.where(early, tau, -torch.expm1(-exponent) / safe)
