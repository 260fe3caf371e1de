"""One task of a stream for continual learning, and blurred boundaries between tasks."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from numbers import Real

import numpy as np
from sklearn.utils import check_random_state

from skntk.datasets.dataset import is_finite


@dataclass(frozen=True, eq=False)
class StreamTask:
    """One task of a stream: what to train on, and what to test on.

    Attributes
    ----------
    name : str
        A short name, such as ``"rotated 36°"`` or ``"classes 0, 1"``.
    X, X_test : ndarray of shape (n, d) and (m, d), float64
        One row per sample. Images are flattened channels first.
    y, y_test : ndarray of shape (n,) and (m,), or (n, k) and (m, k)
        Integer or string labels for classification, float64 numbers for regression.
    image_shape : (C, H, W) or None
        The shape that a row of `X` has as an image.

    Raises
    ------
    ValueError
        If the shapes do not fit together, or an array is empty or not finite.

    Examples
    --------
    >>> import numpy as np
    >>> from skntk.datasets import StreamTask
    >>> X, y = np.eye(4), np.arange(4) % 2
    >>> StreamTask("corners", X[:2], y[:2], X[2:], y[2:], image_shape=(1, 2, 2))
    StreamTask(name='corners', image_shape=(1, 2, 2))
    """

    name: str
    X: np.ndarray = field(repr=False)
    y: np.ndarray = field(repr=False)
    X_test: np.ndarray = field(repr=False)
    y_test: np.ndarray = field(repr=False)
    image_shape: tuple[int, int, int] | None = None

    def __post_init__(self) -> None:
        for X, y, side in ((self.X, self.y, ""), (self.X_test, self.y_test, "_test")):
            if X.ndim != 2 or y.ndim not in (1, 2) or len(X) != len(y) or 0 in (X.size, y.size):
                self._refuse(
                    f"X{side} has shape {X.shape} and y{side} {y.shape}; wanted (n, d) and (n,) or "
                    "(n, k), none of them empty"
                )
            if X.dtype.kind not in "biuf" or y.dtype.kind not in "biufU":
                self._refuse(
                    f"X{side} has dtype {X.dtype} and y{side} {y.dtype}; X must be numbers, and y "
                    "numbers or strings"
                )
            if not (np.isfinite(X).all() and is_finite(y)):
                self._refuse(f"X{side} and y{side} must be finite")
        if self.X.shape[1:] != self.X_test.shape[1:] or self.y.shape[1:] != self.y_test.shape[1:]:
            self._refuse(
                f"X and y of shapes {self.X.shape} and {self.y.shape} do not fit X_test and y_test "
                f"of shapes {self.X_test.shape} and {self.y_test.shape}; only the numbers of rows "
                "may differ"
            )
        if self.image_shape is not None and np.prod(self.image_shape) != self.X.shape[1]:
            self._refuse(f"image_shape {self.image_shape} does not hold {self.X.shape[1]} values")

    def _refuse(self, reason: str) -> None:
        raise ValueError(f"task {self.name!r}: {reason}.")


def blurred(
    tasks: Iterable[StreamTask],
    share: float = 0.1,
    *,
    random_state: int | np.random.RandomState | None = None,
) -> tuple[StreamTask, ...]:
    """Blur the boundaries between tasks: they exchange some of their training rows.

    Of each task's training rows a share, drawn at random, goes to other tasks, and as many come
    from there. No row gets lost or is doubled. Test rows stay.

    Parameters
    ----------
    tasks : iterable of StreamTask
        A stream, for example of :func:`split_tasks`.
    share : float, default=0.1
        The share of the rows, at least 0 and less than 1, rounded to whole rows. A task that would
        give more rows than all others together can take gives as many as they take.
    random_state : int, RandomState or None, default=None
        Draws the rows, and where they go.

    Returns
    -------
    tuple of StreamTask
        Tasks of the same names and sizes. Rows that come from other tasks lie among the rest.

    Raises
    ------
    ValueError
        If `share` is out of its range, `tasks` is empty or holds something else, the rows of
        two tasks differ in kind, or there is only one task to blur.

    Examples
    --------
    >>> import numpy as np
    >>> from skntk.datasets import blurred, split_tasks
    >>> tasks = blurred(split_tasks("digits", random_state=0), 0.2, random_state=0)
    >>> print(tasks[0].name, f"{np.isin(tasks[0].y, [0, 1]).mean():.2f}")
    classes 0, 1 0.80
    """
    tasks = tuple(tasks)
    _check_exchange(tasks, share)
    rng = check_random_state(random_state)
    sizes = np.array([len(task.y) for task in tasks])
    counts = np.rint(share * sizes).astype(np.int64)
    largest = counts.argmax()
    counts[largest] = min(counts[largest], counts.sum() - counts[largest])

    # Rows are numbered through the whole stream; a place is one that a row was taken from.
    starts = np.cumsum(sizes) - sizes
    places = np.concatenate(
        [
            start + rng.choice(size, count, replace=False)
            for start, size, count in zip(starts, sizes, counts, strict=True)
        ]
    )
    home = np.repeat(np.arange(len(tasks)), counts)
    source = np.arange(sizes.sum())
    source[places] = places[_all_abroad(home, rng)]
    X = np.concatenate([task.X for task in tasks])[source]
    y = np.concatenate([task.y for task in tasks])[source]
    return tuple(
        replace(task, X=X[start : start + size], y=y[start : start + size])
        for task, start, size in zip(tasks, starts, sizes, strict=True)
    )


def _check_exchange(tasks: tuple[StreamTask, ...], share: float) -> None:
    if not (isinstance(share, Real) and 0 <= share < 1):
        raise ValueError(
            f"share={share!r} must be a share of the rows, at least 0 and less than 1."
        )
    if not tasks or not all(isinstance(task, StreamTask) for task in tasks):
        raise ValueError(
            f"tasks holds {[type(task).__name__ for task in tasks]}; it must hold one or more "
            "StreamTask, as split_tasks and its like return them."
        )
    if len(tasks) == 1 and share > 0:
        raise ValueError(
            f"share={share!r} of the rows cannot be exchanged, because tasks holds only one task; "
            "pass a stream of two or more, or share=0."
        )
    kinds = [(t.X.shape[1:], t.y.shape[1:], t.y.dtype.type, t.image_shape) for t in tasks]
    for task, kind in zip(tasks, kinds, strict=True):
        if kind != kinds[0]:
            raise ValueError(
                f"tasks {tasks[0].name!r} and {task.name!r} cannot exchange rows: the shapes of a "
                f"row of X and of y, the type of y and image_shape are {kinds[0]} and {kind}."
            )


def _all_abroad(home: np.ndarray, rng: np.random.RandomState) -> np.ndarray:
    """A random permutation `taken` for which ``home[taken]`` differs from `home` everywhere.

    There is one where no value of `home` makes up more than half of it.
    """
    taken = rng.permutation(len(home))
    for task in np.unique(home):
        # Rows still at home swap places with rows for which both ends are foreign. There are
        # enough: with k of K places and s rows at home, K - 2k + s of them.
        stays = np.flatnonzero((home == task) & (home[taken] == task))
        foreign = np.flatnonzero((home != task) & (home[taken] != task))
        partners = rng.choice(foreign, len(stays), replace=False)
        taken[stays], taken[partners] = taken[partners], taken[stays]
    return taken
