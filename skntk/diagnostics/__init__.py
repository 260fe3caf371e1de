"""Does kernel theory describe a network, on given data? Reports, and displays of them.

Drawing needs matplotlib, which is imported when something is drawn.
"""

from skntk.diagnostics.conditions import NaturalGradientReport, natural_gradient_conditions
from skntk.diagnostics.disconnect import DisconnectReport, disconnect_report
from skntk.diagnostics.displays import (
    DisconnectDisplay,
    KernelRegimeDisplay,
    NaturalGradientDisplay,
)
from skntk.diagnostics.regime import KernelRegimeReport, kernel_regime_report

__all__ = [
    "DisconnectDisplay",
    "DisconnectReport",
    "KernelRegimeDisplay",
    "KernelRegimeReport",
    "NaturalGradientDisplay",
    "NaturalGradientReport",
    "disconnect_report",
    "kernel_regime_report",
    "natural_gradient_conditions",
]
