"""Arrays in, tensors inside, arrays of the caller's kind out."""

from typing import Any

import numpy as np
import torch

FLOATS = (torch.float32, torch.float64)


def resolve_dtype(dtype: Any) -> torch.dtype:
    """Return torch.float32 or torch.float64 for a name, a NumPy dtype or a torch dtype.

    Raises
    ------
    ValueError
        For any other dtype.

    Examples
    --------
    >>> from skntk.core import resolve_dtype
    >>> resolve_dtype("float32")
    torch.float32
    """
    found: torch.dtype | None
    if isinstance(dtype, torch.dtype):
        found = dtype
    else:
        try:
            found = getattr(torch, np.dtype(dtype).name, None)
        except TypeError:
            found = None
    if found is None or found not in FLOATS:
        raise ValueError(f"dtype={dtype!r} is not supported; pass 'float32' or 'float64'.")
    return found


def resolve_device(device: torch.device | str) -> torch.device:
    """Return the device of that name, if it can be used here.

    Raises
    ------
    ValueError
        If there is no such device.

    Examples
    --------
    >>> from skntk.core import resolve_device
    >>> resolve_device("cpu")
    device(type='cpu')
    """
    try:
        found = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"device={device!r} is no torch device; pass 'cpu' or 'cuda'.") from error
    if found.type == "cuda" and (found.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"device={str(device)!r} is not here: torch sees no such GPU; pass 'cpu'.")
    return found


def as_tensor(X: Any, *, dtype: Any = None, device: Any = None, name: str = "X") -> torch.Tensor:
    """Convert an array or tensor to a real, finite float tensor, once, at the boundary.

    Parameters
    ----------
    X : array-like or torch.Tensor
        Any shape with at least one axis. Integers become float64.
    dtype : {"float32", "float64"} or torch.dtype, optional
        The dtype wanted; by default that of `X` (float64 for anything that is not a float32).
    device : torch.device or str, optional
        Where the result lies; by default where `X` lies.
    name : str, default="X"
        The argument's name, for messages.

    Returns
    -------
    torch.Tensor
        Shares memory with `X` where no conversion is needed.

    Raises
    ------
    TypeError
        If `X` is sparse.
    ValueError
        If `X` is complex, not numeric, has no axis, or holds NaN or infinity.

    Examples
    --------
    >>> from skntk.core import as_tensor
    >>> as_tensor([[1, 2]]).dtype
    torch.float64
    """
    if hasattr(X, "toarray"):
        raise TypeError(f"{name} is sparse ({type(X).__name__}); pass a dense array: X.toarray().")
    if isinstance(X, torch.Tensor):
        tensor = X
    else:
        array = np.asarray(X)
        if array.dtype.kind not in "biuf":
            kind = "complex" if array.dtype.kind == "c" else f"of dtype {array.dtype}"
            raise ValueError(f"{name} is {kind}; pass real numbers.")
        if array.dtype not in (np.float32, np.float64):
            array = array.astype(np.float64)
        if not array.flags.writeable or any(s < 0 for s in array.strides):
            array = array.copy()
        tensor = torch.from_numpy(np.ascontiguousarray(array) if array.ndim else array)
    if tensor.is_complex():
        raise ValueError(f"{name} is complex; pass real numbers.")
    if tensor.layout != torch.strided:
        raise TypeError(f"{name} is a sparse tensor; pass a dense one: X.to_dense().")
    if tensor.ndim == 0:
        raise ValueError(f"{name} is a single number; pass an array of shape (n, d).")
    if dtype is None:
        dtype = tensor.dtype if tensor.dtype in FLOATS else torch.float64
    tensor = tensor.to(dtype=resolve_dtype(dtype), device=device)
    if not torch.isfinite(tensor.detach()).all():
        raise ValueError(f"{name} contains NaN or infinity; impute or drop those rows first.")
    return tensor


def like_input(result: torch.Tensor, X: Any) -> Any:
    """Give `result` back as the kind of array that `X` was: torch for torch, else NumPy.

    Examples
    --------
    >>> import numpy as np, torch
    >>> from skntk.core import like_input
    >>> type(like_input(torch.ones(2), np.ones(2))).__name__
    'ndarray'
    """
    return result if isinstance(X, torch.Tensor) else result.detach().cpu().numpy()
