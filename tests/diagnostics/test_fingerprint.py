"""What kept runs belong to: anything that changes a run changes the hash, and nothing else does."""

import numpy as np
import pytest
import torch
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from skorch.callbacks import LRScheduler
from torch import nn

import skntk.nn as snn
from skntk import NetworkClassifier, NetworkRegressor
from skntk.diagnostics.fingerprint import content_hash, fingerprint
from skntk.diagnostics.subject import Subject

X, Y = np.random.default_rng(0).standard_normal((12, 3)), np.random.default_rng(1).random(12)
SMALL = {"depth": 1, "width": 8}


def of(model, A=X, b=Y, rest=None):
    return fingerprint(Subject.of(model, b, {}), A, b, rest)


def module(seed=0, frozen=False, activation=None):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = nn.Sequential(snn.Linear(3, 8), activation or nn.ReLU(), snn.Linear(8, 1))
    net[0].weight.requires_grad_(not frozen)
    return net


class Kept(nn.Module):
    """What it computes is not told by its text."""

    function = staticmethod(torch.relu)

    def __init__(self, width=8):
        super().__init__()
        self.body, self.head = snn.Linear(3, width), snn.Linear(width, 1)

    def forward(self, x):
        return self.head(type(self).function(self.body(x)))


class Other(NetworkRegressor):
    pass


def schedule(gamma):
    return [LRScheduler("StepLR", step_size=1, gamma=gamma)]


OTHERS = {
    "depth": NetworkRegressor(depth=2, width=8),
    "rate": NetworkRegressor(**SMALL, learning_rate=0.1),
    "epochs": NetworkRegressor(**SMALL, max_epochs=7),
    "activation": NetworkRegressor(**SMALL, activation="erf"),
    "callback": NetworkRegressor(**SMALL, callbacks=schedule(0.5)),
    "another callback": NetworkRegressor(**SMALL, callbacks=schedule(0.6)),
    "scaled": make_pipeline(StandardScaler(), NetworkRegressor(**SMALL)),
    "squared": make_pipeline(FunctionTransformer(np.square), NetworkRegressor(**SMALL)),
    "subclass": Other(**SMALL),
    "instance": NetworkRegressor(module=module()),
    "weights": NetworkRegressor(module=module(1)),
    "frozen": NetworkRegressor(module=module(frozen=True)),
    "slope": NetworkRegressor(module=module(activation=nn.LeakyReLU(0.1))),
    "class": NetworkRegressor(module=Kept),
}


def test_what_differs_has_another_hash():
    found = {name: of(model) for name, model in OTHERS.items()}
    found["usual"] = of(NetworkRegressor(**SMALL))
    found["rows"] = of(NetworkRegressor(**SMALL), X + 1e-12)
    found["targets"] = of(NetworkRegressor(**SMALL), X, Y + 1e-12)
    found["settings"] = of(NetworkRegressor(**SMALL), rest=[1])
    assert len(set(found.values())) == len(found)


def test_the_code_of_a_class(monkeypatch):
    before = of(NetworkRegressor(module=Kept))
    assert of(NetworkRegressor(module=Kept)) == before
    monkeypatch.setattr(Kept, "function", staticmethod(torch.tanh))
    assert of(NetworkRegressor(module=Kept)) != before


@pytest.mark.parametrize("name", OTHERS)
def test_what_is_the_same_has_the_same_hash(name):
    assert of(OTHERS[name]) == of(OTHERS[name])


def test_what_each_run_sets_does_not_matter():
    usual = of(NetworkRegressor(**SMALL))
    for params in ({"random_state": 5}, {"verbose": 1}, {"checkpoint": "state"}):
        assert of(NetworkRegressor(**SMALL, **params)) == usual


def test_classes():
    labels = np.array(["a", "b"] * 6)
    net = NetworkClassifier(**SMALL)
    assert of(net, b=labels) == of(net, b=labels.copy())
    assert of(net, b=labels) != of(net, b=labels[::-1])


def test_what_cannot_be_hashed_is_never_the_same():
    assert content_hash(lambda: 1) != content_hash(lambda: 1)
