"""`LaplaceModel`: a fitted `LinearizedLaplaceRegressor` as a model of BoTorch."""

from __future__ import annotations

from collections.abc import Iterable
from numbers import Integral
from typing import Any

import torch
from botorch.models.model import Model
from botorch.posteriors.gpytorch import GPyTorchPosterior
from gpytorch.distributions import MultitaskMultivariateNormal, MultivariateNormal
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from skntk.laplace.regressor import LinearizedLaplaceRegressor


class LaplaceModel(Model):
    """Posterior of a fitted regressor, for the acquisition functions of BoTorch.

    Needs the extra ``skntk[botorch]``. Inputs are those of the regressor, without the scaler of a
    pipeline around it; the posterior is that of `LinearizedLaplaceRegressor.differentiable`.

    Parameters
    ----------
    estimator : LinearizedLaplaceRegressor
        Fitted.

    Examples
    --------
    >>> import numpy as np, torch
    >>> from botorch.acquisition import LogExpectedImprovement
    >>> from skntk import LinearizedLaplaceRegressor, NetworkRegressor
    >>> from skntk.laplace.botorch import LaplaceModel
    >>> X = np.linspace(-1, 1, 20)[:, None]
    >>> y = -(X[:, 0] ** 2)
    >>> net = NetworkRegressor(depth=1, width=10, max_epochs=50, random_state=0)
    >>> model = LaplaceModel(LinearizedLaplaceRegressor(net).fit(X, y))
    >>> acquisition = LogExpectedImprovement(model, best_f=y.max())
    >>> acquisition(torch.zeros(5, 1, 1, dtype=torch.float64)).shape
    torch.Size([5])
    """

    def __init__(self, estimator: LinearizedLaplaceRegressor) -> None:
        super().__init__()
        if not isinstance(estimator, LinearizedLaplaceRegressor):
            raise TypeError(f"estimator={estimator!r} must be a LinearizedLaplaceRegressor.")
        check_is_fitted(estimator)
        self.estimator = estimator

    @property
    def num_outputs(self) -> int:
        """Number of targets."""
        return self.estimator._n_outputs

    @property
    def batch_shape(self) -> torch.Size:
        """Of the model, which is one."""
        return torch.Size()

    def posterior(
        self,
        X: Tensor,
        output_indices: list[int] | None = None,
        observation_noise: bool | Tensor = False,
        posterior_transform: Any = None,
    ) -> Any:
        """Joint normal distribution of the targets at q rows.

        Parameters
        ----------
        X : Tensor of shape (..., q, d)
            Rows; leading axes are batches.
        output_indices : list of int, optional
            Only these targets.
        observation_noise : bool, default=False
            Whether to add the noise of an observation.
        posterior_transform : botorch.acquisition.objective.PosteriorTransform, optional
            Applied to the result.

        Returns
        -------
        botorch.posteriors.Posterior
        """
        if isinstance(observation_noise, Tensor):
            raise ValueError("observation_noise must be True or False; it is that of the fit.")
        mean, cov = self.estimator.differentiable(X)
        noise = torch.as_tensor(self.estimator.noise_variance_).to(mean).expand(mean.shape[-1])
        if output_indices is not None:
            at = _positions(output_indices, mean.shape[-1]).to(mean.device)
            mean, noise = mean[..., at], noise[at]
            cov = cov[..., at, :, :][..., at]
        q, k = mean.shape[-2:]
        cov = cov.reshape(*cov.shape[:-4], q * k, q * k)
        if observation_noise:
            cov = cov + torch.diag(noise.repeat(q))
        mean, cov = mean.to(X), cov.to(X)
        if k == 1:
            found: Any = GPyTorchPosterior(MultivariateNormal(mean[..., 0], cov))
        else:
            found = GPyTorchPosterior(MultitaskMultivariateNormal(mean, cov))
        return found if posterior_transform is None else posterior_transform(found)


def _positions(indices: Any, k: int) -> Tensor:
    """Positions of some of k targets."""
    given = indices.tolist() if hasattr(indices, "tolist") else indices
    given = list(given) if isinstance(given, Iterable) else [given]
    known = all(isinstance(i, Integral) and -k <= int(i) < k for i in given)
    if not given or not known or len({int(i) % k for i in given}) < len(given):
        raise ValueError(
            f"output_indices={indices!r} must be different numbers of the {k} targets, from 0."
        )
    return torch.tensor(given) % k
