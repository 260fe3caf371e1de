"""`infinite_width`: the analytic kernels of a module."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from skntk.core import as_tensor, like_input, require
from skntk.gram import check_finite, diagonal, gram
from skntk.infinite.featurewise import FeaturewiseInputs
from skntk.infinite.inputs import Inputs
from skntk.infinite.program import Program
from skntk.infinite.rules import Options
from skntk.infinite.tiles import DirectTiles, tiles

KINDS = ("ntk", "nngp")
EMBEDDINGS = ("none", "featurewise")


def infinite_width(module: nn.Module, *, embedding: str = "none") -> InfiniteKernel:
    r"""Return the kernels of a network in the limit of infinite width.

    Every hidden layer's width goes to infinity; the module's current weights do not matter, only
    its layers, their scales and how they are connected. Nor do its own widths, but for layers in
    the standard parametrization, where they are the base width that the kernel is relative to.

    Parameters
    ----------
    module : torch.nn.Module
        Built from linear layers (`skntk.nn.Linear`; `torch.nn.Linear` is read in the standard
        parametrization from its initialization, weight variance ``1 / (3 fan_in)``), any
        elementwise functions, ``Dropout`` (in training mode), ``LayerNorm``, ``RMSNorm``, sums,
        products and concatenations along the features. A copy is kept; the module is not changed.
    embedding : {"none", "featurewise"}, default="none"
        "featurewise" puts an infinitely wide network of one hidden layer in front of each feature,
        and lets the module read the tangent features of all of them; see
        `skntk.infinite.featurewise.FeaturewiseInputs`.

    Returns
    -------
    InfiniteKernel
        Call it with inputs.

    References
    ----------
    Jacot, Gabriel & Hongler (2018), "Neural tangent kernel", theorem 1; Lee et al. (2018), "Deep
    neural networks as Gaussian processes", equation 5.

    Examples
    --------
    >>> import numpy as np, torch, skntk, skntk.nn as snn
    >>> net = torch.nn.Sequential(snn.Linear(2, 8, weight_std=1.4, bias_std=0.1), torch.nn.ReLU(),
    ...                           snn.Linear(8, 1, weight_std=1.4, bias_std=0.1))
    >>> k = skntk.infinite_width(net)
    >>> k(np.eye(2), kind="nngp").round(3)
    array([[0.98 , 0.324],
           [0.324, 0.98 ]])
    """
    return InfiniteKernel(module, embedding)


class InfiniteKernel:
    """Analytic NNGP and NTK of one module; made by `infinite_width`.

    NumPy arrays in give NumPy arrays out. Tensors in give tensors out, on the same device and
    differentiable with respect to the inputs if these require gradients.

    Parameters
    ----------
    module : torch.nn.Module
        The network.
    embedding : {"none", "featurewise"}, default="none"
        What stands in front of it.

    Attributes
    ----------
    module : torch.nn.Module
        The kept copy.
    embedding : str
        As given.
    """

    def __init__(self, module: nn.Module, embedding: str = "none") -> None:
        if not isinstance(module, nn.Module):
            raise TypeError(f"module={module!r} must be a torch.nn.Module instance.")
        if embedding not in EMBEDDINGS:
            raise ValueError(f"embedding={embedding!r} must be one of {EMBEDDINGS}.")
        self.module, self.embedding = copy.deepcopy(module), embedding
        self._programs: dict[tuple[int, ...], Program] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_programs": {}}

    def __repr__(self) -> str:
        return f"infinite_width({self.module!r})"

    def program(self, input_shape: tuple[int, ...]) -> Program:
        """Return the program for inputs of shape ``(n, *input_shape)``, traced at the first call.

        Raises
        ------
        UnsupportedModuleError
            If the module holds an operation without a rule.
        """
        if input_shape not in self._programs:
            self._programs[input_shape] = Program.of(self.module, input_shape)
        return self._programs[input_shape]

    @property
    def quadrature_error(self) -> float:
        """Bound on the relative error of activations without a closed form, over all calls."""
        return max((p.quadrature_error for p in self._programs.values()), default=0.0)

    def __call__(self, X1: Any, X2: Any = None, kind: str = "ntk") -> Any:
        """Return the kernel between rows of `X1` and `X2`.

        Parameters
        ----------
        X1 : array-like or Tensor of shape (n1, d)
            Inputs; float32 in gives float32 out, anything else float64.
        X2 : array-like or Tensor of shape (n2, d), optional
            By default `X1` itself.
        kind : {"ntk", "nngp"}, default="ntk"
            Which kernel.

        Returns
        -------
        ndarray or Tensor of shape (n1, n2)

        Raises
        ------
        ValueError
            If an input has NaN, is complex, empty, or of another shape than the module takes.
        TypeError
            If an input is sparse.
        UnsupportedModuleError
            If the module holds an operation without a rule.
        MemoryBudgetError
            If the result does not fit in memory; nothing is computed then.
        KernelOverflowError
            If a value on the diagonal is not finite.
        """
        return self.gram(X1, X2, kind=kind)

    def gram(
        self,
        X1: Any,
        X2: Any = None,
        *,
        kind: str = "ntk",
        dtype: Any = None,
        n_jobs: int | None = None,
        compile: bool = False,
        collapse: bool = True,
    ) -> Any:
        """Return the kernel matrix, with control over how it is computed.

        Parameters
        ----------
        X1, X2, kind
            As in a call.
        dtype : {"float32", "float64"}, optional
            Of the computation and the result; by default that of the inputs.
        n_jobs : int, optional
            Workers of joblib; by default torch's threads.
        compile : bool, default=False
            Fuse the layers with ``torch.compile``: several times faster on large matrices after a
            first call that compiles for up to a minute; needs a C++ compiler.
        collapse : bool, default=True
            Where all inputs have one norm, or the network is homogeneous (ReLU-like, no bias),
            evaluate it as one function of the angle, whatever its depth.

        Returns
        -------
        ndarray or Tensor of shape (n1, n2)
        """
        check_kind(kind)
        x1 = self._inputs(X1, dtype, "X1")
        x2 = None if X2 is None else self._inputs(X2, dtype or x1.dtype, "X2", x1)
        program = self.program(tuple(x1.shape[1:]))
        differentiated = _differentiated(x1) or (x2 is not None and _differentiated(x2))
        with torch.set_grad_enabled(differentiated):
            one = self._prepared(x1)
            two = None if x2 is None else self._prepared(x2)
            if differentiated:
                out = self._differentiable(program, one, two, kind)
            else:
                blocks = [one] if two is None else [one, two]
                made = tiles(program, kind, blocks, compiled=compile, collapse=collapse)
                out = gram(made, one, two, n_jobs=n_jobs)
        return like_input(out, X1)

    def diag(self, X: Any, kind: str = "ntk") -> Any:
        """Return the kernel of each row with itself: (n,), without the rest of the matrix.

        Parameters
        ----------
        X : array-like or Tensor of shape (n, d)
            Inputs.
        kind : {"ntk", "nngp"}, default="ntk"
            Which kernel.

        Returns
        -------
        ndarray or Tensor of shape (n,)
        """
        check_kind(kind)
        x = self._inputs(X, None, "X")
        program = self.program(tuple(x.shape[1:]))
        differentiated = _differentiated(x)
        with torch.set_grad_enabled(differentiated):
            inputs = self._prepared(x)
            if differentiated:
                return check_finite(program.kernel(inputs.own(), Options(kind == "ntk"), kind))
            return like_input(diagonal(DirectTiles(program, kind, inputs.square), inputs), X)

    @staticmethod
    def _differentiable(program: Program, one: Any, two: Any, kind: str) -> Tensor:
        """Kernel as one graph of operations; the diagonal of a symmetric one is that of `diag`."""
        options = Options(with_ntk=kind == "ntk")
        n1, n2 = len(one), len(one if two is None else two)
        # Backpropagation keeps about this many results of each rule.
        numbers = 8 * len(program.rules) * n1 * n2
        require(
            numbers * one.square.element_size(),
            f"the graph of operations behind a differentiable kernel of {n1} x {n2} numbers",
            "Use fewer rows at a time, or inputs without requires_grad.",
            one.square.device,
        )
        own = check_finite(program.kernel(one.own(), options, kind))
        full = program.kernel(one.pairs(one if two is None else two), options, kind)
        if two is not None:
            check_finite(program.kernel(two.own(), options, kind))
            return full
        return full - torch.diag_embed(full.diagonal() - own)

    def _prepared(self, x: Tensor) -> Inputs | FeaturewiseInputs:
        made = FeaturewiseInputs if self.embedding == "featurewise" else Inputs
        return made.of(x.flatten(1))

    @staticmethod
    def _inputs(X: Any, dtype: Any, name: str, like: Tensor | None = None) -> Tensor:
        x = as_tensor(X, dtype=dtype, device=None if like is None else like.device, name=name)
        if x.ndim < 2:
            raise ValueError(f"{name} has shape {tuple(x.shape)}; pass (n, d): one row per input.")
        if 0 in x.shape:
            raise ValueError(f"{name} has shape {tuple(x.shape)}; it must not be empty.")
        if like is not None and x.shape[1:] != like.shape[1:]:
            raise ValueError(
                f"{name} has shape {tuple(x.shape)} but X1 has {tuple(like.shape)}: all axes but "
                "the first must agree."
            )
        return x


def _differentiated(x: Tensor) -> bool:
    """Whether a derivative with respect to `x` is asked for, backward or forward."""
    backward = x.requires_grad and torch.is_grad_enabled()
    return backward or forward_ad.unpack_dual(x).tangent is not None


def check_kind(kind: str) -> None:
    """Raise unless `kind` is known."""
    if kind not in KINDS:
        raise ValueError(f"kind={kind!r} must be one of {KINDS}.")
