"""What kept runs belong to: anything that changes a run changes the hash, and nothing else does."""

import threading

import numpy as np
import pytest
import torch
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, PowerTransformer, StandardScaler
from skorch.callbacks import Callback, LRScheduler
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
    lock = threading.Lock()
    assert content_hash(lock) != content_hash(lock)
    assert content_hash(lambda: 1) == content_hash(lambda: 1) != content_hash(lambda: 2)


def study(cls, **attributes):
    """A hash after the code of a class has been replaced, as by an edit between two sessions."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in attributes.items():
            patch.setattr(cls, name, value)
        made = {"module": cls} if issubclass(cls, nn.Module) else {"callbacks": [cls()], **SMALL}
        return of(NetworkRegressor(**made))


class Decays(Callback):
    def on_epoch_end(self, net, **kwargs):
        net.optimizer_.param_groups[0]["lr"] *= 0.5


def decays_less(self, net, **kwargs):
    net.optimizer_.param_groups[0]["lr"] *= 0.9


def detached(self, x):
    return self.head(torch.relu(self.body(x)).detach())


def scaled_by_width(self, x):
    return self.head(torch.relu(self.body(x))) * (8 / self.body.out_features)


def dropping(self, x):
    return self.head(nn.functional.dropout(torch.relu(self.body(x)), 0.5, self.training))


@pytest.mark.parametrize("forward", [detached, scaled_by_width, dropping])
def test_code_of_modules(forward):
    """None changes what the network computes before training, at its own width."""
    assert study(Kept) == study(Kept)
    assert study(Kept) != study(Kept, forward=forward)


def test_code_of_callbacks():
    assert study(Decays) == study(Decays)
    assert study(Decays) != study(Decays, on_epoch_end=decays_less)
    half, tenth = (
        [LRScheduler("LambdaLR", lr_lambda=lambda epoch, f=f: f**epoch)] for f in (0.5, 0.1)
    )
    assert of(NetworkRegressor(**SMALL, callbacks=half)) != of(
        NetworkRegressor(**SMALL, callbacks=tenth)
    )


def test_transformers_are_told_by_their_parameters():
    """Which may matter only for rows that are not here, as do unknown categories."""
    found = {
        of(make_pipeline(StandardScaler(), PowerTransformer(**params), NetworkRegressor(**SMALL)))
        for params in ({}, {"copy": False}, {})
    }
    assert len(found) == 2
    functions = (lambda A: A**2, lambda A: A * A)
    found = {
        of(make_pipeline(FunctionTransformer(f), NetworkRegressor(**SMALL)))
        for f in (*functions, functions[0])
    }
    assert len(found) == 2
