"""What every other package stands on: errors, memory, files, arrays in and out."""

from skntk.core.arrays import as_tensor, like_input, resolve_device, resolve_dtype
from skntk.core.errors import (
    KernelOverflowError,
    MemoryBudgetError,
    NotPositiveDefiniteError,
    SkntkWarning,
    TrainingDivergedError,
    UnsupportedModuleError,
)
from skntk.core.files import check_writable, write_atomically
from skntk.core.memory import available_bytes, empty, format_bytes, require
from skntk.core.threads import threads_restored

__all__ = [
    "KernelOverflowError",
    "MemoryBudgetError",
    "NotPositiveDefiniteError",
    "SkntkWarning",
    "TrainingDivergedError",
    "UnsupportedModuleError",
    "as_tensor",
    "available_bytes",
    "check_writable",
    "empty",
    "format_bytes",
    "like_input",
    "require",
    "resolve_device",
    "resolve_dtype",
    "threads_restored",
    "write_atomically",
]
