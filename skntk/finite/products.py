"""Products with the Jacobian of a finite network, which is never formed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator
from torch import Tensor, nn
from torch.func import functional_call, jvp
from torch.nn.attention import SDPBackend, sdpa_kernel

from skntk.core import resolve_dtype
from skntk.finite.curvature import check_likelihood
from skntk.finite.network import (
    NetworkInputs,
    ParameterFilter,
    check_module,
    evaluate,
    named_parameters,
    private_copy,
)


class JacobianOperator(LinearOperator):
    r"""Jacobian :math:`J` of a network's outputs with respect to its parameters, as an operator.

    Rows are the outputs of the first input, then of the second, and so on; columns are the
    parameters in the order of ``named_parameters()``, each flattened, as
    `torch.nn.utils.parameters_to_vector` has them. As a `scipy.sparse.linalg.LinearOperator` it
    takes and gives NumPy arrays; `jvp`, `vjp` and the other products take and give tensors.

    Parameters
    ----------
    module : torch.nn.Module
        The network; a copy in eval mode is kept as it is now.
    X : array-like, Tensor, or tuple or dict of these
        n rows, as of `empirical_ntk`.
    parameters, dtype
        As of `empirical_ntk`.
    batch_size : int, default=256
        Rows that go through the network at one time.

    Attributes
    ----------
    shape : tuple of int
        (n k, P).
    names : tuple of str
        The parameters, in order.

    Raises
    ------
    ValueError
        As of `empirical_ntk`.

    References
    ----------
    Schraudolph (2002), "Fast curvature matrix-vector products for second-order gradient descent".

    Examples
    --------
    >>> import numpy as np, torch
    >>> from skntk.finite import JacobianOperator
    >>> J = JacobianOperator(torch.nn.Linear(2, 1), np.eye(2), dtype="float64")
    >>> J.shape
    (2, 3)
    >>> J @ np.array([1.0, 10.0, 100.0])
    array([101., 110.])
    >>> J.ntk() @ np.array([1.0, 0.0])
    array([2., 1.])
    """

    def __init__(
        self,
        module: nn.Module,
        X: Any,
        *,
        parameters: ParameterFilter = None,
        dtype: Any = None,
        batch_size: int = 256,
    ) -> None:
        if int(batch_size) != batch_size or batch_size < 1:
            raise ValueError(f"batch_size={batch_size!r} must be an integer of at least 1.")
        check_module(module)
        self.names = tuple(named_parameters(module, parameters))
        dtype = None if dtype is None else resolve_dtype(dtype)
        self.module, self.batch_size = private_copy(module, dtype), int(batch_size)
        self.inputs = NetworkInputs.of(X, self.module)
        live = dict(self.module.named_parameters())
        self._parameters = {name: live[name].detach() for name in self.names}
        with torch.no_grad():
            first = evaluate(self.module, self.inputs[:1])
        self.n_outputs = first.shape[1]
        n_parameters = sum(p.numel() for p in self._parameters.values())
        kind = np.dtype(str(first.dtype).removeprefix("torch."))
        super().__init__(kind, (len(self.inputs) * self.n_outputs, n_parameters))

    def jvp(self, v: Tensor) -> Tensor:
        """Product :math:`J v`: (P,) to (n, k)."""
        tangents = self._unflattened(v)
        blocks = [
            directional(self._function(rows), self._parameters, tangents)[1]
            for rows in self._batches()
        ]
        return torch.cat(blocks).detach()

    def vjp(self, u: Tensor) -> Tensor:
        r"""Product :math:`J^T u`: (n, k) to (P,)."""
        wanted = (len(self.inputs), self.n_outputs)
        if u.shape != wanted:
            raise ValueError(f"u has shape {tuple(u.shape)}; pass {wanted}: one row per input.")
        total = u.new_zeros(self.shape[1])
        for rows in self._batches():
            with torch.enable_grad():
                leaves = {n: p.requires_grad_() for n, p in _detached(self._parameters).items()}
                outputs = self._function(rows)(leaves)
            grads = torch.autograd.grad(
                outputs, list(leaves.values()), u[rows], allow_unused=True, materialize_grads=True
            )
            total += torch.cat([g.reshape(-1) for g in grads])
        return total

    def ntk_product(self, u: Tensor) -> Tensor:
        r"""Product :math:`J J^T u` with the empirical NTK: (n, k) to (n, k)."""
        return self.jvp(self.vjp(u))

    def ggn_product(self, v: Tensor, likelihood: str = "gaussian") -> Tensor:
        r"""Product :math:`J^T \Lambda J v` with the generalized Gauss-Newton matrix: (P,) to (P,).

        Parameters
        ----------
        v : Tensor of shape (P,)
            Direction.
        likelihood : {"gaussian", "categorical"}, default="gaussian"
            Whose :math:`\Lambda`, the Hessian of the loss with respect to a row's outputs: the
            identity for half the squared error; :math:`diag(p) - p p^T` with the softmax p for the
            cross-entropy. The sum over rows, not the mean.
        """
        Jv = self.jvp(v)
        if check_likelihood(likelihood) == "categorical":
            with torch.no_grad():
                p = torch.cat([self._function(r)(self._parameters) for r in self._batches()])
            p = p.softmax(1)
            Jv = p * (Jv - (p * Jv).sum(1, keepdim=True))
        return self.vjp(Jv)

    def ntk(self) -> LinearOperator:
        """Return the empirical NTK :math:`J J^T` as an operator (n k, n k)."""
        shape = -1, self.n_outputs
        return self._symmetric(self.shape[0], lambda u: self.ntk_product(u.view(shape)))

    def ggn(self, likelihood: str = "gaussian") -> LinearOperator:
        r"""Return :math:`J^T \Lambda J` as an operator (P, P); see `ggn_product`."""
        check_likelihood(likelihood)
        return self._symmetric(self.shape[1], lambda v: self.ggn_product(v, likelihood))

    def _symmetric(self, size: int, product: Callable[[Tensor], Tensor]) -> LinearOperator:
        def matvec(v: np.ndarray) -> np.ndarray:
            return product(self._tensor(v)).reshape(-1).cpu().numpy()

        return LinearOperator((size, size), matvec=matvec, rmatvec=matvec, dtype=self.dtype)

    def _matvec(self, x: np.ndarray) -> np.ndarray:
        return self.jvp(self._tensor(x)).reshape(-1).cpu().numpy()

    def _rmatvec(self, x: np.ndarray) -> np.ndarray:
        return self.vjp(self._tensor(x).view(-1, self.n_outputs)).cpu().numpy()

    def _tensor(self, v: np.ndarray) -> Tensor:
        like = next(iter(self._parameters.values()))
        return torch.as_tensor(np.ravel(v), dtype=like.dtype, device=like.device)

    def _batches(self) -> Iterable[slice]:
        n = len(self.inputs)
        return (slice(a, min(a + self.batch_size, n)) for a in range(0, n, self.batch_size))

    def _function(self, rows: slice) -> Callable[[dict[str, Tensor]], Tensor]:
        return network_function(self.module, self.inputs[rows])

    def _unflattened(self, v: Tensor) -> dict[str, Tensor]:
        if v.shape != (self.shape[1],):
            raise ValueError(f"v has shape {tuple(v.shape)}; pass ({self.shape[1]},).")
        pieces = v.split([p.numel() for p in self._parameters.values()])
        return {
            name: piece.view(p.shape)
            for (name, p), piece in zip(self._parameters.items(), pieces, strict=True)
        }


def network_function(
    module: nn.Module, inputs: NetworkInputs
) -> Callable[[dict[str, Tensor]], Tensor]:
    """Outputs (n, k) of a network at some inputs as a function of its parameters by name."""

    def function(parameters: dict[str, Tensor]) -> Tensor:
        def call(*args: Any, **kwargs: Any) -> Any:
            return functional_call(module, parameters, args, kwargs)

        found = inputs.call(call)
        return found.reshape(len(inputs), -1)

    return function


def directional(
    function: Callable[[dict[str, Tensor]], Any],
    at: Mapping[str, Tensor],
    tangents: dict[str, Tensor],
) -> tuple[Any, Any]:
    """Value of a function of named tensors, and its derivative in one direction.

    By forward-mode differentiation, or by two reverse passes where an operation has none. The
    derivative is itself differentiable with respect to `tangents`.
    """
    value: Any
    derivative: Any
    try:
        # the fused attention kernels have no derivative of their derivative
        with sdpa_kernel(SDPBackend.MATH):
            value, derivative = jvp(function, (dict(at),), (tangents,))  # type: ignore[misc]
    except RuntimeError:  # no forward mode, or a custom function that knows no transforms
        with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
            leaves = {name: t.detach().requires_grad_() for name, t in at.items()}
            value = function(leaves)
            u = torch.zeros_like(value, requires_grad=True)
            grads = torch.autograd.grad(
                value,
                list(leaves.values()),
                u,
                create_graph=True,
                allow_unused=True,
                materialize_grads=True,
            )
            derivative = torch.autograd.grad(
                grads, u, [tangents[name] for name in leaves], create_graph=True
            )[0]
        value = value.detach()
        if not torch.is_grad_enabled():
            derivative = derivative.detach()
    return value, derivative


def _detached(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: t.detach() for name, t in tensors.items()}
