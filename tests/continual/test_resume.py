"""Checkpoints after each task: a run that goes on is a run that was not stopped."""

import copy
import pickle

import numpy as np
import pytest
import torch
from task_streams import classes, regression

from skntk import ContinualNTK, ContinualNTKRegressor
from skntk.continual import evaluate
from skntk.core import TrainingDivergedError
from skntk.training.checkpoints import described

SMALL = {"width": 8, "depth": 1, "max_epochs": 2, "batch_size": 4, "random_state": 0}
METHODS = ["stable_sgd", "ogd", "ogd_plus", "pca_ogd", "online_ewc", "replay", "joint"]


def state(model):
    return torch.cat([p.detach().flatten() for p in model.module_.parameters()])


@pytest.mark.parametrize("method", METHODS)
def test_resumed_is_uninterrupted(method, seed, tmp_path):
    tasks = classes(seed, n_tasks=3)
    params = {**SMALL, "heads": "incremental", "random_state": seed}
    whole = ContinualNTK(method, **params)
    for task in tasks:
        whole.partial_fit(task.X, task.y, task=task.name)
    stopped = ContinualNTK(method, checkpoint=tmp_path / "run", **params)
    for task in tasks[:2]:
        stopped.partial_fit(task.X, task.y, task=task.name)
    torch.manual_seed(123)  # another process has another state
    resumed = ContinualNTK(method, checkpoint=str(tmp_path / "run"), **params)
    for i, task in enumerate(tasks):
        resumed.partial_fit(task.X, task.y, task=task.name)
        if i == 1:
            assert torch.equal(state(resumed), state(stopped))
    assert torch.equal(state(resumed), state(whole))
    assert resumed.memory_ == whole.memory_
    assert resumed.distances_ == whole.distances_
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == [
        f"task-00{i}.pkl" for i in range(3)
    ]
    again = pickle.loads(pickle.dumps(resumed))
    extra = classes(seed + 1, n_tasks=1)[0]
    for model in (again, whole):
        model.set_params(checkpoint=None).partial_fit(extra.X, extra.y, task="extra")
    assert torch.equal(state(again), state(whole))


@pytest.mark.parametrize("params", [{"width": np.inf}, {"regime": "linearized"}])
def test_other_regimes_resume(params, seed, tmp_path):
    tasks = regression(seed)
    params = {**SMALL, **params, "checkpoint": tmp_path}
    first = evaluate(ContinualNTKRegressor("ogd", **params), tasks)
    second = evaluate(ContinualNTKRegressor("ogd", **params), tasks)
    assert np.array_equal(first.scores, second.scores)
    assert np.array_equal(first.distances, second.distances)
    assert np.array_equal(first.seconds, second.seconds)  # that learning took, not reading


def test_other_streams_are_refused(tmp_path):
    tasks = classes(0, n_tasks=2, shared=True)
    params = {**SMALL, "checkpoint": tmp_path}
    ContinualNTK("ogd", **params).partial_fit(tasks[0].X, tasks[0].y, task="t0")
    with pytest.raises(ValueError, match=r"task-000.pkl.* belongs to other tasks"):
        ContinualNTK("ogd", **params).partial_fit(tasks[1].X, tasks[1].y, task="t0")
    with pytest.raises(ValueError, match="belongs to another value of method"):
        ContinualNTK("sgd", **params).partial_fit(tasks[0].X, tasks[0].y, task="t0")
    ContinualNTK("ogd", **params, verbose=1).partial_fit(tasks[0].X, tasks[0].y, task="t0")
    (tmp_path / "task-000.pkl").write_bytes(b"half")
    with pytest.raises(ValueError, match="cannot be read as one"):
        ContinualNTK("ogd", **params).partial_fit(tasks[0].X, tasks[0].y, task="t0")
    with pytest.raises(ValueError, match="needs random_state to be an integer"):
        ContinualNTK("ogd", **params | {"random_state": None}).fit(tasks[0].X, tasks[0].y)


def test_units_seeds_and_what_a_module_holds_belong_to_a_checkpoint(tmp_path):
    (task,) = regression(0, n_tasks=1, k=1)
    kept = ContinualNTKRegressor("sgd", checkpoint=tmp_path / "a", **SMALL).fit(task.X, task.y)
    with pytest.raises(ValueError, match="belongs to other tasks"):
        ContinualNTKRegressor("sgd", checkpoint=tmp_path / "a", **SMALL).fit(task.X, 9 * task.y)
    free = ContinualNTKRegressor("sgd", **SMALL | {"random_state": None}).fit(task.X, task.y)
    with pytest.raises(ValueError, match="needs random_state to be an integer"):
        free.set_params(checkpoint=tmp_path / "b").partial_fit(task.X, task.y)
    free.set_params(random_state=0, checkpoint=tmp_path / "b").partial_fit(task.X, task.y)
    kept.set_params(checkpoint=tmp_path / "b")
    with pytest.raises(ValueError, match="belongs to other tasks"):  # of other first weights
        kept.partial_fit(task.X, task.y)
    for held in ([2.0], [3.0]), (np.arange(2000), np.arange(2000)[::-1]), (torch.ones(1), 1):
        one, other = (Holding(value) for value in held)
        assert described(one) == described(copy.deepcopy(one))
        assert described(one) != described(other)
        assert described(held[0]) != described(held[1])


class Holding(torch.nn.Linear):
    """A module with an attribute that is no parameter."""

    def __init__(self, held):
        super().__init__(2, 1)
        torch.nn.init.zeros_(self.weight)
        torch.nn.init.zeros_(self.bias)
        self.held = held


def test_a_failure_leaves_the_estimator_as_it_was(seed, monkeypatch):
    """Divergence, and an interrupt in the middle of a task."""
    tasks = classes(seed, n_tasks=2)
    model = ContinualNTK("ogd", heads="incremental", learning_rate=0.1, **SMALL)
    model.partial_fit(tasks[0].X, tasks[0].y)
    before, memory = state(model).clone(), model.memory_
    known = copy.deepcopy(model)
    with pytest.raises(TrainingDivergedError, match="learning_rate"):
        model.partial_fit(1e15 * tasks[1].X, tasks[1].y)

    from skntk.continual.projection import StoredDirections

    calls = []

    def interrupted(self, *args, **kwargs):
        calls.append(0)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(StoredDirections, "add", interrupted)
        with pytest.raises(KeyboardInterrupt):
            model.partial_fit(tasks[1].X, tasks[1].y)
    assert calls
    assert torch.equal(state(model), before)
    assert model.memory_ == memory
    assert model.tasks_ == [0]
    for m in (model, known):
        m.partial_fit(tasks[1].X, tasks[1].y)
    assert torch.equal(state(model), state(known))


def test_reproducible_and_torch_state_is_left(seed):
    tasks = classes(seed, n_tasks=2, shared=True)
    found = []
    for draw in (1, 2):
        torch.manual_seed(draw)
        expected = torch.rand(1)
        torch.manual_seed(draw)
        model = ContinualNTK("replay", **SMALL)
        for task in tasks:
            model.partial_fit(task.X, task.y)
        assert torch.equal(torch.rand(1), expected)
        found.append(state(model))
    assert torch.equal(*found)


def test_checkpoints_know_the_module(tmp_path):
    """What is frozen, and plain attributes; whatever the first task was."""
    tasks = classes(0, n_tasks=3, shared=True)

    def net(k=None, frozen=False):
        made = torch.nn.Sequential(torch.nn.Linear(5, 4), torch.nn.PReLU(), torch.nn.Linear(4, 2))
        made[1].init = k
        made[0].requires_grad_(not frozen)
        return made

    torch.manual_seed(0)
    first = net(1.0)
    params = {**SMALL, "width": None, "checkpoint": tmp_path / "a"}
    ContinualNTK("sgd", module=first, **params).fit(tasks[0].X, tasks[0].y)
    for change in ({"k": 2.0}, {"k": 1.0, "frozen": True}):
        other = net(**change)
        other.load_state_dict(first.state_dict())
        with pytest.raises(ValueError, match="belongs to another value of module"):
            ContinualNTK("sgd", module=other, **params).fit(tasks[0].X, tasks[0].y)
    for i, start in enumerate(tasks[:2]):
        model = ContinualNTK("sgd", **SMALL).fit(start.X, start.y)
        model.set_params(checkpoint=tmp_path / "b")
        if i:
            with pytest.raises(ValueError, match="belongs to other"):
                model.partial_fit(tasks[2].X, tasks[2].y)
        else:
            model.partial_fit(tasks[2].X, tasks[2].y)


def test_same_numbers_are_the_same_checkpoint(tmp_path):
    import pandas as pd

    task = classes(0, n_tasks=1)[0]
    params = {**SMALL, "checkpoint": tmp_path}
    one = ContinualNTK("sgd", momentum=0.9, **params).fit(task.X, task.y)
    frame = pd.DataFrame(task.X)
    two = ContinualNTK("sgd", momentum=np.float64(0.9), **params).fit(frame, task.y)
    assert torch.equal(state(one), state(two))


def test_what_a_checkpoint_cannot_hold(tmp_path):
    task = classes(0, n_tasks=1)[0]

    class Local(torch.nn.Linear):
        pass

    params = {**SMALL, "width": None, "checkpoint": tmp_path}
    model = ContinualNTK("sgd", module=Local(5, 2), **params)
    with pytest.raises(ValueError, match="does not pickle"):
        model.fit(task.X, task.y)
    assert not hasattr(model, "_learnt")
    with pytest.raises(ValueError, match="needs random_state to be an integer"):
        ContinualNTK("sgd", **SMALL | {"random_state": np.random.RandomState(0)},
                     checkpoint=tmp_path).fit(task.X, task.y)  # fmt: skip
