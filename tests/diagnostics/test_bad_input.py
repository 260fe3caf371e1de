"""What reports refuse, and that the message names the argument, its value, and what to do."""

import math
import re

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from skorch.callbacks import EarlyStopping
from torch import nn

import skntk.nn as snn
from skntk import NetworkClassifier, NetworkRegressor, NTKRegressor
from skntk.core import MemoryBudgetError
from skntk.diagnostics import (
    disconnect_report,
    kernel_regime_report,
    natural_gradient_conditions,
)

REPORTS = {
    "regime": kernel_regime_report,
    "conditions": natural_gradient_conditions,
    "disconnect": disconnect_report,
}
X, Y = np.random.default_rng(0).standard_normal((12, 3)), np.arange(12.0)
NET = NetworkRegressor(depth=1, width=8, max_epochs=1)


@pytest.fixture(params=REPORTS)
def report(request):
    return REPORTS[request.param]


@pytest.mark.parametrize(
    "module",
    [Ridge(), NTKRegressor(), None, "mlp", make_pipeline(StandardScaler(), Ridge()), Ridge],
)
def test_what_is_no_network(report, module):
    wanted = "must be a NetworkRegressor or NetworkClassifier, a pipeline that ends in one, or"
    with pytest.raises(TypeError, match=wanted):
        report(module, X, Y)


@pytest.mark.parametrize("widths", [[64], [64, 64.0], [], (np.int64(8),)])
def test_fewer_than_two_widths(widths):
    with pytest.raises(ValueError, match=r"widths=.* pass at least 2, such as \(64, 256, 1024\)"):
        kernel_regime_report(NET, X, Y, widths=widths)


@pytest.mark.parametrize("widths", [[64, math.inf], [64, None]])
def test_widths_that_no_network_can_be_trained_at(widths):
    with pytest.raises(ValueError, match="pass finite widths"):
        kernel_regime_report(NET, X, Y, widths=widths)


def test_infinity_alone():
    with pytest.raises(ValueError, match=r"widths=\[inf\] has 0 different finite widths"):
        disconnect_report(NET, X, Y, widths=[math.inf])


@pytest.mark.parametrize("widths", [[0, 64], [8.5, 64], [-4, 8], ["64", "8"], [True, 8]])
def test_what_is_no_width(report, widths):
    with pytest.raises(ValueError, match=r"width=.* must be an integer of at least 1"):
        report(NET, X, Y, widths=widths)


@pytest.mark.parametrize("widths", [64, "64, 128"])
def test_what_is_no_sequence_of_widths(report, widths):
    with pytest.raises(TypeError, match=r"widths=.* must be a sequence of integers"):
        report(NET, X, Y, widths=widths)


def test_an_instance_has_no_other_widths(report):
    net = snn.MLP(3, 1, width=8)
    message = r"instance of MLP, whose widths are fixed.*pass its class"
    with pytest.raises(ValueError, match=message):
        report(net, X, Y, widths=[8, 16])
    with pytest.raises(ValueError, match="whose widths are fixed"):
        report(NetworkRegressor(module=net), X, Y, widths=[8, 16])


class Fixed(nn.Linear):
    def __init__(self):
        super().__init__(3, 1)


def test_a_class_without_a_width(report):
    with pytest.raises(ValueError, match="module Fixed takes no argument width"):
        report(Fixed, X, Y, widths=[8, 16])


class Wide(snn.MLP):
    def __init__(self, width):
        super().__init__(3, 1, width=width)


@pytest.mark.parametrize("make", [natural_gradient_conditions, disconnect_report])
def test_a_class_without_a_default_width(make):
    with pytest.raises(ValueError, match="module Wide has no width by default; pass widths"):
        make(Wide, X, Y)


def test_a_class_with_one_row():
    labels = np.array(["a", "b"] * 5 + ["a", "c"])
    with pytest.raises(ValueError, match=r"class 'c' of y has one row.*leave it out"):
        disconnect_report(NetworkClassifier(depth=1, width=8, max_epochs=1), X, labels)


def test_regimes_and_early_stopping(report):
    with pytest.raises(ValueError, match=r"regime='linearized'.*pass regime='full'"):
        report(NetworkRegressor(regime="linearized"), X, Y)
    with pytest.raises(ValueError, match=r"early_stopping=True.*pass the max_epochs"):
        report(NetworkRegressor(early_stopping=True), X, Y)
    with pytest.raises(ValueError, match=r"a callback EarlyStopping.*pass the max_epochs"):
        report(NetworkRegressor(callbacks=[("stop", EarlyStopping())]), X, Y)
    with pytest.raises(ValueError, match=r"a callback EarlyStopping.*pass the max_epochs"):
        report(NetworkRegressor(callbacks=[EarlyStopping]), X, Y)
    with pytest.raises(ValueError, match=r"max_epochs=0 trains nothing"):
        report(NetworkRegressor(max_epochs=0), X, Y)


def test_weight_decay():
    with pytest.raises(ValueError, match=r"weight_decay=0.1 has no counterpart"):
        disconnect_report(NetworkRegressor(weight_decay=0.1), X, Y)


def test_parameters_of_a_module_beside_an_estimator(report):
    with pytest.raises(TypeError, match=r"module__depth.* set them on the estimator"):
        report(NET, X, Y, module__depth=2)


def test_unknown_keywords(report):
    with pytest.raises(TypeError, match="unexpected keyword argument 'n_repeats'"):
        report(snn.MLP, X, Y, n_repeats=3)


@pytest.mark.parametrize("name", ["n_seeds", "random_state"])
@pytest.mark.parametrize("value", [-1, 2.5, "3", None, True])
def test_counts(report, name, value):
    with pytest.raises(ValueError, match=rf"{name}={value!r} must be an integer of at least"):
        report(NET, X, Y, **{name: value})


def test_one_seed_has_no_interval():
    for report in (kernel_regime_report, disconnect_report):
        with pytest.raises(ValueError, match="n_seeds=1 must be an integer of at least 2"):
            report(NET, X, Y, n_seeds=1)


@pytest.mark.parametrize("value", [0, -0.1, math.inf, math.nan])
def test_tolerances(value):
    with pytest.raises(ValueError, match=r"tolerance=.* must be a positive number"):
        kernel_regime_report(NET, X, Y, tolerance=value)
    with pytest.raises(ValueError, match=r"margin=.* must be a positive number"):
        disconnect_report(NET, X, Y, margin=value)


def test_arguments_of_the_conditions():
    with pytest.raises(ValueError, match=r"optimizers has \['lbfgs'\]; allowed are .*'adam'"):
        natural_gradient_conditions(NET, X, Y, optimizers=["gd", "lbfgs"])
    with pytest.raises(ValueError, match=r"optimizers=\[\] must hold at least one"):
        natural_gradient_conditions(NET, X, Y, optimizers=[])
    with pytest.raises(ValueError, match="solver='arpack' must be one of"):
        natural_gradient_conditions(NET, X, Y, solver="arpack")
    with pytest.raises(ValueError, match="tol=1 must be in"):
        natural_gradient_conditions(NET, X, Y, tol=1)
    with pytest.raises(ValueError, match="n_times=1 must be an integer of at least 2"):
        natural_gradient_conditions(NET, X, Y, n_times=1)
    for own in ({"rate": 1.0}, "gd", {"optimizer": "gd", "rate": 1.0}, None):
        with pytest.raises(ValueError, match=r"optimizers\['own'\]=.* must be a dict with 'opt"):
            natural_gradient_conditions(NET, X, Y, optimizers={"own": own})
    with pytest.raises(TypeError, match="optimizers=None must be names, or a dict"):
        natural_gradient_conditions(NET, X, Y, optimizers=None)
    with pytest.raises(ValueError, match="tol='small' must be in"):
        natural_gradient_conditions(NET, X, Y, tol="small")


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_data_that_are_not_finite(report, bad):
    A = X.copy()
    A[2, 1] = bad
    with pytest.raises(ValueError, match=r"Input X contains (NaN|infinity)"):
        report(NET, A, Y, n_seeds=2)
    b = Y.copy()
    b[1] = bad
    with pytest.raises(ValueError, match=r"Input y contains (NaN|infinity)"):
        report(NET, X, b, n_seeds=2)


def test_rows_that_do_not_match(report):
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        report(NET, X, Y[:-1], n_seeds=2)


def test_classes_for_a_regressor_and_numbers_for_a_classifier(report):
    with pytest.raises(ValueError, match=r"could not convert string to float|dtype"):
        report(NET, X, np.array(["a", "b"] * 6), n_seeds=2)
    net = NetworkClassifier(depth=1, width=8, max_epochs=1)
    with pytest.raises(ValueError, match="Unknown label type: continuous"):
        report(net, X, X[:, 0], n_seeds=2)


def test_a_module_with_another_number_of_outputs(report):
    net = NetworkRegressor(module=snn.MLP, module__in_features=3, module__out_features=2, width=8)
    with pytest.raises(ValueError, match="has 2 outputs for a row, but y with 1 targets needs 1"):
        report(net, X, Y, n_seeds=2)


class Normed(nn.Sequential):
    def __init__(self, width=8):
        super().__init__(nn.Linear(3, width), nn.BatchNorm1d(width), nn.Linear(width, 1))


def test_rows_that_are_coupled_in_training(report):
    with pytest.raises(ValueError, match=r"BatchNorm1d at '1' is in training mode"):
        report(Normed, X, Y, n_seeds=2, widths=[8, 16])


def test_targets_say_what_a_module_is_for(report):
    """Floating point numbers are regressed, all else is classified."""
    assert report(snn.MLP, X, Y, n_seeds=2, **both(report)).title.endswith("12 rows, 2 seeds")
    with pytest.raises(
        ValueError,
        match=r"y with 12 classes needs|class 0 of y has one row.*floating point numbers",
    ):
        report(snn.MLP, X, Y.astype(int), n_seeds=2, **both(report))


def both(report):
    params = {"widths": [4, 8], "module__in_features": 3}
    return params | ({"optimizers": ["gd"]} if report is natural_gradient_conditions else {})


def test_a_kernel_that_does_not_fit(monkeypatch):
    monkeypatch.setattr("skntk.core.memory.available_bytes", lambda device="cpu": 1000)
    with pytest.raises(MemoryBudgetError, match=r"9 rows and 1 outputs.*pass train_size"):
        disconnect_report(NET, X, Y, n_seeds=2)


def test_kernels_to_compare_that_do_not_fit(monkeypatch):
    monkeypatch.setattr("skntk.core.memory.available_bytes", lambda device="cpu": 1000)
    with pytest.raises(MemoryBudgetError, match=r"12 rows and 1 outputs.*a smaller n_rows"):
        kernel_regime_report(NET, X, Y, widths=[4, 8], n_seeds=2)
    gd = {"optimizers": {"own": {"optimizer": "gd", "learning_rate": 0.1}}, "n_seeds": 1}
    with pytest.raises(MemoryBudgetError, match=r"12 rows and 1 outputs.*solver='lanczos'"):
        natural_gradient_conditions(NET, X, Y, solver="dense", **gd)


def test_too_few_rows_and_classes(report):
    for n, rows in ((0, "0 rows"), (1, "1 row;")):
        with pytest.raises(ValueError, match=f"X has {rows}.* needs 2 at least"):
            report(NET, X[:n], Y[:n])
    net = NetworkClassifier(depth=1, width=8, max_epochs=1)
    with pytest.raises(ValueError, match="y has one class only, 'a'"):
        report(net, X, np.array(["a"] * 12))


def test_a_cache_that_cannot_be_written(report, tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(ValueError, match=re.escape(f"cache_dir='{file}")):
        report(NET, X, Y, n_seeds=2, cache_dir=file, widths=[4, 8])


def test_what_was_given_is_not_changed(report):
    net = NetworkRegressor(depth=1, width=8, max_epochs=1, callbacks=[])
    front = StandardScaler()
    model = make_pipeline(front, net)
    before = net.get_params()
    A, b = X.copy(), Y.copy()
    report(model, A, b, n_seeds=2, widths=[4, 8])
    assert net.get_params() == before
    assert not hasattr(net, "net_")
    assert not hasattr(front, "mean_")
    assert (A == X).all()
    assert (b == Y).all()
    module = snn.MLP(3, 1, width=4)
    weights = [p.clone() for p in module.parameters()]
    if report is not kernel_regime_report:
        report(NetworkRegressor(module=module, max_epochs=1), X, Y, n_seeds=2)
        assert all(torch.equal(p, q) for p, q in zip(module.parameters(), weights, strict=True))
        assert module.training
