"""``skntk disconnect``: the report on a table, into a folder."""

from __future__ import annotations

import argparse
import re
from dataclasses import replace
from pathlib import Path

from sklearn.pipeline import make_pipeline

from skntk.cli.errors import CommandError
from skntk.cli.table import Table, counted
from skntk.core import MemoryBudgetError, check_writable, write_atomically
from skntk.diagnostics import DisconnectReport, disconnect_report
from skntk.training import NetworkClassifier, NetworkRegressor


def disconnect(args: argparse.Namespace) -> int:
    """Run the command; return its exit status.

    Raises
    ------
    CommandError
        If the arguments or the data cannot be used.
    """
    table = Table.read(args.data, args.target, args.task, args.drop)
    name = re.sub(r"[^\w.-]+", "_", f"{args.data.stem}-{args.target}-disconnect")
    out = args.out or Path(name)
    try:
        check_writable(out / "report.html", "--out")
        import matplotlib  # noqa: F401  asked for now, not after an hour
    except ValueError as error:
        raise CommandError(str(error)) from None
    except ImportError:
        raise CommandError(
            "the picture needs matplotlib: pip install matplotlib, or 'skntk[plot]'."
        ) from None
    n = len(table.X)
    test = min(args.test_size, n // 4)
    train = min(args.train_size, n - test)
    task = "classification" if table.classifies else "regression"
    for note in table.notes:
        print(note)
    print(
        f"{args.data.name}: {task} of {args.target!r} from "
        f"{counted(len(table.X.columns), 'column')}, {train} rows to train on "
        f"and {test} to test on, {args.seeds} runs of each width.",
        flush=True,
    )
    report = _report(args, table, train, test, out / "finished")
    title = f"{args.data.name}, {args.target}: {report.title}; random state {args.random_state}"
    report = replace(report, title=title)
    write(report, out)
    print(f"\n{report.title}\n\n{report.verdict}\n\nWritten: {out / 'report.html'}")
    return int(not (report.runs.status == "ok").any())


def _report(
    args: argparse.Namespace, table: Table, train: int, test: int, finished: Path
) -> DisconnectReport:
    made = NetworkClassifier if table.classifies else NetworkRegressor
    try:
        network = made(
            depth=args.depth,
            activation=args.activation,
            optimizer=args.optimizer,
            max_epochs=args.epochs,
            learning_rate="auto" if args.learning_rate is None else args.learning_rate,
            centered=args.centered,
        )
        return disconnect_report(
            make_pipeline(table.features(), network),
            table.X,
            table.y,
            widths=args.widths,
            n_seeds=args.seeds,
            train_size=train,
            test_size=test,
            margin=args.margin,
            cache_dir=finished,
            n_jobs=args.jobs,
            random_state=args.random_state,
            verbose=int(not args.quiet),
        )
    except (ValueError, TypeError, MemoryBudgetError) as error:
        raise CommandError(str(error)) from error


def write(report: DisconnectReport, folder: Path) -> None:
    """Write tables, picture and page into a folder, each in one step."""
    for name, frame in (
        ("runs", report.runs),
        ("summary", report.summary),
        ("scores", report.scores),
    ):
        write_atomically(folder / f"{name}.csv", frame.to_csv(index=False).encode())
    write_atomically(folder / "report.png", report.to_png())
    report.to_html(folder / "report.html")
