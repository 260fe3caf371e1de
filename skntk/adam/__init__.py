"""Adam's infinite-width limit."""

from skntk.adam.classifier import AdamNTKClassifier
from skntk.adam.regressor import AdamNTKRegressor
from skntk.adam.selection import select_features
from skntk.adam.sign_kernel import sign_gradient_kernel

__all__ = ["AdamNTKClassifier", "AdamNTKRegressor", "select_features", "sign_gradient_kernel"]
