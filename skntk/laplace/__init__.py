"""Linearized Laplace: trained networks with a normal posterior of their weights."""

from skntk.laplace.base import Uncertainty
from skntk.laplace.classifier import LinearizedLaplaceClassifier
from skntk.laplace.regressor import LinearizedLaplaceRegressor

__all__ = ["LinearizedLaplaceClassifier", "LinearizedLaplaceRegressor", "Uncertainty"]
