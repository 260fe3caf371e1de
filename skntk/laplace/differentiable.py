"""Mean and covariance of outputs with a graph to the inputs."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.func import functional_call, jacrev, vmap

from skntk.finite.fallback import jacobians_agree
from skntk.finite.network import NetworkInputs
from skntk.laplace.dense import DensePosterior
from skntk.laplace.factored import FactoredPosterior
from skntk.laplace.function_space import FunctionSpacePosterior
from skntk.laplace.posterior import Posterior
from skntk.laplace.tangent import ONE_AT_A_TIME, Tangent, layer_matrix, layer_shape


def differentiable_posterior(
    posterior: Posterior, X: Tensor, front: torch.Size
) -> tuple[Tensor, Tensor]:
    """Mean (..., q, k) and joint covariance (..., q, k, q, k), differentiable in X.

    Parameters
    ----------
    posterior : Posterior
        Of the weights.
    X : Tensor of shape (*front, *input_shape)
        Rows.
    front : torch.Size
        (..., q).
    """
    tangent = posterior.tangent
    rows = X.reshape(-1, *X.shape[len(front) :]).to(next(tangent.module.parameters()))
    k = tangent.n_outputs
    with ONE_AT_A_TIME:
        mean = tangent.module(rows).reshape(*front, k).double()
    J = _jacobian(tangent, rows).reshape(*front[:-1], front[-1] * k, -1)  # (..., q k, P)
    if isinstance(posterior, DensePosterior):
        cov = J @ posterior.weights_covariance @ J.mT
    elif isinstance(posterior, FactoredPosterior):
        half = _turned(posterior, J)
        cov = half @ half.mT
    else:
        assert isinstance(posterior, FunctionSpacePosterior)
        cov = posterior.covariance_by(J)
    return mean, cov.reshape(*front[:-1], front[-1], k, front[-1], k)


def _turned(posterior: FactoredPosterior, J: Tensor) -> Tensor:
    """Jacobian in the posterior's coordinates, each times its standard deviation."""
    shapes = [layer_shape(layer) for layer in posterior.tangent.layers]
    parts = []
    for piece, (m, d), basis, V in zip(
        J.split([m * d for m, d in shapes], -1),
        shapes,
        posterior.bases,
        posterior.variances,
        strict=True,
    ):
        x = piece.reshape(*piece.shape[:-1], m, d)
        x = x if basis.G is None else basis.G.mT @ x
        x = x if basis.A is None else x @ basis.A
        parts.append((x * V.sqrt()).flatten(-2))
    return torch.cat(parts, -1)


def _jacobian(tangent: Tangent, rows: Tensor) -> Tensor:
    """Jacobian (n, k, P), parameters as `Tangent.flat` has them, by torch.func."""
    tangent.require_jacobian(len(rows))
    module = tangent.tangent_module
    live = dict(module.named_parameters())
    at = {name: live[name].detach() for name in tangent.names}

    def outputs(parameters: dict[str, Tensor], x: Tensor) -> Tensor:
        return functional_call(module, parameters, (x[None],)).reshape(-1)

    with ONE_AT_A_TIME:
        try:
            J = vmap(jacrev(outputs), (None, 0))(at, rows)
            trained = {name: live[name] for name in tangent.names}
            right = jacobians_agree(module, NetworkInputs(rows.detach()), trained, J)
        except RuntimeError:  # an operation without a batching rule
            right = False
        if not right:
            each = [jacrev(outputs)(at, x) for x in rows]
            J = {name: torch.stack([found[name] for found in each]) for name in at}
    parts = [layer_matrix(layer, J).flatten(2).double() for layer in tangent.layers]
    return torch.cat(parts, 2)
