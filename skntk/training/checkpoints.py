"""Files that hold what was learnt, and what two runs must agree in to share them."""

from __future__ import annotations

import pickle
from numbers import Real
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import torch
from torch import Tensor, nn

from skntk.core import write_atomically

#: Attributes of modules that say what they compute.
_PLAIN = (bool, int, float, str, type(None))
#: Those whose text does not say all.
_HOLDERS = (list, tuple, dict, set, np.ndarray, Tensor)


def write_checkpoint(path: Path, mark: str, params: dict[str, str], state: Any) -> None:
    """Replace a file in one step.

    Parameters
    ----------
    path : Path
        The file.
    mark : str
        Of the parameters and the tasks that the state is of.
    params : dict of str to str
        The parameters, described.
    state : object
        What is kept.
    """
    write_atomically(path, pickle.dumps({"mark": mark, "params": params, "state": state}))


def read_checkpoint(path: Path, mark: str, params: dict[str, str]) -> Any:
    """Return the state that a checkpoint holds; None without one.

    Raises
    ------
    ValueError
        If the file is no checkpoint, or that of other data.
    """
    if not path.exists():
        return None
    try:
        kept = pickle.loads(path.read_bytes())
        found, others, state = kept["mark"], kept["params"], kept["state"]
    except Exception as error:
        raise ValueError(
            f"checkpoint {str(path)!r} cannot be read as one ({error}); delete it, or pass another "
            "path."
        ) from error
    if found != mark:
        changed = sorted(k for k in {*params, *others} if params.get(k) != others.get(k))
        what = f"another value of {', '.join(changed)}" if changed else "other tasks or data"
        raise ValueError(
            f"checkpoint {str(path)!r} belongs to {what}; delete what is there to start anew, "
            "or pass another path."
        )
    return state


def described(value: Any) -> str:
    """Text that two values share if they mean the same; of a module, with all that it holds."""
    if isinstance(value, Real) and not isinstance(value, bool):
        return repr(float(value))
    if isinstance(value, _HOLDERS):
        return _hashed(value)
    if not isinstance(value, nn.Module):
        return repr(value)
    parts: list[Any] = [repr(value)]
    for path, layer in value.named_modules():
        held = {
            k: described(v)
            for k, v in vars(layer).items()
            if isinstance(v, _PLAIN) or (isinstance(v, _HOLDERS) and not k.startswith("_"))
        }
        parts.append((path, f"{type(layer).__module__}.{type(layer).__qualname__}", repr(held)))
    parts += [(n, p.requires_grad) for n, p in value.named_parameters()]
    arrays = [t.detach().cpu().numpy() for t in value.state_dict().values()]
    return str(joblib.hash([parts, arrays]))


def _hashed(value: Any) -> str:
    """Hash of what is held; its text, where that does not pickle."""
    try:
        return str(joblib.hash(value.detach().cpu().numpy() if torch.is_tensor(value) else value))
    except Exception:
        return repr(value)


def check_pickles(learner: Any) -> None:
    """Refuse, before anything is trained, what a checkpoint could not hold."""
    try:
        pickle.dumps(learner)
    except Exception as error:
        raise ValueError(
            f"checkpoint cannot hold the module, which does not pickle ({error}): define its class "
            "and functions at the top of a file, or pass checkpoint=None."
        ) from error
