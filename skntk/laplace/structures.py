"""Which structure the curvature has."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from skntk.laplace.dense import DenseCurvature
from skntk.laplace.factored import DiagonalCurvature, KroneckerCurvature
from skntk.laplace.function_space import FunctionSpaceCurvature
from skntk.laplace.likelihoods import Gaussian, Likelihood
from skntk.laplace.posterior import Curvature
from skntk.laplace.tangent import Tangent

#: Parameters, and training outputs, up to which the full posterior is what "auto" takes.
FULL_UP_TO, OUTPUTS_UP_TO = 4000, 2000
#: All structures, by name.
KINDS: dict[str, type[Curvature]] = {
    kind.__name__: kind
    for kind in (DenseCurvature, FunctionSpaceCurvature, KroneckerCurvature, DiagonalCurvature)
}


def chosen_curvature(
    module: nn.Module,
    rows: Tensor,
    likelihood_of: Callable[[Tangent], Likelihood],
    *,
    curvature: str,
    parameters: Any,
    prior_structure: str,
    streamed: bool,
    factors: bool = True,
) -> tuple[str, Curvature]:
    """Name of the structure, with "auto" resolved, and the curvature of no rows yet.

    Parameters
    ----------
    module : torch.nn.Module
        Trained.
    rows : Tensor
        That will be added: their number decides between the two spaces of the full posterior.
    likelihood_of : callable
        Makes the likelihood, given the tangent.
    curvature, parameters, prior_structure
        As of the estimators.
    streamed : bool
        Whether more rows are to come, so that their number says nothing yet.
    factors : bool
        Whether one Kronecker product may stand for the full posterior where it is that.
    """
    tangent = Tangent(module, parameters, rows)
    likelihood = likelihood_of(tangent)
    rank = max(tangent.n_outputs - (0 if likelihood.noisy else 1), 1)
    n_parameters, n_outputs = tangent.n_parameters, len(rows) * rank
    # the factors turn weight and bias together, which must have one prior
    one_prior = len(tangent.groups(prior_structure).unique()) == 1
    factors = factors and one_prior and _exact_by_factors(tangent, likelihood)
    if curvature == "auto":
        dual = prior_structure == "scalar" and not streamed  # the space of the outputs will do
        small = n_parameters <= FULL_UP_TO or (dual and n_outputs <= OUTPUTS_UP_TO)
        factored = "diag" if prior_structure == "parameter" else "kron"
        curvature = "full" if small or factors else factored
    if curvature == "diag":
        return curvature, DiagonalCurvature(tangent, likelihood)
    if curvature == "kron":
        return curvature, KroneckerCurvature(tangent.with_split_biases(), likelihood)
    if factors:
        return curvature, KroneckerCurvature(tangent, likelihood, exact=True)
    by_weights = n_parameters <= (FULL_UP_TO if streamed else n_outputs)
    if by_weights or prior_structure != "scalar":
        return curvature, DenseCurvature(tangent, likelihood)
    return curvature, FunctionSpaceCurvature(tangent, likelihood)


def _exact_by_factors(tangent: Tangent, likelihood: Likelihood) -> bool:
    """Whether one Kronecker product is the whole curvature: a last layer with normal noise."""
    layers = tangent.layers
    return (
        isinstance(likelihood, Gaussian)
        and len(layers) == 1
        and getattr(layers[0], "identity", False)
    )
