"""What the differences between four readings come to, in words."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

#: Each difference is that of two readings.
DIFFERENCES = {
    "feature_learning": ("full", "linearized"),
    "optimizer": ("linearized", "kernel"),
    "finite_width": ("kernel", "limit"),
    "total": ("full", "limit"),
}

#: From so many runs on their spread says how many more would tell.
FORESEEING = 5


def disconnect_verdict(
    summary: pd.DataFrame, scores: pd.DataFrame, constant: float, score: str, margin: float
) -> str:
    """For each width, whether kernel theory describes the network's score, or where it fails."""
    blocks = []
    for _, rows in summary.groupby(summary.width.fillna(0).astype(int)):
        width = rows.width.iloc[0]
        at = "As it stands" if width is None or math.isnan(width) else f"Width {width:g}"
        lines = [f"{at}: {_answer(rows, score)}"]
        lines += [f"- {_line(row, score, margin)}" for _, row in rows.iterrows()]
        of_width = scores[scores.width.fillna(0).astype(int) == int(rows.width.fillna(0).iloc[0])]
        if rows.n_runs.iloc[0] and not (of_width.low > constant).any():
            lines.append(f"- No reading is told from a constant prediction ({constant:.3f}).")
        if failed := int(rows.n_failed.iloc[0]):
            in_all = failed + int(rows.n_runs.iloc[0])
            lines.append(
                f"- {failed} of {in_all} runs diverged or stopped and are in no mean; "
                "`runs.status` says how."
            )
        blocks.append("\n".join(lines))
    return "\n".join(blocks)


def _answer(rows: pd.DataFrame, score: str) -> str:
    findings = dict(zip(rows.difference, rows.finding, strict=True))
    told = [name.replace("_", " ") for name, f in findings.items() if f in ("positive", "negative")]
    if told:
        named = [name for name in told if name != "total"] or ["in total"]
        return f"kernel theory does not describe the network's {score}: {' and '.join(named)}."
    undecided = [name.replace("_", " ") for name, f in findings.items() if f == "undecided"]
    if undecided and findings["total"] == "none":
        parts = " and ".join(undecided)
        return f"kernel theory describes the network's {score} in total; undecided: {parts}."
    if undecided:
        return f"undecided whether kernel theory describes the network's {score}."
    if findings["feature_learning"] == "unknown":
        return "nothing is known."
    if findings["total"] == "no limit":
        return f"its kernel describes the network's {score}; there is no limit to compare with."
    return f"kernel theory describes the network's {score}."


def _line(row: Any, score: str, margin: float) -> str:
    name = row.difference.replace("_", " ")
    if row.finding in ("unknown", "no limit"):
        why = ", for there is no analytic limit" if row.finding == "no limit" else ""
        return f"{name}: not known{why}."
    measured = f"{name}: {row['mean']:+.3f} [{row.low:+.3f}, {row.high:+.3f}]"
    if row.finding == "positive":
        return f"{measured}, a gain in {score}."
    if row.finding == "negative":
        return f"{measured}, a loss in {score}."
    if row.finding == "none":
        return f"{measured}, no difference beyond {margin:g}."
    if row.n_runs < FORESEEING:
        return f"{measured}, undecided: {FORESEEING} runs or more may say what would tell."
    if math.isnan(row.runs_needed):
        return f"{measured}, undecided: more rows may tell, more runs hardly."
    return f"{measured}, undecided: about {row.runs_needed:.0f} runs may tell."
