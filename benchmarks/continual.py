"""Does width reduce forgetting, and which method does, on streams of image tasks?

Streams: rotated MNIST (5 tasks, 22.5 degrees more each; 15 tasks of 5 degrees), permuted MNIST,
split digits and split CIFAR-10 (two classes a task, a head for each). Every image is in one task.
A network of one hidden layer, 32 to 8192 units wide, and a small wide residual network, trained
briefly (5 epochs) and to a training loss near zero; the infinitely wide network in closed form.

    python benchmarks/continual.py --data DIR
    python benchmarks/continual.py --data DIR --seeds 1 --no-write

Every finished run is kept, so that a killed benchmark goes on. ``--only-runs`` computes runs and
writes no section; ``--cache DIR`` says where they are kept.
"""

import argparse
import os
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # the workers share the cores

import numpy as np
from _cache import HERE, ResultCache, run_folder
from _continual_runs import (
    BATCH,
    CHANNELS,
    FEW_ROWS,
    LENGTHS,
    MANY_EPOCHS,
    METHODS,
    RATE,
    SMALL_BATCH,
    STANDARD_RATE,
    STORED,
    STREAMS,
    WIDTH,
    WIDTHS,
    closed_forms,
    jobs,
    run,
)
from _report import markdown_table, publish
from joblib import Parallel, delayed
from scipy import stats
from tqdm import tqdm

from skntk.continual import average_forgetting, average_score, learning_score
from skntk.core import plotting

FIGURE = HERE.parent / "docs" / "images" / "forgetting_and_width.png"
KEY = ("stream", "length", "network", "width", "method", "seed")


class Results:
    """Records of all finished runs."""

    def __init__(self, kept: ResultCache, seeds: int) -> None:
        self.kept, self.seeds = kept, seeds

    def values(self, quantity: str, **job: object) -> np.ndarray:
        """A number of each seed that is finished."""
        found = [self.kept.get(seed=seed, **job) for seed in range(self.seeds)]
        return np.array([QUANTITIES[quantity](r) for r in found if r is not None])


def _scores(record: dict) -> np.ndarray:
    return np.array(record["scores"], dtype=float)


QUANTITIES = {
    "average accuracy": lambda r: 100 * average_score(_scores(r)),
    "forgetting": lambda r: 100 * average_forgetting(_scores(r)),
    "learning accuracy": lambda r: 100 * learning_score(_scores(r)),
    "distance": lambda r: r["distances"][-1],
    "loss": lambda r: np.nan if None in r["losses"] else np.mean(r["losses"]),
    "epochs": lambda r: np.mean(r["epochs"]) if r["epochs"] else np.nan,
    "MiB": lambda r: r["memory"][-1] / 2**20,
    "seconds": lambda r: np.sum(r["seconds"]),
}


def shown(values: np.ndarray, digits: int = 1) -> str:
    """Mean ± standard error over seeds."""
    if not len(values) or np.isnan(values).all():
        return ""
    text = f"{values.mean():.{digits}f}"
    if len(values) > 1:
        text += f" ± {values.std(ddof=1) / len(values) ** 0.5:.{digits}f}"
    return text


def width_table(results: Results, stream: str, network: str, widths: tuple) -> str:
    quantities = {"average accuracy": 1, "forgetting": 1, "learning accuracy": 1, "distance": 1,
                  "loss": 2, "epochs": 0, "seconds": 0}  # fmt: skip
    rows = []
    for length in LENGTHS:
        for width in widths:
            job = {"stream": stream, "length": length, "network": network, "width": width,
                   "method": "sgd"}  # fmt: skip
            cells = [shown(results.values(q, **job), digits) for q, digits in quantities.items()]
            rows.append((f"{length}, {width}", *cells, len(results.values("loss", **job))))
    return markdown_table(("", *quantities, "seeds"), rows)


def method_table(results: Results, stream: str) -> str:
    rows = [_method_row(results, stream, WIDTH, method) for method in METHODS]
    exact = closed_forms(stream, "converged")
    rows += [_method_row(results, stream, "inf", method) for method in exact]
    quantities = ("accuracy", "forgetting", "learning")
    header = ["", *(f"{length}: {q}" for length in LENGTHS for q in quantities), "MiB", "s"]
    return markdown_table(header, rows)


def _method_row(results: Results, stream: str, width: object, method: str) -> tuple:
    cells = []
    for length in LENGTHS:
        job = {"stream": stream, "length": length, "network": "MLP", "width": width,
               "method": method}  # fmt: skip
        cells += [
            shown(results.values(q, **job))
            for q in ("average accuracy", "forgetting", "learning accuracy")
        ]
    costs = [
        shown(results.values(q, **job), digits).split(" ")[0]
        for q, digits in (("MiB", 1), ("seconds", 0))
    ]
    return (f"{method}, width inf" if width == "inf" else method, *cells, *costs)


def findings(results: Results) -> list[str]:
    """What the runs say of the two claims, stream by stream, by t intervals of 95 %."""
    lines = []
    kinds = [(stream, "MLP", WIDTHS) for stream in STREAMS]
    kinds.insert(1, ("rotated", "MLP, standard", WIDTHS))
    kinds.append(("split CIFAR-10", "WRN", CHANNELS))
    for stream, network, widths in kinds:
        parts = []
        for length in LENGTHS:
            job = {"stream": stream, "length": length, "network": network, "method": "sgd"}
            falls = _fall(results, job, widths)
            if len(falls) < 2:
                continue
            error = falls.std(ddof=1) / len(falls) ** 0.5
            reach = stats.t.ppf(0.975, len(falls) - 1) * error
            word = "falls" if falls.mean() > reach else (
                "rises" if falls.mean() < -reach else "no change is told from zero")  # fmt: skip
            narrow = results.values("forgetting", width=widths[0], **job)
            parts.append(
                f"{length}: {word}, {narrow.mean():.1f} at width {widths[0]}, less by "
                f"{falls.mean():.1f} ± {error:.1f} points at {widths[-1]} "
                f"({falls.mean() / narrow.mean():.0%})"
            )
        lines.append(f"- {stream}, {network}: " + ("; ".join(parts) or "not run") + ".")
    return lines


def _fall(results: Results, job: dict, widths: tuple) -> np.ndarray:
    """By how much forgetting is less at the largest width than at the least, seed by seed."""
    found = []
    for seed in range(results.seeds):
        ends = [results.kept.get(seed=seed, width=w, **job) for w in (widths[0], widths[-1])]
        if None not in ends:
            a, b = (QUANTITIES["forgetting"](r) for r in ends)
            found.append(a - b)
    return np.array(found)


def draw(results: Results, path: Path) -> None:
    """Forgetting against width, brief and converged, one panel a stream."""
    import matplotlib

    matplotlib.use("agg")
    plt = plotting.pyplot()
    panels = [(s, "MLP", WIDTHS) for s in STREAMS] + [("split CIFAR-10", "WRN", CHANNELS)]
    figure, axes = plt.subplots(2, 3, figsize=(12, 7.5), layout="constrained")
    for ax, (stream, network, widths) in zip(axes.flat, panels, strict=True):
        for i, length in enumerate(LENGTHS):
            job = {"stream": stream, "length": length, "network": network, "method": "sgd"}
            each = [results.values("forgetting", width=w, **job) for w in widths]
            known = [(w, v) for w, v in zip(widths, each, strict=True) if len(v)]
            if not known:
                continue
            bars = [v.std(ddof=1) / len(v) ** 0.5 if len(v) > 1 else 0.0 for _, v in known]
            ax.errorbar([w for w, _ in known], [v.mean() for _, v in known], bars, capsize=3,
                        label=length, **plotting.line_style(i))  # fmt: skip
        ax.set_xscale("log", base=2)
        ax.set_xticks(widths, [str(w) for w in widths])
        ax.set_title(f"{stream}, {network}")
        ax.set_ylim(bottom=min(0.0, ax.get_ylim()[0]))
        ax.set_xlabel("channels of the first group" if network == "WRN" else "width")
        ax.set_ylabel("average forgetting, points")
    plotting.legend(axes[0, 0])
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="directory of the archives")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    parser.add_argument("--cache", type=Path, default=None, help="where finished runs are kept")
    parser.add_argument("--only-runs", action="store_true")
    parser.add_argument("--only-report", action="store_true", help="of the runs that are finished")
    parser.add_argument("--no-write", action="store_true")
    options = parser.parse_args()
    kept = ResultCache((options.cache or run_folder("continual")) / "runs.jsonl", KEY)
    todo = [j for j in jobs(options.seeds) if kept.get(**{k: j[k] for k in KEY}) is None]
    if not options.only_report and todo:
        workers = Parallel(n_jobs=options.jobs, return_as="generator_unordered")
        for record in tqdm(workers(delayed(run)(j, options.data) for j in todo), total=len(todo)):
            kept.add(record)
    if options.only_runs:
        return
    results = Results(kept, options.seeds)
    asked = jobs(options.seeds)
    done = sum(kept.get(**{k: j[k] for k in KEY}) is not None for j in asked)
    body = [
        f"{options.seeds} seeds (other splits, permutations and initial weights), mean ± standard "
        f"error; {done} of {len(asked)} runs. Scores and forgetting in points of "
        f"test accuracy. Brief: 5 epochs of SGD with rate {RATE:g} in the NTK "
        f"parametrization ({STANDARD_RATE:g} in the standard one) and batches of {BATCH}. "
        "Converged: with momentum 0.9, until the mean training loss of an epoch is at most "
        f"{LENGTHS['converged'][1]:g}, at most {LENGTHS['converged'][0]} epochs. The residual "
        f"network learns {FEW_ROWS} images a task at the automatic rate, in batches of "
        f"{SMALL_BATCH}, for at most {MANY_EPOCHS} epochs. Methods keep {STORED} gradients or rows "
        "a task. The number behind elastic weight consolidation is its penalty. Width inf: closed "
        "form on squared loss, brief with gradient flow for as long, orthogonal gradient descent "
        f"with all outputs of {STORED} rows a task stored; heads do not interact there, so that "
        "all methods are one.",
        "Published, for orientation: one hidden layer on rotated MNIST of 20 tasks, width 32 to "
        "65536: accuracy 56.3 -> 69.6, forgetting 37.7 -> 26.7 (Mirzadeh et al. 2022).",
        "### Does forgetting fall with width?\n\nBy t intervals of 95 % of the difference between "
        "the ends, seed by seed.\n\n" + "\n".join(findings(results)),
    ]
    studies = [(stream, "MLP", WIDTHS) for stream in STREAMS]
    studies += [("rotated", "MLP, standard", WIDTHS), ("split CIFAR-10", "WRN", CHANNELS)]
    body += [
        f"### {stream}, {network}: width, plain SGD\n\n"
        + width_table(results, stream, network, widths)
        for stream, network, widths in studies
    ]
    body += [
        f"### {stream}: methods at width {WIDTH}\n\n{method_table(results, stream)}"
        for stream in STREAMS
    ]
    if not options.no_write:
        FIGURE.parent.mkdir(exist_ok=True)
        draw(results, FIGURE)
    publish("continual", "\n\n".join(body), write=not options.no_write)


if __name__ == "__main__":
    main()
