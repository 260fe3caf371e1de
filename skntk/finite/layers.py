"""What a capture keeps of each layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from skntk.finite.uses import per_row_products


@dataclass(frozen=True)
class AffineLayer:
    r"""Weight and bias of a linear layer or convolution, over all positions and uses.

    The layer computes :math:`z_s = c_w W a_s + c_b b`, so row i's derivative of output p is
    :math:`\partial f^p_i / \partial W = c_w \sum_s B^p_{is} a_{is}^T`, and
    :math:`\partial f^p_i / \partial b = c_b \sum_s B^p_{is}`.

    Attributes
    ----------
    weight, bias : str or None
        Names of the parameters; None if there is none, or it is not among those meant.
    weight_scale, bias_scale : float
        :math:`c_w, c_b`.
    a : Tensor of shape (n, S, d)
        Inputs at all positions; several uses of the layer stand one after the other.
    B : Tensor of shape (k, n, S, m)
        Derivatives of the network's outputs with respect to the layer's; where these are the same
        outputs, one identity that stands for all rows, without a copy.
    shapes : dict of str to tuple of int
        Of the parameters.
    transposed : bool
        Whether the weight is stored as (d, m).
    """

    weight: str | None
    bias: str | None
    weight_scale: float
    bias_scale: float
    a: Tensor
    B: Tensor
    shapes: dict[str, tuple[int, ...]]
    transposed: bool = False

    @property
    def names(self) -> list[str]:
        """Its parameters."""
        return [name for name in (self.weight, self.bias) if name is not None]

    @property
    def identity(self) -> bool:
        """Whether the layer's outputs are the network's."""
        return self.B.stride(1) == 0

    def columns(self) -> Tensor:
        r"""Inputs scaled as they multiply the parameters: (n, S, d + 1).

        :math:`c_w a` if the weight is meant, and the constant :math:`c_b` if the bias is.
        """
        weight = None if self.weight is None else self.weight_scale
        bias = None if self.bias is None else self.bias_scale
        return scaled_columns(self.a, weight, bias)

    def split(self, V: Tensor) -> dict[str, Tensor]:
        """Weight and bias, in their own shapes, from a matrix (m, d + 1) as `columns` has them."""
        found = {}
        if self.weight is not None:
            W = V if self.bias is None else V[:, :-1]
            W = W.T if self.transposed else W
            found[self.weight] = W.reshape(self.shapes[self.weight])
        if self.bias is not None:
            found[self.bias] = V[:, -1].reshape(self.shapes[self.bias])
        return found

    def matrix(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """Tensors of the shapes of weight and bias as a matrix (m, d + 1), which `split` undoes.

        Leading axes, the same for both, stay in front.
        """
        made = []
        if self.weight is not None:
            W = tensors[self.weight]
            shape = self.shapes[self.weight]
            front = W.shape[: W.ndim - len(shape)]
            m = self.B.shape[-1]
            W = W.reshape(*front, -1, m).mT if self.transposed else W.reshape(*front, m, -1)
            made.append(W)
        if self.bias is not None:
            made.append(tensors[self.bias].unsqueeze(-1))
        return made[0] if len(made) == 1 else torch.cat(made, -1)

    def jacobians(self) -> dict[str, Tensor]:
        """Jacobian of each parameter: (k, n) + its shape."""
        found = {}
        if self.weight is not None:
            J = self.weight_scale * per_row_products(self.B, self.a)
            J = J.transpose(2, 3) if self.transposed else J
            found[self.weight] = J.reshape(*J.shape[:2], *self.shapes[self.weight])
        if self.bias is not None:
            J = self.bias_scale * self.B.sum(2)
            found[self.bias] = J.reshape(*J.shape[:2], *self.shapes[self.bias])
        return found


def scaled_columns(a: Tensor, weight: float | None, bias: float | None) -> Tensor:
    """Inputs (n, S, d) times the weight's scale, and the bias's, each if there is one."""
    made = [] if weight is None else [weight * a]
    if bias is not None:
        made.append(a.new_full((*a.shape[:2], 1), bias))
    return made[0] if len(made) == 1 else torch.cat(made, 2)


@dataclass(frozen=True)
class LookupLayer:
    """An embedding: row i's Jacobian is B at the rows of the table that it looks up.

    Attributes
    ----------
    weight : str
        Name of the table, of shape (v, m).
    weight_scale : float
        By which it is multiplied.
    indices : Tensor of int of shape (n, S)
        What is looked up.
    B : Tensor of shape (k, n, S, m)
        Derivatives of the network's outputs with respect to the looked up rows.
    shapes : dict of str to tuple of int
        Of the parameter.
    """

    weight: str
    weight_scale: float
    indices: Tensor
    B: Tensor
    shapes: dict[str, tuple[int, ...]]

    @property
    def names(self) -> list[str]:
        """Its parameter."""
        return [self.weight]

    def jacobians(self) -> dict[str, Tensor]:
        """Jacobian (k, n, v, m) of the table."""
        J = self.B.new_zeros(*self.B.shape[:2], *self.shapes[self.weight])
        at = self.indices[None, :, :, None].expand(self.B.shape)
        return {self.weight: J.scatter_add_(2, at, self.weight_scale * self.B)}


@dataclass(frozen=True)
class PlainLayer:
    """A parameter with its Jacobian written out: scales, shifts, and what has no rule.

    Attributes
    ----------
    name : str
        The parameter.
    J : Tensor of shape (k, n) + shape
        Its Jacobian.
    """

    name: str
    J: Tensor

    @property
    def names(self) -> list[str]:
        """Its parameter."""
        return [self.name]

    def jacobians(self) -> dict[str, Tensor]:
        """The Jacobian by name."""
        return {self.name: self.J}


Layer = AffineLayer | LookupLayer | PlainLayer
