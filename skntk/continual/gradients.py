r"""Gradients of stored points, kept factored layer by layer as the capture finds them.

The gradient of one output at one row is, for an affine layer, :math:`\sum_s B_s a_s^T`: inputs
:math:`a` and output derivatives :math:`B` at S positions. They take S (m + d) numbers where the
gradient takes m d, and products with all stored gradients are matrix products of these.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor, nn

from skntk.finite.capture import sweep
from skntk.finite.layers import AffineLayer, Layer
from skntk.finite.network import NetworkInputs, eval_mode, named_parameters
from skntk.finite.plan import Plan
from skntk.training.net import as_matrix

#: Rows of one sweep.
_ROWS = 64
#: Numbers of gradients that are written out at one time.
_NUMBERS = 2**24


class Part(ABC):
    """Stored gradients of N points with respect to one layer.

    Attributes
    ----------
    names : tuple of str
        Its parameters.
    """

    @property
    @abstractmethod
    def names(self) -> tuple[str, ...]:
        """Its parameters."""

    def __deepcopy__(self, memo: object) -> Part:
        return self  # nothing changes it

    @property
    @abstractmethod
    def nbytes(self) -> int:
        """Memory that it takes."""

    @property
    @abstractmethod
    def size(self) -> int:
        """Number of its parameters' entries."""

    @abstractmethod
    def __len__(self) -> int:
        """Number of points N."""

    @abstractmethod
    def dot(self, vector: Mapping[str, Tensor]) -> Tensor:
        """Products (N,) of all gradients with a vector, given by names."""

    @abstractmethod
    def combine(self, u: Tensor) -> dict[str, Tensor]:
        """Sum of the gradients with coefficients u (N,), by names."""

    @abstractmethod
    def written(self, points: slice) -> Tensor:
        """Some of the gradients, flattened, in float64: (N', size)."""

    @abstractmethod
    def joined(self, other: Part) -> Part:
        """Gradients of this and of more points."""

    @abstractmethod
    def double(self) -> Part:
        """The same in float64."""

    @abstractmethod
    def grown(self, names: Sequence[str], n_new: int) -> Part:
        """The same if the parameters of that name get more rows, on which nothing depended."""

    def gram(self, other: Part) -> Tensor:
        """Products (N, M) of all gradients with those of another part, in float64."""
        chunk = max(1, _NUMBERS // self.size)
        left = [slice(s, s + chunk) for s in range(0, len(self), chunk)]
        right = [slice(s, s + chunk) for s in range(0, len(other), chunk)]
        rows = []
        for at in left:
            one = self.written(at)
            rows.append(torch.cat([one @ other.written(to).mT for to in right], 1))
        return torch.cat(rows)


@final
@dataclass(frozen=True)
class Factored(Part):
    """An affine layer: inputs of the rows, and output derivatives of the points.

    Attributes
    ----------
    frame : AffineLayer
        Names and shapes; without rows.
    a : Tensor of shape (n, S, d)
        Inputs, scaled as they multiply the parameters, with the constant of the bias.
    B : Tensor of shape (N, S, m)
        Derivatives of a point's output by the layer's outputs.
    row : Tensor of int of shape (N,)
        Which row a point's output belongs to.
    """

    frame: AffineLayer
    a: Tensor
    B: Tensor
    row: Tensor

    @property
    def names(self) -> tuple[str, ...]:
        """Weight and bias."""
        return tuple(self.frame.names)

    @property
    def nbytes(self) -> int:
        """Memory of both factors."""
        return self.a.nbytes + self.B.nbytes + self.row.nbytes

    @property
    def size(self) -> int:
        """Entries of the matrix (m, d)."""
        return self.B.shape[2] * self.a.shape[2]

    def __len__(self) -> int:
        return len(self.B)

    @property
    def _one_each(self) -> bool:
        """Whether point i is of row i."""
        n, row = len(self.a), self.row
        return n == len(row) and bool((row == torch.arange(n, device=row.device)).all())

    def dot(self, vector: Mapping[str, Tensor]) -> Tensor:
        """Sum over positions of B · (V a)."""
        Va = self.a @ self.frame.matrix(vector).mT
        if not self._one_each:
            Va = Va[self.row]
        return torch.linalg.vecdot(self.B.flatten(1), Va.flatten(1))

    def combine(self, u: Tensor) -> dict[str, Tensor]:
        """One product of the weighted derivatives with the inputs."""
        B = self.B * u[:, None, None]
        if not self._one_each:
            B = B.new_zeros(len(self.a), *B.shape[1:]).index_add_(0, self.row, B)
        return self.frame.split(B.flatten(0, 1).mT @ self.a.flatten(0, 1))

    def written(self, points: slice) -> Tensor:
        """Products summed over positions."""
        a = self.a[self.row[points]].double()
        return (self.B[points].double().mT @ a).flatten(1)

    def gram(self, other: Part) -> Tensor:
        """At one position, products of inputs times products of derivatives."""
        assert isinstance(other, Factored)
        if self.a.shape[1] > 1:
            return super().gram(other)
        inputs = self.a[:, 0].double() @ other.a[:, 0].double().mT
        if not (self._one_each and other._one_each):
            inputs = inputs[self.row][:, other.row]
        return inputs * (self.B[:, 0].double() @ other.B[:, 0].double().mT)

    def joined(self, other: Part) -> Part:
        """One layer with all rows."""
        assert isinstance(other, Factored)
        return Factored(
            other.frame,
            torch.cat([self.a, other.a]),
            torch.cat([self.B, other.B]),
            torch.cat([self.row, other.row + len(self.a)]),
        )

    def double(self) -> Part:
        """Both factors in float64."""
        return replace(self, a=self.a.double(), B=self.B.double())

    def grown(self, names: Sequence[str], n_new: int) -> Part:
        """Zero derivatives for the new outputs of the layer."""
        if not set(names) & set(self.names):
            return self
        shapes = {name: (s[0] + n_new, *s[1:]) for name, s in self.frame.shapes.items()}
        frame = replace(self.frame, B=nn.functional.pad(self.frame.B, (0, n_new)), shapes=shapes)
        return replace(self, frame=frame, B=nn.functional.pad(self.B, (0, n_new)))


@final
@dataclass(frozen=True)
class Written(Part):
    """A parameter whose gradients are written out.

    Attributes
    ----------
    name : str
        The parameter.
    J : Tensor of shape (N,) + shape
        The gradients.
    """

    name: str
    J: Tensor

    @property
    def names(self) -> tuple[str, ...]:
        """The parameter."""
        return (self.name,)

    @property
    def nbytes(self) -> int:
        """Memory of the gradients."""
        return self.J.nbytes

    @property
    def size(self) -> int:
        """Entries of the parameter."""
        return math.prod(self.J.shape[1:])

    def __len__(self) -> int:
        return len(self.J)

    @property
    def _matrix(self) -> Tensor:
        return self.J.reshape(len(self.J), -1)

    def dot(self, vector: Mapping[str, Tensor]) -> Tensor:
        """One product."""
        return self._matrix @ vector[self.name].flatten()

    def combine(self, u: Tensor) -> dict[str, Tensor]:
        """One product."""
        return {self.name: (u @ self._matrix).view(self.J.shape[1:])}

    def written(self, points: slice) -> Tensor:
        """As they are."""
        return self._matrix[points].double()

    def joined(self, other: Part) -> Part:
        """All of them."""
        assert isinstance(other, Written)
        return Written(self.name, torch.cat([self.J, other.J]))

    def double(self) -> Part:
        """In float64."""
        return replace(self, J=self.J.double())

    def grown(self, names: Sequence[str], n_new: int) -> Part:
        """Zeros for the new rows."""
        if self.name not in names:
            return self
        new = self.J.new_zeros(len(self.J), n_new, *self.J.shape[2:])
        return Written(self.name, torch.cat([self.J, new], 1))


class Picked(nn.Module):
    """One output of a network a row: the one that has a 1 in an indicator (n, k).

    Parameters
    ----------
    module : torch.nn.Module
        The network.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor, which: Tensor) -> Tensor:
        """Outputs (n, 1)."""
        return (as_matrix(self.module(x)) * which).sum(1, keepdim=True)


def stored_gradients(
    module: nn.Module, X: Tensor, which: Tensor, like: Sequence[Part] = ()
) -> list[Part]:
    """Gradients of chosen outputs at some rows.

    Parameters
    ----------
    module : torch.nn.Module
        The network; it is run in eval mode.
    X : Tensor of shape (n, ...)
        Rows.
    which : Tensor of bool of shape (n, k)
        The outputs that are meant, row by row; the points are counted in this order. One pass a row
        where there is one output for each.
    like : sequence of Part, optional
        What they are to be joined with: factored where these are.

    Returns
    -------
    list of Part
        One for each layer.

    Examples
    --------
    >>> import torch
    >>> from skntk.continual.gradients import stored_gradients
    >>> part, = stored_gradients(torch.nn.Linear(3, 2), torch.eye(3), torch.ones(3, 2) > 0)
    >>> len(part), part.a.shape, part.B.shape
    (6, torch.Size([3, 1, 4]), torch.Size([6, 1, 2]))
    """
    single = bool((which.sum(1) == 1).all())
    network: nn.Module = Picked(module) if single else module
    chosen = named_parameters(network)
    found: list[Part] = []
    with torch.inference_mode(False), eval_mode(network):
        plan: Plan | None = None
        for start in range(0, len(X), _ROWS):
            at = slice(start, start + _ROWS)
            rows: object = (X[at], which[at].to(X.dtype)) if single else X[at]
            inputs = NetworkInputs.of(rows, network)
            plan = plan or Plan.of(network, inputs, chosen)
            swept = sweep(network, inputs, plan)
            marks = torch.ones_like(which[at][:, :1]) if single else which[at]
            parts = [part for layer in swept.layers for part in _parts(layer, marks, single, like)]
            found = [a.joined(b) for a, b in zip(found, parts, strict=True)] if found else parts
    return found


def _parts(layer: Layer, which: Tensor, single: bool, like: Sequence[Part]) -> list[Part]:
    """Of one layer of one sweep: factored where that takes less memory."""
    row, output = which.nonzero(as_tuple=True)
    if isinstance(layer, AffineLayer):
        S, m, d = layer.a.shape[1], layer.B.shape[3], layer.columns().shape[2]
        factored = S * (m + d) < m * d or S == 1
        for part in like:
            if part.names[0] == layer.names[0].removeprefix("module." if single else ""):
                factored = isinstance(part, Factored)
        if factored:
            frame = replace(layer, a=layer.a[:0].clone(), B=layer.B.new_empty(1, 0, S, m))
            B = layer.B.transpose(0, 1)[row, output]
            return [_named(Factored(frame, layer.columns(), B, row), single)]
    return [
        _named(Written(name, J.transpose(0, 1)[row, output]), single)
        for name, J in layer.jacobians().items()
    ]


def _named(part: Part, single: bool) -> Part:
    """Names without the prefix of `Picked`."""
    if not single:
        return part
    if isinstance(part, Written):
        return replace(part, name=part.name.removeprefix("module."))
    assert isinstance(part, Factored)
    frame = part.frame
    shapes = {name.removeprefix("module."): shape for name, shape in frame.shapes.items()}
    weight, bias = (
        None if name is None else name.removeprefix("module.")
        for name in (frame.weight, frame.bias)
    )
    return replace(part, frame=replace(frame, weight=weight, bias=bias, shapes=shapes))
