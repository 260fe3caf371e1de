"""Prior and noise by the marginal likelihood while a network is trained."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from skorch.callbacks import Callback
from torch import Tensor

from skntk.core import SkntkWarning
from skntk.finite import Linearized
from skntk.laplace.evidence import Evidence, maximize
from skntk.laplace.factored import DiagonalCurvature, FactoredCurvature, KroneckerCurvature
from skntk.laplace.likelihoods import Categorical, Counts, Gaussian, Likelihood
from skntk.laplace.tangent import Tangent

#: Updates would be so many in a training, but the first half of it has none: the evidence of a
#: network that has learned little asks for much noise, and so for a decay that it never leaves.
UPDATES, FIRST = 20, 0.5
#: Steps of the search for the precisions of several groups in an update.
_STEPS = 20


class OnlineEvidence(Callback):
    r"""Sets the weight decay that the evidence asks for, ten times in a training's second half.

    With n rows, k outputs, noise variance c and prior precision :math:`\tau`, the mean loss and a
    decay of :math:`\tau c / (n k)` (of a classifier :math:`\tau / n`) have the mode of the
    posterior as their minimum.

    Parameters
    ----------
    curvature : str
        "diag"; anything else stands for Kronecker factors, which take a fraction of a step.
    structure : {"scalar", "layer"}
        Of the prior.
    parameters : object
        Which parameters are uncertain, as of the estimators; the others have no decay.

    Attributes
    ----------
    history_ : list of tuple
        Epoch, log marginal likelihood of the targets inside, prior precisions and noise variance.

    References
    ----------
    Immer et al. (2021), "Scalable marginal likelihood estimation for model selection in deep
    learning", algorithm 1.
    """

    def __init__(self, curvature: str, structure: str, parameters: Any = None) -> None:
        self.curvature, self.structure, self.parameters = curvature, structure, parameters

    @property
    def fingerprint(self) -> str:
        """What a checkpoint must agree in."""
        return f"{self.curvature}, {self.structure}, {self.parameters!r}"

    def on_train_begin(self, net: Any, **kwargs: Any) -> None:
        """Give each parameter a decay of its own."""
        optimizer = net.optimizer_
        if not len(net.history):
            self.history_: list[tuple[int, float, Tensor, float]] = []
            optimizer.param_groups = [
                {**group, "params": [p]}
                for group in optimizer.param_groups
                for p in group["params"]
            ]

    def on_epoch_end(self, net: Any, dataset_train: Any = None, **kwargs: Any) -> None:
        """Update at the end of every twentieth of the training, after the first half."""
        epoch, every = len(net.history), max(1, net.max_epochs // UPDATES)
        if epoch % every or epoch <= FIRST * net.max_epochs or dataset_train is None:
            return
        found, tangent, N = self._maximum(net, dataset_train)
        self.history_.append((epoch, found.value, found.precision, found.scale))
        groups = tangent.groups(self.structure)
        decays = tangent.by_name(found.precision[groups] * found.scale / N)
        trained = dict(net.module_.named_parameters())
        names = {id(p): name for name, p in trained.items()}
        prefix = "module." if isinstance(net.module_, Linearized) else ""
        for group in net.optimizer_.param_groups:
            (p,) = group["params"]
            name = names[id(p)].removeprefix(prefix)
            group["weight_decay"] = float(decays[name].mean()) if name in decays else 0.0

    def _maximum(self, net: Any, dataset: Any) -> Any:
        """Evidence of the network as it is now."""
        device = next(net.module_.parameters()).device
        X, y = dataset.X.to(device).double(), dataset.y.to(device)
        kind: type[FactoredCurvature] = KroneckerCurvature
        if self.curvature == "diag":
            kind = DiagonalCurvature
        likelihood: Likelihood = Categorical()
        n_targets = len(X)
        if y.is_floating_point():
            n_targets = y.numel()
            likelihood = Gaussian(torch.ones(y.shape[1], dtype=torch.float64, device=device))
            y = y.double()
        tangent = Tangent(net.module_, self.parameters, X[:2])
        if kind is KroneckerCurvature:
            tangent = tangent.with_split_biases()
        curvature, counts = kind(tangent, likelihood), Counts()
        ones = torch.ones(len(X), dtype=torch.float64, device=device)
        loss = sum(part for _, part in curvature.take(X, y, ones))
        counts.add(ones)
        evidence = Evidence.of(curvature, self.structure, loss, counts)
        with warnings.catch_warnings():  # it is for the end to say what the data do not tell
            warnings.simplefilter("ignore", SkntkWarning)
            found = maximize(evidence, None, None if likelihood.noisy else 1.0, most=_STEPS)
        return found, tangent, n_targets
