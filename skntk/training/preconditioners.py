"""Natural gradient and K-FAC: what takes the gradient's place before a step of plain descent."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from skntk.core import KernelOverflowError, TrainingDivergedError, require
from skntk.finite import Linearized
from skntk.finite.capture import Capture, sweep
from skntk.finite.curvature import kronecker_roots, output_hessian
from skntk.finite.layers import AffineLayer, LookupLayer
from skntk.finite.network import NetworkInputs, check_module, eval_mode, evaluate, private_copy
from skntk.finite.plan import Plan
from skntk.finite.run import OtherPathError
from skntk.finite.tiles import BatchKernel
from skntk.solvers import cholesky

#: Parameters of a layer without Kronecker factors whose block of the curvature is formed.
_MOST = 4096


def tangent_module(module: nn.Module) -> nn.Module:
    """Return the network whose Jacobian a module has: of a linearization, a copy of its anchor."""
    if not isinstance(module, Linearized):
        return module
    made = private_copy(module.anchor)
    for name, parameter in made.named_parameters():
        parameter.requires_grad_(name in module.names)
    return made


class Preconditioner(ABC):
    """Replaces the gradients of a module by those of a second-order method.

    Parameters
    ----------
    module : torch.nn.Module
        What is trained, perhaps a `Linearized`.
    likelihood : {"gaussian", "categorical"}
        Whose Gauss-Newton matrix, see `skntk.finite.curvature.output_hessian`.
    damping : float
        Added to :math:`J J^T`, the sum over the rows of a batch, or to the Gauss-Newton matrix.

    Raises
    ------
    ValueError
        If the module has a BatchNorm, which couples the rows of a batch in training.
    """

    def __init__(self, module: nn.Module, likelihood: str, damping: float) -> None:
        self.module, self.likelihood, self.damping = module, likelihood, damping
        self._plan: Plan | None = None
        self._tangent = tangent_module(module)
        if isinstance(module, Linearized):
            self._trained = dict(module.module.named_parameters())
            self._names = module.names
        else:
            check_module(module)
            self._trained = dict(module.named_parameters())
            self._names = tuple(n for n, p in self._trained.items() if p.requires_grad)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_plan": None}

    def apply(self, X: Tensor, residual: Tensor) -> None:
        """Put a direction in place of the gradients.

        Parameters
        ----------
        X : Tensor
            Rows of the batch.
        residual : Tensor of shape (n, k)
            Derivative of the loss's sum over rows with respect to the outputs.

        Raises
        ------
        TrainingDivergedError
            If the algebra meets numbers that are not finite.
        """
        try:
            if torch.isfinite(residual).all():
                return self._replace(X, residual)
        except (KernelOverflowError, torch.linalg.LinAlgError, ValueError) as error:
            if all(torch.isfinite(p).all() for p in self._trained.values()) and isinstance(
                error, ValueError
            ):
                raise
        raise TrainingDivergedError(
            "the training has diverged: the network, or its curvature, is not finite. Pass a "
            "smaller learning_rate, more damping, or scale the inputs."
        )

    @abstractmethod
    def _replace(self, X: Tensor, residual: Tensor) -> None:
        """Do as `apply` says, with residuals that are finite."""

    def _captured(self, X: Tensor) -> Capture:
        inputs = NetworkInputs(X)
        with eval_mode(self._tangent):
            return sweep(self._tangent, inputs, self._planned(inputs))

    def _planned(self, inputs: NetworkInputs) -> Plan:
        if self._plan is None:
            live = dict(self._tangent.named_parameters())
            chosen = {name: live[name] for name in self._names}
            self._plan = Plan.of(self._tangent, inputs, chosen)
        return self._plan

    def _outputs(self, X: Tensor) -> Tensor:
        """Outputs of what is trained, in eval mode."""
        with torch.no_grad(), eval_mode(self.module):
            return evaluate(self.module, NetworkInputs(X))


class NaturalGradient(Preconditioner):
    r"""Exact natural gradient in function space (Zhang, Martens & Grosse 2019, equation 9).

    The direction is :math:`J^T (\Lambda J J^T + \lambda I)^{-1} r`, with the residual r and the
    likelihood's Hessian :math:`\Lambda`: the identity for squared loss.
    """

    _kernel: BatchKernel | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_kernel": None}

    def _replace(self, X: Tensor, residual: Tensor) -> None:
        n, k = residual.shape
        require(
            3 * 8 * (n * k) ** 2,
            f"a natural gradient of {n} rows x {k} outputs",
            "Pass a smaller batch_size, or optimizer='kfac'.",
            residual.device,
        )
        inputs = NetworkInputs(X)
        K = self._gram(inputs).double()
        r = residual.T.reshape(-1, 1).double()  # output by output, as K is
        if self.likelihood == "gaussian":
            dual = cholesky(K.view(n * k, n * k), self.damping, overwrite=True).solve(r)
        else:
            H = output_hessian(self._outputs(X), self.likelihood).double()
            M = torch.einsum("npq,qnsm->pnsm", H, K).reshape(n * k, n * k)
            M.diagonal().add_(self.damping)
            dual = torch.linalg.solve(M, r)
        self._pull_back(inputs, dual.view(k, n).T.to(residual.dtype))

    def _gram(self, inputs: NetworkInputs) -> Tensor:
        with eval_mode(self._tangent):
            if self._kernel is None:
                self._kernel = BatchKernel(self._tangent, self._planned(inputs))
            try:
                return self._kernel(inputs)
            except OtherPathError:
                plan = self._planned(inputs).without_rules()
                return BatchKernel(self._tangent, plan)(inputs)

    def _pull_back(self, inputs: NetworkInputs, dual: Tensor) -> None:
        """Put :math:`J^T` times `dual` (n, k) in place of the gradients."""
        live = dict(self._tangent.named_parameters())
        with eval_mode(self._tangent), torch.enable_grad():
            outputs = evaluate(self._tangent, inputs)
        tensors = [live[name] for name in self._names]
        found = torch.autograd.grad(
            outputs, tensors, dual, allow_unused=True, materialize_grads=True
        )
        for name, direction in zip(self._names, found, strict=True):
            self._trained[name].grad = direction


class KFAC(Preconditioner):
    r"""K-FAC (Martens & Grosse 2015): a Kronecker-factored Gauss-Newton matrix, layer by layer.

    The direction of a layer is :math:`(G \otimes A + \lambda I)^{-1}` times its gradient, by the
    eigendecompositions of both factors. Parameters without factors, such as the scales of a
    normalization, have their block of the matrix formed. The whole direction d is then scaled by
    what the exact matrix says is best, :math:`g^T d / (d^T J^T \Lambda J d + \lambda d^T d)`
    (section 6.4), without which the layers overshoot together.
    """

    def _replace(self, X: Tensor, residual: Tensor) -> None:
        found, outputs = self._captured(X), self._outputs(X)
        H = output_hessian(outputs, self.likelihood)
        directions: dict[str, Tensor] = {}
        change = torch.zeros_like(outputs)  # J d
        for layer in found.layers:
            if isinstance(layer, AffineLayer):
                made, moved = self._factored(layer, outputs, residual)
            elif isinstance(layer, LookupLayer):
                raise ValueError(
                    f"optimizer='kfac' has no factors for the embedding {layer.weight!r}; freeze "
                    "it by requires_grad_(False), or take another optimizer."
                )
            else:
                made, moved = self._dense(layer.name, layer.J, H, residual)
            directions |= made
            change += moved
        slope = (residual * change).sum()
        size = sum((d.square().sum() for d in directions.values()), change.new_zeros(()))
        curvature = torch.einsum("np,npq,nq->", change, H, change) + self.damping * size
        scale = slope / curvature if curvature > 0 else torch.zeros_like(slope)
        for name, direction in directions.items():
            self._trained[name].grad = scale * direction

    def _factored(
        self, layer: AffineLayer, outputs: Tensor, residual: Tensor
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Directions of a layer's parameters, and how they move the outputs (n, k)."""
        columns = layer.columns()
        gradient = torch.einsum("np,pnsm,nsd->md", residual, layer.B, columns).double()
        a, g = kronecker_roots(layer, outputs, self.likelihood)
        la, Qa = _second_moment(a)
        lg, Qg = _second_moment(g)
        eigenvalues = lg[:, None] * la
        precision = torch.finfo(columns.dtype)
        floor = precision.eps * eigenvalues.max().clamp_min(precision.tiny)
        inner = Qg.T @ gradient @ Qa
        V = Qg @ (inner / (eigenvalues + self.damping).clamp_min(floor)) @ Qa.T
        if self.likelihood == "categorical" and Qg.shape[1] < len(Qg) and self.damping > 0:
            # Rows that are predicted with certainty have gradients, but no curvature. With a
            # gaussian likelihood the gradient is made of what the curvature is made of.
            V += (gradient - Qg @ inner @ Qa.T) / max(self.damping, float(floor))
        V = V.to(columns.dtype)
        moved = torch.einsum("pnsm,nsm->np", layer.B, columns @ V.T)
        return layer.split(V), moved

    def _dense(
        self, name: str, J: Tensor, H: Tensor, residual: Tensor
    ) -> tuple[dict[str, Tensor], Tensor]:
        shape, J = J.shape[2:], J.reshape(*J.shape[:2], -1)
        if J.shape[2] > _MOST:
            raise ValueError(
                f"optimizer='kfac' has no factors for the parameter {name!r} of shape "
                f"{tuple(shape)}, which no rule of the capture explains; freeze it by "
                "requires_grad_(False), or take another optimizer."
            )
        M = torch.einsum("pnx,npq,qny->xy", J, H, J).double()
        gradient = torch.einsum("np,pnx->x", residual, J)
        factor = cholesky(M, self.damping, overwrite=True)
        d = factor.solve(gradient[:, None].double())[:, 0].to(J.dtype)
        return {name: d.reshape(shape)}, torch.einsum("pnx,x->np", J, d)


def _second_moment(root: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues (r,) and eigenvectors (d, r) of `root.T @ root`, but for some that are 0."""
    root = root.double()  # in float32 MKL may return NaN
    if len(root) < root.shape[1]:
        _, values, vectors = torch.linalg.svd(root, full_matrices=False)
        return values.square(), vectors.T
    found, vectors = torch.linalg.eigh(root.T @ root)
    return found.clamp_min(0), vectors
