"""Neural tangent kernels for scikit-learn, on PyTorch."""

from skntk.infinite import infinite_width
from skntk.machines import NTKClassifier, NTKRegressor

__version__ = "0.1.0"

__all__ = ["NTKClassifier", "NTKRegressor", "infinite_width"]
