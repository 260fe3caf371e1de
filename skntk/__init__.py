"""Neural tangent kernels for scikit-learn, on PyTorch."""

from skntk.adam import AdamNTKClassifier, AdamNTKRegressor
from skntk.continual import ContinualNTK, ContinualNTKRegressor
from skntk.finite import empirical_ntk, linearize
from skntk.infinite import infinite_width
from skntk.laplace import LinearizedLaplaceClassifier, LinearizedLaplaceRegressor
from skntk.machines import NTKClassifier, NTKRegressor
from skntk.training import NetworkClassifier, NetworkRegressor

__version__ = "0.1.0"

__all__ = [
    "AdamNTKClassifier",
    "AdamNTKRegressor",
    "ContinualNTK",
    "ContinualNTKRegressor",
    "LinearizedLaplaceClassifier",
    "LinearizedLaplaceRegressor",
    "NTKClassifier",
    "NTKRegressor",
    "NetworkClassifier",
    "NetworkRegressor",
    "empirical_ntk",
    "infinite_width",
    "linearize",
]
