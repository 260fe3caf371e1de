"""What both machines share: their network, its kernel, weights and memory."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from numbers import Integral, Real
from typing import Any, ClassVar

import numpy as np
import torch
from sklearn.utils import check_random_state
from sklearn.utils.validation import validate_data
from torch import Tensor, nn

from skntk.core import available_bytes, format_bytes, resolve_device, resolve_dtype
from skntk.core.errors import MemoryBudgetError
from skntk.infinite import InfiniteKernel, infinite_width
from skntk.infinite.network import network_kernel
from skntk.machines.categories import Categories
from skntk.machines.copies import row_ids
from skntk.machines.finite import FiniteKernel
from skntk.machines.networks import ModuleParams, as_rows, check_outputs, drawn_mlp, finite_width
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
    width : int, inf or None
        Of the network; None for a module as it stands.
    n_outputs, seed
        Of a finite default network, and of its weights.
    centered : bool
        Whether the function of a finite network at initialization counts as zero.
    input_shape : tuple of int, or None
        Shape of one input of a module.

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
    width: float | None = math.inf
    n_outputs: int = 1
    seed: int = 0
    centered: bool = False
    input_shape: tuple[int, ...] | None = None

    @property
    def finite(self) -> bool:
        """Whether the kernel is that of a finite network."""
        return self.width != math.inf

    def kernel(self, n_features: int) -> InfiniteKernel | FiniteKernel:
        """Return the kernel, which reads rows that are encoded already."""
        if self.finite:
            return FiniteKernel(self._network(n_features), self.centered)
        embedding = "none" if self.embedding == "categorical" else self.embedding
        if self.module is not None:
            return infinite_width(self.module, embedding=embedding)
        stds = self.weight_std, self.bias_std
        return network_kernel(n_features, self.depth, self.activation, *stds, embedding=embedding)

    def _network(self, n_features: int) -> nn.Module:
        if self.module is not None:
            return self.module
        assert self.width is not None
        return drawn_mlp(
            n_features,
            self.n_outputs,
            self.seed,
            depth=self.depth,
            width=int(self.width),
            activation=self.activation,
            weight_std=self.weight_std,
            bias_std=self.bias_std,
        )

    def __repr__(self) -> str:
        return f"<KernelChoice: {self}>"

    def __str__(self) -> str:
        front = "" if self.embedding == "none" else f"{self.embedding} "
        if self.finite:
            front += "empirical "
        if self.module is not None:
            return f"{front}{self.kind} of the module"
        return (
            f"{front}{self.kind}, {self.activation}, depth {self.depth}, "
            + (f"width {self.width:g}, " if self.finite else "")
            + f"weight_std {self.weight_std:.4g}, bias_std {self.bias_std:.4g}"
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
        self.network = choice.kernel(categories.width if encoded else categories.n_features)

    def encoded(self, X: Tensor) -> Tensor:
        """Rows as the network (or its feature-wise embedding) reads them, before scaling."""
        return self.categories.encode(X) if self.choice.embedding == "categorical" else X

    def _scaled(self, X: Tensor) -> Tensor:
        X = self.encoded(X).to(self.dtype)
        scales = self.choice.feature_scales
        X = X if scales is None else X * X.new_tensor(scales)
        return X if self.choice.input_shape is None else X.view(-1, *self.choice.input_shape)

    def function(self, X: Tensor) -> Tensor:
        """Function at initialization in float64: (n, k); zeros (n, 1) in the limit."""
        found = None
        if isinstance(self.network, FiniteKernel):
            found = self.network.function(self._scaled(X))
        return X.new_zeros(len(X), 1).double() if found is None else found.double()

    def gram(self, X: Tensor, Y: Tensor | None = None, kind: str | None = None) -> Tensor:
        """Kernel matrix in float64."""
        scaled = None if Y is None else self._scaled(Y)
        kind = kind or self.choice.kind
        K = self.network.gram(self._scaled(X), scaled, kind=kind, n_jobs=self.n_jobs).double()
        if self.location:
            ids, others = row_ids(X, X if Y is None else Y)
            K.add_(ids[:, None] == others, alpha=self.location)
        return K

    def diag(self, X: Tensor, kind: str | None = None) -> Tensor:
        """Kernel of each row with itself in float64."""
        K = self.network.diag(self._scaled(X), kind or self.choice.kind).double()
        return K + self.location if self.location else K


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
        "width": [Interval(Real, 1, None, closed="both"), None],
        "centered": ["boolean"],
        "input_shape": "no_validation",
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

    def _candidates(self, tuned: bool, n_outputs: int, outputs: str) -> list[KernelChoice]:
        """Kernels to choose from, one unless `tuned`, for so many "targets" or "classes"."""
        width = finite_width(self.width)
        finite = width is not None or self.width is None
        seed = int(check_random_state(self.random_state).randint(2**31 - 1)) if finite else 0
        module = self._built_module(width, seed)
        if self.width is None and module is None:
            raise ValueError(
                "width=None reads the module as it stands, but there is no module; pass one, or "
                "the width of the default network, np.inf for its limit."
            )
        values: dict[str, Any] = {"kind": [self.kind]}
        for name in ("embedding", "depth", "activation", "weight_std", "bias_std"):
            value = getattr(self, name)
            if not (isinstance(value, str) and value == "auto"):
                values[name] = [value]
            elif tuned and module is None:
                values[name] = list(self._GRID[name])
                if name == "embedding" and not self._categories.values:
                    values[name].remove("categorical")
                if name == "embedding" and finite:
                    values[name].remove("featurewise")
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
        if finite and self.tuning == "marginal_likelihood":
            raise ValueError(
                "tuning='marginal_likelihood' differentiates the kernel of an infinitely wide "
                f"network; pass width=np.inf, or tuning='loo', with width={self.width}."
            )
        if finite and "featurewise" in (self.embedding, *grid.get("embedding", ())):
            raise ValueError(
                "embedding='featurewise' is a limit of infinite width; pass width=np.inf, or "
                "embedding='none'."
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
        first = KernelChoice(
            3,
            "relu",
            1.0,
            0.0,
            self.kind,
            module=module,
            width=math.inf if not finite else width,
            n_outputs=n_outputs,
            seed=seed,
            centered=bool(self.centered),
            input_shape=None if module is None else self._input_shape,
        )
        if finite and module is not None:
            module.to(self._device, resolve_dtype(self.dtype))
            if inspect.isclass(self.module):
                module.eval()
            X = torch.zeros(2, *self._input_shape, dtype=resolve_dtype(self.dtype))
            check_outputs(module, X.to(self._device), n_outputs, f"y with {n_outputs} {outputs}")
        choices = [first]
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

    def _validated(self, X: Any, y: Any = "no_validation", **checks: Any) -> Any:
        """Rows of flat features (and targets); in `fit`, note the shape of one input."""
        X, shape = as_rows(X, self.input_shape)
        checks["dtype"] = [np.float64, np.float32]
        if isinstance(y, str):
            return validate_data(self, X, reset=False, **checks)
        X, y = validate_data(self, X, y, **checks)
        self._input_shape = shape or (X.shape[1],)
        return X, y

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
