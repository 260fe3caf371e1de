"""What the conditions of the natural gradient come to, in words."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from skntk.diagnostics.report import with_error


def conditions_verdict(summary: pd.DataFrame) -> str:
    """One line for each width and optimizer, and one for what they mean together."""
    lines = [_line(row) for _, row in summary.iterrows()]
    refuted = summary.n_refuted.sum()
    if refuted:
        lines.append(
            "Where a condition is refuted, the theorem promises nothing; training may be fast all "
            "the same, for the conditions are sufficient, not necessary."
        )
    if refuted < summary.n_runs.sum():
        lines.append("A path that refutes nothing does not prove that the conditions hold.")
    return "\n".join(lines)


def _line(row: Any) -> str:
    at = "" if row.width is None or math.isnan(row.width) else f"width {row.width:g}, "
    start = f"{at}{row.optimizer}: "
    if math.isnan(row.smallest_eigenvalue):
        return f"{start}all {row.n_runs} runs failed before anything was measured."
    parts = []
    if row.n_singular:
        parts.append(
            f"condition 1 fails in {row.n_singular:g} of {row.n_runs} runs: J J^T is singular"
        )
    if math.isfinite(row.c_prime):
        parts.append(f"C' reaches {with_error(row.c_prime, row.c_prime_error)} (1/2 allowed)")
    elif math.isnan(row.c_prime):
        parts.append("no later point of a path lies in the ball")
    parts.append(f"refuted in {row.n_refuted:g} of {row.n_runs} runs")
    if not math.isnan(row.n_kept):
        if not math.isnan(row.admissible_step):
            parts.append(f"steps up to {row.admissible_step:.2g} admissible for this C'")
        if not math.isnan(row.observed_factor):
            parts.append(f"squared residual times {row.observed_factor:.3g} a step")
        promised = "" if math.isnan(row.promised_factor) else f" {row.promised_factor:.3g}"
        parts.append(
            f"the theorem's rate{promised} kept at all steps in {row.n_kept:g} of {row.n_runs} runs"
        )
    if row.n_failed:
        parts.append(f"{row.n_failed} of {row.n_runs} runs diverged or stopped")
    return start + "; ".join(parts) + "."
