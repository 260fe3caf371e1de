"""Networks that estimators build, and the rows that they are given."""

from __future__ import annotations

import copy
import inspect
import math
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator
from torch import Tensor, nn

from skntk.core import require
from skntk.finite.network import NetworkInputs, eval_mode, evaluate, naming_failures
from skntk.nn import MLP


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
        return {**params, **self._module_params("")}

    def set_params(self, **params: Any) -> ModuleParams:
        """Set parameters; names that start with ``module__`` go to the module's class."""
        extra = {k: params.pop(k) for k in list(params) if k.startswith("module__")}
        self.__dict__.update(extra)
        super().set_params(**params)
        return self

    def _module_params(self, prefix: str = "module__") -> dict[str, Any]:
        """Arguments of the module's class, without that prefix of their names."""
        found = {k: v for k, v in vars(self).items() if k.startswith("module__")}
        return {k.removeprefix(prefix): v for k, v in found.items()}

    def _built_module(self, width: int | None = None, seed: int | None = None) -> nn.Module | None:
        """Return the module to use: a copy of an instance, or an instance of a class.

        Parameters
        ----------
        width : int, optional
            Passed to a class.
        seed : int, optional
            Of the weights of a class; by default whatever torch's state is, which is left.
        """
        module, extra = self.module, self._module_params()
        if extra and not inspect.isclass(module):
            raise ValueError(
                f"parameters {sorted('module__' + k for k in extra)} need module to be a class, "
                f"but it is {module!r}."
            )
        if module is None:
            return None
        if isinstance(module, nn.Module):
            if width is not None:
                raise ValueError(
                    f"width={width} needs a module class that takes a width, but module is an "
                    f"instance of {type(module).__name__}, whose widths are fixed: pass its class, "
                    "or width=None for the module as it stands."
                )
            return copy.deepcopy(module)
        if not (inspect.isclass(module) and issubclass(module, nn.Module)):
            raise TypeError(
                f"module={module!r} must be a torch.nn.Module class or instance, or None."
            )
        if width is not None:
            if "width" not in inspect.signature(module).parameters:
                raise ValueError(
                    f"width={width} needs a module class with an argument width, which "
                    f"{module.__name__} has not; pass width=None for the module as it stands."
                )
            extra["width"] = width
        with torch.random.fork_rng(devices=[]):
            if seed is not None:
                torch.manual_seed(seed)
            return module(**extra)


def finite_width(width: Any) -> int | None:
    """Return a width as an int; None for None, and for infinity.

    Raises
    ------
    ValueError
        If it is no integer of at least 1, infinity or None.
    """
    if width is None or width == math.inf:
        return None
    number = isinstance(width, Real) and not isinstance(width, bool)
    if not number or not float(width).is_integer() or width < 1:
        raise ValueError(f"width={width!r} must be an integer of at least 1, np.inf or None.")
    return int(width)


def drawn_mlp(n_features: int, n_outputs: int, seed: int, **params: Any) -> MLP:
    """Return the default network, its weights drawn from a seed; torch's own state is left.

    Raises
    ------
    MemoryBudgetError
        If its weights do not fit in memory.
    """
    depth, width = params["depth"], params["width"]
    numbers = width * (n_features + max(depth - 1, 0) * width + n_outputs) if depth else 0
    require(
        numbers * torch.get_default_dtype().itemsize,
        f"a network of width {width} and depth {depth}",
        "Pass a smaller width.",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return MLP(n_features, n_outputs, **params)


def check_outputs(module: nn.Module, X: Tensor, n_outputs: int, what: str) -> None:
    """Refuse a network that does not run on some rows, or has another number of outputs.

    Raises
    ------
    ValueError
        Naming the module, and its last layer with parameters.
    """
    name = type(module).__name__
    inputs = NetworkInputs(X[:2])
    try:
        with naming_failures(module, inputs), torch.no_grad(), eval_mode(module):
            found = evaluate(module, inputs)
    except ValueError as error:
        if X.ndim > 2:
            raise
        hint = "If it takes images, pass them as such, or input_shape=(C, H, W)."
        raise ValueError(f"{error} {hint}") from error
    if found.shape[1] != n_outputs:
        last = [(path, m) for path, m in module.named_modules() if list(m.parameters(False))]
        at = f"; its last layer is {last[-1][1]} at {last[-1][0] or 'the top'!r}" if last else ""
        raise ValueError(
            f"module {name} has {found.shape[1]} outputs for a row, but {what} needs {n_outputs}"
            f"{at}."
        )


def as_rows(X: Any, input_shape: Any) -> tuple[Any, tuple[int, ...] | None]:
    """Flatten inputs of several axes to rows; the shape of one input, if it is known.

    Parameters
    ----------
    X : array-like of shape (n, d) or (n, *input_shape)
        Inputs.
    input_shape : tuple of int or None
        What the estimator was told.

    Raises
    ------
    ValueError
        If the two disagree.
    """
    if isinstance(X, tuple) and any(np.ndim(part) > 1 for part in X):
        raise ValueError(
            f"X is a tuple of {len(X)} arrays; an estimator takes one array of rows: concatenate "
            "them along the features, and let the module split them."
        )
    shape = None if input_shape is None else _checked_shape(input_shape)
    ndim = getattr(X, "ndim", None)
    if ndim is None and not hasattr(X, "shape"):
        X = np.asarray(X) if isinstance(X, (list, tuple)) else X
        ndim = getattr(X, "ndim", None)
    if ndim is not None and ndim > 2:
        found = tuple(int(s) for s in X.shape[1:])
        if shape is not None and found != shape:
            raise ValueError(f"X has inputs of shape {found}, but input_shape={shape}.")
        return X.reshape(len(X), math.prod(found)), found
    if shape is not None and ndim == 2 and X.shape[1] != math.prod(shape):
        raise ValueError(
            f"X has {X.shape[1]} features, but input_shape={shape} needs {math.prod(shape)}."
        )
    return X, shape


def _checked_shape(input_shape: Any) -> tuple[int, ...]:
    whole = isinstance(input_shape, (tuple, list)) and all(
        isinstance(s, Integral) and int(s) >= 1 for s in input_shape
    )
    if not whole or not input_shape:
        raise ValueError(
            f"input_shape={input_shape!r} must be a tuple of integers, such as (C, H, W), or None."
        )
    return tuple(int(s) for s in input_shape)
