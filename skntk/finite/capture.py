"""One forward and one backward sweep: inputs and output Jacobians of every layer."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from skntk.finite.layers import AffineLayer, Layer, LookupLayer, PlainLayer
from skntk.finite.network import (
    NetworkInputs,
    ParameterFilter,
    check_module,
    eval_mode,
    named_parameters,
)
from skntk.finite.plan import Plan
from skntk.finite.run import Group, OtherPathError, Run
from skntk.finite.uses import Affine


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
        """Jacobian of each parameter, by name: (k, n) + its shape."""
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
    check_module(module)
    chosen = named_parameters(module, parameters)
    with torch.inference_mode(False):
        inputs = NetworkInputs.of(X, module)
        with eval_mode(module):
            plan = Plan.of(module, inputs, chosen)
            if verbose:
                print(f"[skntk] {type(module).__name__}: {plan}")
            return sweep(module, inputs, plan)


def sweep(module: nn.Module, inputs: NetworkInputs, plan: Plan) -> Capture:
    """Capture as planned, or without rules where the plan does not fit; in eval mode."""
    try:
        return _swept(module, inputs, plan)
    except OtherPathError:
        return _swept(module, inputs, plan.without_rules())


def _swept(module: nn.Module, inputs: NetworkInputs, plan: Plan) -> Capture:
    n = len(inputs)
    if n == 1:  # some modules drop an axis of length one
        found = _swept(module, inputs[torch.tensor([0, 0])], plan)
        return Capture(found.outputs[:1], [_first_row(layer) for layer in found.layers])
    run = Run.of(module, inputs, plan)
    stacked = _identity(run)
    if stacked is None:
        B: list[list[Tensor]] = [[] for _ in run.uses]
        for found_p in run.derivatives():
            for kept, g in zip(B, found_p, strict=True):
                kept.append(g)
        stacked = [torch.stack(kept) for kept in B]
    layers = [group.layer([stacked[i] for i in group.at]) for group in run.groups]
    layers += [PlainLayer(name, J) for name, J in run.without_rule(module, inputs)]
    done = {name for layer in layers for name in layer.names}
    live = dict(module.named_parameters())
    for name in plan.names:
        if name not in done:  # the output does not depend on it
            shape = plan.n_outputs, n, *live[name].shape
            layers.append(PlainLayer(name, run.outputs.new_zeros(()).expand(shape)))
    return Capture(run.outputs.detach(), layers)


def _identity(run: Run) -> list[Tensor] | None:
    """Derivatives (k, n, k) where the one use that is meant gives the outputs: one identity.

    It is kept once for all rows, so that thousands of outputs take no sweep each.
    """
    n, k = run.outputs.shape
    if len(run.uses) != 1 or run.rest or not is_output(run, 0):
        return None
    eye = torch.eye(k, dtype=run.outputs.dtype, device=run.outputs.device)
    return [eye[:, None].expand(k, n, k)]


def is_output(run: Run, i: int) -> bool:
    """Whether the i-th use's output, (n, k), is the network's: its derivative is the identity."""
    if run.uses[i].shape != run.outputs.shape or run.uses[i].axis != 0:
        return False
    # a random direction is moved by every other matrix
    generator = torch.Generator().manual_seed(0)
    u = torch.randn(run.outputs.shape, generator=generator).to(run.outputs)
    found = torch.autograd.grad(
        run.outputs, run.edges[i : i + 1], u, retain_graph=True, allow_unused=True
    )[0]
    return found is not None and torch.equal(found.reshape(u.shape), u)


def last_layer(module: nn.Module, X: Any, *, parameters: ParameterFilter = None) -> list[str]:
    """Names of the parameters of a network's last layer.

    Parameters
    ----------
    module : torch.nn.Module
        The network.
    X : array-like, Tensor, tuple or dict of these
        A few rows, which are run.
    parameters : sequence of str, or callable, optional
        Among which to look, as of `capture`.

    Returns
    -------
    list of str
        Of the affine layer whose output is the network's, or of all whose outputs add up to it. If
        there is none, since a function without parameters follows, of the last affine layer with as
        many outputs as the network.

    Raises
    ------
    ValueError
        As of `capture`, or if that leaves none: such as with a frozen last layer, one whose weight
        is computed from others (weight normalization), or several that are concatenated.

    Examples
    --------
    >>> import torch
    >>> from skntk.finite import last_layer
    >>> net = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    >>> last_layer(net, torch.zeros(2, 3))
    ['2.weight', '2.bias']
    """
    check_module(module)
    chosen = named_parameters(module, parameters)
    with torch.inference_mode(False), eval_mode(module):
        inputs = NetworkInputs.of(X, module)
        inputs = inputs[torch.arange(2) % len(inputs)]
        run = Run.of(module, inputs, Plan.of(module, inputs, chosen))
        affine = [group for group in run.groups if _is_layer(group)]
        found = [group for group in affine if is_output(run, group.at[0])]
        everything = len(chosen) == len(list(module.parameters())) and not run.rest
        if not found and everything and affine:
            last = max(affine, key=lambda group: group.at[0])
            found = [last] if _width(last) == run.outputs.shape[1] else []
        if not found:
            raise ValueError(
                f"{type(module).__name__} has no last layer that could be told: one affine layer "
                "that requires gradients, is used once and gives the outputs. Name the parameters "
                "that are meant."
            )
        return [name for group in found for name in group.names]


def _is_layer(group: Group) -> bool:
    """Whether a weight enters linearly, once."""
    use = group.uses[0]
    known = isinstance(use, Affine) and use.weight is not None and use.weight.name in group.names
    return known and len(group.uses) == 1


def _width(group: Group) -> int:
    """Outputs of an affine layer."""
    use = group.uses[0]
    assert isinstance(use, Affine)
    assert use.weight is not None
    return use.weight.shape[-1 if use.transposed else 0]


def _first_row(layer: Layer) -> Layer:
    if isinstance(layer, AffineLayer):
        return replace(layer, a=layer.a[:1], B=layer.B[:, :1])
    if isinstance(layer, LookupLayer):
        return replace(layer, indices=layer.indices[:1], B=layer.B[:, :1])
    return replace(layer, J=layer.J[:, :1])
