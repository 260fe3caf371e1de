import importlib
import sys
import types
from math import isnan, nan
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from skntk.continual.metrics import (
    average_forgetting,
    average_over_time,
    average_score,
    backward_transfer,
    forgetting_by_task,
    forward_transfer,
    learning_score,
)

# Three tasks; the first was best after the second, and the second helps the third beforehand.
TABLE = [
    [0.80, 0.55, 0.50],
    [0.90, 0.70, 0.75],
    [0.60, 0.65, 1.00],
]
BASELINE = [0.45, 0.50, 0.50]

square = st.integers(1, 6).flatmap(
    lambda T: arrays(np.float64, (T, T), elements=st.floats(-5, 1, width=32))
)


def unmeasured(scores):
    """The scores without those of tasks not yet learnt."""
    scores = np.array(scores, dtype=float)
    scores[np.triu_indices(len(scores), 1)] = nan
    return scores


@pytest.mark.parametrize("scores", [TABLE, unmeasured(TABLE)])
def test_by_hand(scores):
    assert average_score(scores) == pytest.approx((0.60 + 0.65 + 1.00) / 3, abs=1e-15)
    assert learning_score(scores) == pytest.approx((0.80 + 0.70 + 1.00) / 3, abs=1e-15)
    np.testing.assert_allclose(forgetting_by_task(scores), [0.90 - 0.60, 0.70 - 0.65], atol=1e-15)
    assert average_forgetting(scores) == pytest.approx((0.30 + 0.05) / 2, abs=1e-15)
    assert backward_transfer(scores) == pytest.approx((-0.20 - 0.05) / 2, abs=1e-15)
    expected = [0.80, (0.90 + 0.70) / 2, (0.60 + 0.65 + 1.00) / 3]
    np.testing.assert_allclose(average_over_time(scores), expected, atol=1e-15)


def test_forward_transfer_by_hand():
    expected = ((0.55 - 0.50) + (0.75 - 0.50)) / 2
    assert forward_transfer(TABLE, BASELINE) == pytest.approx(expected, abs=1e-15)


def test_only_what_is_used_must_be_there():
    above = np.full((3, 3), nan)
    above[0, 1], above[1, 2] = 0.55, 0.75
    assert forward_transfer(above, [nan, 0.5, 0.5]) == forward_transfer(TABLE, BASELINE)
    last = np.full((3, 3), nan)
    last[-1] = TABLE[-1]
    assert average_score(last) == average_score(TABLE)
    assert learning_score(np.where(np.eye(3), TABLE, nan)) == learning_score(TABLE)
    ends = np.array([[0.8, nan, nan], [nan, 0.7, nan], [0.6, 0.65, nan]])
    assert backward_transfer(ends) == backward_transfer(TABLE)
    ends[1, 0] = 0.9
    assert average_forgetting(ends) == average_forgetting(TABLE)


def test_a_task_that_only_gains_is_forgotten_negatively():
    """The last score is not among those that it is compared with."""
    assert average_forgetting([[0.5, 0.0], [0.75, 1.0]]) == -0.25
    assert backward_transfer([[0.5, 0.0], [0.75, 1.0]]) == 0.25


def test_one_task():
    assert average_score([[0.5]]) == learning_score([[0.5]]) == 0.5
    np.testing.assert_array_equal(average_over_time([[0.5]]), [0.5])
    assert forgetting_by_task([[0.5]]).shape == (0,)
    assert isnan(average_forgetting([[0.5]]))
    assert isnan(backward_transfer([[0.5]]))
    assert isnan(forward_transfer([[0.5]], [0.1]))


@settings(max_examples=25)
@given(square)
def test_loops(R):
    T = len(R)
    assert average_score(R) == pytest.approx(sum(R[T - 1, j] for j in range(T)) / T, abs=1e-14)
    assert learning_score(R) == pytest.approx(sum(R[j, j] for j in range(T)) / T, abs=1e-14)
    for i, average in enumerate(average_over_time(R)):
        expected = sum(R[i, j] for j in range(i + 1)) / (i + 1)
        assert average == pytest.approx(expected, abs=1e-14)
    lost, back = 0.0, 0.0
    for j in range(T - 1):
        best = max(R[i, j] for i in range(j, T - 1))
        assert forgetting_by_task(R)[j] == best - R[T - 1, j]
        lost += best - R[T - 1, j]
        back += R[T - 1, j] - R[j, j]
    if T > 1:
        assert average_forgetting(R) == pytest.approx(lost / (T - 1), abs=1e-14)
        assert backward_transfer(R) == pytest.approx(back / (T - 1), abs=1e-14)


@settings(max_examples=25)
@given(square)
def test_forward_transfer_loop(R):
    T = len(R)
    baseline = R[::-1, 0]
    if T > 1:
        expected = sum(R[j - 1, j] - baseline[j] for j in range(1, T)) / (T - 1)
        assert forward_transfer(R, baseline) == pytest.approx(expected, abs=1e-14)


@settings(max_examples=25)
@given(square)
def test_forgetting_and_backward_transfer(R):
    """Forgetting counts from the best score: no less than from the one right after learning."""
    if len(R) > 1:
        assert average_forgetting(R) >= -backward_transfer(R) - 1e-14
        R[np.diag_indices(len(R))] = 1
        assert average_forgetting(R) == pytest.approx(-backward_transfer(R), abs=1e-14)


@settings(max_examples=25)
@given(square, st.floats(-1, 1, width=32))
def test_another_origin_of_the_score(R, shift):
    baseline = R[:, 0]
    for changes in (average_score, learning_score):
        assert changes(R + shift) == pytest.approx(changes(R) + shift, abs=1e-13)
    for stays in (average_forgetting, backward_transfer):
        assert stays(R + shift) == pytest.approx(stays(R), abs=1e-13, nan_ok=True)
    shifted = forward_transfer(R + shift, baseline + shift)
    assert shifted == pytest.approx(forward_transfer(R, baseline), abs=1e-13, nan_ok=True)


def test_they_do_not_write():
    scores = np.array(TABLE)
    scores.flags.writeable = False
    forgetting_by_task(scores)
    average_over_time(scores)


METRICS = [
    average_score,
    learning_score,
    average_over_time,
    forgetting_by_task,
    average_forgetting,
    backward_transfer,
    lambda scores: forward_transfer(scores, [0.5, 0.5]),
]


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("shape", [(2, 3), (2,), (0, 0), (2, 2, 2), ()])
def test_wrong_shape(metric, shape):
    message = rf"scores has shape \({', *'.join(map(str, shape))},?\); wanted \(T, T\) with T > 0"
    with pytest.raises(ValueError, match=message):
        metric(np.zeros(shape))


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("bad", [nan, np.inf])
def test_not_finite(metric, bad):
    with pytest.raises(ValueError, match=rf"scores\[\d, \d\] is {bad}; it must be finite"):
        metric(np.full((2, 2), bad))


def test_the_missing_score_is_named():
    scores = unmeasured(TABLE)
    scores[2, 1] = nan
    for metric in (average_score, average_over_time, forgetting_by_task, backward_transfer):
        with pytest.raises(ValueError, match=r"scores\[2, 1\] is nan"):
            metric(scores)
    with pytest.raises(ValueError, match=r"scores\[0, 1\] is nan"):
        forward_transfer(scores, BASELINE)
    scores = unmeasured(TABLE)
    scores[1, 0] = nan
    for metric in (average_over_time, forgetting_by_task):
        with pytest.raises(ValueError, match=r"scores\[1, 0\] is nan"):
            metric(scores)


@pytest.mark.parametrize("baseline", [[0.5, 0.5], 0.5, [[0.5, 0.5, 0.5]]])
def test_baseline_of_another_shape(baseline):
    with pytest.raises(ValueError, match=r"baseline has shape \(.*\); wanted \(3,\)"):
        forward_transfer(TABLE, baseline)


def test_baseline_not_finite():
    with pytest.raises(ValueError, match=r"baseline\[2\] is nan"):
        forward_transfer(TABLE, [0.5, 0.5, nan])


@pytest.fixture(scope="module")
def avalanche():
    """The metrics of the library avalanche.

    Importing the library imports all of it, which needs packages that its metrics do not, and
    changes torch's datasets. So its packages are stood in for, and their modules are its own. It
    lies in a folder of its own, since it brings packages named tests and examples.
    """
    root = Path(sys.prefix) / "avalanche" / "avalanche"
    if not (root / "evaluation").is_dir():
        pytest.skip("avalanche-lib is not installed")
    pytest.importorskip("matplotlib")
    before = set(sys.modules)
    packages = {}
    for name in ("avalanche", "avalanche.evaluation", "avalanche.evaluation.metrics"):
        packages[name] = sys.modules[name] = types.ModuleType(name)
        packages[name].__path__ = [str(root.joinpath(*name.split(".")[1:]))]

    def load(package, module):
        """The module, whose names are then found in its package too."""
        loaded = importlib.import_module(f"{package}.{module}")
        public = {k: v for k, v in vars(loaded).items() if not k.startswith("_")}
        vars(packages[package]).update(public)

    load("avalanche.evaluation", "metric_definitions")
    for module in ("mean", "accuracy", "forgetting_bwt", "forward_transfer"):
        load("avalanche.evaluation.metrics", module)
    yield packages["avalanche.evaluation.metrics"]
    for name in set(sys.modules) - before:
        if name.partition(".")[0] == "avalanche":
            del sys.modules[name]


def run(metric, scores, baseline, rows):
    """What a metric says after training and testing on each task, as the library calls it.

    A score is the share of the rows that are predicted right.
    """

    def test(scores):
        metric.before_eval(None)
        for task, score in enumerate(scores):
            right = torch.arange(rows) < round(score * rows)
            state = SimpleNamespace(
                experience=SimpleNamespace(
                    current_experience=task, origin_stream=SimpleNamespace(name="test")
                ),
                mb_y=torch.ones(rows, dtype=torch.long),
                mb_output=torch.stack([~right, right], dim=1).float(),
                clock=SimpleNamespace(train_iterations=0),
                eval_every=0,
                is_eval=True,
            )
            metric.before_eval_exp(state)
            metric.after_eval_iteration(state)
            metric.after_eval_exp(state)
        (result,) = metric.after_eval(state)
        return result.value

    if baseline is not None:
        test(baseline)
    for task, row in enumerate(scores):
        trained = SimpleNamespace(experience=SimpleNamespace(current_experience=task))
        metric.before_training_exp(trained)
        result = test(row)
    return result


@pytest.mark.parametrize("tasks", [2, 3, 6])
def test_agrees_with_avalanche(avalanche, tasks, seed):
    rng = np.random.default_rng(seed)
    rows = 16
    scores = rng.integers(rows + 1, size=(tasks, tasks)) / rows
    baseline = rng.integers(rows + 1, size=tasks) / rows
    theirs = run(avalanche.StreamBWT(), scores, None, rows)
    assert backward_transfer(scores) == pytest.approx(theirs, abs=1e-14)
    theirs = run(avalanche.StreamForgetting(), scores, None, rows)
    assert backward_transfer(scores) == pytest.approx(-theirs, abs=1e-14)
    theirs = run(avalanche.StreamForwardTransfer(), scores, baseline, rows)
    assert forward_transfer(scores, baseline) == pytest.approx(theirs, abs=1e-14)


@pytest.mark.parametrize("tasks", [2, 5])
def test_each_task_agrees_with_avalanche(avalanche, tasks, seed):
    """Where every task was best right after it was learnt, both mean the same by forgetting."""
    scores = np.random.default_rng(seed).uniform(size=(tasks, tasks))
    scores[np.diag_indices(tasks)] = 1
    forgetting, bwt = avalanche.Forgetting(), avalanche.BWT()
    for i in range(tasks):
        for j in range(i + 1):
            for metric in (forgetting, bwt):
                metric.update(j, scores[i, j], initial=i == j)
    theirs = forgetting.result()
    assert sorted(theirs) == list(range(tasks - 1))
    np.testing.assert_array_equal(forgetting_by_task(scores), [theirs[j] for j in sorted(theirs)])
    mean = np.mean(list(bwt.result().values()))
    assert backward_transfer(scores) == pytest.approx(mean, abs=1e-14)
