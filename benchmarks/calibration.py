"""Does a posterior of the weights calibrate a trained network better than one temperature?

An MLP and a small convolutional network are trained on 5000 images of MNIST until their training
loss is near zero. Beside them as they are (MAP): one temperature (Guo et al. 2017), linearized
Laplace with the last layer or all layers uncertain, and ensembles of five networks. The temperature
and, in the rows named so, the prior precision are chosen on 1000 held-out images. Measured on 4000
others, on those rotated, and on images that are no digits. Each seed is another split and other
initial weights.

Writes a figure into the documentation, too. What is finished is kept, so that a killed benchmark
goes on::

    python benchmarks/calibration.py --data DIR
    python benchmarks/calibration.py --data DIR --seeds 1 --no-write
"""

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _cache import HERE, ResultCache, code_version, run_folder
from _calibration_models import (
    ANGLES,
    DRAWS,
    ENSEMBLE,
    ENSEMBLE_SCALED,
    HELD,
    LAPLACE,
    MAP,
    METHODS,
    MOVED,
    NETWORKS,
    SCALED,
    TRAIN,
    LeNet,
    run,
)
from _report import markdown_table, publish
from threadpoolctl import threadpool_limits

from skntk.core import plotting

FIGURE = HERE.parent / "docs" / "images" / "calibration.png"
SEEDS = 3
OUTSIDE = ("overlaid", "halves", "blocks", "CIFAR-10", "noise")
# Columns: where a record has them, how they are shown, and whether more is better.
PLAIN = {
    "accuracy %": ("accuracy", 100, 2, True),
    "NLL": ("nll", 1, 4, False),
    "ECE %": ("ece", 100, 2, False),
    "Brier": ("brier", 1, 4, False),
}
MOVED_COLUMNS = {
    "NLL, rotated": ("rotated.nll", 1, 3, False),
    "ECE %, rotated": ("rotated.ece", 100, 1, False),
    **{f"AUROC %, {name}": (f"auroc.{name}", 100, 1, True) for name in OUTSIDE},
}
CONFIDENCE = {"confidence %": ("confidence", 100, 2, True)}
ENTROPY = {"entropy, rotated": ("rotated.entropy", 1, 3, True)}
COLUMNS = {**PLAIN, **MOVED_COLUMNS}
COST = ("fit", "predict")
ENSEMBLES = (ENSEMBLE, ENSEMBLE_SCALED)


class Results:
    """Records by network, seed and method."""

    def __init__(self, kept: ResultCache, networks: list[str], seeds: int) -> None:
        self.kept, self.networks, self.seeds = kept, networks, seeds

    def values(self, network: str, method: str, field: str) -> np.ndarray:
        """A number, or the numbers over angles, of each seed."""
        found = []
        for seed in range(self.seeds):
            value: Any = self.kept.get(network=network, seed=seed, method=method)
            for part in field.split("."):
                value = value[part]
            found.append(np.nan if value is None else value)
        return np.array(found, dtype=float)

    def mean(self, network: str, method: str, field: str) -> np.ndarray:
        """A number of each seed, the mean over angles where there are several."""
        values = self.values(network, method, field)
        return values.mean(1) if values.ndim == 2 else values

    def chosen(self, network: str, methods: tuple[str, ...]) -> str:
        """The method of least mean NLL on the held-out rows."""
        return min(methods, key=lambda m: self.mean(network, m, "held_nll").mean())


def standard_error(values: np.ndarray) -> np.ndarray | float:
    return values.std(0, ddof=1) / np.sqrt(len(values)) if len(values) > 1 else np.nan


def shown(values: np.ndarray, digits: int) -> str:
    """Mean ± standard error over seeds."""
    error = standard_error(values)
    text = f"{values.mean():.{digits}f}"
    return text if np.isnan(error) else f"{text} ± {error:.{digits}f}"


def table(results: Results, network: str, columns: dict, *, costs: bool = False) -> str:
    header = ["", *columns, *(("chosen", "fit, s", "predict, s") if costs else ())]
    rows = []
    for method in METHODS:
        cells = [
            shown(scale * results.mean(network, method, field), digits)
            for field, scale, digits, _ in columns.values()
        ]
        if costs:
            number = results.values(network, method, "chosen")
            known = method != MAP and not np.isnan(number).any()
            cells.append(", ".join(f"{c:.3g}" for c in number) if known else "")
            cells += [f"{results.values(network, method, c).mean():.2f}" for c in COST]
        rows.append((method, *cells))
    return markdown_table(header, rows)


def lines_of(results: Results, network: str) -> tuple[str, ...]:
    """What is shown by angle: the baselines, and a Laplace row of each kind."""
    last = tuple(m for m in LAPLACE if m.startswith("last layer"))
    rest = tuple(m for m in LAPLACE if m not in last)
    laplace = (results.chosen(network, last), results.chosen(network, rest))
    return MAP, SCALED, *laplace, ENSEMBLE


def by_angle(results: Results, network: str) -> str:
    rows = []
    for method in lines_of(results, network):
        for name, field, scale, digits in (
            ("NLL", "nll", 1, 2),
            ("ECE %", "ece", 100, 1),
            ("entropy", "entropy", 1, 2),
        ):
            values = scale * results.values(network, method, f"rotated.{field}").mean(0)
            rows.append((method, name, *(f"{v:.{digits}f}" for v in values)))
    accuracy = 100 * results.values(network, MAP, "rotated.accuracy").mean(0)
    rows.insert(0, (MAP, "accuracy %", *(f"{v:.1f}" for v in accuracy)))
    return markdown_table(("", "", *(f"{angle}°" for angle in ANGLES)), rows)


def findings(results: Results, network: str) -> str:
    """What the runs say of Laplace beside one temperature, whatever it is."""
    loss = results.values(network, MAP, "chosen")
    sure = results.values(network, SCALED, "chosen")
    best = results.chosen(network, LAPLACE)
    lines = [
        f"- {network}: training loss {loss.mean():.2g}, temperature {sure.mean():.2f}: as trained "
        f"it is too {'sure' if sure.mean() > 1 else 'unsure'}. The Laplace row of least NLL on the "
        f"held-out images is *{best}*.",
        f"  Its differences from *{SCALED}*, by seed: "
        + "; ".join(_difference(results, network, best, column) for column in COLUMNS)
        + ".",
    ]
    ahead = {column: _ahead(results, network, column) for column in COLUMNS}
    behind = [column for column, methods in ahead.items() if best not in methods]
    lines.append(f"  Its mean is not better in: {'; '.join(behind) or 'no column'}.")
    lost = [column for column, methods in ahead.items() if not methods]
    lines.append(
        f"  None of the {len(LAPLACE)} Laplace rows has a better mean than *{SCALED}* in: "
        f"{'; '.join(lost) or 'no column'}."
    )
    every = [m for m in LAPLACE if all(m in methods for methods in ahead.values())]
    lines.append(f"  Laplace rows that are better in every column: {'; '.join(every) or 'none'}.")
    turned = min(METHODS, key=lambda m: results.mean(network, m, "rotated.ece").mean())
    on = [100 * results.mean(network, turned, field).mean() for field in ("rotated.ece", "ece")]
    lines.append(
        f"  The least ECE on rotated digits has *{turned}*, {on[0]:.1f} %; on the digits as they "
        f"are it has {on[1]:.1f} %, *{SCALED}* "
        f"{100 * results.mean(network, SCALED, 'ece').mean():.1f} %."
    )
    first = [column for column in COLUMNS if _best(results, network, column) in ENSEMBLES]
    lines.append(
        f"  Of all rows an ensemble has the best mean in: {'; '.join(first) or 'no column'}."
    )
    return "\n".join(lines)


def _gain(results: Results, network: str, method: str, column: str) -> np.ndarray:
    """By how much a method is better than one temperature, for each seed."""
    field, scale, _, more = COLUMNS[column]
    ours, theirs = (results.mean(network, m, field) for m in (method, SCALED))
    return scale * (ours - theirs) * (1 if more else -1)


def _difference(results: Results, network: str, method: str, column: str) -> str:
    _, _, digits, more = COLUMNS[column]
    gain = _gain(results, network, method, column)
    values, error = gain * (1 if more else -1), standard_error(gain)
    text = f"{column} {values.mean():+.{digits}f}"
    if np.isnan(error):
        return text
    verdict = ("better" if gain.mean() > 0 else "worse") if abs(gain.mean()) > 2 * error else (
        "not told apart"
    )  # fmt: skip
    return f"{text} ± {error:.{digits}f} ({verdict})"


def _ahead(results: Results, network: str, column: str) -> list[str]:
    return [m for m in LAPLACE if _gain(results, network, m, column).mean() > 0]


def _best(results: Results, network: str, column: str) -> str:
    return max(METHODS, key=lambda m: _gain(results, network, m, column).mean())


def draw(results: Results, path: Path) -> None:
    """Four panels: calibration error and NLL by angle, for both networks."""
    import matplotlib

    matplotlib.use("agg")
    plt = plotting.pyplot()
    figure, axes = plt.subplots(
        2, len(results.networks), figsize=(12, 10), layout="constrained", squeeze=False, sharex=True
    )
    for column, network in zip(axes.T, results.networks, strict=True):
        for ax, field, label, scale in (
            (column[0], "ece", "expected calibration error, %", 100),
            (column[1], "nll", "negative log-likelihood, nats", 1),
        ):
            methods = lines_of(results, network)
            for i, method in enumerate(methods):
                values = scale * results.values(network, method, f"rotated.{field}")
                error = standard_error(values)
                x = np.array(ANGLES) + 1.2 * (i - (len(methods) - 1) / 2)
                bars = None if np.isscalar(error) else error
                style = plotting.line_style(i) | {"capsize": 3}
                ax.errorbar(x, values.mean(0), bars, label=method, **style)
            ax.set(ylabel=f"{label} (mean ± standard error)", ylim=(0, None), xticks=ANGLES)
            ax.grid(axis="y", color="0.93", zorder=0)
        column[0].set_title(f"{network}, rotated digits")
        column[1].set_xlabel("rotation, degrees")
        plotting.legend(column[1])
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=90)
    plt.close(figure)


def body(results: Results) -> str:
    threads = {int(t) for n in results.networks for t in results.values(n, MAP, "threads")}
    parts = [
        f"MNIST: {TRAIN} training images, {HELD} held out, 4000 test images; {results.seeds} "
        f"seed{'s' * (results.seeds > 1)}, each another split and other initial weights; mean ± "
        f"standard error; threads: {', '.join(map(str, sorted(threads)))}. *MLP*: "
        "784-100-100-10, the default network's "
        f"parametrization, {NETWORKS['MLP']['max_epochs']} epochs of Adam; *LeNet*: two "
        "convolutions of stride 2 and two linear layers, "
        f"{sum(p.numel() for p in LeNet().parameters()):,} parameters, "
        f"{NETWORKS['LeNet']['max_epochs']} epochs; no weight decay.",
        "Laplace rows: which parameters are uncertain, the structure of the posterior, and what "
        "found the one prior precision: the marginal likelihood (*evidence*) or the held-out "
        f"images on a grid, by the probit link; probit link unless named, *mc* with {DRAWS} draws. "
        "*Temperature*: one number, on the same held-out images. *Chosen*: that number, or the "
        "prior precision, by seed. ECE with 15 bins. *Rotated*: mean over "
        f"{', '.join(map(str, ANGLES))} degrees, {MOVED} test images at each, the labels kept. "
        f"*AUROC*: telling the 4000 test images from {MOVED} others by predictive entropy: two "
        "digits overlaid; left halves of two digits, one mirrored; digits cut into 16 blocks and "
        "shuffled; gray middles of CIFAR-10; normal noise of the mean and variance of the pixels. "
        "*Fit* is training for networks, and what comes after it for what calibrates one; "
        "*predict* is of 4000 images.",
        "Published for orientation, not run here: the last layer's Laplace approximation brought a "
        "WideResNet on CIFAR-10 from an ECE of 2.0 % to 0.8 %, and from an NLL of 0.172 to 0.157 "
        "(Daxberger et al. 2021).",
    ]
    for network in results.networks:
        parts += [
            f"**{network}: test images, and costs**",
            table(results, network, {**CONFIDENCE, **PLAIN}, costs=True),
            f"**{network}: rotated digits, and images that are no digits**",
            table(results, network, {**MOVED_COLUMNS, **ENTROPY}),
            f"**{network}: by angle**, with the Laplace rows of each kind that have the least NLL "
            "on the held-out images",
            by_angle(results, network),
        ]
    parts.append("\n".join(findings(results, network) for network in results.networks))
    if results.seeds > 1:
        parts.append(
            f"*Better* and *worse*: by more than two standard errors, of {results.seeds} seeds."
        )
    return "\n\n".join(parts)


def main() -> None:
    args = _arguments()
    torch.set_num_threads(args.threads)
    args.resume.mkdir(parents=True, exist_ok=True)
    kept = ResultCache(args.resume / "results.jsonl", ("network", "seed", "method"))
    begin = time.perf_counter()
    with threadpool_limits(args.threads):
        for seed in range(args.seeds):
            for network in args.networks:
                run(network, seed, args.data, args.resume, kept)
    print(f"{time.perf_counter() - begin:.0f} s")
    results = Results(kept, args.networks, args.seeds)
    whole = args.networks == list(NETWORKS) and args.seeds == SEEDS
    if whole and not args.no_write:
        draw(results, FIGURE)
    publish("calibration", body(results), write=whole and not args.no_write)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", required=True, type=Path, help="folder of the .npz archives")
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--seeds", type=int, default=SEEDS, help="other than 3: printed only")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--no-write", action="store_true", help="print only")
    parser.add_argument(
        "--resume",
        type=Path,
        metavar="DIR",
        help="where finished runs are kept (default: by the version of the code)",
    )
    args = parser.parse_args()
    if args.resume is None:
        version = code_version([HERE / "_calibration_models.py"])
        args.resume = run_folder(f"calibration-{version}")
    return args


if __name__ == "__main__":
    main()
