"""Interrupted trainings go on as if nothing had happened, to the last bit."""

import importlib.util
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from skorch.callbacks import Callback, LRScheduler

from skntk import NetworkClassifier, NetworkRegressor
from skntk.training import net as training_net

EPOCHS = 7
METHODS = {
    "adam": {"batch_size": 8},
    "sgd": {"optimizer": "sgd", "batch_size": 8, "momentum": 0.8},
    "natural_gradient": {"optimizer": "natural_gradient"},
    "natural_gradient in batches": {"optimizer": "natural_gradient", "batch_size": 16},
    "kfac": {"optimizer": "kfac", "batch_size": 16, "momentum": 0.3},
    "linearized": {"regime": "linearized", "batch_size": 8},
    "early stopping": {"early_stopping": True, "batch_size": 8, "learning_rate": 0.1},
}
ALL = pytest.mark.parametrize("method", METHODS)


def rows(seed=0):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((40, 4))
    return X, X[:, 0] + np.abs(X[:, 1])


def made(method, epochs=EPOCHS, **params):
    given = {"width": 12, "max_epochs": epochs, "random_state": 3, **METHODS[method], **params}
    return NetworkRegressor(**given)


def assert_same(one, two, about=""):
    a, b = (m.module_.state_dict() for m in (one, two))
    assert list(a) == list(b)
    assert all(torch.equal(a[name], b[name]) for name in a), about
    for name in ("train_loss", "valid_loss"):
        if name in one.history_[0]:
            assert one.history_[:, name] == two.history_[:, name]


class Interruption(Callback):
    """Raises once, at an event of an epoch; `armed` is shared by all copies of it."""

    armed = False

    def __init__(self, error, epoch, event="on_epoch_end", batch=1):
        self.error, self.epoch, self.event, self.batch = error, epoch, event, batch

    def _perhaps(self, net, event):
        cls = type(self)
        if cls.armed and event == self.event and len(net.history) == self.epoch:
            cls.armed = False
            raise self.error("interrupted by a test")

    def on_epoch_end(self, net, **kwargs):
        self._perhaps(net, "on_epoch_end")

    def on_batch_end(self, net, training=False, **kwargs):
        if training and len(net.history[-1, "batches"]) > self.batch:
            self._perhaps(net, "on_batch_end")


@pytest.fixture
def always(monkeypatch):
    """A checkpoint after each epoch."""
    monkeypatch.setattr(training_net, "CHECKPOINT_SECONDS", 0.0)


@pytest.fixture
def interrupt(monkeypatch):
    """Train until an interruption, then once more; return the estimator that went on."""

    def run(path, method, error, epoch, event="on_epoch_end", **params):
        X, y = rows()
        callbacks = [Interruption(error, epoch, event), *params.pop("callbacks", [])]
        monkeypatch.setattr(Interruption, "armed", True)
        first = made(method, checkpoint=path, callbacks=callbacks, **params)
        if error is KeyboardInterrupt:  # which skorch takes for the wish to stop
            first.fit(X, y)
        else:
            with pytest.raises(error, match="by a test"):
                first.fit(X, y)
        assert not Interruption.armed
        return made(method, checkpoint=path, callbacks=callbacks, **params).fit(X, y)

    return run


@ALL
@pytest.mark.parametrize(
    ("error", "epoch"),
    [(RuntimeError, 1), (RuntimeError, 4), (KeyboardInterrupt, 4), (KeyboardInterrupt, EPOCHS)],
)
def test_interrupted_at_the_end_of_an_epoch(method, error, epoch, interrupt, always, tmp_path):
    resumed = interrupt(tmp_path / "state", method, error, epoch)
    assert_same(resumed, made(method).fit(*rows()))


@pytest.mark.parametrize("method", ["adam", "sgd", "early stopping"])
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("seconds", [0.0, 10.0])
def test_interrupted_within_an_epoch(method, error, seconds, interrupt, tmp_path, monkeypatch):
    """Half an epoch is not taken for a whole one."""
    monkeypatch.setattr(training_net, "CHECKPOINT_SECONDS", seconds)
    resumed = interrupt(tmp_path / "state", method, error, 4, "on_batch_end")
    assert_same(resumed, made(method).fit(*rows()))


class Signalled(Callback):
    """Is interrupted as by Ctrl-C, within an epoch, once."""

    armed = True

    def on_batch_end(self, net, training=False, **kwargs):
        if type(self).armed and len(net.history) == 3:
            type(self).armed = False
            signal.raise_signal(signal.SIGINT)


class Stops(Callback):
    """Stops training in skorch's way."""

    def on_epoch_end(self, net, **kwargs):
        if len(net.history) == 3:
            raise KeyboardInterrupt


@pytest.mark.parametrize("method", ["adam", "kfac"])
def test_a_signal_interrupts_and_a_callback_stops(method, always, tmp_path, monkeypatch):
    """Both are a KeyboardInterrupt, of which skorch swallows each."""
    handler = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(Signalled, "armed", True)
    net = made(method, checkpoint=tmp_path / "state", callbacks=[Signalled()])
    with pytest.raises(KeyboardInterrupt):
        net.fit(*rows())
    assert signal.getsignal(signal.SIGINT) is handler
    resumed = net.fit(*rows())
    assert_same(resumed, made(method).fit(*rows()))
    stopped = made(method, callbacks=[Stops()]).fit(*rows())
    assert len(stopped.history_) == 3


def test_a_signal_to_a_thread_that_is_not_the_main_one():
    """There signals cannot be handled, and do not arrive."""
    with ThreadPoolExecutor(1) as pool:
        assert len(pool.submit(made("adam").fit, *rows()).result().history_) == EPOCHS


def test_a_schedule_of_learning_rates_goes_on(interrupt, always, tmp_path):
    schedule = [LRScheduler("StepLR", step_size=1, gamma=0.3)]
    resumed = interrupt(tmp_path / "state", "adam", RuntimeError, 4, callbacks=schedule)
    whole = made("adam", callbacks=schedule).fit(*rows())
    assert_same(resumed, whole)
    assert resumed.history_[:, "event_lr"] == whole.history_[:, "event_lr"]


@ALL
def test_more_epochs(method, tmp_path):
    X, y = rows()
    made(method, 3, checkpoint=tmp_path / "state").fit(X, y)
    more = made(method, checkpoint=tmp_path / "state").fit(X, y)
    assert_same(more, made(method).fit(X, y))


def test_more_epochs_after_the_best_one(tmp_path):
    """The best weights are what is kept, the last ones are what goes on."""
    X, y = rows()
    params = {"learning_rate": 0.5, "patience": 30}
    first = made("early stopping", 10, checkpoint=tmp_path / "state", **params).fit(X, y)
    assert dict(first.net_.callbacks_)["early_stopping"].best_epoch_ < 10
    more = made("early stopping", 20, checkpoint=tmp_path / "state", **params).fit(X, y)
    assert_same(more, made("early stopping", 20, **params).fit(X, y))


def test_a_training_that_stopped_early_does_not_go_on(tmp_path):
    X, y = rows()
    params = {"learning_rate": 0.5, "patience": 2, "checkpoint": tmp_path / "state"}
    first = made("early stopping", 50, **params).fit(X, y)
    assert len(first.history_) < 50
    assert_same(made("early stopping", 50, **params).fit(X, y), first)
    assert_same(made("early stopping", 90, **params).fit(X, y), first)


@ALL
def test_a_finished_training_is_read(method, tmp_path, monkeypatch):
    X, y = rows()
    first = made(method, checkpoint=tmp_path / "state").fit(X, y)
    assert_same(first, made(method).fit(X, y), "the checkpoint changes nothing")

    def step(*_args, **_kwargs):
        raise AssertionError("it was trained again")

    monkeypatch.setattr(training_net.RegressorNet, "train_step", step)
    again = made(method, checkpoint=str(tmp_path / "state")).fit(X, y)
    assert_same(again, first)
    np.testing.assert_array_equal(again.predict(X), first.predict(X))


def test_the_classifier_goes_on(tmp_path):
    X, y = rows()
    labels = np.where(y > 1, "high", "low")
    params = {"width": 12, "random_state": 0, "optimizer": "kfac", "early_stopping": True}
    NetworkClassifier(max_epochs=3, checkpoint=tmp_path / "state", **params).fit(X, labels)
    more = NetworkClassifier(max_epochs=6, checkpoint=tmp_path / "state", **params).fit(X, labels)
    assert_same(more, NetworkClassifier(max_epochs=6, **params).fit(X, labels))
    assert list(more.classes_) == ["high", "low"]


def test_random_states_of_the_same_seed_agree(tmp_path):
    X, y = rows()
    for epochs in (3, EPOCHS):
        state = np.random.RandomState(5)
        more = made("adam", epochs, checkpoint=tmp_path / "state", random_state=state).fit(X, y)
    whole = made("adam", random_state=np.random.RandomState(5)).fit(X, y)
    assert_same(more, whole)


def test_directories_are_made(tmp_path):
    made("adam", 1, checkpoint=tmp_path / "a" / "b" / "state").fit(*rows())
    assert [p.name for p in (tmp_path / "a" / "b").iterdir()] == ["state"]


@pytest.mark.parametrize(
    "params", [{"learning_rate": 0.02}, {"random_state": 4}, {"width": 13}, {"batch_size": 9}]
)
def test_the_checkpoint_of_another_fit_is_refused(params, tmp_path):
    X, y = rows()
    path = tmp_path / "state"
    made("adam", checkpoint=path).fit(X, y)
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"state' belongs to a fit with other parameters.*delete"):
        made("adam", checkpoint=path, **params).fit(X, y)
    for A, b in [(X + 1e-6, y), (X, y + np.arange(40)), (X[:39], y[:39]), rows(1)]:
        with pytest.raises(ValueError, match="belongs to a fit"):
            made("adam", checkpoint=path).fit(A, b)
    assert path.read_bytes() == before


def test_the_checkpoint_of_another_module_is_refused(tmp_path):
    X, y = rows()
    params = {"module": torch.nn.Linear(4, 1), "width": None, "checkpoint": tmp_path / "state"}
    made("adam", **params).fit(X, y)
    made("adam", **params).fit(X, y)
    params["module"] = torch.nn.Linear(4, 1)
    with pytest.raises(ValueError, match="belongs to a fit"):
        made("adam", **params).fit(X, y)


@pytest.mark.parametrize("data", [b"", b"not a checkpoint", "half"])
def test_a_corrupt_file_is_refused(data, tmp_path):
    path = tmp_path / "state"
    made("adam", checkpoint=path).fit(*rows())
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2] if data == "half" else data)
    with pytest.raises(ValueError, match=r"state' cannot be read as a checkpoint .*delete it"):
        made("adam", checkpoint=path).fit(*rows())


def test_a_file_that_cannot_be_written_leaves_the_last_one(always, tmp_path, monkeypatch):
    path = tmp_path / "state"
    written = []

    def replace(source, target):
        written.append(source)
        if len(written) == 3:
            raise OSError("the disk is full")
        os.rename(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", replace)
        with pytest.raises(OSError, match="the disk is full"):
            made("adam", checkpoint=path).fit(*rows())
    assert_same(made("adam", checkpoint=path).fit(*rows()), made("adam").fit(*rows()))


#: Trains slowly, and stops for good within the fourth write, or does not.
CHILD = """
import importlib.util, os, sys, time
spec = importlib.util.spec_from_file_location("checkpoints", sys.argv[1])
checkpoints = importlib.util.module_from_spec(spec)
spec.loader.exec_module(checkpoints)
from skntk.training import net
import torch
torch.set_num_threads(1)
net.CHECKPOINT_SECONDS = 0.0
written = 0
real, read = os.fsync, net.Rows.__getitems__
def fsync(file):
    global written
    written += 1
    print("written", flush=True)
    if written == 4 and sys.argv[4] == "writing":
        time.sleep(100)
    real(file)
def slowly(self, indices):
    time.sleep(0.02)
    return read(self, indices)
os.fsync, net.Rows.__getitems__ = fsync, slowly
checkpoints.made(sys.argv[3], checkpoint=sys.argv[2]).fit(*checkpoints.rows())
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL here")
@pytest.mark.parametrize(("method", "when"), [("adam", "writing"), ("kfac", "training")])
def test_killed(method, when, tmp_path, monkeypatch):
    """A process that is killed while it writes, or while it trains."""
    path = tmp_path / "state"
    home = Path(importlib.util.find_spec("skntk").origin).parents[1]
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, __file__, str(path), method, when],
        stdout=subprocess.PIPE,
        cwd=home,
        env={**os.environ, "PYTHONPATH": str(home), "OMP_NUM_THREADS": "1"},
    )
    try:
        for _ in range(4):
            assert child.stdout.readline() == b"written\n"
        if when == "training":
            time.sleep(0.01)
    finally:
        child.kill()
        child.wait()
        child.stdout.close()
    assert child.returncode == -signal.SIGKILL
    state = training_net.pickle.loads(path.read_bytes())
    assert 3 <= len(state["net"]["history_"]) < EPOCHS
    resumed = made(method, checkpoint=path).fit(*rows())
    assert_same(resumed, made(method).fit(*rows()))


def test_fewer_epochs_are_refused(tmp_path):
    X, y = rows()
    made("adam", 6, checkpoint=tmp_path / "state").fit(X, y)
    with pytest.raises(ValueError, match="6 epochs already, more than max_epochs=3"):
        made("adam", 3, checkpoint=tmp_path / "state").fit(X, y)


def test_a_checkpoint_that_has_moved(always, tmp_path, monkeypatch):
    X, y = rows()
    made("adam", 3, checkpoint=tmp_path / "a").fit(X, y)
    (tmp_path / "a").rename(tmp_path / "b")
    before = (tmp_path / "b").read_bytes()
    monkeypatch.chdir(tmp_path)
    resumed = made("adam", 6, checkpoint="b").fit(X, y)
    assert_same(resumed, made("adam", 6).fit(X, y))
    assert not (tmp_path / "a").exists()
    assert (tmp_path / "b").read_bytes() != before


def test_where_nothing_can_be_written(tmp_path):
    X, y = rows()
    (tmp_path / "file").write_text("")
    for path, message in ((tmp_path, "is a directory"), (tmp_path / "file" / "x", "cannot be")):
        with pytest.raises(ValueError, match=message):
            made("adam", checkpoint=path).fit(X, y)
    with pytest.raises(ValueError, match="random_state to be an integer"):
        made("adam", checkpoint=tmp_path / "new", random_state=None).fit(X, y)
