"""Four readings of the default network on ten UCI tables: one line each, unattended.

``disconnect_report`` with the default network (two hidden layers of 512 units, Adam, 200 epochs),
once with its function at initialization and once centered, on the first seven classification sets
by name of 150 to 1000 rows and at most four classes, and the three smallest regression sets.

    python benchmarks/uci_disconnect.py --data DIR

Finished runs are kept, so that a killed benchmark goes on.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from _cache import run_folder
from _report import markdown_table, publish
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skntk import NetworkClassifier, NetworkRegressor
from skntk.datasets import Dataset, load, names
from skntk.diagnostics import DisconnectReport, disconnect_report

FEWEST, MOST, CLASSES = 150, 1000, 4
CLASSIFICATION, REGRESSION = 7, 3
TRAIN_ROWS = 400


def tables(data: Path) -> list[Dataset]:
    """The ten sets, by a rule that looks at no result."""
    found = []
    for task, kept in (("classification", CLASSIFICATION), ("regression", REGRESSION)):
        every = [load(n, data) for n in names(task, data) if n.startswith(f"uci_{task}/")]
        fit = [d for d in every if FEWEST <= len(d.y) <= MOST] if task == "classification" else (
            sorted(every, key=lambda d: len(d.y))
        )  # fmt: skip
        if task == "classification":
            fit = [d for d in fit if len(d.target_names) <= CLASSES]
        found += fit[:kept]
    return found


def report_of(data: Dataset, centered: bool, args: argparse.Namespace) -> DisconnectReport:
    made = NetworkClassifier if data.task == "classification" else NetworkRegressor
    network = made(centered=centered, max_epochs=args.epochs)
    n = len(data.y)
    return disconnect_report(
        make_pipeline(StandardScaler(), network),
        data.X,
        data.y,
        n_seeds=args.seeds,
        test_size=n // 4,
        train_size=min(TRAIN_ROWS, n - n // 4),
        cache_dir=args.resume,
    )


def line(report: DisconnectReport) -> list[str]:
    """Score and differences with the halves of their intervals, marked where they are told."""
    mark = {"positive": " +", "negative": " -", "none": " =", "undecided": " ?"}
    scores = report.scores["mean"]
    cells = [f"{scores.iloc[0]:.3f}", f"{scores.iloc[-1]:.3f}"]
    cells += [
        f"{row.mean:+.3f} ± {(row.high - row.low) / 2:.3f}{mark.get(row.finding, '')}"
        for row in report.summary.itertuples()
    ]
    return cells


def main() -> None:
    args = _arguments()
    torch.set_num_threads(args.threads)
    rows, begin = [], time.perf_counter()
    for data in tables(args.data)[: args.sets]:
        for centered in (False, True):
            report = report_of(data, centered, args)
            name = data.name.split("/")[1]
            start = "zero" if centered else "random"
            verdict = report.verdict.splitlines()[0].removeprefix("Width 512: ")
            cells = line(report)
            print(f"{name} (from {start}): {verdict} {'; '.join(cells[2:])}", flush=True)
            rows.append((name, len(data.X), report.score, start, *cells, verdict))
    header = ("set", "rows", "score", "start", "network", "limit", "feature learning", "optimizer",
              "finite width", "total", "verdict")  # fmt: skip
    told = np.array([[cell[-1] for cell in row[6:10]] for row in rows])
    body = [
        f"The default network, {args.epochs} epochs of Adam on squared loss, at most {TRAIN_ROWS} "
        f"training rows, {args.seeds} splits; differences of test scores with half their 95 % "
        "intervals. +, -: told from 0 and beyond 0.02; =: none beyond 0.02; ?: undecided.",
        markdown_table(header, rows),
        "- Told from none: "
        + ", ".join(
            f"{name} {(np.isin(told[:, i], ['+', '-'])).sum()} (undecided "
            f"{(told[:, i] == '?').sum()}, none {(told[:, i] == '=').sum()})"
            for i, name in enumerate(("feature learning", "optimizer", "finite width", "total"))
        )
        + f", of {len(rows)} reports.",
    ]
    whole = args.sets is None
    print(f"{time.perf_counter() - begin:.0f} s")
    publish("uci_disconnect", "\n\n".join(body), write=whole and not args.no_write)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", required=True, type=Path, help="folder of the .npz archives")
    parser.add_argument("--sets", type=int, help="only the first so many, printed only")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=200)
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
        args.resume = run_folder("uci_disconnect")
    return args


if __name__ == "__main__":
    main()
