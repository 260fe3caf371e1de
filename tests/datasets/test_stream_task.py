"""A task of a stream, and streams with blurred boundaries."""

from dataclasses import replace

import numpy as np
import pytest
from made_tables import assert_same, counted_training, make_images, make_table

from skntk.datasets import StreamTask, blurred, rotated_tasks, split_tasks

TASK = StreamTask("t", np.eye(3), np.arange(3), np.eye(3)[:2], np.arange(2))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"y": np.arange(2)}, r"task 't': X has shape \(3, 3\) and y \(2,\)"),
        ({"X": np.zeros((3, 2, 2))}, "X has shape"),
        ({"X_test": np.zeros((0, 3)), "y_test": np.zeros(0)}, "none of them empty"),
        ({"X": np.zeros((3, 0)), "X_test": np.zeros((2, 0))}, "none of them empty"),
        ({"X_test": np.zeros((2, 4))}, "do not fit X_test"),
        ({"y_test": np.zeros((2, 1))}, "do not fit X_test"),
        ({"X": np.diag([1, 2, np.inf])}, "X and y must be finite"),
        ({"y_test": np.array([1, np.nan])}, "X_test and y_test must be finite"),
        ({"X": np.full((3, 3), "a")}, "X must be numbers"),
        ({"y": np.array(["a", "b", None])}, "numbers or strings"),
        ({"image_shape": (1, 2, 2)}, "does not hold 3 values"),
    ],
)
def test_wrong_tasks_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        replace(TASK, **change)


# Blurred boundaries.


def uneven_stream(seed):
    """Three tasks with about two, two and five ninths of the rows."""
    X, y = make_table(seed, n=97, n_classes=9)
    return split_tasks((X, np.minimum(y, 4)), random_state=seed)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("n_tasks", [2, 3])
def test_exchange_keeps_every_row(seed, share, n_tasks):
    tasks = uneven_stream(seed)[-n_tasks:]
    mixed = blurred(tasks, share, random_state=seed)
    assert counted_training(mixed) == counted_training(tasks)
    sizes = np.array([len(task.y) for task in tasks])
    foreign = []
    for task, other in zip(mixed, tasks, strict=True):
        assert (task.name, len(task.y)) == (other.name, len(other.y))
        np.testing.assert_array_equal(task.X_test, other.X_test)
        np.testing.assert_array_equal(task.y_test, other.y_test)
        foreign.append(np.sum(~np.isin(task.y, other.y)))
        moved = (task.X != other.X).any(axis=1)
        assert moved.sum() == foreign[-1]  # no row changes its place without need
    wanted = np.rint(share * sizes)
    largest = wanted.argmax()
    wanted[largest] = min(wanted[largest], wanted.sum() - wanted[largest])
    np.testing.assert_array_equal(foreign, wanted)


def test_rows_go_to_all_other_tasks(seed):
    X, y = make_table(seed, n=800, n_classes=8)
    mixed = blurred(split_tasks((X, y), random_state=seed), 0.4, random_state=seed)
    counts = np.array([np.bincount(task.y // 2, minlength=4) for task in mixed])
    assert np.diagonal(counts).tolist() == [90] * 4
    # 60 of 150 rows go to three tasks, 20 each on average. A binomial count of 60 draws has the
    # standard deviation 3.7, and six of those lie between the mean and -2 or 42.
    assert counts.min() > 0
    assert counts[~np.eye(4, dtype=bool)].max() < 42
    assert np.ptp([counted_training([task]).total() for task in mixed]) == 0


def test_no_share_changes_nothing(seed):
    tasks = uneven_stream(seed)
    assert_same(blurred(tasks, 0, random_state=seed), tasks)
    assert_same(blurred(iter(tasks[:1]), 0.0), tasks[:1])


def test_blurring_is_reproduced_and_leaves_its_input(seed):
    tasks, again = uneven_stream(seed), uneven_stream(seed)
    assert_same(
        blurred(tasks, 0.3, random_state=seed),
        blurred(tasks, 0.3, random_state=np.random.RandomState(seed)),
    )
    assert_same(tasks, again)


def test_images_and_several_outputs_are_blurred(seed):
    images, _ = make_images(seed)
    y = np.random.default_rng(seed).normal(size=(40, 3))
    tasks = rotated_tasks((images, y), 2, random_state=seed)
    mixed = blurred(tasks, 0.5, random_state=seed)
    assert counted_training(mixed) == counted_training(tasks)
    assert mixed[0].image_shape == (2, 5, 5)


def test_named_classes_are_blurred(seed):
    names = np.array(["ape", "bee", "cat", "dormouse", "eel"])
    stream = uneven_stream(seed)
    # strings as long as the longest name of each task
    named = [replace(task, y=np.array(names[task.y].tolist())) for task in stream]
    assert len({task.y.dtype for task in named}) == 2
    pairs = (blurred(tasks, 0.4, random_state=seed) for tasks in (named, stream))
    for task, other in zip(*pairs, strict=True):
        np.testing.assert_array_equal(task.y, names[other.y])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: blurred([TASK, TASK], 1.0), r"share=1\.0 must be"),
        (lambda: blurred([TASK, TASK], -0.1), r"share=-0\.1 must be"),
        (lambda: blurred([TASK, TASK], np.nan), "share=nan must be"),
        (lambda: blurred([TASK]), "holds only one task"),
        (lambda: blurred([]), "must hold one or more"),
        (lambda: blurred([TASK, np.eye(2)]), "'ndarray'"),
        (lambda: blurred([TASK, replace(TASK, image_shape=(1, 1, 3))]), "cannot exchange rows"),
        (lambda: blurred([TASK, replace(TASK, y=np.ones(3))]), "cannot exchange rows"),
    ],
)
def test_refusals_to_blur(call, message):
    with pytest.raises(ValueError, match=message):
        call()
