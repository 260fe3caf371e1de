"""What the kept runs of a study belong to: a hash of everything that they depend on."""

from __future__ import annotations

import uuid
from typing import Any

import joblib
import numpy as np
from torch import Tensor, nn

import skntk
from skntk.diagnostics.measures import outputs_of
from skntk.diagnostics.recording import start_of
from skntk.diagnostics.subject import Subject, named_callbacks

#: Parameters of an estimator that every run sets itself.
_SET = {"width", "module__width", "random_state", "verbose", "checkpoint", "callbacks"}
#: Rows at which a network is looked at.
_ROWS = 8


def fingerprint(subject: Subject, X: Any, y: Any, parts: Any) -> str:
    """Hash of a study: of data, settings, and what transformers and networks do with the data.

    What a class does is not told by its name, nor what a module does by its text. So transformers
    and one network are applied, and their results are hashed.

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
    params = {k: content_hash(v) for k, v in sorted(network.get_params().items()) if k not in _SET}
    callbacks = [(name, _callback_hash(c)) for name, c in named_callbacks(network)]
    return content_hash(
        [
            skntk.__version__,
            f"{type(network).__module__}.{type(network).__qualname__}",
            params,
            callbacks,
            _module_hash(module, inputs[:_ROWS]),
            _array(seen),
            X,
            y,
            parts,
        ]
    )


def _module_hash(module: nn.Module, X: Tensor) -> str:
    """Hash of weights, of what is trained, and of the function at some rows."""
    weights = [(n, p.requires_grad, _array(p)) for n, p in module.named_parameters()]
    buffers = [(n, _array(b)) for n, b in module.named_buffers()]
    return content_hash([repr(module), weights, buffers, _array(outputs_of(module, X))])


def _callback_hash(callback: Any) -> str:
    if isinstance(callback, type):
        return callback.__qualname__
    return content_hash([type(callback).__qualname__, vars(callback)])


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
    if isinstance(value, nn.Module):
        return content_hash(repr(value))  # the network that is made of it is looked at
    try:
        return joblib.hash(value)
    except Exception:  # whatever pickling meets
        return uuid.uuid4().hex
