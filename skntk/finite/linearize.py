"""`linearize`: the network as a linear function of its parameters."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from skntk.finite.network import (
    ParameterFilter,
    check_module,
    named_parameters,
    private_copy,
)
from skntk.finite.products import directional


def linearize(
    module: nn.Module, *, centered: bool = False, parameters: ParameterFilter = None
) -> Linearized:
    r"""Return a network's linearization at its current parameters, as a module to be trained.

    .. math:: f_{lin}(x; w) = f(x; w_0) + J_{w_0}(x) (w - w_0)

    Its parameters start at :math:`w_0`. Trained by gradient descent on squared loss it is the
    kernel machine of `empirical_ntk` (Lee et al. 2019).

    Parameters
    ----------
    module : torch.nn.Module
        The network, of which two copies are kept; it is not changed.
    centered : bool, default=False
        Leave out :math:`f(x; w_0)`, so that the function at initialization is zero.
    parameters : sequence of str, or callable, optional
        Names of parameters or submodules, or a test of a name; by default all that require
        gradients. The others are frozen.

    Returns
    -------
    Linearized

    Raises
    ------
    ValueError
        If the network is frozen, or has a BatchNorm in training mode.

    References
    ----------
    Lee et al. (2019), "Wide neural networks of any depth evolve as linear models", equation 5;
    Chizat, Oyallon & Bach (2019), "On lazy training", for centring.

    Examples
    --------
    >>> import torch, skntk
    >>> net = torch.nn.Sequential(torch.nn.Linear(2, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))
    >>> lin = skntk.linearize(net)
    >>> x = torch.eye(2)
    >>> torch.equal(lin(x), net(x))
    True
    """
    return Linearized(module, centered=centered, parameters=parameters)


class Centered(nn.Module):
    r"""A network minus its function at initialization: :math:`f(x; w) - f(x; w_0)`.

    Parameters
    ----------
    module : torch.nn.Module
        The network, of which two copies are kept.

    Attributes
    ----------
    module : torch.nn.Module
        Holds the parameters w, which are trained.
    anchor : torch.nn.Module
        Holds :math:`w_0`; frozen, always in eval mode.

    Examples
    --------
    >>> import torch
    >>> from skntk.finite import Centered
    >>> Centered(torch.nn.Linear(2, 1))(torch.zeros(1, 2))
    tensor([[0.]], grad_fn=<SubBackward0>)
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = copy.deepcopy(module)
        self.anchor = private_copy(module).requires_grad_(False)

    def train(self, mode: bool = True) -> Centered:
        """Set the mode of the network that is trained."""
        super().train(mode)
        self.anchor.eval()
        return self

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """Evaluate; arguments and result are the network's."""
        with torch.no_grad():
            start = self.anchor(*args, **kwargs)
        return self.module(*args, **kwargs) - start


class Linearized(nn.Module):
    """A linearized network; made by `linearize`.

    Parameters
    ----------
    module, centered, parameters
        As of `linearize`.

    Attributes
    ----------
    module : torch.nn.Module
        Holds the parameters w, which are trained.
    anchor : torch.nn.Module
        Holds the parameters at which the network is linearized; frozen, always in eval mode.
    centered : bool
        As given.
    """

    def __init__(
        self, module: nn.Module, *, centered: bool = False, parameters: ParameterFilter = None
    ) -> None:
        super().__init__()
        check_module(module)
        self.centered = bool(centered)
        self.names = tuple(named_parameters(module, parameters))
        self.anchor = private_copy(module).requires_grad_(False)
        self.module = private_copy(module)
        for name, parameter in self.module.named_parameters():
            parameter.requires_grad_(name in self.names)

    def train(self, mode: bool = True) -> Linearized:
        """Set the mode, which has no effect: the network is that of eval mode."""
        self.training = mode
        return self

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """Evaluate the linearization; arguments and result are the network's."""
        base, live = dict(self.anchor.named_parameters()), dict(self.module.named_parameters())
        at = {name: base[name] for name in self.names}
        tangents = {name: live[name] - base[name] for name in self.names}

        def function(parameters: dict[str, Tensor]) -> Tensor:
            return functional_call(self.anchor, parameters, args, kwargs)

        value, derivative = directional(function, at, tangents)
        return derivative if self.centered else value + derivative
