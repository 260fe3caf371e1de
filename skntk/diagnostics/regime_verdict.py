"""Whether a network is in the kernel regime, in words."""

from __future__ import annotations

import math

import pandas as pd

from skntk.diagnostics.laws import Estimate, PowerLaw, estimate
from skntk.diagnostics.report import percent

#: What must be small in the kernel regime, and how the verdict says it.
CRITERIA = {
    "kernel_change": "training changes the kernel by",
    "linearization_error": "the trained function departs from its linearization by",
}


def law_of(at: pd.DataFrame, quantity: str) -> PowerLaw:
    """Law of a quantity in the width, from rows of runs at one epoch."""
    known = at.dropna(subset=[quantity])
    return PowerLaw.fit(known.width.tolist(), known[quantity].tolist())


def regime_verdict(
    runs: pd.DataFrame,
    criteria: dict[str, Estimate],
    laws: dict[str, PowerLaw],
    width: int,
    tolerance: float,
    inside: bool | None,
    reference: str,
) -> str:
    """What the report says, in words."""
    good = runs[runs.status == "ok"]
    answer = {
        True: "in the kernel regime",
        False: "not in the kernel regime",
        None: "undecided whether in the kernel regime: more seeds would tell",
    }[inside]
    found = [
        f"{phrase} {percent(criteria[q].mean)} [{percent(criteria[q].low)}, "
        f"{percent(criteria[q].high)}]"
        for q, phrase in CRITERIA.items()
        if criteria[q].n
    ]
    lines = [f"Width {width}: {answer} (up to {percent(tolerance)} counts as none)."]
    lines.append("There " + ", and ".join(found) + "." if found else "All runs there diverged.")
    for quantity, law in laws.items():
        lines.append(f"{_name(quantity)} {_goes(law)}; {_enough(law, tolerance)}.")
    law = law_of(good[good.epoch == 0], "limit_distance")
    distance = estimate(good[(good.epoch == 0) & (good.width == width)].limit_distance.dropna())
    if distance.n:
        lines.append(
            f"At initialization its kernel is {percent(distance.mean)} from the {reference}; this "
            f"distance {_goes(law)}."
        )
    runs_in_all = runs.drop_duplicates(["width", "seed"])
    if diverged := int((runs_in_all.status != "ok").sum()):
        lines.append(f"{diverged} of {len(runs_in_all)} runs diverged and are in no mean.")
    if "singular" in good and (
        singular := int(good.groupby(["width", "seed"]).singular.any().sum())
    ):
        lines.append(
            f"In {singular} of {len(runs_in_all)} runs the kernel is singular: its smallest "
            "eigenvalue cannot be told from 0."
        )
    return "\n".join(lines)


def _name(quantity: str) -> str:
    return quantity.replace("_", " ").capitalize()


def _goes(law: PowerLaw) -> str:
    if math.isnan(law.exponent):
        return "follows no law in the width"
    return f"goes as width^{law.exponent:.2f} [{law.low:.2f}, {law.high:.2f}]"


def _enough(law: PowerLaw, tolerance: float) -> str:
    if not law.falls:
        return "that it falls with the width is not shown"
    middle, low, high = (
        f"{w:.3g}" if w < math.inf else "infinity" for w in law.width_for(tolerance)
    )
    return f"by this law it is below {percent(tolerance)} from width {middle} [{low}, {high}] on"
