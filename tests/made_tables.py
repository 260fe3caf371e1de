"""Tables, images and data sets that streams are made from, and comparisons of streams."""

from collections import Counter

import numpy as np

from skntk.datasets import Dataset


def make_table(seed, n=60, d=4, n_classes=None):
    """Distinct random rows; integer labels if `n_classes` is given, else numbers."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, d))
    return X, rng.permutation(np.arange(n) % n_classes) if n_classes else rng.normal(size=n)


def make_images(seed, shape=(40, 2, 5, 5)):
    rng = np.random.default_rng(seed)
    return rng.uniform(size=shape), np.arange(shape[0]) % 4


def make_dataset(X, y, splits=(), image_shape=None):
    whole = np.issubdtype(y.dtype, np.integer)
    return Dataset(
        name="made",
        task="classification" if whole else "regression",
        X=X,
        y=y,
        feature_names=tuple("abcdefghijkl"[: X.shape[1]]),
        target_names=tuple(map(str, np.unique(y))) if whole else ("target",),
        splits=splits,
        image_shape=image_shape,
    )


def counted(X, y):
    """The multiset of the rows of X, each with its target."""
    return Counter((row.tobytes(), target.tobytes()) for row, target in zip(X, y, strict=True))


def counted_training(tasks):
    return sum((counted(task.X, task.y) for task in tasks), Counter())


def arrays_of(task):
    return task.X, task.y, task.X_test, task.y_test


def assert_same(tasks, others):
    assert [task.name for task in tasks] == [task.name for task in others]
    for task, other in zip(tasks, others, strict=True):
        assert task.image_shape == other.image_shape
        for a, b in zip(arrays_of(task), arrays_of(other), strict=True):
            np.testing.assert_array_equal(a, b, strict=True)
