"""Orthogonal gradient descent: the gradient without its part along stored gradients."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from skntk.continual.gradients import Part
from skntk.core import require
from skntk.solvers import CholeskyFactor, cholesky

#: Gradients shorter than that, relative to the longest, are not stored.
_SHORT = 1e-7
#: Products are in float64 where the relative error of the projection would be above this one.
_ERROR = 1e-4


class StoredDirections:
    r"""Directions in which a network may not move, and the projection away from them.

    With stored gradients S (N x P), :math:`g - S^T (S S^T)^{-1} S g` takes two products with the
    factors of S and two triangular solves of size N: :math:`O(N (P + N))` operations a step, where
    the memory is that of the factors, :math:`O(N (m + d))` a layer of m x d weights, and the Gram
    matrix of N x N.

    Directions may be combinations of the gradients that are stored with them (`components`).

    Examples
    --------
    >>> import torch
    >>> from skntk.continual.gradients import stored_gradients
    >>> from skntk.continual.projection import StoredDirections
    >>> net = torch.nn.Linear(3, 1, bias=False)
    >>> stored = StoredDirections()
    >>> stored.add(stored_gradients(net, torch.eye(3)[:2], torch.ones(2, 1) > 0))
    >>> vector = {"weight": torch.tensor([[1.0, 2.0, 3.0]])}
    >>> stored.project(vector)
    >>> vector["weight"]
    tensor([[0., 0., 3.]])
    """

    def __init__(self) -> None:
        self.parts: list[Part] = []
        #: For each addition: how many gradients, and the matrix that combines them or None.
        self._blocks: list[tuple[int, Tensor | None]] = []
        #: Products of directions of unit length, and the inverses of their lengths.
        self._gram: Tensor | None = None
        self._units: Tensor | None = None
        self._factor: CholeskyFactor | None = None

    def __len__(self) -> int:
        return 0 if self._gram is None else len(self._gram)

    @property
    def nbytes(self) -> int:
        """Memory of all that is stored."""
        mixing = [m for _, m in self._blocks if m is not None]
        own = [] if self._gram is None else [self._gram, self._gram]  # the factor is as large
        return sum(part.nbytes for part in self.parts) + sum(x.nbytes for x in mixing + own)

    def require(self, n: int) -> None:
        """Raise MemoryBudgetError unless the Gram matrix has room for n more gradients."""
        total = n + len(self)
        what = f"the Gram matrix of {total} stored gradients"
        require(16 * total**2, what, "Pass a smaller memory_size.")

    def add(self, parts: Sequence[Part], n_components: int | None = None) -> None:
        """Store the gradients of more points.

        Parameters
        ----------
        parts : sequence of Part
            Of all layers.
        n_components : int, optional
            Keep that many of their principal directions (Doan et al. 2021, algorithm 1) instead of
            all gradients.
        """
        n = len(parts[0])
        self.require(n)
        own = _total([part.gram(part) for part in parts])
        mixing = _kept(own) if n_components is None else _components(own, n_components)
        if mixing is not None and mixing.shape[1] == 0:
            return
        if self.parts:
            cross = _total([old.gram(new) for old, new in zip(self.parts, parts, strict=True)])
            self.parts = [old.joined(new) for old, new in zip(self.parts, parts, strict=True)]
        else:
            cross = own.new_zeros(0, n)
            self.parts = list(parts)
        if mixing is not None:
            own, cross = mixing.mT @ own @ mixing, cross @ mixing
        cross = self._mixed(cross)
        self._blocks = [*self._blocks, (n, mixing)]
        units = own.diagonal().rsqrt()  # or one long gradient would hide the others from jitter
        own = units[:, None] * own * units
        if self._gram is None or self._units is None:
            self._gram, self._units = own, units
        else:
            cross = self._units[:, None] * cross * units
            upper, lower = torch.cat([self._gram, cross], 1), torch.cat([cross.mT, own], 1)
            self._gram, self._units = torch.cat([upper, lower]), torch.cat([self._units, units])
        self._factor = cholesky(self._gram, 0.0)

    def project(self, vector: dict[str, Tensor]) -> None:
        """Take from a vector, in place, its part in the span of the directions.

        Parameters
        ----------
        vector : dict of str to Tensor
            By the names of parameters.
        """
        if self._factor is None or self._units is None:
            return
        # Where directions nearly depend on each other rounding of their combination is amplified.
        eps = torch.finfo(next(iter(vector.values())).dtype).eps
        wide = eps / float(self._factor.pivots.min()) ** 0.5 > _ERROR

        def parts() -> Iterator[tuple[Part, dict[str, Tensor]]]:
            for part in self.parts:
                own = {name: vector[name] for name in part.names}
                if wide:
                    part, own = part.double(), {name: v.double() for name, v in own.items()}
                yield part, own

        products = _total([part.dot(own) for part, own in parts()]).double()
        u = self._factor.solve((self._units * self._mixed(products))[:, None])[:, 0]
        u = self._unmixed(self._units * u)
        for part, own in parts():
            for name, value in part.combine(u.to(own[part.names[0]])).items():
                vector[name].copy_(own[name].sub_(value))

    def grow(self, names: Sequence[str], n_new: int) -> None:
        """Tell that parameters have got more rows, on which the stored gradients do not depend."""
        self.parts = [part.grown(names, n_new) for part in self.parts]

    def _mixed(self, u: Tensor) -> Tensor:
        """From products with gradients to products with directions, along the first axis."""
        pieces = u.split([n for n, _ in self._blocks]) if self._blocks else ()
        mixed = [
            piece if mixing is None else mixing.mT @ piece
            for piece, (_, mixing) in zip(pieces, self._blocks, strict=True)
        ]
        return torch.cat(mixed) if mixed else u

    def _unmixed(self, u: Tensor) -> Tensor:
        """From coefficients of directions to those of gradients."""
        sizes = [n if mixing is None else mixing.shape[1] for n, mixing in self._blocks]
        return torch.cat(
            [
                piece if mixing is None else mixing @ piece
                for piece, (_, mixing) in zip(u.split(sizes), self._blocks, strict=True)
            ]
        )


def _total(terms: Sequence[Tensor]) -> Tensor:
    total = terms[0].clone()
    for term in terms[1:]:
        total += term
    return total


def _kept(gram: Tensor) -> Tensor | None:
    """Matrix that leaves out gradients that are zero; None if none is."""
    lengths = gram.diagonal().clamp_min(0).sqrt()
    long = lengths > _SHORT * lengths.max()
    if bool(long.all()):
        return None
    return torch.eye(len(gram), dtype=gram.dtype, device=gram.device)[:, long]


def _components(gram: Tensor, n_components: int) -> Tensor:
    """Coefficients (N, r) of the principal directions of gradients, of unit length."""
    values, vectors = torch.linalg.eigh(gram)
    values, vectors = values.flip(0)[:n_components], vectors.flip(1)[:, :n_components]
    good = values > len(gram) * torch.finfo(gram.dtype).eps * values[0].clamp_min(0)
    return vectors[:, good] / values[good].sqrt()
