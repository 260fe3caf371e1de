"""The data sets that scikit-learn ships; they need no download and no directory."""

from collections.abc import Callable

import numpy as np
from sklearn import datasets as sk

from skntk.datasets.dataset import Dataset, Task

BUILTIN: dict[str, tuple[Task, Callable]] = {
    "breast_cancer": ("classification", sk.load_breast_cancer),
    "diabetes": ("regression", sk.load_diabetes),
    "digits": ("classification", sk.load_digits),
    "iris": ("classification", sk.load_iris),
    "linnerud": ("regression", sk.load_linnerud),
    "wine": ("classification", sk.load_wine),
}


def load_builtin(name: str) -> Dataset:
    """Return the built-in data set `name`, a key of ``BUILTIN``; none has published splits."""
    task, loader = BUILTIN[name]
    bunch = loader()
    X = np.asarray(bunch.data, dtype=np.float64)
    y_dtype = np.int64 if task == "classification" else np.float64
    image_shape: tuple[int, int, int] | None = None
    if name == "digits":
        X, image_shape = X / 16.0, (1, 8, 8)  # grey levels 0..16
    return Dataset(
        name=name,
        task=task,
        X=X,
        y=np.asarray(bunch.target, dtype=y_dtype),
        feature_names=tuple(str(f) for f in bunch.feature_names),
        target_names=tuple(str(t) for t in getattr(bunch, "target_names", ("target",))),
        image_shape=image_shape,
    )
