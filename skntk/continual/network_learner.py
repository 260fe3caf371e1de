"""A finite network, or its linearization, that learns one task after the other by skorch."""

from __future__ import annotations

import copy
import warnings
from dataclasses import dataclass
from typing import Any

import torch
from skorch import NeuralNet
from torch import Tensor, nn

from skntk.continual.growth import grow_readout
from skntk.continual.kernels import FiniteTaskKernel
from skntk.continual.overlap import Share
from skntk.continual.rules import Rule, Trained, network_of, trained_parameters
from skntk.continual.tasks import HeadCrossEntropy, HeadSquaredError, TaskRows
from skntk.core import SkntkWarning, TrainingDivergedError
from skntk.finite import Linearized
from skntk.training.net import (
    Divergence,
    EpochEnd,
    LossReached,
    Progress,
    Rows,
    as_matrix,
    interrupts_kept,
    seeded,
)
from skntk.training.preconditioners import tangent_module
from skntk.training.rates import is_ntk_parametrized, stable_rate

_TEST_BATCH = 1024


@dataclass(frozen=True)
class Training:
    """How each task is trained.

    Attributes
    ----------
    loss : {"cross_entropy", "squared"}
        Of the outputs that belong to a task.
    learning_rate : float or "auto"
        Of gradient descent; "auto" is what the kernel at the start has room for.
    rate_decay : float
        By which the rate is multiplied for each task that was learnt before.
    momentum, max_epochs, tol, batch_size
        As of `ContinualNTK`.
    device : torch.device
        Where the network is.
    verbose : int
        Whether to show progress.
    """

    loss: str
    learning_rate: float | str
    rate_decay: float
    momentum: float
    max_epochs: int
    tol: float
    batch_size: int | None
    device: torch.device
    verbose: int


class NetworkLearner:
    """Learns tasks by gradient descent on one network.

    Parameters
    ----------
    module : torch.nn.Module
        The network at its start, perhaps a `Linearized` or `Centered`; it is trained in place.
    rule : Rule
        The method.
    training : Training
        How a task is trained.

    Attributes
    ----------
    losses : list of list of float
        Mean training loss of each epoch of each task.
    rates, momenta : list of float
        Learning rate and momentum of each task.
    steps : list of int
        Steps of gradient descent of each task.
    """

    def __init__(self, module: nn.Module, rule: Rule, training: Training) -> None:
        self.module, self.rule, self.training = module, rule, training
        self._start = copy.deepcopy(network_of(module)).requires_grad_(False)
        self.losses: list[list[float]] = []
        self.rates: list[float] = []
        self.momenta: list[float] = []
        self.steps: list[int] = []

    def grow(self, X: Tensor, n_new: int, seed: int, fill: float) -> None:
        """Add outputs, with `fill` for the targets of rows that are kept."""
        network = network_of(self.module)
        anchor = [self.module.anchor] if network is not self.module else []
        networks = [network, self._start, *anchor]
        names = grow_readout(networks, X.to(self.training.device), n_new, seed)  # type: ignore[arg-type]
        self.rule.grow(names, n_new, fill)

    def learn(self, rows: TaskRows, seed: int) -> None:
        """Train on a task, and keep of it what the method keeps.

        Raises
        ------
        TrainingDivergedError
            If the loss or an output is not finite.
        """
        t, device = self.training, self.training.device
        rows = TaskRows(rows.X.to(device), rows.Y.to(device))
        trained = self.rule.rows(rows)
        if len(trained) > len(rows):  # joint training starts anew
            network_of(self.module).load_state_dict(self._start.state_dict())
        generator = torch.Generator().manual_seed(seed)
        size = len(trained) if t.batch_size is None else min(t.batch_size, len(trained))
        rate = self._rate(trained, size, generator, seed)
        callbacks: list[Any] = [("divergence", Divergence()), ("rule", self.rule)]
        if t.verbose:
            callbacks.append(("progress", Progress()))
        callbacks += [("reached", LossReached(t.tol)), ("epoch_end", EpochEnd())]
        with seeded(seed):
            net = NeuralNet(
                self.module,
                criterion=HeadCrossEntropy if t.loss == "cross_entropy" else HeadSquaredError,
                optimizer=torch.optim.SGD,
                optimizer__momentum=t.momentum,
                lr=rate,
                max_epochs=t.max_epochs,
                batch_size=size,
                callbacks=callbacks,
                callbacks__print_log=None,
                callbacks__valid_loss=None,
                dataset=Rows,
                iterator_train__collate_fn=self.rule.collate,
                iterator_train__shuffle=size < len(trained),
                train_split=None,
                device=str(device),
                verbose=0,
            )
            with interrupts_kept():
                net.fit(trained.X, trained.Y)
        self.module = net.module_.eval()
        self.module.zero_grad()  # which takes as much memory as the weights
        if not torch.isfinite(self.outputs(rows.X)).all():
            raise TrainingDivergedError(
                "the outputs of the trained network are not finite, with "
                f"learning_rate={rate:.3g}: pass a smaller learning_rate, or scale the inputs."
            )
        self.losses.append([float(epoch["train_loss"]) for epoch in net.history])
        self.rates.append(rate)
        self.momenta.append(t.momentum)
        self.steps.append(len(net.history) * -(-len(trained) // size))
        learnt = Trained(self.module, self._tangent(), trained_parameters(net))
        self.rule.finish(learnt, rows, generator)

    def _rate(
        self, rows: TaskRows, batch_size: int, generator: torch.Generator, seed: int
    ) -> float:
        """Learning rate of the task that comes, from rows that batches are made of.

        By the kernel at the start: that of a trained network is larger, but the curvature of its
        loss is not. That holds in the NTK parametrization; in others the kernel grows further, and
        the rate is such that momentum, too, makes no longer steps than the curvature has room for.
        """
        rate = self.training.learning_rate
        if rate == "auto":
            mixed = rows[torch.randperm(len(rows), generator=generator)]
            with seeded(seed):
                X, Y = self.rule.collate((mixed.X, mixed.Y))
                again = torch.randperm(len(X))
            start = self._initial()
            rate = stable_rate(
                start,
                X[again],
                batch_size,
                categorical=self.training.loss == "cross_entropy",
                known=TaskRows(X, Y).known[again],
            )
            if not (is_ntk_parametrized(start) or isinstance(self.module, Linearized)):
                rate *= 1 - self.training.momentum
        return float(rate) * self.training.rate_decay ** len(self.rates)

    def _tangent(self) -> nn.Module:
        """Return the network whose Jacobian the function has, in eval mode."""
        if isinstance(self.module, Linearized):
            return tangent_module(self.module)
        return network_of(self.module).eval()

    def outputs(self, X: Tensor) -> Tensor:
        """Outputs of the trained function, in float64: (n, k)."""
        with torch.no_grad():
            blocks = [
                as_matrix(self.module(some.to(self.training.device))).double().cpu()
                for some in X.split(_TEST_BATCH)
            ]
        return torch.cat(blocks)

    def distance(self) -> float:
        """Euclidean distance of all weights from their start."""
        start = dict(self._start.named_parameters())
        trained = network_of(self.module).named_parameters()
        squares = [(p.detach() - start[name]).double().square().sum() for name, p in trained]
        return float(sum(squares)) ** 0.5

    def _initial(self) -> nn.Module:
        """Return the network at its start, with all outputs that there are now."""
        start = copy.deepcopy(self._start)
        for name, p in network_of(self.module).named_parameters():
            start.get_parameter(name).requires_grad_(p.requires_grad)
        return start

    def kernel(self, outputs: str) -> FiniteTaskKernel:
        """Return the empirical NTK at the start, for all outputs that there are now."""
        return FiniteTaskKernel(self._initial(), outputs, centered=True)

    def learnt_share(self, task: int, n_targets: int, unit: float) -> Share:
        r"""Return :math:`g(s^2)` of plain training on a task, by gradient descent on all rows.

        Along an eigenvector the residual e and the momentum v follow :math:`v' = \mu v + s^2 e,
        e' = e - \eta v'`, and :math:`g = (1 - e_m / e_0) / s^2` after m steps.

        Parameters
        ----------
        task : int
            Which task.
        n_targets : int
            Numbers that the mean squared error is over.
        unit : float
            Mean diagonal of the kernel; not used.
        """
        rate, steps = self.rates[task] / n_targets, self.steps[task]
        momentum = self.momenta[task]

        def share(squares: Tensor) -> Tensor:
            x = rate * squares
            if bool((x >= 2 * (1 + momentum)).any()):
                warnings.warn(
                    f"learning_rate={self.rates[task]:.3g} is not stable for the kernel at the "
                    "start: the predicted drift diverges. Pass a smaller learning_rate.",
                    SkntkWarning,
                    stacklevel=2,
                )
            if momentum == 0:
                slow = -torch.expm1(steps * torch.log1p(-x.clamp_max(0.5)))
                return torch.where(x < 0.5, slow, 1 - (1 - x) ** steps) / squares
            one = torch.ones_like(x)
            rows = [torch.stack([1 - x, -momentum * one], 1), torch.stack([x, momentum * one], 1)]
            step = torch.stack(rows, 1)  # (e, rate v) to the next
            return (1 - torch.linalg.matrix_power(step, steps)[:, 0, 0]) / squares

        return share

    def kept(self) -> dict[str, int]:
        """Rows, gradients and bytes that the method keeps."""
        return self.rule.kept()
