"""Bad input of the network estimators gets one clear error, and before any training."""

from contextlib import suppress

import numpy as np
import pytest
import torch
from bad_rows import bad_rows, check_bad_rows
from torch import nn

import skntk.nn as snn
from skntk import NetworkClassifier, NetworkRegressor
from skntk.core import MemoryBudgetError, TrainingDivergedError, memory
from skntk.training import net as training_net

X = np.arange(40.0).reshape(10, 4) % 7
Y = np.arange(10) % 2
IMAGES = np.arange(720.0).reshape(10, 2, 6, 6) % 7
ESTIMATORS = pytest.mark.parametrize("Estimator", [NetworkRegressor, NetworkClassifier])
BRIEF = {"max_epochs": 2, "random_state": 0}


@pytest.fixture
def untrained(monkeypatch):
    """No step may be made."""

    def step(*_args, **_kwargs):
        raise AssertionError("a step was made")

    for made in (training_net.RegressorNet, training_net.ClassifierNet):
        monkeypatch.setattr(made, "train_step", step)


@ESTIMATORS
@pytest.mark.parametrize(("data", "error", "message"), bad_rows(X))
def test_x(Estimator, data, error, message):
    check_bad_rows(lambda: Estimator(**BRIEF), X, Y, data, error, message)


@ESTIMATORS
def test_x_of_another_shape_at_prediction(Estimator):
    model = Estimator(**BRIEF).fit(X, Y)
    with pytest.raises(ValueError, match="3 features"):
        model.predict(X[:, :3])
    net = snn.ConvNet(2, 2 if Estimator is NetworkClassifier else 1, depth=1, width=4)
    model = Estimator(module=net, **BRIEF).fit(IMAGES, Y)
    with pytest.raises(ValueError, match="36 features"):
        model.predict(IMAGES[:, :1])


@pytest.mark.usefixtures("untrained")
@ESTIMATORS
def test_y(Estimator):
    with pytest.raises(ValueError, match="NaN"):
        Estimator(**BRIEF).fit(X, np.where(Y, np.nan, 1.0))
    with pytest.raises(ValueError, match="inconsistent numbers"):
        Estimator(**BRIEF).fit(X, Y[:7])
    with pytest.raises(ValueError, match="target y is None"):
        Estimator(**BRIEF).fit(X, None)
    with pytest.raises(ValueError, match="continuous"):
        NetworkClassifier(**BRIEF).fit(X, Y + 0.5 * X[:, 0])


@pytest.mark.usefixtures("untrained")
@ESTIMATORS
@pytest.mark.parametrize(
    ("params", "error", "message"),
    [
        ({"activation": "rellu"}, ValueError, "rellu"),
        ({"activation": 3}, ValueError, "activation"),
        ({"depth": -1}, ValueError, "depth"),
        ({"depth": 1.5}, ValueError, "depth"),
        ({"depth": "auto"}, ValueError, "depth"),
        ({"width": np.inf}, ValueError, r"width.*inf"),
        ({"width": 0}, ValueError, "width"),
        ({"width": -3}, ValueError, "width"),
        ({"width": 2.5}, ValueError, r"width=2\.5.*integer"),
        ({"width": np.nan}, ValueError, "width"),
        ({"width": True}, ValueError, "width"),
        ({"width": "8"}, ValueError, "width"),
        ({"weight_std": 0.0}, ValueError, "weight_std"),
        ({"weight_std": np.inf}, ValueError, "weight_std"),
        ({"bias_std": -0.1}, ValueError, "bias_std"),
        ({"bias_std": "auto"}, ValueError, "bias_std"),
        ({"parametrization": "ntkk"}, ValueError, "parametrization.*mup"),
        ({"regime": "lazy"}, ValueError, "regime.*linearized"),
        ({"optimizer": "adamw"}, ValueError, "optimizer.*kfac"),
        ({"learning_rate": 0.0}, ValueError, "learning_rate"),
        ({"learning_rate": np.inf}, ValueError, "learning_rate"),
        ({"learning_rate": "fast"}, ValueError, "learning_rate.*auto"),
        ({"momentum": 1.0}, ValueError, "momentum"),
        ({"momentum": -0.1}, ValueError, "momentum"),
        ({"damping": -1.0}, ValueError, "damping"),
        ({"damping": "none"}, ValueError, "damping.*auto"),
        ({"weight_decay": -1.0}, ValueError, "weight_decay"),
        ({"max_epochs": -1}, ValueError, "max_epochs"),
        ({"max_epochs": 2.5}, ValueError, "max_epochs"),
        ({"batch_size": 0}, ValueError, "batch_size"),
        ({"batch_size": 2.0}, ValueError, "batch_size"),
        ({"validation_fraction": 1.0}, ValueError, "validation_fraction"),
        ({"validation_fraction": 0.0}, ValueError, "validation_fraction"),
        ({"patience": 0}, ValueError, "patience"),
        ({"callbacks": "adam"}, ValueError, "callbacks"),
        ({"checkpoint": 3}, ValueError, "checkpoint"),
        ({"early_stopping": "yes"}, ValueError, "early_stopping"),
        ({"device": "tpu"}, ValueError, "no torch device"),
        ({"device": "cuda:99"}, ValueError, "cuda:99.*pass 'cpu'"),
        ({"dtype": "float16"}, ValueError, "float16"),
        ({"random_state": "a"}, ValueError, "random_state"),
        ({"optimizer": "gd", "batch_size": 5}, ValueError, "gd.*batch_size=5.*sgd"),
        ({"module": "MLP"}, TypeError, "module"),
        ({"module": snn.MLP(4), "module__depth": 2}, ValueError, "class"),
        ({"module__depth": 2}, ValueError, "class"),
        ({"module": snn.MLP, "module__in_features": 4, "module__deep": 1}, TypeError, "deep"),
        ({"module": snn.MLP(4), "width": 8}, ValueError, "width=8.*instance of MLP.*width=None"),
        ({"module": nn.Linear, "width": 8}, ValueError, "width=8.*Linear has not"),
        ({"input_shape": (2, 3)}, ValueError, r"4 features.*\(2, 3\).*6"),
        ({"input_shape": 4}, ValueError, "input_shape=4"),
        ({"input_shape": ()}, ValueError, "input_shape"),
        ({"input_shape": (4.0,)}, ValueError, "input_shape"),
        ({"input_shape": (-4,)}, ValueError, "input_shape"),
    ],
)
def test_parameters(Estimator, params, error, message):
    model = Estimator(**{**BRIEF, **params})  # the constructor never complains
    with pytest.raises(error, match=message):
        model.fit(X, Y)


@pytest.mark.usefixtures("untrained")
def test_the_loss_of_the_classifier():
    with pytest.raises(ValueError, match=r"loss.*cross_entropy"):
        NetworkClassifier(loss="hinge", **BRIEF).fit(X, Y)


@pytest.mark.usefixtures("untrained")
def test_images_of_another_shape():
    with pytest.raises(ValueError, match=r"shape \(2, 6, 6\).*input_shape=\(2, 36\)"):
        NetworkRegressor(input_shape=(2, 36), **BRIEF).fit(IMAGES, Y)
    with pytest.raises(ValueError, match=r"4 features.*input_shape=\(2, 6, 6\).*72"):
        NetworkRegressor(input_shape=(2, 6, 6), **BRIEF).fit(X, Y)


class Pair(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 2)

    def forward(self, x):
        return self.layer(x), x


class Summed(Pair):
    def forward(self, x):
        return self.layer(x).sum()


@pytest.mark.usefixtures("untrained")
@pytest.mark.parametrize("regime", ["full", "linearized"])
@ESTIMATORS
def test_outputs_that_fit_no_task(Estimator, regime):
    """The message names the module, its outputs and its last layer."""
    net = nn.Sequential(nn.Linear(4, 8), nn.Sequential(nn.ReLU(), nn.Linear(8, 5)), nn.Identity())
    what = "y with 1 targets" if Estimator is NetworkRegressor else "y with 2 classes"
    message = rf"Sequential has 5 outputs.*{what}.*Linear.*out_features=5.*at '1\.1'"
    with pytest.raises(ValueError, match=message):
        Estimator(module=net, regime=regime, **BRIEF).fit(X, Y)
    with pytest.raises(ValueError, match=r"Linear has 5 outputs.*the top"):
        Estimator(module=nn.Linear(4, 5), regime=regime, **BRIEF).fit(X, Y)
    with pytest.raises(ValueError, match="Pair returns a tuple"):
        Estimator(module=Pair(), regime=regime, **BRIEF).fit(X, Y)
    with pytest.raises(ValueError, match=r"Summed returns shape \(\)"):
        Estimator(module=Summed(), regime=regime, **BRIEF).fit(X, Y)
    with pytest.raises(ValueError, match="needs 2"):
        NetworkRegressor(module=nn.Linear(4, 1), **BRIEF).fit(X, X[:, :2])


@pytest.mark.usefixtures("untrained")
@ESTIMATORS
def test_modules_that_fail_on_the_rows(Estimator):
    with pytest.raises(ValueError, match=r"Linear fails on rows of shape \(4,\).*shapes"):
        Estimator(module=nn.Linear(5, 1), **BRIEF).fit(X, Y)
    with pytest.raises(ValueError, match=r"ConvNet fails on rows of shape \(4,\)"):
        Estimator(module=snn.ConvNet(2), **BRIEF).fit(X, Y)
    with pytest.raises(ValueError, match=r"ConvNet fails on rows of shape \(2, 6, 6\)"):
        Estimator(module=snn.ConvNet(3), **BRIEF).fit(IMAGES, Y)


@pytest.mark.usefixtures("untrained")
@pytest.mark.parametrize("regime", ["full", "linearized"])
@pytest.mark.parametrize("optimizer", ["adam", "gd", "natural_gradient", "kfac"])
def test_frozen_modules(optimizer, regime):
    net = nn.Linear(4, 1).requires_grad_(False)
    with pytest.raises(ValueError, match=r"Linear is frozen.*requires_grad_\(True\)"):
        NetworkRegressor(module=net, optimizer=optimizer, regime=regime, **BRIEF).fit(X, Y)
    with pytest.raises(ValueError, match=r"Flatten (is frozen|has 4 outputs)"):
        NetworkRegressor(module=nn.Flatten(), optimizer=optimizer, **BRIEF).fit(X, Y)


def normalized():
    return nn.Sequential(
        nn.Linear(4, 6), nn.Sequential(nn.BatchNorm1d(6), nn.ReLU()), nn.Linear(6, 1)
    )


@pytest.mark.parametrize(
    "params",
    [
        {"regime": "linearized"},
        {"regime": "linearized", "optimizer": "kfac"},
        {"optimizer": "natural_gradient"},
        {"optimizer": "kfac"},
    ],
)
def test_batch_normalization_is_refused_by_path(params):
    net = normalized()
    with pytest.raises(ValueError, match=r"BatchNorm1d at '1\.0' is in training mode"):
        NetworkRegressor(module=net, **params, **BRIEF).fit(X, Y)


@pytest.mark.parametrize("optimizer", ["adam", "sgd", "gd"])
def test_batch_normalization_in_full_training(optimizer):
    net = normalized()
    model = NetworkRegressor(module=net, optimizer=optimizer, **BRIEF).fit(X, Y)
    assert int(model.module_[1][0].num_batches_tracked) == 2
    assert int(net[1][0].num_batches_tracked) == 0
    np.testing.assert_allclose(  # with running statistics: rows do not see each other
        np.concatenate([model.predict(X[:1]), model.predict(X[1:])]), model.predict(X), atol=1e-5
    )


def test_batch_normalization_with_running_statistics_is_linear():
    net = normalized().eval()
    model = NetworkRegressor(module=net, regime="linearized", **BRIEF).fit(X, Y)
    assert int(model.module_.module[1][0].num_batches_tracked) == 0


DIVERGED = r"learning_rate=1e\+30.*smaller learning_rate"


@pytest.mark.parametrize("optimizer", ["gd", "sgd", "adam"])
@ESTIMATORS
def test_divergence(Estimator, optimizer):
    model = Estimator(
        width=8, optimizer=optimizer, learning_rate=1e30, max_epochs=9, random_state=0
    )
    with pytest.raises(TrainingDivergedError, match=DIVERGED):
        model.fit(X, Y)


@pytest.mark.parametrize("regime", ["full", "linearized"])
@pytest.mark.parametrize("optimizer", ["gd", "sgd", "adam", "natural_gradient", "kfac"])
@pytest.mark.parametrize("epochs", [1, 2, 9])
@ESTIMATORS
def test_a_fit_diverges_or_predicts_numbers(Estimator, epochs, optimizer, regime):
    """Also where the last step is the one too many, and in the algebra of second-order methods."""
    model = Estimator(
        width=8,
        optimizer=optimizer,
        regime=regime,
        learning_rate=1e30,
        max_epochs=epochs,
        random_state=0,
    )
    with suppress(TrainingDivergedError):
        model.fit(X, Y)
        outputs = model.net_.forward(torch.as_tensor(X, dtype=torch.float32))
        assert torch.isfinite(outputs).all()


@pytest.mark.parametrize("optimizer", ["natural_gradient", "kfac"])
def test_undamped_with_cross_entropy(optimizer):
    """The Hessian of the cross-entropy is singular, so there is no undamped step."""
    with pytest.raises(ValueError, match="damping"):
        NetworkClassifier(optimizer=optimizer, damping=0.0, **BRIEF).fit(X, Y)


@ESTIMATORS
def test_early_stopping_with_too_few_rows(Estimator):
    with pytest.raises(ValueError, match="early_stopping=True holds out 1 of 2 rows"):
        Estimator(early_stopping=True, **BRIEF).fit(X[:2], Y[:2])
    with pytest.raises(ValueError, match=r"holds out 9 of 10 rows.*leaves too few"):
        Estimator(early_stopping=True, validation_fraction=0.9, **BRIEF).fit(X, Y)
    with pytest.raises(ValueError, match="holds out 5 of 8 rows"):
        NetworkClassifier(early_stopping=True, validation_fraction=0.6, **BRIEF).fit(
            X[:8], np.arange(8) % 4
        )


def test_a_natural_gradient_that_does_not_fit(monkeypatch):
    monkeypatch.setattr(memory, "available_bytes", lambda device="cpu": 2**20)
    A = np.random.default_rng(0).standard_normal((600, 4))
    with pytest.raises(MemoryBudgetError, match=r"600 rows x 1 outputs.*batch_size.*kfac"):
        NetworkRegressor(
            width=4, optimizer="natural_gradient", damping=1.0, learning_rate=1.0, **BRIEF
        ).fit(A, A[:, 0])


@ESTIMATORS
def test_not_fitted(Estimator):
    for name in {"predict", "predict_proba"} & set(dir(Estimator)):
        with pytest.raises(ValueError, match="not fitted"):
            getattr(Estimator(), name)(X)
    for name in ("history_", "module_"):
        with pytest.raises((ValueError, AttributeError), match="not fitted"):
            getattr(Estimator(), name)


@ESTIMATORS
def test_a_failed_fit_leaves_no_random_state_behind(Estimator):
    state = torch.get_rng_state()
    with pytest.raises(TrainingDivergedError):
        Estimator(optimizer="gd", learning_rate=1e30, max_epochs=30).fit(X, Y)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == 1


def test_the_rate_does_not_depend_on_the_order_of_the_rows():
    A = np.random.default_rng(0).standard_normal((3000, 4))
    A *= np.linspace(0.05, 5, 3000)[:, None]  # sorted by size
    b = A[:, 0]
    rates = []
    for order in (np.arange(3000), np.random.default_rng(1).permutation(3000)):
        model = NetworkRegressor(width=16, optimizer="gd", max_epochs=3, random_state=0)
        rates.append(model.fit(A[order], b[order]).net_.lr)
    assert 0.7 < rates[0] / rates[1] < 1.4


@pytest.mark.parametrize("optimizer", ["natural_gradient", "kfac"])
def test_dropout_is_off_where_jacobians_are_needed(optimizer):
    rng = np.random.default_rng(0)
    A = rng.standard_normal((60, 3))
    layers = nn.Linear(3, 64), nn.ReLU(), nn.Dropout(0.5), nn.Linear(64, 1)
    model = NetworkRegressor(module=nn.Sequential(*layers), optimizer=optimizer, max_epochs=30)
    assert model.fit(A, np.sin(A[:, 0])).score(A, np.sin(A[:, 0])) > 0.95


@pytest.mark.parametrize("optimizer", ["natural_gradient", "kfac"])
def test_batch_norm_in_eval_mode_stays_so(optimizer):
    net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 1)).eval()
    model = NetworkRegressor(module=net, optimizer=optimizer, **BRIEF).fit(X, Y * 1.0)
    assert int(model.module_[1].num_batches_tracked) == 0


def test_centered_batch_norm():
    net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 1)).eval()
    with pytest.raises(ValueError, match="BatchNorm1d at '1'"):
        NetworkRegressor(module=net, centered=True, **BRIEF).fit(X, Y * 1.0)


def test_a_network_that_does_not_fit():
    with pytest.raises(MemoryBudgetError, match=r"network of width 10000000 and depth 3.*GiB"):
        NetworkRegressor(width=10**7, depth=3).fit(X, Y)
