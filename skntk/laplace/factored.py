"""Kronecker-factored and diagonal posteriors: independent coordinates, layer by layer."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from skntk.core import require
from skntk.finite.gauss_newton import Outer, gauss_newton_diagonal
from skntk.finite.layers import AffineLayer, Layer
from skntk.finite.uses import per_row_products
from skntk.laplace.likelihoods import Likelihood
from skntk.laplace.posterior import Curvature, Posterior, by_group, normal
from skntk.laplace.tangent import Rows, Tangent, layer_shape
from skntk.solvers import backends

#: Parameters of a layer without Kronecker factors whose block is formed.
_MOST = 4096


@dataclass
class Basis:
    r"""Coordinates of one layer's matrix V (m, d): :math:`Q_G^T V Q_A`; None for no rotation."""

    G: Tensor | None = None
    A: Tensor | None = None

    def of(self, layer: Layer) -> tuple[Tensor, Tensor | None]:
        """Jacobian in these coordinates: B (k, n or 1, m) and a (n, d), or (k, n, m d) and None."""
        if not isinstance(layer, AffineLayer):
            J = Outer.of(layer).B
            if self.G is None or self.A is None:
                return J, None
            J = J.unflatten(2, (len(self.G), len(self.A)))
            return (self.G.mT @ J @ self.A).flatten(2), None
        a = _turned(layer.columns(), self.A)
        if layer.identity:
            B = Outer.of(layer).B if self.G is None else self.G[:, None]
            return B, a[:, 0]
        B = _turned(layer.B, self.G)
        if layer.a.shape[1] > 1:
            return per_row_products(B, a).flatten(2), None
        return B[:, :, 0], a[:, 0]

    def back(self, V: Tensor) -> Tensor:
        """Matrices (s, m, d) from their coordinates."""
        V = V if self.G is None else self.G @ V
        return V if self.A is None else V @ self.A.mT


def _turned(x: Tensor, Q: Tensor | None) -> Tensor:
    return x if Q is None else x @ Q


class FactoredCurvature(Curvature):
    """Base of both: eigenvalues of H in a basis of each layer."""

    @abstractmethod
    def spectrum(self) -> tuple[list[Basis], list[Tensor]]:
        """Basis of each layer, and the eigenvalues (m, d) in it."""

    def posterior(self, precision: Tensor, groups: Tensor, scale: float) -> FactoredPosterior:
        """Add the prior to the eigenvalues; a layer's coordinates share it, or are not turned."""
        bases, values = self.spectrum()
        flat = torch.cat([v.flatten() for v in values]) / scale
        return FactoredPosterior(self.tangent, bases, flat, precision, groups)

    def variances(
        self, X: Tensor, precisions: Iterable[float], groups: Tensor, scale: float
    ) -> Iterator[Tensor]:
        """In one sweep for all of them."""
        ones = torch.ones(1, dtype=torch.float64, device=groups.device)
        found = [self.posterior(tau * ones, groups, scale) for tau in precisions]
        blocks = [posteriors_variances(found, rows) for rows in self.tangent.blocks(X)]
        yield from torch.cat(blocks, 1)

    def rough_spectrum(self) -> Tensor:
        """The eigenvalues."""
        return torch.cat([v.flatten() for v in self.spectrum()[1]])


@final
class DiagonalCurvature(FactoredCurvature):
    """The diagonal of H."""

    def __init__(self, tangent: Tangent, likelihood: Likelihood) -> None:
        super().__init__(tangent, likelihood)
        like = next(iter(tangent.weights.values()))
        self.values = [like.new_zeros(layer_shape(layer)) for layer in tangent.layers]

    def add(self, rows: Rows, weights: Tensor) -> None:
        """Add the rows' diagonals."""
        root: Tensor | None = None
        for layer, total in zip(rows.layers, self.values, strict=True):
            if isinstance(layer, AffineLayer) and layer.identity:
                squares = self.likelihood.hessian_diagonal(rows.outputs, weights)
                total += squares.mT @ layer.columns()[:, 0].square()
                continue
            if root is None:
                root = self.likelihood.root(rows.outputs, weights)
            total += gauss_newton_diagonal(Outer.of(layer), root).view(total.shape)

    def state(self) -> dict[str, Any]:
        """The diagonal."""
        return {"values": [v.clone() for v in self.values]}

    def load(self, state: dict[str, Any]) -> None:
        """The diagonal."""
        self.values = [v.clone() for v in state["values"]]

    def spectrum(self) -> tuple[list[Basis], list[Tensor]]:
        """The diagonal as it is."""
        return [Basis() for _ in self.values], self.values


class NotOneProductError(ValueError):
    """What was taken for one Kronecker product is none on these rows."""


@final
class KroneckerCurvature(FactoredCurvature):
    r"""Kronecker factors :math:`G \otimes A` of each weight; each bias a block of its own.

    G is summed over rows, A their mean (Martens & Grosse 2015; Ritter, Botev & Barber 2018).
    Parameters without a rule have their block of H formed. With `exact` the one layer's outputs
    must be the network's, on all rows: with normal noise the product is then the whole H.
    """

    def __init__(self, tangent: Tangent, likelihood: Likelihood, *, exact: bool = False) -> None:
        super().__init__(tangent, likelihood)
        self.exact = exact
        like = next(iter(tangent.weights.values()))
        shapes = [layer_shape(layer) for layer in tangent.layers]
        for layer, (m, _) in zip(tangent.layers, shapes, strict=True):
            if not isinstance(layer, AffineLayer) and m > _MOST:
                raise ValueError(
                    f"curvature='kron' has no factors for {layer.names[0]!r} of {m} numbers, which "
                    "no rule of the capture explains: leave it out by parameters=, or pass "
                    "curvature='diag'."
                )
        numbers = 2 * sum(m * m + d * d for m, d in shapes)
        require(
            like.element_size() * numbers,
            "a Kronecker-factored posterior",
            "Pass curvature='diag', or a subset of the parameters.",
            like.device,
        )
        # a bias, where it stands behind the weight of its layer, has the same G
        layers = tangent.layers
        self._shares = [
            i > 0 and isinstance(x, AffineLayer) and x.B is getattr(layers[i - 1], "B", None)
            for i, x in enumerate(layers)
        ]
        self.G = [
            like.new_zeros(0 if shared else m, m)
            for (m, _), shared in zip(shapes, self._shares, strict=True)
        ]
        self.A = [like.new_zeros(d, d) for _, d in shapes]
        self.weight = 0.0
        self._made: tuple[list[Basis], list[Tensor]] | None = None

    def add(self, rows: Rows, weights: Tensor) -> None:
        """Add the rows' second moments."""
        if self.exact and not all(getattr(layer, "identity", False) for layer in rows.layers):
            raise NotOneProductError(
                "curvature='full' was kept as one Kronecker product, since the outputs of the last "
                "layer were the network's; on these rows they are not. Pass all rows to fit at "
                "once, or curvature='kron'."
            )
        self.weight += float(weights.sum())
        self._made = None
        root: Tensor | None = None
        of = zip(rows.layers, self.tangent.layers, self.G, self.A, self._shares, strict=True)
        for layer, known, G, A, shared in of:
            if isinstance(layer, AffineLayer):
                a = layer.columns() * (weights / layer.a.shape[1]).sqrt()[:, None, None]
                a = a.flatten(0, 1)
                A.addmm_(a.mT, a)
                if shared:
                    continue
                if layer.identity:
                    G += self.likelihood.hessian_sum(rows.outputs, weights)
                    continue
                B = layer.B
            else:
                if layer.names != known.names or type(layer) is not type(known):
                    raise ValueError(
                        "curvature='kron' needs a network that runs the same operations on all "
                        "rows; pass curvature='diag' or 'full'."
                    )
                A += weights.sum()
                B = Outer.of(layer).B[:, :, None]
            if root is None:
                root = self.likelihood.root(rows.outputs, weights)
            each = B.expand(-1, len(root), -1, -1).transpose(0, 1).flatten(2)
            g = torch.bmm(root.mT, each).view(-1, B.shape[3])
            G.addmm_(g.mT, g)

    def state(self) -> dict[str, Any]:
        """The factors."""
        G, A = ([f.clone() for f in factors] for factors in (self.G, self.A))
        return {"G": G, "A": A, "weight": self.weight, "exact": self.exact}

    def load(self, state: dict[str, Any]) -> None:
        """The factors."""
        self.G, self.A = ([f.clone() for f in state[name]] for name in "GA")
        self.weight, self.exact, self._made = state["weight"], state["exact"], None

    def spectrum(self) -> tuple[list[Basis], list[Tensor]]:
        """Eigendecompositions of all factors, once."""
        if self._made is None:
            bases, values = [], []
            lg, Qg = torch.zeros(0), torch.zeros(0, 0)
            for G, A, shared in zip(self.G, self.A, self._shares, strict=True):
                if not shared:
                    lg, Qg = _eigh(G)
                la, Qa = _eigh(A / self.weight)
                bases.append(Basis(Qg, Qa))
                values.append(lg[:, None] * la)
            self._made = bases, values
        return self._made


def _eigh(M: Tensor) -> tuple[Tensor, Tensor]:
    values, vectors = backends.for_device(M.device).eigh_(M.clone())
    return values.clamp_min(0), vectors


@final
class FactoredPosterior(Posterior):
    """Independent coordinates in a basis of each layer.

    Parameters
    ----------
    tangent : Tangent
        The network.
    bases : list of Basis
        Of each layer.
    values : Tensor of shape (P,)
        Precision of the coordinates by the data.
    precision, groups : Tensor
        Of the prior, as of `Curvature.posterior`.
    """

    def __init__(
        self,
        tangent: Tangent,
        bases: list[Basis],
        values: Tensor,
        precision: Tensor,
        groups: Tensor,
    ) -> None:
        super().__init__(tangent)
        self.bases = bases
        T = precision[groups]
        total = values + T
        self.log_det = float(total.log().sum())
        self._effective = by_group(values / total, groups, len(precision))
        self._slope = -float((values * T / total.square()).sum())
        shapes = [layer_shape(layer) for layer in tangent.layers]
        parts = (1 / total).split([m * d for m, d in shapes])
        self.variances = [v.view(s) for v, s in zip(parts, shapes, strict=True)]

    @property
    def effective(self) -> Tensor:
        """What the data add to each coordinate, as a share."""
        return self._effective

    @property
    def slope(self) -> float:
        """The derivative of these shares."""
        return self._slope

    def variance_of(self, rows: Rows) -> Tensor:
        """Variances (n, k), without the covariances."""
        return posteriors_variances([self], rows)[0]

    def covariance_of(self, rows: Rows) -> Tensor:
        """Covariances of the outputs of each row."""
        n, k = rows.outputs.shape
        total = rows.outputs.new_zeros(n, k, k)
        for layer, basis, V in zip(rows.layers, self.bases, self.variances, strict=True):
            B, a = basis.of(layer)
            each = V.flatten() if a is None else a.square() @ V.mT  # (m d,) or (n, m)
            half = (B * each.sqrt()).transpose(0, 1)  # (n, k, m)
            total += half @ half.mT
        return total

    def joint(self, X: Tensor) -> Tensor:
        """Covariance of all outputs of all rows."""
        k, n = self.tangent.n_outputs, len(X)
        self.tangent.require_jacobian(n)
        blocks = []
        for rows in self.tangent.blocks(X):
            parts = []
            for layer, basis, V in zip(rows.layers, self.bases, self.variances, strict=True):
                B, a = basis.of(layer)
                J = Outer(B.expand(-1, len(rows.outputs), -1), a).written()
                parts.append(J * V.flatten().sqrt())
            blocks.append(torch.cat(parts, 2))
        half = torch.cat(blocks, 1).flatten(0, 1)
        return (half @ half.mT).view(k, n, k, n)

    def draw(self, n: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Draw each coordinate."""
        parts = []
        for basis, V in zip(self.bases, self.variances, strict=True):
            parts.append(basis.back(normal((n, *V.shape), generator, V) * V.sqrt()).flatten(1))
        return self.tangent.by_name(torch.cat(parts, 1))


def posteriors_variances(posteriors: list[FactoredPosterior], rows: Rows) -> Tensor:
    """Variances (s, n, k) of captured rows under s posteriors of one curvature."""
    total = rows.outputs.new_zeros(len(posteriors), *rows.outputs.shape)
    for i, layer in enumerate(rows.layers):
        B, a = posteriors[0].bases[i].of(layer)
        B, a = B.square(), None if a is None else a.square()
        for found, posterior in zip(total, posteriors, strict=True):
            V = posterior.variances[i]
            if a is None:
                found += (B @ V.flatten()).mT
            elif B.shape[1] == 1:  # for all rows
                found += a @ V.mT @ B[:, 0].mT
            else:
                found += torch.einsum("pnm,nm->np", B, a @ V.mT)
    return total
