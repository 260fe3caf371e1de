"""Kernel machines of networks, infinitely wide or finite, as scikit-learn estimators."""

from skntk.machines.base import KernelChoice
from skntk.machines.classifier import NTKClassifier
from skntk.machines.regressor import NTKRegressor

__all__ = ["KernelChoice", "NTKClassifier", "NTKRegressor"]
