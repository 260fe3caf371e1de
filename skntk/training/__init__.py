"""Finite networks as estimators, fully trained or linearized."""

from skntk.training.classifier import NetworkClassifier
from skntk.training.regressor import NetworkRegressor

__all__ = ["NetworkClassifier", "NetworkRegressor"]
