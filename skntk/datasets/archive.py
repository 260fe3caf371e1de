"""Read one ``.npz`` archive as a data set; nothing is ever unpickled.

Three layouts are known, told apart by the names of their arrays:

- tables: ``X, y``;
- images: ``images, labels``, bytes of shape (n, H, W) or channels last (n, H, W, C);
- images with a split: ``train_images, train_labels, test_images, test_labels``.

The first two may hold splits: an array ``<prefix>test`` of row numbers, with its ``<prefix>train``
or else with all other rows, and ``tune_train, tune_valid``. Integer targets mean classification,
floating-point ones regression.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from skntk.datasets.dataset import Dataset, Split, Task

TABLE = {"X", "y"}
IMAGES = {"images", "labels"}
SPLIT_IMAGES = {"train_images", "train_labels", "test_images", "test_labels"}


def read_archive(path: Path, name: str) -> Dataset:
    """Return the data set in the archive at `path`.

    Raises
    ------
    ValueError
        If the file is not an archive of plain arrays or has none of the known layouts.
    """
    with _opened(path) as archive:
        arrays = {key: archive[key] for key in archive.files}
    keys = arrays.keys()
    image_shape: tuple[int, int, int] | None = None
    splits = _splits(arrays)
    if keys >= TABLE:
        X, y = arrays["X"], arrays["y"]
    elif keys >= IMAGES:
        X, y = arrays["images"], arrays["labels"]
    elif keys >= SPLIT_IMAGES:
        X = np.concatenate([arrays["train_images"], arrays["test_images"]])
        y = np.concatenate([arrays["train_labels"], arrays["test_labels"]])
        first_test = len(arrays["train_images"])
        splits = ((np.arange(first_test), np.arange(first_test, len(X))),)
    else:
        raise ValueError(
            f"{path} holds the arrays {sorted(keys)}; a data set has {sorted(TABLE)}, "
            f"{sorted(IMAGES)} or {sorted(SPLIT_IMAGES)}."
        )
    if not keys >= TABLE:
        X, image_shape = _flatten_images(X, path)
    task = _task(y)
    y = y.astype(np.int64 if task == "classification" else np.float64)
    X = X.astype(np.float64, copy=False)
    return Dataset(
        name=name,
        task=task,
        X=X,
        y=y,
        feature_names=tuple(f"x{j}" for j in range(X.shape[-1])),
        target_names=_target_names(y, task),
        splits=splits,
        tuning_split=(arrays["tune_train"], arrays["tune_valid"]) if "tune_train" in keys else None,
        image_shape=image_shape,
    )


def archive_task(path: Path) -> Task | None:
    """Return the task of the archive at `path`, or None if it is not a data set."""
    try:
        with _opened(path) as archive:
            keys = set(archive.files)
            if keys >= TABLE:
                return _task(archive["y"])
            return "classification" if keys >= IMAGES or keys >= SPLIT_IMAGES else None
    except ValueError:
        return None


@contextmanager
def _opened(path: Path) -> Iterator[np.lib.npyio.NpzFile]:
    """Open the archive at `path`; whatever is wrong with it becomes one ValueError."""
    try:
        # Our own handle, because np.load leaves its one open when it raises.
        with path.open("rb") as file:
            archive = np.load(file, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise ValueError("it holds a single array")
            yield archive
    except (ValueError, BadZipFile, EOFError) as error:
        raise ValueError(
            f"{path} is not an .npz archive of plain arrays (Python objects are never unpickled): "
            f"{error}"
        ) from error


def _splits(arrays: dict[str, np.ndarray]) -> tuple[Split, ...]:
    """Pairs (train, test) for every ``<prefix>test``, in the order of the prefix's number."""
    n = len(next(iter(arrays.values())))
    prefixes = [key[: -len("test")] for key in arrays if key.endswith("test")]
    prefixes.sort(key=lambda prefix: [int(digits) for digits in re.findall(r"\d+", prefix)])
    pairs = []
    for prefix in prefixes:
        test = arrays[f"{prefix}test"]
        train = arrays.get(f"{prefix}train")
        pairs.append((np.setdiff1d(np.arange(n), test) if train is None else train, test))
    return tuple(pairs)


def _flatten_images(images: np.ndarray, path: Path) -> tuple[np.ndarray, tuple[int, int, int]]:
    """(n, H, W) or (n, H, W, C) bytes -> (n, C*H*W) in [0, 1], and (C, H, W)."""
    if images.dtype != np.uint8 or images.ndim not in (3, 4):
        raise ValueError(
            f"{path}: images must be uint8 of shape (n, H, W) or (n, H, W, C), got {images.dtype} "
            f"of shape {images.shape}."
        )
    if images.ndim == 3:
        images = images[..., None]
    n, height, width, channels = images.shape
    rows = images.transpose(0, 3, 1, 2).reshape(n, -1) / 255.0
    return rows, (channels, height, width)


def _task(y: np.ndarray) -> Task:
    return "classification" if np.issubdtype(y.dtype, np.integer) else "regression"


def _target_names(y: np.ndarray, task: Task) -> tuple[str, ...]:
    if task == "classification":
        return tuple(str(label) for label in np.unique(y))
    return ("target",) if y.ndim == 1 else tuple(f"target{j}" for j in range(y.shape[1]))
