"""Whether a network is in the kernel regime, in words."""

from __future__ import annotations

import math

import pandas as pd

from skntk.diagnostics.laws import Estimate, PowerLaw, estimate_positive
from skntk.diagnostics.report import percent

#: What must be small in the kernel regime, and how the verdict says it.
CRITERIA = {
    "kernel_change": "training changes the kernel by",
    "linearization_error": "the trained function departs from its linearization by",
}

#: How many times wider than the widest network a law is not followed any more.
_FAR = 100


def law_of(at: pd.DataFrame, quantity: str) -> PowerLaw:
    """Law of a quantity in the width, from rows of runs at one epoch."""
    known = at.dropna(subset=[quantity])
    return PowerLaw.fit(known.width.tolist(), known[quantity].tolist())


def by_width(at: pd.DataFrame, quantity: str) -> dict[int, Estimate]:
    """Geometric means of a quantity at one epoch, and their intervals, by the spread of all."""
    groups = {int(width): rows[quantity].dropna() for width, rows in at.groupby("width")}
    return {
        width: estimate_positive(values, [v for w, v in groups.items() if w != width])
        for width, values in groups.items()
    }


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
    lines = []
    found = [
        f"{phrase} {percent(criteria[q].mean)} [{percent(criteria[q].low)}, "
        f"{percent(criteria[q].high)}]"
        for q, phrase in CRITERIA.items()
        if criteria[q].n
    ]
    if not found:
        lines.append(f"Width {width}: nothing is known, for no run ended as it should.")
    else:
        answer = {
            True: "in the kernel regime",
            False: "not in the kernel regime",
            None: "undecided whether in the kernel regime; more seeds may tell",
        }[inside]
        lines.append(f"Width {width}: {answer} (up to {percent(tolerance)} counts as none).")
        lines.append("There " + ", and ".join(found) + ".")
    lines += [f"{_name(q)} {_goes(law)}; {_enough(law, tolerance)}." for q, law in laws.items()]
    start = good[good.epoch == 0]
    distance = by_width(start, "limit_distance").get(width) if len(start) else None
    if distance is not None and distance.n:
        lines.append(
            f"At initialization its kernel is {percent(distance.mean)} from the {reference}; this "
            f"distance {_goes(law_of(start, 'limit_distance'))}."
        )
    in_all = runs.drop_duplicates(["width", "seed"])
    if failed := int((in_all.status != "ok").sum()):
        lines.append(
            f"{failed} of {len(in_all)} runs diverged or stopped and are in no mean; `runs.status` "
            "says how."
        )
    singular = good[good.singular.eq(True)] if "singular" in good else good[:0]
    if len(singular):
        lines.append(
            f"In {len(singular.drop_duplicates(['width', 'seed']))} of {len(in_all)} runs the "
            "kernel is singular: its smallest eigenvalue cannot be told from 0."
        )
    return "\n".join(lines)


def enough(law: PowerLaw, tolerance: float) -> float:
    """Width from which on a law is below the tolerance; infinite if far from those tried."""
    width = law.width_for(tolerance)[0]
    return width if width <= _FAR * law.widest else math.inf


def _name(quantity: str) -> str:
    return quantity.replace("_", " ").capitalize()


def _goes(law: PowerLaw) -> str:
    if math.isnan(law.exponent):
        return "follows no law in the width"
    return f"goes as width^{law.exponent:.2f} [{law.low:.2f}, {law.high:.2f}]"


def _enough(law: PowerLaw, tolerance: float) -> str:
    if law.low > 0:
        return "it rises with the width"
    if not law.falls:
        return "that it falls with the width is not shown"
    middle, low, high = law.width_for(tolerance)
    if enough(law, tolerance) == math.inf:
        return f"by this law no width near those tried brings it below {percent(tolerance)}"
    upper = "infinity" if high == math.inf else f"{high:.3g}"
    return (
        f"by this law it is below {percent(tolerance)} from width {middle:.3g} [{low:.3g}, "
        f"{upper}] on"
    )
