"""Analytic limits of infinitely wide networks, and their kernels for other libraries.

`NTKKernel` and `NNGPKernel` are for `sklearn.gaussian_process`, `GPyTorchNTKKernel` is for
GPyTorch; each is imported when it is first accessed.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from skntk.infinite.kernel import InfiniteKernel, infinite_width

if TYPE_CHECKING:
    from skntk.infinite.adapters.gpytorch_kernel import GPyTorchNTKKernel as GPyTorchNTKKernel
    from skntk.infinite.adapters.sklearn_kernel import NNGPKernel as NNGPKernel
    from skntk.infinite.adapters.sklearn_kernel import NTKKernel as NTKKernel

# Without the adapters: a star import must not need the library that one of them is for.
__all__ = ["InfiniteKernel", "infinite_width"]

_ADAPTERS = {
    "GPyTorchNTKKernel": "gpytorch_kernel",
    "NNGPKernel": "sklearn_kernel",
    "NTKKernel": "sklearn_kernel",
}


def __getattr__(name: str) -> Any:
    if name not in _ADAPTERS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.adapters.{_ADAPTERS[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_ADAPTERS})
