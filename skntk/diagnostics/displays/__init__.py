"""Pictures of the reports, in scikit-learn's manner; they need matplotlib (``skntk[plot]``)."""

from skntk.diagnostics.displays.conditions import NaturalGradientDisplay
from skntk.diagnostics.displays.disconnect import DisconnectDisplay
from skntk.diagnostics.displays.regime import KernelRegimeDisplay

__all__ = ["DisconnectDisplay", "KernelRegimeDisplay", "NaturalGradientDisplay"]
