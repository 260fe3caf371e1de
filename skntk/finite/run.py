"""One run of a network as planned, ready for its backward sweep."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge

from skntk.finite.fallback import row_jacobians
from skntk.finite.layers import AffineLayer, Layer, LookupLayer, PlainLayer, scaled_columns
from skntk.finite.network import NetworkInputs
from skntk.finite.plan import Plan, record
from skntk.finite.uses import Affine, Lookup, Use


class OtherPathError(Exception):
    """A network has run other operations on some rows than on those the plan was made from."""


@dataclass(frozen=True)
class Group:
    """Parameters that enter together, and all their uses.

    Attributes
    ----------
    names : tuple of str
        The parameters.
    uses : list of Use
        Their uses.
    at : list of int
        Which these are among all uses of the run.
    joined : bool
        Whether the uses are of one kind and can be taken for one at more positions.
    """

    names: tuple[str, ...]
    uses: list[Use]
    at: list[int]
    joined: bool

    def layer(self, B: list[Tensor]) -> Layer:
        """Put together what is known, given the output Jacobians (k, *shape) of the uses."""
        first = self.uses[0]
        if self.joined and isinstance(first, Affine):
            weight, bias = first.weight, first.bias
            return AffineLayer(
                None if weight is None else weight.name,
                None if bias is None else bias.name,
                1.0 if weight is None else weight.scale,
                1.0 if bias is None else bias.scale,
                self.inputs(),
                self.outputs(B),
                {part.name: part.shape for part in first.parts},
                first.transposed,
            )
        if self.joined and isinstance(first, Lookup):
            table = first.table
            shapes = {table.name: table.shape}
            return LookupLayer(table.name, table.scale, self.inputs(), self.outputs(B), shapes)
        return PlainLayer(self.names[0], self.jacobian(B))

    def columns(self, scale: float = 1.0) -> Tensor:
        """Inputs of affine uses as they multiply the parameters, times a scale: (n, S, d + 1)."""
        first = self.uses[0]
        assert isinstance(first, Affine)
        weight, bias = (
            None if part is None else scale * part.scale for part in (first.weight, first.bias)
        )
        return scaled_columns(self.inputs(), weight, bias)

    def inputs(self) -> Tensor:
        """Inputs, or indices, at all positions of all uses: (n, S, d) or (n, S)."""
        found = [
            use.inputs() if isinstance(use, Affine) else use.indices()
            for use in self.uses
            if isinstance(use, Affine | Lookup)
        ]
        return found[0] if len(found) == 1 else torch.cat(found, 1)

    def outputs(self, B: list[Tensor]) -> Tensor:
        """Output Jacobians (k, n, S, m) at all positions of all uses."""
        pairs = zip(self.uses, B, strict=True)
        found = [use.outputs(b) for use, b in pairs if isinstance(use, Affine | Lookup)]
        return found[0] if len(found) == 1 else torch.cat(found, 2)

    def jacobian(self, B: list[Tensor]) -> Tensor:
        """Jacobian (k, n, *shape) of the first parameter, use by use."""
        total: Tensor | None = None
        for use, b in zip(self.uses, B, strict=True):
            for part in use.parts:
                if part.name == self.names[0]:
                    J = use.jacobian(part, b)
                    total = J if total is None else total + J
        assert total is not None
        return total


@dataclass(frozen=True)
class Run:
    """A forward pass with its graph.

    Attributes
    ----------
    outputs : Tensor of shape (n, k)
        The network's outputs.
    uses, edges : list
        The uses that are needed, and where the gradient of their outputs is found.
    groups : list of Group
        The same by parameters.
    rest : tuple of str
        Parameters without a rule.
    """

    outputs: Tensor
    uses: list[Use]
    edges: list[GradientEdge]
    groups: list[Group]
    rest: tuple[str, ...]

    @classmethod
    def of(cls, module: nn.Module, inputs: NetworkInputs, plan: Plan) -> Run:
        """Run a module in eval mode as planned.

        Raises
        ------
        OtherPathError
            If the module runs other operations on these rows than on those of the plan.
        """
        live = dict(module.named_parameters())
        chosen = {name: live[name] for name in plan.names}
        try:
            outputs, recording = record(module, inputs, chosen, channels_last=plan.channels_last)
        except Exception:  # of strides, on another path than that of the plan
            if not plan.channels_last:
                raise
            outputs, recording = record(module, inputs, chosen)
        if not plan.fits(recording, outputs):
            raise OtherPathError
        uses, edges = [], []
        for use, edge, (_, _, axis) in zip(
            recording.uses, recording.edges, plan.uses, strict=False
        ):
            if axis is not None:
                use.axis = axis
                uses.append(use)
                edges.append(edge)
        groups = _grouped(uses, set(plan.names) - set(plan.rest))
        return cls(outputs, uses, edges, groups, plan.rest)

    def derivatives(self, most: int | None = None) -> Iterator[list[Tensor]]:
        """Sweep backward once for each output: its derivative by the output of each use.

        Parameters
        ----------
        most : int, optional
            Only for so many outputs.
        """
        if not self.uses:
            return
        k = min(self.outputs.shape[1], most or self.outputs.shape[1])
        for p in range(k):
            each = torch.zeros_like(self.outputs)
            each[:, p] = 1.0
            found = torch.autograd.grad(
                self.outputs, self.edges, each, retain_graph=p + 1 < k, allow_unused=True
            )
            yield [
                each.new_zeros(use.shape) if g is None else g.reshape(use.shape)
                for use, g in zip(self.uses, found, strict=True)
            ]

    def without_rule(
        self, module: nn.Module, inputs: NetworkInputs
    ) -> Iterable[tuple[str, Tensor]]:
        """Names and Jacobians (k, n, *shape) of the parameters that no rule explains."""
        if not self.rest:
            return []
        return row_jacobians(module, inputs, self.rest, self.outputs.detach()).items()


def _grouped(uses: list[Use], names: set[str]) -> list[Group]:
    """Join the uses of the same parameters."""
    by_name: dict[str, list[int]] = {}
    for i, use in enumerate(uses):
        for part in use.parts:
            at = by_name.setdefault(part.name, []) if part.name in names else []
            if i not in at:
                at.append(i)
    groups: list[Group] = []
    done: set[str] = set()
    for name, at in by_name.items():
        if name in done:
            continue
        group = [uses[i] for i in at]
        members = tuple(dict.fromkeys(part.name for part in group[0].parts))
        joined = (
            isinstance(group[0], Affine | Lookup)
            and all(use.key == group[0].key for use in group)
            and len(members) == len(group[0].parts)
            and all(by_name.get(member) == at for member in members)
        )
        groups.append(Group(members if joined else (name,), group, at, joined))
        done.update(members if joined else (name,))
    return groups
