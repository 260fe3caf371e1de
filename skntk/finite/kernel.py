"""`empirical_ntk`: the kernel of a finite network at its current weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from skntk.core import like_input, resolve_dtype
from skntk.finite.assembly import LayoutError
from skntk.finite.network import (
    NetworkInputs,
    ParameterFilter,
    check_module,
    evaluate,
    named_parameters,
    private_copy,
)
from skntk.finite.plan import Plan
from skntk.finite.run import OtherPathError
from skntk.finite.tiles import AXES, CapturedRows, EmpiricalTiles
from skntk.gram import diagonal, gram

#: How a tile's axes are shown: rows of X1, rows of X2, outputs.
_SHOWN = {"full": (1, 3, 0, 2), "diagonal": (1, 2, 0), "trace": (0, 1)}


def empirical_ntk(
    module: nn.Module,
    X1: Any,
    X2: Any = None,
    outputs: str = "full",
    *,
    parameters: ParameterFilter = None,
    dtype: Any = None,
    n_jobs: int | None = None,
    memory_budget: int | None = None,
    verbose: int = 0,
) -> Any:
    r"""Return the neural tangent kernel of a finite network at its current weights.

    :math:`\Theta^{pq}(x, x') = \nabla_w f^p(x) \cdot \nabla_w f^q(x')`, in eval mode, over all
    parameters that require gradients. No Jacobian of all rows is formed: layer inputs and output
    Jacobians are contracted layer by layer and tile by tile, and parameters without a rule are
    left to `torch.func`. The module is not changed.

    Parameters
    ----------
    module : torch.nn.Module
        Any network with one row of output for each row of input; outputs of several axes are
        flattened to k.
    X1 : array-like, Tensor, or tuple or dict of these, first axis n1
        Inputs, converted to the module's dtype. A tuple is passed as several arguments, a dict by
        name. Integers stay integers for a module with an embedding.
    X2 : like X1, first axis n2, optional
        By default `X1`, and then every pair is computed once.
    outputs : {"full", "diagonal", "trace"}, default="full"
        All pairs of outputs; each output with itself; or the mean of these over outputs.
    parameters : sequence of str, or callable, optional
        Names of parameters or submodules, or a test of a name; by default all that require
        gradients.
    dtype : {"float32", "float64"}, optional
        Of the computation and the result; by default the module's.
    n_jobs : int, optional
        Workers of joblib; by default torch's threads.
    memory_budget : int, optional
        Bytes of layer inputs and Jacobians that may be kept beside the result; by default 512 MiB,
        or a quarter of the memory at hand if that is less.
    verbose : int, default=0
        1 says which parameters have no rule.

    Returns
    -------
    ndarray or Tensor
        (n1, n2, k, k) for "full", (n1, n2, k) for "diagonal", (n1, n2) for "trace". In memory the
        axes of "full" lie as (k, n1, k, n2), so ``K.transpose(2, 0, 3, 1).reshape(k * n1, k * n2)``
        is a matrix without a copy.

    Raises
    ------
    ValueError
        If the network is frozen, couples the rows of a batch (BatchNorm in training mode), or
        returns what is no matrix of outputs; if an input is empty or not finite.
    MemoryBudgetError
        If the result does not fit in memory; nothing is computed then.
    KernelOverflowError
        If a value on the diagonal is not finite.

    References
    ----------
    Jacot, Gabriel & Hongler (2018), "Neural tangent kernel", section 4; Novak, Sohl-Dickstein &
    Schoenholz (2022), "Fast finite width neural tangent kernel", section 3.

    Examples
    --------
    >>> import numpy as np, torch, skntk
    >>> net = torch.nn.Sequential(torch.nn.Linear(2, 16), torch.nn.ReLU(), torch.nn.Linear(16, 3))
    >>> X = np.eye(2)
    >>> skntk.empirical_ntk(net, X).shape
    (2, 2, 3, 3)
    >>> skntk.empirical_ntk(net, X, outputs="trace").shape
    (2, 2)
    """
    kernel = EmpiricalKernel(
        module, outputs, parameters=parameters, dtype=dtype, memory_budget=memory_budget
    )
    return kernel.gram(X1, X2, n_jobs=n_jobs, verbose=verbose)


class EmpiricalKernel:
    """Empirical NTK of one network, of which a copy is kept as it is now.

    Parameters
    ----------
    module : torch.nn.Module
        The network.
    outputs : {"full", "diagonal", "trace"}, default="full"
        As of `empirical_ntk`.
    parameters, dtype, memory_budget
        As of `empirical_ntk`.

    Attributes
    ----------
    module : torch.nn.Module
        The kept copy, in eval mode.

    Examples
    --------
    >>> import torch
    >>> from skntk.finite import EmpiricalKernel
    >>> kernel = EmpiricalKernel(torch.nn.Linear(2, 1), outputs="trace")
    >>> kernel(torch.eye(2))
    tensor([[2., 1.],
            [1., 2.]])
    """

    def __init__(
        self,
        module: nn.Module,
        outputs: str = "full",
        *,
        parameters: ParameterFilter = None,
        dtype: Any = None,
        memory_budget: int | None = None,
    ) -> None:
        check_module(module)
        if outputs not in AXES:
            raise ValueError(f"outputs={outputs!r} must be one of {sorted(AXES)}.")
        if memory_budget is not None and memory_budget < 1:
            raise ValueError(f"memory_budget={memory_budget!r} must be a number of bytes, or None.")
        self.outputs, self.memory_budget = outputs, memory_budget
        self._names = tuple(named_parameters(module, parameters))
        dtype = None if dtype is None else resolve_dtype(dtype)
        with torch.inference_mode(False):
            self.module = private_copy(module, dtype)
        self._plans: dict[tuple[Any, ...], Plan] = {}

    def __call__(self, X1: Any, X2: Any = None) -> Any:
        """Return the kernel between rows, as `empirical_ntk` does."""
        return self.gram(X1, X2)

    @torch.inference_mode(False)
    def gram(self, X1: Any, X2: Any = None, *, n_jobs: int | None = None, verbose: int = 0) -> Any:
        """Return the kernel between rows, as `empirical_ntk` does."""
        one = NetworkInputs.of(X1, self.module, "X1")
        two = None if X2 is None else NetworkInputs.of(X2, self.module, "X2")
        if two is not None:
            _check_like(one, two)
        plan = self._plan(one, verbose)
        n_rows = len(one) + (0 if two is None else len(two))

        def compute(plan: Plan, structured: bool) -> Tensor:
            made = self._tiles(plan, one, n_rows, structured)
            rows = None if two is None else CapturedRows(made, two)
            return gram(made, CapturedRows(made, one), rows, n_jobs=n_jobs)

        out = self._retried(compute, plan).permute(_SHOWN[self.outputs])
        return like_input(out, _first_array(X1))

    @torch.inference_mode(False)
    def between(self, other: EmpiricalKernel, X: Any) -> Any:
        r"""Return the products :math:`J(x) J'(x')^T` of two networks with the same parameters.

        Such as one network before and after training: with both kernels it gives that of
        :math:`J - J'`.

        Parameters
        ----------
        other : EmpiricalKernel
            Of a network of the same architecture, for the same `outputs`.
        X : array-like, Tensor, or tuple or dict of these
            n rows.

        Returns
        -------
        ndarray or Tensor
            Shaped as the kernel between rows; its first axis belongs to this network.

        Raises
        ------
        ValueError
            If the networks have other parameters or dtypes, or are for other outputs.

        Examples
        --------
        >>> import torch
        >>> from skntk.finite import EmpiricalKernel
        >>> nets = [torch.nn.Linear(2, 1) for _ in range(2)]
        >>> one, two = (EmpiricalKernel(net, outputs="trace") for net in nets)
        >>> one.between(two, torch.eye(2))
        tensor([[2., 1.],
                [1., 2.]])
        """
        shapes = [
            {n: (p.shape, p.dtype) for n, p in k.module.named_parameters() if n in k._names}
            for k in (self, other)
        ]
        if shapes[0] != shapes[1] or self.outputs != other.outputs:
            raise ValueError(
                f"other is for outputs={other.outputs!r} of a {type(other.module).__name__} with "
                f"the parameters {list(shapes[1])}, this for {self.outputs!r} of "
                f"{list(shapes[0])}: both must be of one architecture and dtype."
            )
        one, two = NetworkInputs.of(X, self.module), NetworkInputs.of(X, other.module)
        plan = self._plan(one)
        if plan != other._plan(two):
            plan = plan.without_rules()

        def compute(plan: Plan, structured: bool) -> Tensor:
            made = self._tiles(plan, one, 2 * len(one), structured)
            others = other._tiles(plan, two, 2 * len(two), structured)
            if made.layout.kinds != others.layout.kinds:
                raise LayoutError
            return gram(made, CapturedRows(made, one), CapturedRows(others, two))

        out = self._retried(compute, plan).permute(_SHOWN[self.outputs])
        return like_input(out, _first_array(X))

    @torch.inference_mode(False)
    def diag(self, X: Any) -> Any:
        """Return the kernel of each row with itself: (n, k, k), (n, k) or (n,)."""
        inputs = NetworkInputs.of(X, self.module)

        def compute(plan: Plan, structured: bool) -> Tensor:
            made = self._tiles(plan, inputs, len(inputs), structured)
            return diagonal(made, CapturedRows(made, inputs))

        return like_input(self._retried(compute, self._plan(inputs)), _first_array(X))

    @torch.inference_mode(False)
    def function(self, X: Any) -> Any:
        """Return the network's function at the kept weights: (n, k)."""
        inputs = NetworkInputs.of(X, self.module)
        size = 1024
        with torch.no_grad():
            blocks = [
                evaluate(self.module, inputs[start : start + size])
                for start in range(0, len(inputs), size)
            ]
        return like_input(torch.cat(blocks), _first_array(X))

    def _plan(self, inputs: NetworkInputs, verbose: int = 0) -> Plan:
        shapes = tuple(tuple(t.shape[1:]) for t in inputs.tensors)
        if shapes not in self._plans:
            live = dict(self.module.named_parameters())
            chosen = {name: live[name] for name in self._names}
            self._plans[shapes] = Plan.of(self.module, inputs, chosen)
            if verbose:
                print(f"[skntk] {type(self.module).__name__}: {self._plans[shapes]}")
        return self._plans[shapes]

    def _tiles(
        self, plan: Plan, inputs: NetworkInputs, n_rows: int, structured: bool
    ) -> EmpiricalTiles:
        budget = self.memory_budget
        return EmpiricalTiles(
            self.module, plan, self.outputs, inputs[:2], n_rows, budget, structured=structured
        )

    @staticmethod
    def _retried(compute: Any, plan: Plan) -> Tensor:
        """Compute with less and less taken for granted of all rows."""
        try:
            try:
                return compute(plan, True)
            except LayoutError:
                return compute(plan, False)
        except OtherPathError:
            return compute(plan.without_rules(), False)


def _check_like(one: NetworkInputs, two: NetworkInputs) -> None:
    shapes = [[tuple(t.shape[1:]) for t in inputs.tensors] for inputs in (one, two)]
    if shapes[0] != shapes[1]:
        raise ValueError(
            f"X2 has rows of shape {shapes[1]} but X1 has {shapes[0]}: all axes but the first must "
            "agree."
        )


def _first_array(X: Any) -> Any:
    if isinstance(X, dict):
        return next(iter(X.values()))
    return X[0] if isinstance(X, tuple) else X
