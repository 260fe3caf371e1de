"""Kernels of infinitely wide networks for GPyTorch."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from skntk.infinite.inputs import Inputs
from skntk.infinite.kernel import check_kind
from skntk.infinite.network import network_kernel
from skntk.infinite.program import Program
from skntk.infinite.rules import Options
from skntk.infinite.state import State
from skntk.nn import activation as make_activation

try:
    from gpytorch.constraints import Positive
    from gpytorch.kernels import Kernel
    from gpytorch.priors import Prior
except ModuleNotFoundError as error:
    raise ImportError(
        "GPyTorchNTKKernel needs GPyTorch, which is not installed: pip install 'skntk[gpytorch]'."
    ) from error


class GPyTorchNTKKernel(Kernel):
    r"""NTK or NNGP kernel of an infinitely wide network, for GPyTorch's models.

    The network is `skntk.nn.MLP`. Hyperparameters and inputs get finite gradients, coincident
    inputs included, so that exact and variational models train, with the inducing points among
    what is trained. Everything runs on the device and in the dtype of inputs and parameters.

    Parameters
    ----------
    depth : int, default=3
        Hidden layers, at least 0.
    activation : str or torch.nn.Module, default="relu"
        A name of `skntk.nn.activation_names` or an elementwise module, which is copied.
    kind : {"ntk", "nngp"}, default="ntk"
        Which kernel.
    weight_std : float, default=sqrt(2)
        Initial standard deviation of the weights per fan-in, above 0.
    bias_std : float, default=0.1
        Initial standard deviation of the biases, at least 0. A bias of 0 is fixed.
    weight_std_prior, bias_std_prior : gpytorch.priors.Prior, optional
        Priors of both.
    **kwargs
        Of `gpytorch.kernels.Kernel`: `batch_shape`, `active_dims`, and `ard_num_dims`, with which
        every feature is divided by a `lengthscale` of its own, 1 at first. There is no lengthscale
        without it.

    Attributes
    ----------
    weight_std, bias_std : Tensor of shape ``(*batch_shape, 1, 1)``
        The hyperparameters; can be set. Their parameters are `raw_weight_std`, `raw_bias_std`,
        constrained to be positive.

    Raises
    ------
    ImportError
        If GPyTorch is not installed.
    ValueError
        If an argument is out of its range.

    References
    ----------
    Jacot, Gabriel & Hongler (2018), "Neural tangent kernel", theorem 1; Lee et al. (2018), "Deep
    neural networks as Gaussian processes", equation 5.

    Examples
    --------
    >>> import torch
    >>> from gpytorch.kernels import ScaleKernel
    >>> from skntk.infinite import GPyTorchNTKKernel
    >>> kernel = ScaleKernel(GPyTorchNTKKernel(depth=2, activation="erf"))
    >>> kernel(torch.randn(5, 3)).to_dense().shape
    torch.Size([5, 5])
    >>> [name for name, _ in kernel.named_parameters()]
    ['raw_outputscale', 'base_kernel.raw_weight_std', 'base_kernel.raw_bias_std']
    """

    def __init__(
        self,
        depth: int = 3,
        activation: str | nn.Module = "relu",
        *,
        kind: str = "ntk",
        weight_std: float = math.sqrt(2),
        bias_std: float = 0.1,
        weight_std_prior: Prior | None = None,
        bias_std_prior: Prior | None = None,
        **kwargs: Any,
    ) -> None:
        check_kind(kind)
        if int(depth) != depth or depth < 0:
            raise ValueError(f"depth={depth!r} must be an integer of at least 0.")
        if not (math.isfinite(weight_std) and weight_std > 0):
            raise ValueError(f"weight_std={weight_std!r} must be a finite number above 0.")
        if not (math.isfinite(bias_std) and bias_std >= 0):
            raise ValueError(
                f"bias_std={bias_std!r} must be a finite number of at least 0; 0 is fixed."
            )
        if bias_std == 0 and bias_std_prior is not None:
            raise ValueError("bias_std=0 is fixed and cannot have a bias_std_prior.")
        self.has_lengthscale = kwargs.get("ard_num_dims") is not None
        if not self.has_lengthscale and kwargs.get("lengthscale_prior") is not None:
            raise ValueError("lengthscale_prior needs ard_num_dims, the number of features.")
        super().__init__(**kwargs)
        if self.has_lengthscale and kwargs.get("lengthscale_constraint") is None:
            self.lengthscale = 1.0
        make_activation(activation)  # raises if it is none
        self.depth, self.activation, self.kind = int(depth), copy.deepcopy(activation), kind
        self._program: Program | None = None
        self._register("weight_std", weight_std, weight_std_prior, _weight_std, _set_weight_std)
        self.has_bias = bias_std != 0
        if self.has_bias:
            self._register("bias_std", bias_std, bias_std_prior, _bias_std, _set_bias_std)

    def _register(
        self,
        name: str,
        value: float,
        prior: Prior | None,
        get: Callable[[Any], Tensor],
        put: Callable[[Any, Any], None],
    ) -> None:
        """Add a positive hyperparameter."""
        raw = nn.Parameter(torch.zeros(*self.batch_shape, 1, 1))
        self.register_parameter(f"raw_{name}", raw)
        self.register_constraint(f"raw_{name}", Positive())
        put(self, value)
        if prior is not None:
            if not isinstance(prior, Prior):
                raise TypeError(f"{name}_prior={prior!r} must be a gpytorch.priors.Prior.")
            self.register_prior(f"{name}_prior", prior, get, put)

    def _initialize(self, name: str, value: Any) -> None:
        raw = getattr(self, name)
        if not torch.is_tensor(value):
            value = torch.as_tensor(value).to(raw)
        constraint = getattr(self, f"{name}_constraint")
        self.initialize(**{name: constraint.inverse_transform(value)})

    @property
    def weight_std(self) -> Tensor:
        """Standard deviation of the weights: ``(*batch_shape, 1, 1)``."""
        return self.raw_weight_std_constraint.transform(self.raw_weight_std)

    @weight_std.setter
    def weight_std(self, value: Any) -> None:
        self._initialize("raw_weight_std", value)

    @property
    def bias_std(self) -> Tensor:
        """Standard deviation of the biases: ``(*batch_shape, 1, 1)``; 0 if there are none."""
        if not self.has_bias:
            return torch.zeros_like(self.raw_weight_std)
        return self.raw_bias_std_constraint.transform(self.raw_bias_std)

    @bias_std.setter
    def bias_std(self, value: Any) -> None:
        if not self.has_bias:
            raise RuntimeError("the kernel was made with bias_std=0, which is fixed.")
        self._initialize("raw_bias_std", value)

    @property
    def is_stationary(self) -> bool:
        """False: the kernel depends on the norms of its inputs."""
        return False

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_program": None}

    def forward(
        self,
        x1: Tensor,
        x2: Tensor,
        diag: bool = False,
        last_dim_is_batch: bool = False,
        **params: Any,
    ) -> Tensor:
        """Return the kernel between the rows of `x1` and `x2`.

        Parameters
        ----------
        x1 : Tensor of shape (..., n, d)
            Inputs.
        x2 : Tensor of shape (..., m, d)
            Inputs; where all are those of `x1`, the kernel's diagonal is exact.
        diag : bool, default=False
            Pair each row of `x1` with the same row of `x2` only.
        last_dim_is_batch : bool, default=False
            One kernel for each feature.
        **params
            Not used.

        Returns
        -------
        Tensor of shape (..., n, m), or (..., n) with `diag`
        """
        same = x1 is x2 or torch.equal(x1, x2)
        one = self._inputs(x1, last_dim_is_batch)
        two = one if x1 is x2 else self._inputs(x2, last_dim_is_batch)
        # Hyperparameters (*batch_shape, 1, 1) precede the axes of the pairs, of a list one.
        stds = [self.weight_std, self.bias_std] if self.has_bias else [self.weight_std]
        stds = [s.unsqueeze(-3) for s in stds] if last_dim_is_batch else stds
        for_tile, for_list = (
            Options(self.kind == "ntk", *values) for values in (stds, [s.squeeze(-1) for s in stds])
        )
        if diag and not same:
            return self._run(_matched(one, two), for_list)
        if same:
            own = self._run(one.own(), for_list)
            if two is not one:  # two equal tensors: each gets half of the gradient
                own = 0.5 * (own + self._run(two.own(), for_list))
            if diag:
                return own
        full = self._run(one.pairs(two), for_tile)
        if not same:
            return full
        return torch.diagonal_scatter(full, own.expand(full.shape[:-1]), dim1=-2, dim2=-1)

    def _inputs(self, x: Tensor, last_dim_is_batch: bool) -> Inputs:
        if self.has_lengthscale:
            x = x / self.lengthscale
        return Inputs.of(x.mT.unsqueeze(-1) if last_dim_is_batch else x)

    def _run(self, state: State, options: Options) -> Tensor:
        return self._network().kernel(state, options, self.kind)

    def _network(self) -> Program:
        """Program of the network, in which neither scales nor the number of features matter."""
        if self._program is None:
            made = network_kernel(1, self.depth, self.activation, 1.0, float(self.has_bias))
            self._program = made.program((1,))
        return self._program


def _matched(one: Inputs, two: Inputs) -> State:
    """State of each row of `one` with the same row of `two`: tensors of shape (..., n)."""
    apart, together = (0.5 * (one.unit + sign * two.unit).square().sum(-1) for sign in (-1.0, 1.0))
    # 1 - u v = |u - v|^2 / 2 = 2 - |u + v|^2 / 2 for unit rows; a zero row lacks one half.
    zeros = (one.square == 0).to(one.square.dtype) + (two.square == 0).to(two.square.dtype)
    delta = torch.where(apart < 1, apart, 2 - together) + 0.5 * zeros
    return State(one.square, two.square, delta)


# Functions of the module rather than closures, so that kernels with priors can be pickled.


def _weight_std(kernel: GPyTorchNTKKernel) -> Tensor:
    return kernel.weight_std


def _set_weight_std(kernel: GPyTorchNTKKernel, value: Any) -> None:
    kernel.weight_std = value


def _bias_std(kernel: GPyTorchNTKKernel) -> Tensor:
    return kernel.bias_std


def _set_bias_std(kernel: GPyTorchNTKKernel, value: Any) -> None:
    kernel.bias_std = value
