"""Which rows each task of a stream trains on, and which it is tested on."""

from __future__ import annotations

from dataclasses import replace
from math import ceil
from numbers import Integral, Real
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike
from sklearn.model_selection import train_test_split

from skntk.datasets.dataset import Dataset, Split, Task
from skntk.datasets.loading import load

StreamData: TypeAlias = Dataset | str | tuple[ArrayLike, ArrayLike]


def as_dataset(data: StreamData) -> Dataset:
    """Return the data set that `data` is, that it names, or that its pair of arrays makes.

    Its `X` is float64; the arrays of `data` are never written to.

    Raises
    ------
    ValueError
        If no built-in data set has that name, `data` is none of the three, the arrays do not
        fit together, or class labels are not of shape (n,).
    """
    if isinstance(data, str):
        data = load(data)
    if not isinstance(data, Dataset):
        if not (isinstance(data, tuple | list) and len(data) == 2):
            raise ValueError(
                f"data is of type {type(data).__name__}; it must be a Dataset, the name of a "
                "built-in data set, or a pair (X, y) of arrays."
            )
        data = _pair_to_dataset(*data)
    if data.task == "classification" and data.y.ndim != 1:
        raise ValueError(
            f"y of data {data.name!r} has labels of shape {data.y.shape}; labels must have "
            "shape (n,). For regression with several outputs, pass floating-point numbers."
        )
    return data if data.X.dtype == np.float64 else replace(data, X=data.X.astype(np.float64))


def check_n_tasks(n_tasks: int) -> None:
    """Raise a ValueError if `n_tasks` is not a whole number of at least 1."""
    if not isinstance(n_tasks, Integral) or isinstance(n_tasks, bool) or n_tasks < 1:
        raise ValueError(f"n_tasks={n_tasks!r} must be a whole number of at least 1.")


def published_split(data: Dataset, test_size: float | None) -> Split | None:
    """Return the first published split if `test_size` leaves the choice to the data set.

    Raises
    ------
    ValueError
        If `test_size` is neither None nor between 0 and 1.
    """
    if test_size is not None and not (isinstance(test_size, Real) and 0 < test_size < 1):
        raise ValueError(
            f"test_size={test_size!r} must be a share of the rows, greater than 0 and less than "
            "1, or None for the published split (a quarter of the rows where there is none)."
        )
    return data.splits[0] if test_size is None and data.splits else None


def rows_in_use(data: Dataset, test_size: float | None) -> np.ndarray:
    """Row numbers that the train and test sides hold together, sorted."""
    split = published_split(data, test_size)
    return np.arange(len(data.X)) if split is None else np.union1d(*split)


def split_rows(
    data: Dataset,
    rows: np.ndarray,
    test_size: float | None,
    rng: np.random.RandomState,
    *,
    name: str,
) -> Split:
    """Split `rows` into train and test rows, both sorted; `name` is the task's, for errors.

    A drawn split keeps the proportions of the classes, where each class has two rows or more and
    both sides have room for every class.

    Raises
    ------
    ValueError
        If one of the two sides gets no row.
    """
    published = published_split(data, test_size)
    if published is not None:
        train, test = (np.intersect1d(rows, side) for side in published)
        if not (train.size and test.size):
            raise ValueError(
                f"data {data.name!r}: its published split has {train.size} train and {test.size} "
                f"test rows in task {name!r}; pass test_size to draw a split, or make larger tasks."
            )
        return train, test
    n = len(rows)
    if n < 2:
        raise ValueError(
            f"data {data.name!r} has {n} row in task {name!r}; a train and a test side need two."
        )
    n_test = min(ceil((0.25 if test_size is None else test_size) * n), n - 1)
    labels = None
    if data.task == "classification":
        counts = np.unique(data.y[rows], return_counts=True)[1]
        if counts.min() >= 2 and len(counts) <= min(n_test, n - n_test):
            labels = data.y[rows]
    train, test = train_test_split(rows, test_size=n_test, stratify=labels, random_state=rng)
    return np.sort(train), np.sort(test)


def splits_of_all_rows(
    data: Dataset,
    n_tasks: int,
    test_size: float | None,
    disjoint: bool,
    rng: np.random.RandomState,
) -> list[Split]:
    """One split for each of `n_tasks` tasks: the same each time, or disjoint shares of it.

    Raises
    ------
    ValueError
        If there are fewer train or test rows than disjoint tasks.
    """
    train, test = split_rows(data, rows_in_use(data, test_size), test_size, rng, name="all rows")
    if not disjoint:
        return [(train, test)] * n_tasks
    if n_tasks > min(len(train), len(test)):
        raise ValueError(
            f"n_tasks={n_tasks} disjoint tasks need as many train rows and test rows; data "
            f"{data.name!r} has {len(train)} and {len(test)}. Ask for fewer tasks, or leave "
            "disjoint out."
        )
    shares = (_shares(data, rows, n_tasks, rng) for rows in (train, test))
    return list(zip(*shares, strict=True))


def _shares(
    data: Dataset, rows: np.ndarray, n_shares: int, rng: np.random.RandomState
) -> list[np.ndarray]:
    """Deal shuffled rows out like cards, class by class: each class is spread evenly."""
    rows = rng.permutation(rows)
    if data.task == "classification":
        rows = rows[np.argsort(data.y[rows], kind="stable")]
    return [np.sort(rows[i::n_shares]) for i in range(n_shares)]


def _pair_to_dataset(X: ArrayLike, y: ArrayLike) -> Dataset:
    """Integer, bool or string `y` means classification, floating-point `y` regression."""
    try:
        X = np.asarray(X, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"data=(X, y): X does not hold numbers only: {error}") from error
    y = np.asarray(y)
    if X.ndim not in (2, 3, 4) or X.size == 0:
        raise ValueError(
            f"data=(X, y): X has shape {X.shape}; it must be a table (n, d), or images (n, H, W) "
            "or (n, C, H, W), and not be empty."
        )
    if y.dtype.kind == "O" and all(isinstance(label, str) for label in y.flat):
        y = y.astype(str)  # a column of a data frame
    if y.dtype.kind not in "biufU":
        raise ValueError(
            f"data=(X, y): y has dtype {y.dtype}; it must hold integer or string labels for "
            "classification, or floating-point numbers for regression."
        )
    task: Task = "regression" if y.dtype.kind == "f" else "classification"
    if y.dtype.kind != "U":
        y = y.astype(np.float64 if task == "regression" else np.int64)
    image_shape: tuple[int, int, int] | None = None
    if X.ndim > 2:
        height, width = X.shape[-2:]
        image_shape = (X.shape[1] if X.ndim == 4 else 1, height, width)
        X = X.reshape(len(X), -1)
    n_outputs = 1 if y.ndim < 2 else y.shape[1]
    return Dataset(
        name="(X, y)",
        task=task,
        X=X,
        y=y,
        feature_names=tuple(f"x{j}" for j in range(X.shape[1])),
        target_names=tuple(
            map(str, np.unique(y) if task == "classification" else range(n_outputs))
        ),
        image_shape=image_shape,
    )
