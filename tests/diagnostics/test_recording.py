"""Looking at a training: when, at what, and what counts as its failure."""

import signal

import numpy as np
import pytest
import torch
from skorch.callbacks import Callback

import skntk.nn as snn
from skntk import NetworkRegressor
from skntk.diagnostics import (
    disconnect_report,
    kernel_regime_report,
    natural_gradient_conditions,
)
from skntk.diagnostics.measures import parameter_vector
from skntk.diagnostics.recording import start_of, train_looking, watched

REPORTS = [
    pytest.param(kernel_regime_report, {"widths": [4, 8]}, id="regime"),
    pytest.param(natural_gradient_conditions, {"optimizers": ["gd"]}, id="conditions"),
    pytest.param(disconnect_report, {}, id="disconnect"),
]


@pytest.fixture
def data(seed):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((12, 3)), rng.standard_normal(12)


def made(**params):
    return NetworkRegressor(**{"depth": 1, "width": 8, "max_epochs": 4, "random_state": 1} | params)


def test_looks_are_at_the_epochs_of_the_training(data):
    found = []

    def look(module, X, when):
        found.append((when["epoch"], when["train_loss"], parameter_vector(module), len(X)))

    network, status = train_looking(made(), *data, look, (0, 1, 4))
    assert status == "ok"
    assert [epoch for epoch, *_ in found] == [0, 1, 4]
    start, rows = start_of(made(), *data)
    assert torch.equal(found[0][2], parameter_vector(start))
    assert len(rows) == found[0][3] == 12
    assert torch.equal(found[-1][2], parameter_vector(network.module_))
    z = (data[1] - data[1].mean()) / data[1].std()
    outputs = network._forward(data[0]).numpy()[:, 0]
    assert found[-1][1] == pytest.approx(0.5 * np.mean((outputs - z) ** 2), rel=1e-5)


@pytest.mark.parametrize("optimizer", ["gd", "adam", "natural_gradient", "kfac"])
def test_the_start_does_not_depend_on_the_optimizer(optimizer, data):
    start, _ = start_of(made(optimizer=optimizer), *data)
    usual, _ = start_of(made(), *data)
    assert torch.equal(parameter_vector(start), parameter_vector(usual))


class Pushes(Callback):
    """Spoils the network after its last epoch but one, so that the loss is finite, but large."""

    def on_epoch_end(self, net, **kwargs):
        if len(net.history) == 3:
            with torch.no_grad():
                for p in net.module_.parameters():
                    p *= 5


def test_a_loss_that_has_risen_is_a_failure(data):
    network = made(callbacks=[Pushes()], optimizer="gd", learning_rate=1e-6)
    _, status = train_looking(network, *data, lambda *args: None, (0, 4))
    assert status.startswith("diverged: the training loss rose from ")
    _, status = train_looking(
        made(optimizer="gd", learning_rate=1e-6), *data, lambda *args: None, (0, 4)
    )
    assert status == "ok"


def test_callbacks_of_ones_own_are_kept(data):
    network = made(callbacks=[Pushes()])
    assert [type(c).__name__ for c in watched(network).callbacks][:1] == ["Pushes"]


class Signalled(Callback):
    """Is interrupted as by Ctrl-C."""

    def on_epoch_end(self, net, **kwargs):
        if len(net.history) == 2:
            signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize(("report", "params"), REPORTS)
def test_an_interrupted_report_stops(report, params, data):
    module = snn.MLP if report is kernel_regime_report else None
    more = {"module": module, "module__in_features": 3, "module__out_features": 1}
    net = made(callbacks=[Signalled()], **(more if module else {}))
    if report is natural_gradient_conditions:  # optimizers bring their own callbacks
        own = {"optimizer": "gd", "callbacks": [Signalled()]}
        net, params = made(), {"optimizers": {"own": own}}
    with pytest.raises(KeyboardInterrupt):
        report(net, *data, n_seeds=2, **params)


@pytest.mark.parametrize(("report", "params"), REPORTS)
def test_threads_are_what_they_were(report, params, data):
    before = torch.get_num_threads()
    torch.set_num_threads(before + 1)
    try:
        report(made(max_epochs=1), *data, n_seeds=2, n_jobs=1, **params)
        assert torch.get_num_threads() == before + 1
    finally:
        torch.set_num_threads(before)
