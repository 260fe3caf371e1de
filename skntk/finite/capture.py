"""One forward and one backward sweep: inputs and output Jacobians of every layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from skntk.finite.fallback import row_jacobians
from skntk.finite.network import (
    NetworkInputs,
    ParameterFilter,
    check_batch_norm,
    eval_mode,
    named_parameters,
)
from skntk.finite.plan import Plan, record
from skntk.finite.uses import Affine, Lookup, Use, per_row_products


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
        Derivatives of the network's outputs with respect to the layer's.
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

    def columns(self) -> Tensor:
        r"""Inputs scaled as they multiply the parameters: (n, S, d + 1).

        :math:`c_w a` if the weight is meant, and the constant :math:`c_b` if the bias is.
        """
        made = []
        if self.weight is not None:
            made.append(self.weight_scale * self.a)
        if self.bias is not None:
            made.append(self.a.new_full((*self.a.shape[:2], 1), self.bias_scale))
        return made[0] if len(made) == 1 else torch.cat(made, 2)

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

    def jacobians(self) -> dict[str, Tensor]:
        """Jacobian (k, n, *shape) of each parameter."""
        found = {}
        if self.weight is not None:
            J = self.weight_scale * per_row_products(self.B, self.a)
            J = J.transpose(2, 3) if self.transposed else J
            found[self.weight] = J.reshape(*J.shape[:2], *self.shapes[self.weight])
        if self.bias is not None:
            J = self.bias_scale * self.B.sum(2)
            found[self.bias] = J.reshape(*J.shape[:2], *self.shapes[self.bias])
        return found


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
    J : Tensor of shape (k, n, *shape)
        Its Jacobian.
    """

    name: str
    J: Tensor

    def jacobians(self) -> dict[str, Tensor]:
        """The Jacobian by name."""
        return {self.name: self.J}


Layer = AffineLayer | LookupLayer | PlainLayer


class OtherPathError(Exception):
    """A network has run other operations on some rows than on those the plan was made from."""


@dataclass(frozen=True)
class Capture:
    """What one sweep through a network found.

    Attributes
    ----------
    outputs : Tensor of shape (n, k)
        The network's function.
    layers : list of AffineLayer, LookupLayer or PlainLayer
        One for each group of parameters that enter together.
    """

    outputs: Tensor
    layers: list[Layer]

    def jacobians(self) -> dict[str, Tensor]:
        """Jacobian (k, n, *shape) of each parameter, by name."""
        return {name: J for layer in self.layers for name, J in layer.jacobians().items()}


def capture(
    module: nn.Module, X: Any, *, parameters: ParameterFilter = None, verbose: int = 0
) -> Capture:
    """Run a network forward and backward once, and keep what every Jacobian is made of.

    The network runs in eval mode; its modes and buffers are restored afterwards.

    Parameters
    ----------
    module : torch.nn.Module
        The network. One row of output for each row of input.
    X : array-like, Tensor, tuple or dict of these
        n rows; a tuple is passed as several arguments, a dict by name.
    parameters : sequence of str, or callable, optional
        Names of parameters or submodules, or a test of a name; by default all that require
        gradients.
    verbose : int, default=0
        1 says which parameters have no rule.

    Returns
    -------
    Capture

    Raises
    ------
    ValueError
        If the network is frozen, couples the rows of a batch (BatchNorm in training mode), or
        returns what is no matrix of outputs.

    Examples
    --------
    >>> import torch
    >>> from skntk.finite import capture
    >>> found = capture(torch.nn.Linear(3, 2), torch.eye(3))
    >>> layer, = found.layers
    >>> layer.a.shape, layer.B.shape
    (torch.Size([3, 1, 3]), torch.Size([2, 3, 1, 2]))
    """
    check_batch_norm(module)
    chosen = named_parameters(module, parameters)
    inputs = NetworkInputs.of(X, module)
    with eval_mode(module):
        plan = Plan.of(module, inputs, chosen)
        if verbose:
            print(f"[skntk] {type(module).__name__}: {plan}")
        try:
            return sweep(module, inputs, plan)
        except OtherPathError:
            return sweep(module, inputs, plan.without_rules())


def sweep(module: nn.Module, inputs: NetworkInputs, plan: Plan) -> Capture:
    """Capture as planned: of a module in eval mode, which is left as it is.

    Raises
    ------
    OtherPathError
        If the module runs other operations on these rows than on those of the plan.
    """
    n = len(inputs)
    if n == 1:  # some modules drop an axis of length one
        found = sweep(module, inputs[torch.tensor([0, 0])], plan)
        return Capture(found.outputs[:1], [_first_row(layer) for layer in found.layers])
    live = dict(module.named_parameters())
    outputs, recording = record(module, inputs, {name: live[name] for name in plan.names})
    rest = plan.rest
    if not plan.fits(recording, outputs):
        raise OtherPathError
    uses, edges = [], []
    for use, edge, (_, axis) in zip(recording.uses, recording.edges, plan.axes, strict=False):
        if axis is not None:
            use.axis = axis
            uses.append(use)
            edges.append(edge)
    B: list[list[Tensor]] = [[] for _ in uses]
    k = outputs.shape[1]
    if uses:
        for p in range(k):
            each = torch.zeros_like(outputs)
            each[:, p] = 1.0
            swept = torch.autograd.grad(
                outputs, edges, each, retain_graph=p + 1 < k, allow_unused=True
            )
            for use, kept, g in zip(uses, B, swept, strict=True):
                kept.append(outputs.new_zeros(use.shape) if g is None else g.reshape(use.shape))
    stacked = [torch.stack(kept) for kept in B]
    layers = _grouped(uses, stacked, set(plan.names) - set(rest))
    if rest:
        jacobians = row_jacobians(module, inputs, rest)
        layers += [PlainLayer(name, J) for name, J in jacobians.items()]
    done = {name for layer in layers for name in _names(layer)}
    for name in plan.names:
        if name not in done:  # the output does not depend on it
            zero = outputs.new_zeros(()).expand(k, n, *live[name].shape)
            layers.append(PlainLayer(name, zero))
    return Capture(outputs.detach(), layers)


def _grouped(uses: list[Use], B: list[Tensor], names: set[str]) -> list[Layer]:
    """Join the uses of the same parameters."""
    by_name: dict[str, list[int]] = {}
    for i, use in enumerate(uses):
        for part in use.parts:
            if part.name in names:
                by_name.setdefault(part.name, []).append(i)
    layers: list[Layer] = []
    done: set[str] = set()
    for name, at in by_name.items():
        if name in done:
            continue
        group = [uses[i] for i in at]
        first = group[0]
        members = [part.name for part in first.parts]
        together = all(u.key == first.key for u in group) and all(
            by_name.get(m) == at for m in members
        )
        if together and isinstance(first, Affine):
            layers.append(_affine(group, [B[i] for i in at], first))
            done.update(members)
        elif together and isinstance(first, Lookup):
            layers.append(_lookup(group, [B[i] for i in at], first))
            done.add(name)
        else:
            J: Tensor | None = None
            for i in at:
                for part in uses[i].parts:
                    if part.name == name:
                        one = uses[i].jacobian(part, B[i])
                        J = one if J is None else J + one
            assert J is not None
            layers.append(PlainLayer(name, J))
            done.add(name)
    return layers


def _affine(group: list[Use], B: list[Tensor], first: Affine) -> AffineLayer:
    a = [use.inputs() for use in group]  # type: ignore[attr-defined]
    outputs = [use.outputs(b) for use, b in zip(group, B, strict=True)]  # type: ignore[attr-defined]
    weight, bias = first.weight, first.bias
    return AffineLayer(
        None if weight is None else weight.name,
        None if bias is None else bias.name,
        1.0 if weight is None else weight.scale,
        1.0 if bias is None else bias.scale,
        a[0] if len(a) == 1 else torch.cat(a, 1),
        outputs[0] if len(outputs) == 1 else torch.cat(outputs, 2),
        {part.name: part.shape for part in first.parts},
        first.transposed,
    )


def _lookup(group: list[Use], B: list[Tensor], first: Lookup) -> LookupLayer:
    indices = [use.indices() for use in group]  # type: ignore[attr-defined]
    outputs = [use.outputs(b) for use, b in zip(group, B, strict=True)]  # type: ignore[attr-defined]
    table = first.table
    return LookupLayer(
        table.name,
        table.scale,
        torch.cat(indices, 1),
        torch.cat(outputs, 2),
        {table.name: table.shape},
    )


def _names(layer: Layer) -> list[str]:
    if isinstance(layer, AffineLayer):
        return [name for name in (layer.weight, layer.bias) if name is not None]
    return [layer.weight] if isinstance(layer, LookupLayer) else [layer.name]


def _first_row(layer: Layer) -> Layer:
    from dataclasses import replace

    if isinstance(layer, AffineLayer):
        return replace(layer, a=layer.a[:1], B=layer.B[:, :1])
    if isinstance(layer, LookupLayer):
        return replace(layer, indices=layer.indices[:1], B=layer.B[:, :1])
    return replace(layer, J=layer.J[:, :1])
