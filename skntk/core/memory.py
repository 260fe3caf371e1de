"""Ask before a large allocation whether it fits."""

from pathlib import Path

import numpy as np
import torch

from skntk.core.errors import MemoryBudgetError

GIB = 2**30


def available_bytes(device: torch.device | str = "cpu") -> int:
    """Bytes that a new allocation on `device` may take now.

    On the CPU this is the smaller of the system's available memory and what the control group of
    this process leaves; on CUDA, the free device memory.

    Examples
    --------
    >>> from skntk.core import available_bytes
    >>> available_bytes() > 0
    True
    """
    device = torch.device(device)
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    import psutil

    system = int(psutil.virtual_memory().available)
    return min(system, _cgroup_bytes())


def _cgroup_bytes() -> int:
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    try:
        text = limit.read_text().strip()
        return 2**63 if text == "max" else max(int(text) - int(used.read_text()), 0)
    except (OSError, ValueError):
        return 2**63


def format_bytes(nbytes: float) -> str:
    """`nbytes` as GiB or MiB with three digits, for messages.

    Examples
    --------
    >>> from skntk.core import format_bytes
    >>> format_bytes(3 * 2**30)
    '3 GiB'
    """
    return f"{nbytes / GIB:.3g} GiB" if nbytes >= GIB / 10 else f"{nbytes / 2**20:.3g} MiB"


def require(nbytes: int, what: str, remedy: str, device: torch.device | str = "cpu") -> None:
    """Raise unless `nbytes` more can be allocated on `device`.

    Parameters
    ----------
    nbytes : int
        Bytes about to be allocated.
    what : str
        What they are for, as the message names it.
    remedy : str
        What the caller can do instead.
    device : torch.device or str, default="cpu"
        Where they would lie.

    Raises
    ------
    MemoryBudgetError
        If they do not fit.

    Examples
    --------
    >>> from skntk.core import require
    >>> require(1024, "a small matrix", "nothing to do")
    """
    free = available_bytes(device)
    if nbytes > free:
        raise MemoryBudgetError(
            f"{what} needs {format_bytes(nbytes)} but {format_bytes(free)} are available on "
            f"{torch.device(device)}. {remedy}"
        )


def empty(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device | str) -> torch.Tensor:
    """Return an uninitialized tensor; on the CPU in memory that NumPy allocates.

    NumPy asks the system for large pages, of which a fresh matrix needs fewer; torch does not.

    Examples
    --------
    >>> import torch
    >>> from skntk.core import empty
    >>> empty((2, 3), torch.float32, "cpu").shape
    torch.Size([2, 3])
    """
    if torch.device(device).type != "cpu":
        return torch.empty(shape, dtype=dtype, device=device)
    return torch.from_numpy(np.empty(shape, dtype=str(dtype).removeprefix("torch.")))
