"""Continual learning: tasks in sequence, by networks and in the kernel regime.

`evaluate` learns a stream of tasks and scores all of them after each; `forgetting_report` puts the
forgetting that kernel theory predicts beside what is observed. Displays need matplotlib
(``skntk[plot]``); it is imported when something is drawn.
"""

from skntk.continual.classifier import ContinualNTK
from skntk.continual.displays import ForgettingDisplay, OverlapDisplay, ScoreMatrixDisplay
from skntk.continual.forgetting import ForgettingReport, forgetting_report
from skntk.continual.metrics import (
    average_forgetting,
    average_over_time,
    average_score,
    backward_transfer,
    forgetting_by_task,
    forward_transfer,
    learning_score,
)
from skntk.continual.overlap import ntk_overlap
from skntk.continual.regressor import ContinualNTKRegressor
from skntk.continual.report import ContinualReport, evaluate

__all__ = [
    "ContinualNTK",
    "ContinualNTKRegressor",
    "ContinualReport",
    "ForgettingDisplay",
    "ForgettingReport",
    "OverlapDisplay",
    "ScoreMatrixDisplay",
    "average_forgetting",
    "average_over_time",
    "average_score",
    "backward_transfer",
    "evaluate",
    "forgetting_by_task",
    "forgetting_report",
    "forward_transfer",
    "learning_score",
    "ntk_overlap",
]
