"""What the kept runs of a study belong to: a hash of everything that they depend on."""

from __future__ import annotations

import inspect
import uuid
from collections.abc import Mapping
from types import CodeType, FunctionType
from typing import Any

import joblib
import numpy as np
import torch
from skorch.callbacks import Callback
from torch import Tensor, nn

import skntk
from skntk.diagnostics.recording import start_of
from skntk.diagnostics.subject import Subject, named_callbacks
from skntk.finite.network import NetworkInputs, eval_mode, evaluate

#: Parameters of an estimator that every run sets itself.
_SET = {"width", "module__width", "random_state", "verbose", "checkpoint", "callbacks", "module"}
#: Rows at which a network is looked at.
_ROWS = 8
#: Packages whose code is told by their version.
_VERSIONED = ("torch", "skorch", "sklearn", "numpy", "scipy", "pandas", "skntk", "builtins")


def fingerprint(subject: Subject, X: Any, y: Any, parts: Any) -> str:
    """Hash of a study: of data, settings, and what transformers and networks do with the data.

    What a class does is not told by its name, nor what a module does by its text. So transformers
    and one network are applied and their results are hashed, and so is the code of classes and
    functions of the user's own. What these call in turn is seen only in the results.

    Parameters
    ----------
    subject : Subject
        The network.
    X, y : array-like
        Data.
    parts : object
        Anything else, of what pickles.

    Examples
    --------
    >>> import numpy as np
    >>> from skntk import NetworkRegressor
    >>> from skntk.diagnostics.fingerprint import fingerprint
    >>> from skntk.diagnostics.subject import Subject
    >>> X, y = np.eye(3), np.arange(3.0)
    >>> kinds = [Subject.of(NetworkRegressor(width=8, depth=d), y, {}) for d in (1, 2)]
    >>> one, two = (fingerprint(kind, X, y, None) for kind in kinds)
    >>> one == fingerprint(kinds[0], X, y, None), one == two
    (True, False)
    """
    network = subject.network
    (seen,) = subject.prepared(X, y)
    module, inputs = start_of(subject.at(subject.some_width, 0), seen, y)
    params = {k: v for k, v in sorted(network.get_params().items()) if k not in _SET}
    return content_hash(
        [
            skntk.__version__,
            torch.__version__,
            type(network),
            params,
            named_callbacks(network),
            [type(m) for m in module.modules()],
            _module_hash(module, inputs[:_ROWS]),
            subject.front,
            _array(seen),
            X,
            y,
            parts,
        ]
    )


def _module_hash(module: nn.Module, X: Tensor) -> str:
    """Hash of weights, of what is trained, and of the function and its gradient at some rows."""
    weights = [(n, p.requires_grad, _array(p)) for n, p in module.named_parameters()]
    buffers = [(n, _array(b)) for n, b in module.named_buffers()]
    free = [p for p in module.parameters() if p.requires_grad]
    with torch.enable_grad(), eval_mode(module):
        outputs = evaluate(module, NetworkInputs.of(X, module))
        gradients = torch.autograd.grad(
            outputs.square().sum(), free, allow_unused=True, materialize_grads=True
        )
    return content_hash(
        [repr(module), weights, buffers, _array(outputs), [_array(g) for g in gradients]]
    )


def _array(value: Any) -> Any:
    if isinstance(value, Tensor):
        value = value.detach().cpu()
        return (value.double() if value.is_floating_point() else value).numpy()
    return value.toarray() if hasattr(value, "toarray") else np.asarray(value)


def content_hash(value: Any) -> str:
    """Hash of an object's content; never that of another object, if it cannot be told.

    Examples
    --------
    >>> from skntk.diagnostics.fingerprint import content_hash
    >>> content_hash([1, "a"]) == content_hash([1, "a"])
    True
    """
    try:
        return joblib.hash(_told(value))
    except Exception:  # whatever pickling meets
        return uuid.uuid4().hex


def _told(value: Any) -> Any:
    """What pickles, and is the same for what does the same."""
    if isinstance(value, nn.Module):
        return repr(value)  # the network that is made of it is looked at
    if inspect.isclass(value):
        own = [c for c in value.__mro__ if not _versioned(c)]
        return [value.__qualname__, [[(k, _told(v)) for k, v in _functions(c)] for c in own]]
    if isinstance(value, FunctionType):
        if _versioned(value):
            return [value.__module__, value.__qualname__]
        cells = zip(value.__code__.co_freevars, value.__closure__ or (), strict=True)
        held = [cell.cell_contents for name, cell in cells if name != "__class__"]  # of super()
        return [_code(value.__code__), _told(value.__defaults__), _told(held)]
    if isinstance(value, Mapping):
        return [(k, _told(v)) for k, v in value.items()]
    if isinstance(value, (list, tuple)):
        return [_told(v) for v in value]
    if isinstance(value, Callback):
        return [_told(type(value)), _told(vars(value))]
    if hasattr(value, "get_params"):
        return [_told(type(value)), _told(value.get_params(deep=False))]
    return value


def _functions(cls: type) -> list[tuple[str, FunctionType]]:
    """Functions of a class, and those in its static and class methods."""
    found = ((k, getattr(v, "__func__", v)) for k, v in sorted(vars(cls).items()))
    return [(k, v) for k, v in found if isinstance(v, FunctionType)]


def _versioned(value: Any) -> bool:
    return str(getattr(value, "__module__", "")).split(".")[0] in _VERSIONED


def _code(code: CodeType) -> list[Any]:
    """Instructions, and what they are about; not where they stand."""
    constants = [_code(c) if isinstance(c, CodeType) else repr(c) for c in code.co_consts]
    return [code.co_code, constants, code.co_names, code.co_varnames]
