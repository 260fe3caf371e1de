"""Neural tangent kernels for scikit-learn, on PyTorch."""

from skntk.infinite import infinite_width

__version__ = "0.1.0"

__all__ = ["infinite_width"]
