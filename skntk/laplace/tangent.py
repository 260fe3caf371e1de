"""The linearized network that a posterior is of: outputs, Jacobians of its layers, directions."""

from __future__ import annotations

import copy
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from skntk.core import TrainingDivergedError, require
from skntk.finite import EmpiricalKernel, Linearized, last_layer
from skntk.finite.capture import Capture, sweep
from skntk.finite.gauss_newton import Outer
from skntk.finite.layers import AffineLayer, Layer, PlainLayer
from skntk.finite.network import (
    NetworkInputs,
    check_module,
    evaluate,
    named_parameters,
    naming_failures,
    private_copy,
)
from skntk.finite.plan import Plan
from skntk.finite.products import directional, network_function
from skntk.training.preconditioners import tangent_module as tangent_of

#: Numbers that the captured layers of a block of rows may take, and its inputs: activations of a
#: few MiB stay in the cache.
_BUDGET, _INPUTS = 2**24, 2**18
LAST_LAYER = "last_layer"
#: Sweeps of several threads, which torch's transforms and function modes do not keep apart.
ONE_AT_A_TIME = threading.RLock()


@dataclass(frozen=True)
class Rows:
    """Captured rows: where they stand, their outputs, and the Jacobians of the layers."""

    at: slice
    inputs: Tensor
    outputs: Tensor
    layers: list[Layer]


class Tangent:
    """A trained network, of which some parameters are uncertain.

    It is run in float64; in its own float32, for which torch has the faster convolutions, if only
    its last layer is uncertain, whose inputs are all that is wanted; but see `in_double`. What it
    gives is float64.

    Parameters
    ----------
    module : torch.nn.Module
        Trained; a copy in eval mode is kept.
    parameters : "last_layer", sequence of str, callable, or None
        Which parameters are uncertain; None for all that require gradients.
    probe : Tensor
        A few rows.

    Attributes
    ----------
    probe : Tensor
        Two rows.
    module, tangent_module : torch.nn.Module
        The network, and the one whose Jacobian it has: another where it is a `Linearized`.
    names : tuple of str
        The uncertain parameters, in the order of ``named_parameters()``.
    weights : dict of str to Tensor
        Their values, in float64.
    on_features : bool
        Whether the uncertain parameters are those of the last layer, so that outputs are linear in
        them: its inputs take the place of Jacobians.
    split_bias : bool
        Whether weight and bias of a layer are taken for two layers.
    layers : list of Layer
        The layers as captured on two rows: how the parameters are laid out.
    n_outputs : int
        Outputs of the network.
    row_numbers : int
        Numbers that the captured layers of a row take.
    """

    def __init__(self, module: nn.Module, parameters: Any, probe: Tensor) -> None:
        self.split_bias = False
        single = {p.dtype for p in module.parameters()} == {torch.float32}
        some = parameters is not None or not all(p.requires_grad for p in module.parameters())
        if single and some:
            self._read(private_copy(module), parameters, probe)
        if not (single and some and self.on_features):
            self._read(private_copy(module, torch.float64), parameters, probe)

    def _read(self, module: nn.Module, parameters: Any, probe: Tensor) -> None:
        """Find the uncertain layers of a network that is this tangent's own."""
        check_module(module)
        self.module = module
        self.tangent_module = tangent_of(self.module)
        self.probe = probe[torch.arange(2) % len(probe)].clone()
        inputs = self.inputs(self.probe)
        with naming_failures(self.module, inputs):
            outputs = self.outputs(inputs)
        check_finite_outputs(outputs)
        if isinstance(parameters, str) and parameters == LAST_LAYER:
            parameters = last_layer(self.tangent_module, inputs)
        chosen = named_parameters(self.tangent_module, parameters)
        self.names = tuple(chosen)
        for name, p in self.tangent_module.named_parameters():
            p.requires_grad_(name in chosen)  # no graph of what is certain
        trained = self.module.module if isinstance(self.module, Linearized) else self.module
        live = dict(trained.named_parameters())
        self.weights = {name: live[name].detach().double() for name in self.names}
        self._plan = Plan.of(self.tangent_module, inputs, chosen)
        first = sweep(self.tangent_module, inputs, self._plan)
        self.n_outputs = first.outputs.shape[1]
        self.layers = [_in_double(layer) for layer in first.layers]
        self.on_features = all(getattr(layer, "identity", False) for layer in self.layers)
        self.row_numbers = max(1, sum(_numbers(layer) for layer in self.layers))

    def with_split_biases(self) -> Tangent:
        """The same, with weight and bias of a layer taken for two layers."""
        made = copy.copy(self)
        made.split_bias = True
        made.layers = made._split(self.layers)
        return made

    def in_double(self) -> Tangent:
        """The same, run in float64: for kernels, of which differences are taken."""
        made = copy.copy(self)
        made.module = private_copy(self.module, torch.float64)
        made.tangent_module = tangent_of(made.module)
        return made

    @property
    def n_parameters(self) -> int:
        """Number of uncertain parameters."""
        return sum(w.numel() for w in self.weights.values())

    def inputs(self, X: Any) -> NetworkInputs:
        """Rows as the network takes them."""
        return NetworkInputs.of(X, self.module)

    def outputs(self, X: Any) -> Tensor:
        """Outputs (n, k) of the trained network."""
        with torch.no_grad(), ONE_AT_A_TIME:
            found = [evaluate(self.module, rows)[:n].double() for rows, n in self._chunks(X)]
        return torch.cat(found)

    def _chunks(self, X: Any) -> Iterator[tuple[NetworkInputs, int]]:
        """Blocks of rows and their numbers; one row alone comes twice, for modules that squeeze."""
        inputs = self.inputs(X)
        size = _rows_at_once(inputs)
        for start in range(0, len(inputs), size):
            n = min(size, len(inputs) - start)
            rows = torch.arange(start, start + n) if n > 1 else torch.tensor([start, start])
            yield inputs[rows], n

    def blocks(self, X: Any, *, captured: bool = True) -> Iterator[Rows]:
        """Rows block by block, with their layers unless that is not asked for."""
        inputs = self.inputs(X)
        size = max(len(inputs), 1)
        if captured:
            size = max(2, min(_rows_at_once(inputs), _BUDGET // self.row_numbers))
        for start in range(0, len(inputs), size):
            at = slice(start, min(start + size, len(inputs)))
            layers: list[Layer] = []
            outputs = None
            if captured:
                with ONE_AT_A_TIME:
                    found = sweep(self.tangent_module, inputs[at], self._plan)
                layers, outputs = self._as_layers(found), found.outputs.double()
            if outputs is None or isinstance(self.module, Linearized):
                outputs = self.outputs(inputs[at])
            yield Rows(at, inputs[at].values, outputs, layers)

    def require_jacobian(self, n: int) -> None:
        """Refuse the Jacobian of so many rows, written out, if it does not fit in memory."""
        like = next(iter(self.weights.values()))
        require(
            2 * like.element_size() * n * self.n_outputs * self.n_parameters,
            f"the Jacobian of {n} rows, {self.n_outputs} outputs and {self.n_parameters} "
            "parameters",
            "Pass fewer rows, or make fewer parameters uncertain, such as parameters='last_layer'.",
            like.device,
        )

    def written(self, X: Any) -> Tensor:
        """Jacobian of all rows: (k, n, P), parameters as `layers` has them."""
        self.require_jacobian(len(X))
        blocks = []
        for rows in self.blocks(X):
            outer, n = [Outer.of(layer) for layer in rows.layers], len(rows.outputs)
            blocks.append(torch.cat([x.written().expand(-1, n, -1) for x in outer], 2))
        return torch.cat(blocks, 1)

    def moved(self, X: Any, directions: Mapping[str, Tensor]) -> Iterator[Tensor]:
        """How moves of the weights move the outputs: (n, k) for each.

        Parameters
        ----------
        X : Tensor
            Rows.
        directions : dict of str to Tensor
            Moves by name, each (s, *shape).
        """
        if self.on_features:
            yield from self._moved_features(list(self.blocks(X)), directions)
            return
        chunks = list(self._chunks(X))
        live = dict(self.tangent_module.named_parameters())
        at = {name: live[name].detach() for name in self.names}
        for s in range(len(next(iter(directions.values())))):
            tangents = {name: directions[name][s] for name in self.names}
            parts = []
            for rows, n in chunks:
                function = network_function(self.tangent_module, rows)
                with ONE_AT_A_TIME:
                    parts.append(directional(function, at, tangents)[1][:n].detach())
            yield torch.cat(parts)

    def _moved_features(
        self, blocks: list[Rows], directions: Mapping[str, Tensor]
    ) -> Iterator[Tensor]:
        V = [layer_matrix(layer, directions) for layer in self.layers]
        for move in zip(*V, strict=True):
            yield torch.cat([_moved(rows.layers, move) for rows in blocks])

    def drawn(self, X: Any, directions: Mapping[str, Tensor]) -> Iterator[Tensor]:
        """Outputs (n, k) of the linearized network after each of these moves, as of `moved`."""
        if self.on_features:
            blocks = list(self.blocks(X))
            outputs = torch.cat([rows.outputs for rows in blocks])
            moves = self._moved_features(blocks, directions)
        else:
            outputs, moves = self.outputs(X), self.moved(X, directions)
        for move in moves:
            yield outputs + move

    def pulled(self, X: Any, u: Tensor) -> dict[str, Tensor]:
        r"""Product :math:`J^T u` with u (n, k), by name, of a network in float64."""
        live = dict(self.tangent_module.named_parameters())
        tensors = [live[name] for name in self.names]
        total = [torch.zeros_like(t) for t in tensors]
        start = 0
        for rows, n in self._chunks(X):
            each = u.new_zeros(len(rows), u.shape[1])
            each[:n] = u[start : start + n]
            start += n
            with torch.enable_grad(), ONE_AT_A_TIME:
                outputs = evaluate(self.tangent_module, rows)
                found = torch.autograd.grad(
                    outputs, tensors, each, allow_unused=True, materialize_grads=True
                )
            total = [t + g for t, g in zip(total, found, strict=True)]
        return dict(zip(self.names, total, strict=True))

    def kernel(self) -> EmpiricalKernel:
        """The empirical NTK of the uncertain parameters, all pairs of outputs."""
        return EmpiricalKernel(self.tangent_module, parameters=self.names)

    def flat(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """Tensors by name, of the shapes of the parameters, in the order of `layers`: (P,)."""
        return torch.cat([layer_matrix(layer, tensors).flatten() for layer in self.layers])

    def by_name(self, flat: Tensor) -> dict[str, Tensor]:
        """Undo `flat`, with leading axes in front: (..., P)."""
        found: dict[str, Tensor] = {}
        front, start = flat.shape[:-1], 0
        for layer in self.layers:
            m, d = layer_shape(layer)
            piece = flat[..., start : start + m * d].reshape(-1, m, d)
            start += m * d
            if isinstance(layer, AffineLayer):
                each = [layer.split(V) for V in piece]
                for name in layer.names:
                    stacked = torch.stack([v[name] for v in each])
                    found[name] = stacked.reshape(*front, *layer.shapes[name])
            else:
                (name,) = layer.names
                found[name] = piece.reshape(*front, *self.weights[name].shape)
        return found

    def groups(self, structure: str) -> Tensor:
        """Which prior precision each parameter has, as `flat`: (P,) of int."""
        if structure == "scalar":
            of = {name: torch.zeros_like(w) for name, w in self.weights.items()}
        elif structure == "layer":
            order = self.group_names(structure)
            of = {
                name: torch.full_like(w, order.index(_layer_of(name)))
                for name, w in self.weights.items()
            }
        else:
            start, of = 0, {}
            for name, w in self.weights.items():
                of[name] = torch.arange(start, start + w.numel(), dtype=w.dtype).view(w.shape)
                start += w.numel()
        return self.flat(of).round().long()

    def group_names(self, structure: str) -> list[str]:
        """Names of the layers, or parameters, in the order of their prior precisions."""
        if structure == "layer":
            return list(dict.fromkeys(_layer_of(name) for name in self.names))
        return list(self.names)

    def _as_layers(self, captured: Capture) -> list[Layer]:
        layers = self._split([_in_double(layer) for layer in captured.layers])
        if _kinds(layers) == _kinds(self.layers):
            return layers
        # other operations on these rows: the Jacobian written out, as it was laid out first
        J = captured.jacobians()
        written = [layer_matrix(x, J).flatten(2).double() for x in self.layers]
        return [PlainLayer(" ".join(x.names), J) for x, J in zip(self.layers, written, strict=True)]

    def _split(self, layers: list[Layer]) -> list[Layer]:
        found: list[Layer] = []
        for layer in layers:
            if self.split_bias and isinstance(layer, AffineLayer) and layer.weight and layer.bias:
                found += [_part(layer, layer.weight), _part(layer, layer.bias)]
            else:
                found.append(layer)
        return found


def check_finite_outputs(outputs: Tensor) -> None:
    """Refuse outputs that are not finite."""
    if not torch.isfinite(outputs).all():
        raise TrainingDivergedError(
            "the outputs of the network are not finite on the training rows: it has diverged, or "
            "the inputs are not scaled as it expects."
        )


def _kinds(layers: list[Layer]) -> list[tuple[type, list[str]]]:
    return [(type(layer), layer.names) for layer in layers]


def _in_double(layer: Layer) -> Layer:
    """The same with what was captured in float64."""
    if isinstance(layer, PlainLayer):
        return replace(layer, J=layer.J.double())
    if not isinstance(layer, AffineLayer):
        return replace(layer, B=layer.B.double())
    B = layer.B[:, :1].double().expand_as(layer.B) if layer.identity else layer.B.double()
    return replace(layer, a=layer.a.double(), B=B)


def _rows_at_once(inputs: NetworkInputs) -> int:
    numbers = sum(t[:1].numel() for t in inputs.tensors)
    return min(max(_INPUTS // max(numbers, 1), 2), 1024)


def _moved(layers: list[Layer], V: Sequence[Tensor]) -> Tensor:
    """How one move (m, d) of each layer's matrix moves the outputs: (n, k)."""
    total: Any = 0.0
    for layer, v in zip(layers, V, strict=True):
        if not isinstance(layer, AffineLayer):
            (J,) = layer.jacobians().values()
            total = total + (J.flatten(2) @ v.flatten()).mT
        elif layer.identity:
            total = total + (layer.columns() @ v.mT)[:, 0]
        else:
            total = total + torch.einsum("pnsm,nsm->np", layer.B, layer.columns() @ v.mT)
    return total


def _part(layer: AffineLayer, name: str) -> AffineLayer:
    """The weight, or the bias, of a layer alone."""
    shapes = {name: layer.shapes[name]}
    if name == layer.weight:
        return replace(layer, bias=None, shapes=shapes)
    return replace(layer, weight=None, shapes=shapes)


def _layer_of(name: str) -> str:
    return name.rpartition(".")[0]


def layer_shape(layer: Layer) -> tuple[int, int]:
    """Shape (m, d) of a layer's matrix; (P, 1) where its Jacobian is written out."""
    if isinstance(layer, AffineLayer):
        d = layer.a.shape[2] if layer.weight is not None else 0
        return layer.B.shape[3], d + (layer.bias is not None)
    (J,) = layer.jacobians().values()
    return J[0, 0].numel(), 1


def layer_matrix(layer: Layer, tensors: Mapping[str, Tensor]) -> Tensor:
    """Tensors by name as the layer's matrix: (..., m, d)."""
    if isinstance(layer, AffineLayer):
        return layer.matrix(tensors)
    (name,) = layer.names
    value = tensors[name]
    (J,) = layer.jacobians().values()
    return value.reshape(*value.shape[: value.ndim - (J.ndim - 2)], -1, 1)


def _numbers(layer: Layer) -> int:
    """Numbers that a row's Jacobian takes."""
    m, d = layer_shape(layer)
    if not isinstance(layer, AffineLayer):
        (J,) = layer.jacobians().values()
        return J[:, 0].numel()
    k, _, S, _ = layer.B.shape
    kept = S * d + (m if layer.identity else k * S * m)
    return kept + (k * m * d if S > 1 else 0)
