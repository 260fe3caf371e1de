"""Kernels of infinitely wide networks for `sklearn.gaussian_process`."""

from __future__ import annotations

import math
from numbers import Integral, Real
from typing import Any, ClassVar

import numpy as np
import torch
from sklearn.gaussian_process.kernels import Hyperparameter, Kernel
from torch import Tensor, nn

from skntk.core import KernelOverflowError, as_tensor, require
from skntk.infinite.inputs import Inputs
from skntk.infinite.kernel import InfiniteKernel
from skntk.infinite.network import network_kernel
from skntk.infinite.program import Program
from skntk.infinite.rules import Options
from skntk.infinite.state import State

#: Rows and columns of a tile whose derivatives are computed at one time.
_TILE = 256
_BOUNDS = (1e-3, 1e2)


class InfiniteWidthKernel(Kernel):
    """Base of `NTKKernel` and `NNGPKernel`; not used directly."""

    _kind: ClassVar[str]

    def __init__(
        self,
        depth: int = 3,
        activation: str | nn.Module = "relu",
        weight_std: float = math.sqrt(2),
        weight_std_bounds: Any = _BOUNDS,
        bias_std: float = 0.1,
        bias_std_bounds: Any = _BOUNDS,
    ) -> None:
        self.depth = depth
        self.activation = activation
        self.weight_std = weight_std
        self.weight_std_bounds = weight_std_bounds
        self.bias_std = bias_std
        self.bias_std_bounds = bias_std_bounds

    @property
    def hyperparameter_weight_std(self) -> Hyperparameter:
        """Description of `weight_std` for scikit-learn's optimizers."""
        return Hyperparameter("weight_std", "numeric", self.weight_std_bounds)

    @property
    def hyperparameter_bias_std(self) -> Hyperparameter:
        """Description of `bias_std`; fixed if it is 0, which has no logarithm."""
        bounds = "fixed" if self.bias_std == 0 else self.bias_std_bounds
        return Hyperparameter("bias_std", "numeric", bounds)

    def __call__(self, X: Any, Y: Any = None, eval_gradient: bool = False) -> Any:
        """Return the kernel between the rows of `X` and `Y`, and optionally its gradient.

        Parameters
        ----------
        X : array-like of shape (n, d)
            Inputs.
        Y : array-like of shape (m, d), optional
            By default `X` itself.
        eval_gradient : bool, default=False
            Whether to return the gradient with respect to the logarithms of the free
            hyperparameters as well; only without `Y`.

        Returns
        -------
        K : ndarray of shape (n, m)
        K_gradient : ndarray of shape (n, n, n_free)
            Only with `eval_gradient`. The last axis is in the order of `theta`.

        Raises
        ------
        ValueError
            If a parameter of the kernel or an input is not valid, or a gradient is asked for with
            `Y`.
        MemoryBudgetError
            If the result does not fit in memory.
        KernelOverflowError
            If the kernel overflows.
        """
        self._check()
        x = _rows(X, "X")
        if eval_gradient:
            if Y is not None:
                raise ValueError("eval_gradient=True needs Y=None: gradients are for one X.")
            return self._with_gradient(x)
        y = None if Y is None or Y is X else _rows(Y, "Y")
        if y is not None and y.shape[1] != x.shape[1]:
            raise ValueError(
                f"Y has {y.shape[1]} features but X has {x.shape[1]}; they must have the same."
            )
        return self._infinite(x.shape[1]).gram(x, y, kind=self._kind).numpy()

    def diag(self, X: Any) -> np.ndarray:
        """Return the kernel of each row with itself.

        Parameters
        ----------
        X : array-like of shape (n, d)
            Inputs.

        Returns
        -------
        ndarray of shape (n,)
        """
        self._check()
        x = _rows(X, "X")
        diagonal: np.ndarray = self._infinite(x.shape[1]).diag(x, kind=self._kind).numpy()
        return diagonal

    def is_stationary(self) -> bool:
        """Return False: the kernel depends on the norms of its inputs."""
        return False

    def __repr__(self) -> str:
        stds = ", ".join(
            f"{name}={value:.3g}" if isinstance(value, Real) else f"{name}={value!r}"
            for name, value in (("weight_std", self.weight_std), ("bias_std", self.bias_std))
        )
        return f"{type(self).__name__}(depth={self.depth}, activation={self.activation!r}, {stds})"

    def _check(self) -> None:
        """Raise unless the parameters are valid; `__init__` stores whatever it is given."""
        if not (isinstance(self.depth, Integral) and self.depth >= 0):
            raise ValueError(f"depth={self.depth!r} must be an integer of at least 0.")
        if not (_finite(self.weight_std) and self.weight_std > 0):
            raise ValueError(f"weight_std={self.weight_std!r} must be a finite number above 0.")
        if not (_finite(self.bias_std) and self.bias_std >= 0):
            raise ValueError(
                f"bias_std={self.bias_std!r} must be a finite number of at least 0; 0 is fixed."
            )

    def _infinite(self, n_features: int) -> InfiniteKernel:
        stds = float(self.weight_std), float(self.bias_std)
        return network_kernel(n_features, int(self.depth), self.activation, *stds)

    def _with_gradient(self, x: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Kernel (n, n) and its derivatives (n, n, n_free), both computed tile by tile."""
        free = [h.name for h in self.hyperparameters if not h.fixed]
        n = len(x)
        if not free:
            return self._infinite(x.shape[1]).gram(x, kind=self._kind).numpy(), np.empty((n, n, 0))
        require(
            8 * n**2 * (1 + len(free)),
            f"a kernel matrix of {n} x {n} numbers of 8 bytes and {len(free)} of its derivatives",
            "Optimize on a random subset of the rows, or fix hyperparameters (bounds='fixed').",
        )
        K, gradient = np.empty((n, n)), np.empty((n, n, len(free)))
        made = network_kernel(
            x.shape[1], int(self.depth), self.activation, 1.0, float(self.bias_std != 0)
        )
        program = made.program((x.shape[1],))
        inputs = Inputs.of(x)
        for a in range(0, n, _TILE):
            for b in range(a, n, _TILE):
                i, j = slice(a, a + _TILE), slice(b, b + _TILE)
                value, slopes = self._derived(program, free, inputs[i].pairs(inputs[j]))
                K[i, j], K[j, i] = value, value.T
                gradient[i, j], gradient[j, i] = slopes, slopes.swapaxes(0, 1)
        every = np.arange(n)
        K[every, every], gradient[every, every] = self._derived(program, free, inputs.own())
        if not np.isfinite(K[every, every]).all():
            raise KernelOverflowError(
                f"the kernel {self!r} of an input with itself is not finite in float64. Lower the "
                "upper bounds of weight_std and bias_std, or use fewer layers."
            )
        return K, gradient

    def _derived(
        self, program: Program, free: list[str], state: State
    ) -> tuple[np.ndarray, np.ndarray]:
        """Kernel of a state's pairs, and its derivatives with a last axis (n_free).

        Reverse mode gives, for each hyperparameter, the sum of the derivatives of all pairs with
        any weights. The gradient of that sum with respect to the weights is each derivative.
        """
        stds: dict[str, Tensor] = {}
        for name in ("weight_std", "bias_std"):
            if std := float(getattr(self, name)):
                leaf = state.k1.new_tensor(std, dtype=torch.float64)
                stds[name] = leaf.requires_grad_(name in free)
        options = Options(self._kind == "ntk", **stds)
        leaves = [stds[name] for name in free]
        with torch.enable_grad():
            value = program.kernel(state, options, self._kind)
            weights = torch.zeros_like(value, requires_grad=True)
            sums = torch.autograd.grad(value, leaves, weights, create_graph=True)
            slopes = [torch.autograd.grad(total, weights, retain_graph=True)[0] for total in sums]
        # By the logarithms of the hyperparameters.
        slopes = [leaf.detach() * slope for leaf, slope in zip(leaves, slopes, strict=True)]
        return value.detach().numpy(), torch.stack(slopes, -1).numpy()


class NTKKernel(InfiniteWidthKernel):
    r"""Neural tangent kernel of an infinitely wide network, for `sklearn.gaussian_process`.

    The network is `skntk.nn.MLP`. The same object serves `SVC(kernel=...)`, `KernelRidge` and
    `Nystroem`, and takes part in sums and products of kernels.

    Parameters
    ----------
    depth : int, default=3
        Hidden layers, at least 0.
    activation : str or torch.nn.Module, default="relu"
        A name of `skntk.nn.activation_names` or an elementwise module.
    weight_std : float, default=sqrt(2)
        Standard deviation of the weights per fan-in, above 0.
    weight_std_bounds : pair of float or "fixed", default=(1e-3, 1e2)
        Where an optimizer may move it.
    bias_std : float, default=0.1
        Standard deviation of the biases, at least 0. A bias of 0 is fixed, whatever its bounds.
    bias_std_bounds : pair of float or "fixed", default=(1e-3, 1e2)
        Where an optimizer may move it.

    References
    ----------
    Jacot, Gabriel & Hongler (2018), "Neural tangent kernel", theorem 1.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.gaussian_process import GaussianProcessRegressor
    >>> from skntk.infinite import NTKKernel
    >>> X = np.linspace(-2, 2, 40)[:, None]
    >>> y = np.sin(3 * X[:, 0]) + 0.1 * np.random.default_rng(0).standard_normal(40)
    >>> gp = GaussianProcessRegressor(NTKKernel(), alpha=0.01).fit(X, y)
    >>> mean, std = gp.predict([[0.5]], return_std=True)
    >>> bool(abs(mean[0] - np.sin(1.5)) < 3 * std[0] < 0.5)
    True
    """

    _kind = "ntk"


class NNGPKernel(InfiniteWidthKernel):
    r"""Covariance of an infinitely wide random network, for `sklearn.gaussian_process`.

    A Gaussian process with this kernel is the network with a prior on its weights, conditioned on
    data; with `NTKKernel` it is the network trained by gradient descent, with noise.

    Parameters
    ----------
    depth : int, default=3
        Hidden layers, at least 0.
    activation : str or torch.nn.Module, default="relu"
        A name of `skntk.nn.activation_names` or an elementwise module.
    weight_std : float, default=sqrt(2)
        Standard deviation of the weights per fan-in, above 0.
    weight_std_bounds : pair of float or "fixed", default=(1e-3, 1e2)
        Where an optimizer may move it.
    bias_std : float, default=0.1
        Standard deviation of the biases, at least 0. A bias of 0 is fixed, whatever its bounds.
    bias_std_bounds : pair of float or "fixed", default=(1e-3, 1e2)
        Where an optimizer may move it.

    References
    ----------
    Lee et al. (2018), "Deep neural networks as Gaussian processes", equation 5.

    Examples
    --------
    >>> import numpy as np
    >>> from skntk.infinite import NNGPKernel
    >>> NNGPKernel(depth=0, weight_std=1.0, bias_std=0.5)(np.eye(2))
    array([[0.75, 0.25],
           [0.25, 0.75]])
    """

    _kind = "nngp"


def _finite(value: Any) -> bool:
    return isinstance(value, Real) and math.isfinite(value)


def _rows(X: Any, name: str) -> Tensor:
    """Convert `X` to a float64 tensor of shape (n, d) on the CPU."""
    x = as_tensor(X, dtype=torch.float64, device="cpu", name=name).detach()
    if x.ndim != 2 or 0 in x.shape:
        raise ValueError(
            f"{name} has shape {tuple(x.shape)}; pass (n, d), one row per input, not empty."
        )
    return x
