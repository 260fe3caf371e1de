"""Scores of predicted probabilities and predictive distributions."""

from skntk.metrics.calibration import brier_score, expected_calibration_error
from skntk.metrics.likelihood import gaussian_log_likelihood

__all__ = ["brier_score", "expected_calibration_error", "gaussian_log_likelihood"]
