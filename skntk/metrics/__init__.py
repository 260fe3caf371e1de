"""Scores of predicted probabilities and predictive distributions.

With them a baseline of calibration, `TemperatureScaling`, and pictures, which need matplotlib
(``skntk[plot]``); it is imported when something is drawn.
"""

from skntk.metrics.calibration import brier_score, expected_calibration_error
from skntk.metrics.displays import OODDisplay, ReliabilityDisplay
from skntk.metrics.likelihood import gaussian_log_likelihood, negative_log_likelihood
from skntk.metrics.ood import ood_auroc, predictive_entropy
from skntk.metrics.temperature import TemperatureScaling

__all__ = [
    "OODDisplay",
    "ReliabilityDisplay",
    "TemperatureScaling",
    "brier_score",
    "expected_calibration_error",
    "gaussian_log_likelihood",
    "negative_log_likelihood",
    "ood_auroc",
    "predictive_entropy",
]
