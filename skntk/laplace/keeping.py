"""Fitted estimators as plain dictionaries of tensors, and back."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
from torch import Tensor, nn

from skntk.laplace.likelihoods import Categorical, Counts, Gaussian
from skntk.laplace.structures import KINDS
from skntk.laplace.tangent import Tangent

#: Plain attributes of a fitted estimator that a state holds beside the posterior.
_PLAIN = (
    "_input_shape",
    "_n_outputs",
    "_flat",
    "_shift",
    "_scale",
    "_loss",
    "classes_",
    "criterion_",
    "curvature_",
    "n_features_in_",
    "feature_names_in_",
    "validation_scores_",
    "_chosen",
)


def state_of(estimator: Any) -> dict[str, Any]:
    """Collect what `restore` needs."""
    curvature, found = estimator._curvature, estimator._optimum
    counts = estimator._counts
    plain = {name: getattr(estimator, name) for name in _PLAIN if hasattr(estimator, name)}
    plain = {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in plain.items()}
    likelihood = curvature.likelihood
    return {
        "network": {k: v.clone() for k, v in estimator.module_.state_dict().items()},
        "kind": type(curvature).__name__,
        "probe": curvature.tangent.probe,
        "split_bias": curvature.tangent.split_bias,
        "names": list(curvature.tangent.names),
        "curvature": curvature.state(),
        "variances": likelihood.variances if isinstance(likelihood, Gaussian) else None,
        "precision": found.precision,
        "scale": found.scale,
        "counts": [counts.rows, counts.weight, counts.log_weight],
        "plain": plain,
    }


def restore(estimator: Any, state: dict[str, Any]) -> None:
    """Make an estimator what it was.

    Raises
    ------
    ValueError
        If its module is no module of the same architecture.
    """
    if not isinstance(estimator.module, nn.Module):
        raise ValueError(
            f"load_state_dict needs module to be a torch.nn.Module of the same architecture, not "
            f"{estimator.module!r}: pass such a module and prefit=True. Estimators that train "
            "their own network are best kept by pickle."
        )
    module = copy.deepcopy(estimator.module)
    try:
        module.load_state_dict(state["network"])
    except (RuntimeError, KeyError) as error:
        raise ValueError(f"the state is that of another module: {error}") from error
    for name, value in state["plain"].items():
        array = name in ("classes_", "feature_names_in_", "validation_scores_")
        setattr(estimator, name, np.array(value) if array else value)
    estimator.network_ = module
    estimator._counts = counts = Counts()
    counts.rows, counts.weight, counts.log_weight = state["counts"]
    tangent = Tangent(module, estimator.parameters, state["probe"])
    if list(tangent.names) != state["names"]:
        raise ValueError(
            f"the state has the uncertain parameters {state['names']}, but parameters="
            f"{estimator.parameters!r} means {list(tangent.names)}; construct the estimator as the "
            "one that was kept."
        )
    variances: Tensor | None = state["variances"]
    likelihood = Categorical() if variances is None else Gaussian(variances)
    tangent = tangent.with_split_biases() if state["split_bias"] else tangent
    estimator._curvature = KINDS[state["kind"]](tangent, likelihood)
    estimator._curvature.load(state["curvature"])
