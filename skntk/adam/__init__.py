"""Adam's infinite-width limit."""

from skntk.adam.classifier import AdamNTKClassifier
from skntk.adam.regressor import AdamNTKRegressor

__all__ = ["AdamNTKClassifier", "AdamNTKRegressor"]
