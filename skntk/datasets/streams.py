"""Streams of tasks for continual learning, made from one data set.

A network learns the tasks one after the other and is tested on all of them. From task to task
change the inputs (rotated, permuted), the classes, or the part of a table that the rows come from.
Values are never scaled.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import factorial
from numbers import Integral, Real

import numpy as np
from numpy.typing import ArrayLike
from scipy import ndimage
from sklearn.utils import check_random_state

from skntk.datasets.dataset import Dataset, Split
from skntk.datasets.stream_rows import (
    StreamData,
    as_dataset,
    check_n_tasks,
    rows_in_use,
    split_rows,
    splits_of_all_rows,
)
from skntk.datasets.stream_task import StreamTask


def rotated_tasks(
    data: StreamData = "digits",
    n_tasks: int | None = None,
    *,
    step: float | None = None,
    angles: ArrayLike | None = None,
    test_size: float | None = None,
    disjoint: bool = False,
    random_state: int | np.random.RandomState | None = None,
) -> tuple[StreamTask, ...]:
    """Make tasks of the same images, turned further from task to task.

    Images are turned counterclockwise about their centre, with bilinear interpolation. What comes
    from outside the image is zero, or the nearest value in the range of the data.

    Parameters
    ----------
    data : Dataset, str or (X, y), default="digits"
        Images: a data set, the name of a built-in one, or arrays with `X` of shape (n, H, W) or
        (n, C, H, W). Integer or string `y` means classification, floating-point `y` regression.
    n_tasks : int, optional
        Number of tasks; by default as many as there are `angles`, or 5.
    step : float, optional
        How many degrees each task is turned further than the one before; by default
        180 / `n_tasks`. The first task is not turned.
    angles : array-like of shape (n_tasks,), optional
        The angles in degrees, in place of `step`.
    test_size : float, optional
        Share of the rows that is for testing. By default the first published split of the data
        set is taken, and a quarter of the rows where there is none.
    disjoint : bool, default=False
        Whether each task has its own share of the rows. By default all have the same split.
    random_state : int, RandomState or None, default=None
        Draws the split and the shares.

    Returns
    -------
    tuple of StreamTask
        One task for each angle.

    Raises
    ------
    ValueError
        If `data` has no image shape, `angles` contradicts `n_tasks` or `step`, there are too few
        rows, or an argument is out of its range.

    Examples
    --------
    >>> from skntk.datasets import rotated_tasks
    >>> [task.name for task in rotated_tasks("digits", 3, random_state=0)]
    ['rotated 0°', 'rotated 60°', 'rotated 120°']
    """
    data = as_dataset(data)
    shape = data.image_shape
    if shape is None:
        raise ValueError(
            f"data {data.name!r} has no image shape and cannot be rotated; pass images as a pair "
            "(X, y) with X of shape (n, H, W) or (n, C, H, W)."
        )
    degrees = _degrees(n_tasks, step, angles)
    rng = check_random_state(random_state)
    splits = splits_of_all_rows(data, len(degrees), test_size, disjoint, rng)
    low, high = data.X.min(), data.X.max()

    def turned(angle: float, X: np.ndarray) -> np.ndarray:
        if angle % 360 == 0:
            return X
        images = X.reshape(-1, *shape)
        images = ndimage.rotate(
            images, angle, axes=(2, 3), reshape=False, order=1, mode="constant", cval=0.0
        )
        return images.reshape(X.shape).clip(low, high)

    return tuple(
        _task(f"rotated {angle:g}°", data, split, partial(turned, angle))
        for angle, split in zip(degrees, splits, strict=True)
    )


def permuted_tasks(
    data: StreamData,
    n_tasks: int = 5,
    *,
    test_size: float | None = None,
    disjoint: bool = False,
    random_state: int | np.random.RandomState | None = None,
) -> tuple[StreamTask, ...]:
    """Make tasks that see the columns of the same table, or the pixels, in different orders.

    The first task is as the data is. Each other task has one permutation of all columns, which
    differs from those of the other tasks.

    Parameters
    ----------
    data : Dataset, str or (X, y)
        A data set, the name of a built-in one, or arrays, as in :func:`rotated_tasks`; here `X`
        may also be a table of shape (n, d).
    n_tasks : int, default=5
        Number of tasks.
    test_size : float, optional
        As in :func:`rotated_tasks`.
    disjoint : bool, default=False
        As in :func:`rotated_tasks`.
    random_state : int, RandomState or None, default=None
        Draws the split, the shares and the permutations.

    Returns
    -------
    tuple of StreamTask
        The tasks; images keep their shape.

    Raises
    ------
    ValueError
        If there are too few rows, or columns to permute, or an argument is out of its range.

    Examples
    --------
    >>> from skntk.datasets import permuted_tasks
    >>> [task.name for task in permuted_tasks("diabetes", 3, random_state=0)]
    ['not permuted', 'permuted 1', 'permuted 2']
    """
    data = as_dataset(data)
    check_n_tasks(n_tasks)
    d = data.X.shape[1]
    if n_tasks > factorial(min(d, 20)):
        raise ValueError(
            f"n_tasks={n_tasks} is more than {d}!, the number of orders that the columns of data "
            f"{data.name!r} have; ask for at most {factorial(d)} tasks."
        )

    def reordered(order: tuple[int, ...], X: np.ndarray) -> np.ndarray:
        return X.take(order, axis=1)

    rng = check_random_state(random_state)
    splits = splits_of_all_rows(data, n_tasks, test_size, disjoint, rng)
    orders = {tuple(range(d)): "not permuted"}
    while len(orders) < n_tasks:
        orders.setdefault(tuple(rng.permutation(d)), f"permuted {len(orders)}")
    return tuple(
        _task(name, data, split, partial(reordered, order))
        for (order, name), split in zip(orders.items(), splits, strict=True)
    )


def split_tasks(
    data: StreamData,
    n_tasks: int | None = None,
    *,
    classes_per_task: int = 2,
    test_size: float | None = None,
    random_state: int | np.random.RandomState | None = None,
) -> tuple[StreamTask, ...]:
    """Make tasks that hold some of the classes each.

    Parameters
    ----------
    data : Dataset, str or (X, y)
        Classification data, as in :func:`permuted_tasks`.
    n_tasks : int, optional
        Only the first so many tasks; by default all.
    classes_per_task : int, default=2
        Size of the consecutive groups of the sorted classes. The last group is smaller where it
        does not come out even.
    test_size : float, optional
        As in :func:`rotated_tasks`.
    random_state : int, RandomState or None, default=None
        Draws the splits.

    Returns
    -------
    tuple of StreamTask
        One task for each group, with the labels as they are.

    Raises
    ------
    ValueError
        If `data` is for regression, there are fewer classes than asked for, a task has too few
        rows, or an argument is out of its range.

    Examples
    --------
    >>> from skntk.datasets import split_tasks
    >>> [task.name for task in split_tasks("wine", random_state=0)]
    ['classes 0, 1', 'class 2']
    """
    data = as_dataset(data)
    if data.task != "classification":
        raise ValueError(
            f"data {data.name!r} is for regression and has no classes to split; pass integer "
            "or string labels, or see drifting_tasks."
        )
    classes = np.unique(data.y)
    whole = isinstance(classes_per_task, Integral) and not isinstance(classes_per_task, bool)
    if not (whole and 1 <= classes_per_task <= len(classes)):
        raise ValueError(
            f"classes_per_task={classes_per_task!r} must be a whole number from 1 to "
            f"{len(classes)}, the number of classes of data {data.name!r}."
        )
    groups = [
        classes[i : i + classes_per_task] for i in range(0, len(classes), int(classes_per_task))
    ]
    if n_tasks is not None:
        check_n_tasks(n_tasks)
        if n_tasks > len(groups):
            raise ValueError(
                f"n_tasks={n_tasks} is more than the {len(groups)} groups of classes_per_task="
                f"{classes_per_task} among the {len(classes)} classes of data {data.name!r}."
            )
    rng = check_random_state(random_state)
    in_use = rows_in_use(data, test_size)
    tasks = []
    for group in groups[:n_tasks]:
        name = f"{'class' if len(group) == 1 else 'classes'} {', '.join(map(str, group))}"
        rows = in_use[np.isin(data.y[in_use], group)]
        tasks.append(_task(name, data, split_rows(data, rows, test_size, rng, name=name)))
    return tuple(tasks)


def drifting_tasks(
    data: StreamData,
    n_tasks: int = 5,
    *,
    by: int | str | None = None,
    test_size: float | None = None,
    random_state: int | np.random.RandomState | None = None,
) -> tuple[StreamTask, ...]:
    """Make tasks of consecutive pieces of a table, ordered by one column.

    Parameters
    ----------
    data : Dataset, str or (X, y)
        Regression or classification data, as in :func:`permuted_tasks`.
    n_tasks : int, default=5
        Number of pieces; their sizes differ by at most one row.
    by : int or str, optional
        The column that orders the rows: its index or its feature name (``x0``, ``x1``, ... for
        arrays). By default the first principal component of the standardized columns. Rows with
        the same value stay in their order.
    test_size : float, optional
        As in :func:`rotated_tasks`, within each piece.
    random_state : int, RandomState or None, default=None
        Draws the splits.

    Returns
    -------
    tuple of StreamTask
        The pieces, from the least values to the greatest.

    Raises
    ------
    ValueError
        If `by` names no column, a piece has too few rows, or an argument is out of its range.

    Examples
    --------
    >>> from skntk.datasets import drifting_tasks
    >>> tasks = drifting_tasks("diabetes", 4, by="bmi", random_state=0)
    >>> [f"{task.name}: {task.X[:, 2].mean():.2f}" for task in tasks]
    ['piece 1 of 4: -0.05', 'piece 2 of 4: -0.02', 'piece 3 of 4: 0.01', 'piece 4 of 4: 0.06']
    """
    data = as_dataset(data)
    check_n_tasks(n_tasks)
    rows = rows_in_use(data, test_size)
    if n_tasks > len(rows) // 2:
        raise ValueError(
            f"n_tasks={n_tasks} pieces need two rows each; data {data.name!r} has {len(rows)} "
            f"rows, enough for {len(rows) // 2}."
        )
    values = _principal_component(data.X[rows]) if by is None else data.X[rows, _column(data, by)]
    rows = rows[np.argsort(values, kind="stable")]
    rng = check_random_state(random_state)
    tasks = []
    for i, piece in enumerate(np.array_split(rows, n_tasks), start=1):
        name = f"piece {i} of {n_tasks}"
        tasks.append(_task(name, data, split_rows(data, piece, test_size, rng, name=name)))
    return tuple(tasks)


def _task(
    name: str,
    data: Dataset,
    split: Split,
    change: Callable[[np.ndarray], np.ndarray] = lambda X: X,
) -> StreamTask:
    """The rows of `split`, with `change` applied to their columns."""
    train, test = split
    return StreamTask(
        name=name,
        X=change(data.X[train]),
        y=data.y[train],
        X_test=change(data.X[test]),
        y_test=data.y[test],
        image_shape=data.image_shape,
    )


def _degrees(n_tasks: int | None, step: float | None, angles: ArrayLike | None) -> list[float]:
    """The angle of each task."""
    if n_tasks is not None:
        check_n_tasks(n_tasks)
    if angles is None:
        n_tasks = 5 if n_tasks is None else n_tasks
        step = 180 / n_tasks if step is None else step
        if not (isinstance(step, Real) and np.isfinite(step)):
            raise ValueError(f"step={step!r} must be a finite number of degrees.")
        return [i * float(step) + 0.0 for i in range(n_tasks)]  # + 0.0 turns -0.0 into 0.0
    if step is not None:
        raise ValueError(f"step={step!r} and angles={angles!r} both say how to turn; pass one.")
    try:
        degrees = np.asarray(angles, dtype=np.float64)
    except (TypeError, ValueError):
        degrees = np.empty(0)
    if degrees.ndim != 1 or degrees.size == 0 or not np.isfinite(degrees).all():
        raise ValueError(f"angles={angles!r} must be a list of finite numbers of degrees.")
    if n_tasks not in (None, len(degrees)):
        raise ValueError(
            f"n_tasks={n_tasks} disagrees with the {len(degrees)} angles; leave n_tasks out, or "
            "give one angle for each task."
        )
    return (degrees + 0.0).tolist()


def _column(data: Dataset, by: int | str) -> int:
    """The index of the column that `by` names."""
    names, d = data.feature_names, data.X.shape[1]
    if isinstance(by, str) and by in names:
        return names.index(by)
    if isinstance(by, Integral) and not isinstance(by, bool) and 0 <= by < d:
        return int(by)
    some = ", ".join(map(repr, names[:12])) + (", ..." if d > 12 else "")
    raise ValueError(
        f"by={by!r} names no column of data {data.name!r}; it must be an index from 0 to {d - 1}, "
        f"one of the names {some}, or None for the first principal component."
    )


def _principal_component(X: np.ndarray) -> np.ndarray:
    """(n, d) -> (n,): scores on the first principal component of the standardized columns."""
    spread = X.std(axis=0)
    spread[np.ptp(X, axis=0) == 0] = 1.0  # constant columns stay out, whatever std rounds to
    Z = (X - X.mean(axis=0)) / spread
    n, d = Z.shape
    # The leading eigenvector of the smaller of the two Gram matrices.
    if d <= n:
        loadings = np.linalg.eigh(Z.T @ Z)[1][:, -1]
    else:
        loadings = Z.T @ np.linalg.eigh(Z @ Z.T)[1][:, -1]
    # An eigenvector has no sign of its own: the first large loading is made positive.
    large = np.abs(loadings) > 0.5 * np.abs(loadings).max()
    loadings = loadings * np.sign(loadings[np.argmax(large)])
    # Summed row by row, because a matrix product may round equal rows differently.
    return (Z * loadings).sum(axis=1)
