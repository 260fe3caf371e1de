"""What both machines share: their network, its kernel, weights and memory."""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from numbers import Integral, Real
from typing import Any, ClassVar

import numpy as np
import torch
from sklearn.base import BaseEstimator
from torch import Tensor, nn

from skntk.core import available_bytes, format_bytes, resolve_device, resolve_dtype
from skntk.core.errors import MemoryBudgetError
from skntk.infinite import InfiniteKernel, infinite_width
from skntk.infinite.network import network_kernel
from skntk.machines.categories import Categories
from skntk.machines.copies import row_ids
from skntk.machines.validation import Interval, StrOptions, check_sample_weight

#: Rows above which a random subset of that many is tuned on, by leave-one-out and by evidence.
TUNING_ROWS, EVIDENCE_ROWS = 2000, 1000
#: Rows of test data whose kernel with the training data is held at one time, at least.
_BLOCK = 256
_SIZE = 8


@dataclass(frozen=True, repr=False)
class KernelChoice:
    """One candidate kernel: the hyperparameters of the default network, or a module.

    As text it says what is in use: ``str(choice)``.

    Attributes
    ----------
    depth, activation, weight_std, bias_std
        Of `skntk.nn.MLP`; unused with a module.
    kind : {"ntk", "nngp"}
        Which kernel.
    embedding : {"none", "featurewise", "categorical"}
        What stands in front of the network.
    module : torch.nn.Module or None
        A network that replaces the default one.
    feature_scales : tuple of d float, or None
        Factors of the input's features, encoded if the embedding is "categorical".

    Examples
    --------
    >>> from skntk.machines import KernelChoice
    >>> choice = KernelChoice(2, "relu", weight_std=1.0, bias_std=0.1, kind="ntk")
    >>> choice
    <KernelChoice: ntk, relu, depth 2, weight_std 1, bias_std 0.1>
    >>> choice.kernel(3)([[1.0, 0.0, 2.0]]).shape
    (1, 1)
    """

    depth: int
    activation: str | nn.Module
    weight_std: float
    bias_std: float
    kind: str
    embedding: str = "none"
    module: nn.Module | None = None
    feature_scales: tuple[float, ...] | None = None

    def kernel(self, n_features: int) -> InfiniteKernel:
        """Return the infinite-width kernel, which reads rows that are encoded already."""
        embedding = "none" if self.embedding == "categorical" else self.embedding
        if self.module is not None:
            return infinite_width(self.module, embedding=embedding)
        stds = self.weight_std, self.bias_std
        return network_kernel(n_features, self.depth, self.activation, *stds, embedding=embedding)

    def __repr__(self) -> str:
        return f"<KernelChoice: {self}>"

    def __str__(self) -> str:
        front = "" if self.embedding == "none" else f"{self.embedding} "
        if self.module is not None:
            return f"{front}{self.kind} of the module"
        return (
            f"{front}{self.kind}, {self.activation}, depth {self.depth}, "
            f"weight_std {self.weight_std:.4g}, bias_std {self.bias_std:.4g}"
        )


class Evaluated:
    """A kernel choice bound to the dtype and threads of an estimator.

    Parameters
    ----------
    choice : KernelChoice
        Which kernel.
    categories : Categories
        Of the training rows.
    dtype : torch.dtype
        Of the kernel's computation; results are float64.
    n_jobs : int or None
        As of `InfiniteKernel.gram`.
    location : float, default=0
        Added to the kernel of a row with itself and with its copies: the variance of what belongs
        to a row of X and to no other, the limit of a network that oscillates ever faster.
    """

    def __init__(
        self,
        choice: KernelChoice,
        categories: Categories,
        dtype: Any,
        n_jobs: int | None,
        location: float = 0.0,
    ) -> None:
        self.choice, self.categories, self.dtype, self.n_jobs = choice, categories, dtype, n_jobs
        self.location = location
        encoded = choice.embedding == "categorical"
        self.infinite = choice.kernel(categories.width if encoded else categories.n_features)

    def encoded(self, X: Tensor) -> Tensor:
        """Rows as the network (or its feature-wise embedding) reads them, before scaling."""
        return self.categories.encode(X) if self.choice.embedding == "categorical" else X

    def _scaled(self, X: Tensor) -> Tensor:
        X = self.encoded(X).to(self.dtype)
        scales = self.choice.feature_scales
        return X if scales is None else X * X.new_tensor(scales)

    def gram(self, X: Tensor, Y: Tensor | None = None, kind: str | None = None) -> Tensor:
        """Kernel matrix in float64."""
        scaled = None if Y is None else self._scaled(Y)
        kind = kind or self.choice.kind
        K = self.infinite.gram(self._scaled(X), scaled, kind=kind, n_jobs=self.n_jobs).double()
        if self.location:
            ids, others = row_ids(X, X if Y is None else Y)
            K.add_(ids[:, None] == others, alpha=self.location)
        return K

    def diag(self, X: Tensor, kind: str | None = None) -> Tensor:
        """Kernel of each row with itself in float64."""
        K = self.infinite.diag(self._scaled(X), kind or self.choice.kind).double()
        return K + self.location if self.location else K


class ModuleParams(BaseEstimator):
    """Parameters ``module__*`` of a module class, as in skorch."""

    def _set_module_params(self, params: dict[str, Any]) -> None:
        """Store the ``module__*`` arguments of a constructor, and refuse all others."""
        for name in params:
            if not name.startswith("module__"):
                raise TypeError(
                    f"{type(self).__name__}() got an unexpected keyword argument {name!r}."
                )
        self.__dict__.update(params)

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return the parameters, with those of the module."""
        params = super().get_params(deep=False)
        extra = {k: v for k, v in vars(self).items() if k.startswith("module__")}
        return {**params, **extra}

    def set_params(self, **params: Any) -> ModuleParams:
        """Set parameters; names that start with ``module__`` go to the module's class."""
        extra = {k: params.pop(k) for k in list(params) if k.startswith("module__")}
        self.__dict__.update(extra)
        super().set_params(**params)
        return self

    def _built_module(self) -> nn.Module | None:
        """Return the module to use: a copy of an instance, or an instance of a class."""
        module, extra = self.module, {}
        for name, value in vars(self).items():
            if name.startswith("module__"):
                extra[name.removeprefix("module__")] = value
        if extra and not inspect.isclass(module):
            raise ValueError(
                f"parameters {sorted('module__' + k for k in extra)} need module to be a class, "
                f"but it is {module!r}."
            )
        if module is None or isinstance(module, nn.Module):
            return copy.deepcopy(module)
        if inspect.isclass(module) and issubclass(module, nn.Module):
            with torch.random.fork_rng(devices=[]):
                return module(**extra)
        raise TypeError(f"module={module!r} must be a torch.nn.Module class or instance, or None.")


class NTKMachine(ModuleParams):
    """Base of `NTKRegressor` and `NTKClassifier`; not used directly."""

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        "depth": [Interval(Integral, 0, None, closed="left"), StrOptions({"auto"})],
        "activation": [str, nn.Module],
        "weight_std": [Interval(Real, 0, None, closed="neither")],
        "bias_std": [Interval(Real, 0, None, closed="left"), StrOptions({"auto"})],
        "embedding": [StrOptions({"none", "featurewise", "categorical", "auto"})],
        "module": "no_validation",
        "kind": [StrOptions({"ntk", "nngp"})],
        "param_grid": [dict, None],
        "device": [str, torch.device],
        "dtype": "no_validation",
        "n_jobs": [Integral, None],
        "random_state": ["random_state"],
        "verbose": ["verbose"],
    }

    _DEFAULTS: ClassVar[dict[str, Any]] = {
        "depth": 3,
        "activation": "relu",
        "bias_std": 0.1,
        "embedding": "none",
    }
    _GRID: ClassVar[dict[str, tuple[Any, ...]]] = {}

    # Candidates

    def _candidates(self, tuned: bool) -> list[KernelChoice]:
        """Kernels to choose from; one unless `tuned`."""
        module = self._built_module()
        values: dict[str, Any] = {"kind": [self.kind]}
        for name in ("embedding", "depth", "activation", "weight_std", "bias_std"):
            value = getattr(self, name)
            if not (isinstance(value, str) and value == "auto"):
                values[name] = [value]
            elif tuned and module is None:
                values[name] = list(self._GRID[name])
                if name == "embedding" and not self._categories.values:
                    values[name].remove("categorical")
            else:
                values[name] = [self._DEFAULTS[name]]
        grid = dict(self.param_grid or {})
        if unknown := sorted(set(grid) - {*values, "alpha"}):
            raise ValueError(
                f"param_grid has the keys {unknown}; allowed are {sorted([*values, 'alpha'])}."
            )
        if grid and self.tuning is None:
            raise ValueError("param_grid is used by tuning; pass tuning='loo', or no param_grid.")
        for name, options in grid.items():
            if not isinstance(options, (list, tuple, np.ndarray)) or len(options) == 0:
                raise ValueError(
                    f"param_grid[{name!r}]={options!r} must be a list of at least one value."
                )
        allowed = self._parameter_constraints["embedding"][0].options - {"auto"}
        for embedding in grid.get("embedding", ()):
            if embedding not in allowed:
                raise ValueError(
                    f"param_grid['embedding'] has {embedding!r}; allowed are {sorted(allowed)}."
                )
        if module is not None and "categorical" in (self.embedding, *grid.get("embedding", ())):
            raise ValueError(
                "embedding='categorical' changes the number of features, which a module has fixed: "
                "encode the columns by sklearn.preprocessing.OneHotEncoder in front instead."
            )
        grid.pop("alpha", None)
        if module is not None and set(grid) - {"kind", "embedding"}:
            raise ValueError(
                "with a module, param_grid may hold only 'kind', 'embedding' and 'alpha'."
            )
        if tuned:
            values.update({name: list(options) for name, options in grid.items()})
        choices = [KernelChoice(3, "relu", 1.0, 0.0, self.kind, module=module)]
        for name, options in values.items():
            options = [_plain(o) for o in options]
            choices = [replace(c, **{name: o}) for c in choices for o in options]
        # Behind an embedding one hidden layer does: it is a layer itself, or has few values.
        if tuned and module is None and self.depth == "auto" and "depth" not in grid:
            least = min(self._GRID["depth"])
            choices = [c for c in choices if c.embedding == "none" or c.depth == least]
        return choices

    def _alphas(self, default: np.ndarray) -> np.ndarray:
        """Ridges to choose from, relative to the mean diagonal."""
        alphas = (self.param_grid or {}).get("alpha")
        if alphas is None:
            fixed = not isinstance(self.alpha, str)
            return np.atleast_1d(np.asarray(self.alpha, dtype=float)) if fixed else default
        alphas = np.asarray(alphas, dtype=float)
        if alphas.ndim != 1 or not (np.isfinite(alphas).all() and (alphas > 0).all()):
            raise ValueError(f"param_grid['alpha']={alphas} must be positive finite numbers.")
        return alphas

    # Data

    @property
    def _device(self) -> torch.device:
        return resolve_device(self.device)

    def _weighted(
        self, X: np.ndarray, y: np.ndarray, sample_weight: Any
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Rows of positive weight, copied, and their weights.

        Tuning divides the weights by their mean, `_weight_unit`, so that their size is immaterial;
        without tuning a row of weight w is w rows.
        """
        self._weight_unit = 1.0
        if sample_weight is None:
            return np.array(X, order="C"), y, np.ones(len(X))
        w = check_sample_weight(sample_weight, X, dtype=np.float64, ensure_non_negative=True)
        kept = w > 0
        if not kept.any():
            raise ValueError("sample_weight is 0 for every row; at least one must be positive.")
        X, y, w = X[kept], y[kept], w[kept]
        if self.tuning is not None:
            self._weight_unit = float(w.mean())
            w = w / self._weight_unit
        return X, y, w

    def _tensor(self, X: np.ndarray) -> Tensor:
        # torch warns of memory that it may not write to.
        return torch.as_tensor(np.require(X, requirements=["C", "W"]), device=self._device)

    def _bound(self, choice: KernelChoice) -> Evaluated:
        return Evaluated(choice, self._categories, resolve_dtype(self.dtype), self.n_jobs)

    def _require_square(self, n: int, matrices: float, what: str = "fitting") -> None:
        """Raise before allocation if `matrices` of n x n float64 do not fit."""
        free = available_bytes(self._device)
        need = int(matrices * _SIZE * n**2)
        if need > free:
            fits = int(math.sqrt(free / (_SIZE * matrices)))
            raise MemoryBudgetError(
                f"{what} {n} rows needs {format_bytes(need)} for {matrices:g} matrices of "
                f"{n} x {n} float64, but {format_bytes(free)} are available; about {fits} rows "
                "would fit. Use a random subset of that many rows, or a machine with more memory."
            )

    def _blocks(self, n_test: int, n_train: int) -> Iterator[slice]:
        """Blocks of test rows whose kernel with the training rows is small."""
        size = max(_BLOCK, 2**25 // max(n_train, 1))
        for start in range(0, n_test, size):
            yield slice(start, start + size)

    def _free(self) -> tuple[str, ...]:
        """Hyperparameters that the evidence may move from where they start."""
        grid = self.param_grid or {}
        free = [
            name
            for name in ("alpha", "bias_std")
            if name in grid or isinstance(getattr(self, name), str)
        ]
        free += ["weight_std"] + ["feature_scales"] * self.ard
        return tuple(f for f in free if self.module is None or not f.endswith("_std"))

    def _progress(self, items: list[Any], what: str) -> Any:
        """Iterate with a progress bar if asked for."""
        from tqdm.auto import tqdm

        return tqdm(items, desc=what, disable=not self.verbose)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = False
        return tags


def _plain(value: Any) -> Any:
    """NumPy scalars as Python numbers, and integral floats as integers where they are depths."""
    return value.item() if isinstance(value, np.generic) else value
