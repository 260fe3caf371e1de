"""The most memory that a process has held.

On Linux ru_maxrss would not do: a started process inherits its parent's peak there, and a parent
that has just timed large fits hides all that this one needs. The kernel's own high-water mark of
this address space can be read, and be reset to what is held now.
"""

import resource
import sys
from pathlib import Path

_LINUX_STATUS = Path("/proc/self/status")


def start_of_peak() -> int:
    """Forget earlier peaks where that is possible; return the bytes held now."""
    if not _LINUX_STATUS.exists():
        return peak_bytes()
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return _status_bytes("VmRSS")


def peak_bytes() -> int:
    """Most bytes held since the program was started, or since `start_of_peak`."""
    if _LINUX_STATUS.exists():
        return _status_bytes("VmHWM")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _status_bytes(field: str) -> int:
    lines = _LINUX_STATUS.read_text(encoding="ascii").splitlines()
    (line,) = (line for line in lines if line.startswith(f"{field}:"))
    return int(line.split()[1]) * 1024
