"""Pictures of what is learnt and forgotten over a sequence of tasks, in scikit-learn's manner.

They need matplotlib (``skntk[plot]``).
"""

from skntk.continual.displays.forgetting import ForgettingDisplay
from skntk.continual.displays.overlap import OverlapDisplay
from skntk.continual.displays.scores import ScoreMatrixDisplay

__all__ = ["ForgettingDisplay", "OverlapDisplay", "ScoreMatrixDisplay"]
