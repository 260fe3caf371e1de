"""One data set: a table, its targets, and the splits that results are compared on."""

from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import numpy as np

Task: TypeAlias = Literal["classification", "regression"]
Split: TypeAlias = tuple[np.ndarray, np.ndarray]


def is_finite(y: np.ndarray) -> bool:
    """Whether all targets are finite; strings are."""
    return y.dtype.kind == "U" or bool(np.isfinite(y).all())


@dataclass(frozen=True, eq=False)
class Dataset:
    """A table with its targets and its published splits.

    Attributes
    ----------
    name : str
        What :func:`load` calls it.
    task : {"classification", "regression"}
        What `y` holds.
    X : ndarray of shape (n, d), float64
        One row per sample, never scaled. Images are flattened channels first, with values in
        [0, 1].
    y : ndarray of shape (n,) or (n, k)
        Integer or string labels for classification, float64 numbers for regression.
    feature_names : tuple of str
        One name per column of `X`.
    target_names : tuple of str
        For classification the i-th name belongs to the i-th smallest label; for regression there
        is one name per output.
    splits : tuple of (train, test)
        Pairs of row numbers, disjoint within a pair; empty where none are published.
    tuning_split : (train, valid) or None
        The pair of row numbers on which published results were tuned.
    image_shape : (C, H, W) or None
        The shape that a row of `X` has as an image.

    Raises
    ------
    ValueError
        If the shapes do not fit together, `X` or `y` is not finite, or a split holds a row that
        does not exist or that is on both of its sides.

    Examples
    --------
    >>> from skntk.datasets import load
    >>> iris = load("iris")
    >>> iris.X.shape, iris.target_names
    ((150, 4), ('setosa', 'versicolor', 'virginica'))
    """

    name: str
    task: Task
    X: np.ndarray = field(repr=False)
    y: np.ndarray = field(repr=False)
    feature_names: tuple[str, ...] = field(repr=False)
    target_names: tuple[str, ...]
    splits: tuple[Split, ...] = field(default=(), repr=False)
    tuning_split: Split | None = field(default=None, repr=False)
    image_shape: tuple[int, int, int] | None = None

    def __post_init__(self) -> None:
        X, y = self.X, self.y
        if X.ndim != 2 or y.ndim not in (1, 2) or len(X) != len(y) or len(X) == 0:
            self._refuse(
                f"X has shape {X.shape} and y {y.shape}; wanted (n, d) and (n,) or (n, k), n > 0"
            )
        if not (np.isfinite(X).all() and is_finite(y)):
            self._refuse("X and y must be finite")
        if len(self.feature_names) != X.shape[1]:
            self._refuse(f"{len(self.feature_names)} feature names for {X.shape[1]} columns")
        if self.task == "classification":
            wanted = len(np.unique(y))
        else:
            wanted = 1 if y.ndim == 1 else y.shape[1]
        if len(self.target_names) != wanted:
            self._refuse(
                f"{len(self.target_names)} target names for {wanted} classes or outputs in y"
            )
        if self.image_shape is not None and np.prod(self.image_shape) != X.shape[1]:
            self._refuse(f"image_shape {self.image_shape} does not hold {X.shape[1]} values")
        for pair in (*self.splits, *([] if self.tuning_split is None else [self.tuning_split])):
            self._check_split(*pair)

    def _check_split(self, train: np.ndarray, test: np.ndarray) -> None:
        for rows in (train, test):
            if rows.ndim != 1 or rows.size == 0 or not np.issubdtype(rows.dtype, np.integer):
                self._refuse(f"a split is a pair of 1-d arrays of row numbers, got {rows!r}")
            if rows.min() < 0 or rows.max() >= len(self.X):
                self._refuse(f"a split names rows outside 0..{len(self.X) - 1}")
        if np.intersect1d(train, test).size:
            self._refuse("a split has rows on both of its sides")

    def _refuse(self, reason: str) -> None:
        raise ValueError(f"data set {self.name!r}: {reason}.")
