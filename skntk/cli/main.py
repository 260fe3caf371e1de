"""Commands and their arguments."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from skntk.cli.disconnect import disconnect
from skntk.cli.errors import CommandError
from skntk.nn import activation_names

_DISCONNECT = """\
Score four readings of one network on a table: the trained network, its linearization, the kernel
machine of its tangent kernel, and the limit of infinite width. Neighbours differ by one thing:
feature learning, the optimizer, finite width. Writes the differences with their intervals as CSV
(runs.csv, summary.csv, scores.csv), as a picture (report.png), and with a verdict as one page
(report.html). A command that was interrupted goes on where it was when it is given again.
Numbers are standardized, texts, dates among them, become indicators, and missing values (empty, NA,
N/A, NaN, null, ?) are filled in. Columns may be separated by commas, semicolons or tabs.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Parameters
    ----------
    arguments : sequence of str, optional
        By default those of the process.

    Returns
    -------
    int
        Exit status: 0; 1 if each run failed, so that nothing is known; 2 for arguments or data
        that cannot be used; 130 if interrupted.
    """
    parser = _parser()
    args = parser.parse_args(arguments)
    try:
        return disconnect(args)
    except CommandError as error:
        print(f"skntk {args.command}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(
            f"skntk {args.command}: interrupted; give the same command again to go on.",
            file=sys.stderr,
        )
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="skntk", description="Does kernel theory describe a network on your data?"
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    command = commands.add_parser(
        "disconnect", help="what stands between a network and its kernel", description=_DISCONNECT
    )
    command.add_argument("data", type=Path, help="CSV file in UTF-8 with a header")
    command.add_argument("--target", required=True, metavar="COLUMN", help="what is predicted")
    command.add_argument(
        "--task",
        choices=("auto", "regression", "classification"),
        default="auto",
        help="auto: classification for texts, and for at most 20 different whole numbers",
    )
    command.add_argument(
        "--drop",
        action="append",
        default=[],
        metavar="COLUMN",
        help="a column that is not used; may be given several times",
    )
    command.add_argument(
        "--widths",
        nargs="+",
        type=_width,
        default=[64, 256, 1024, math.inf],
        metavar="WIDTH",
        help="units of a hidden layer; infinity is always compared with, so a finite one is needed "
        "(default 64 256 1024 inf)",
    )
    command.add_argument("--depth", type=_at_least(0), default=2, help="hidden layers (default 2)")
    command.add_argument(
        "--activation", choices=activation_names(), default="relu", help="default relu"
    )
    command.add_argument(
        "--optimizer",
        choices=("gd", "sgd", "adam", "natural_gradient", "kfac"),
        default="adam",
        help="of the trained and the lazy network (default adam)",
    )
    command.add_argument(
        "--epochs", type=_at_least(1), default=200, help="of training (default 200)"
    )
    command.add_argument(
        "--learning-rate",
        type=_positive,
        metavar="RATE",
        help="by default what suits the optimizer",
    )
    command.add_argument(
        "--centered",
        action="store_true",
        help="subtract the random function at initialization from all readings",
    )
    command.add_argument(
        "--seeds", type=_at_least(2), default=5, help="runs of each width (default 5)"
    )
    command.add_argument(
        "--train-size", type=_at_least(2), default=500, metavar="ROWS", help="at most (default 500)"
    )
    command.add_argument(
        "--test-size",
        type=_at_least(2),
        default=2000,
        metavar="ROWS",
        help="at most (default 2000)",
    )
    command.add_argument(
        "--margin",
        type=_positive,
        default=0.02,
        help="differences that count as none (default 0.02)",
    )
    command.add_argument("--jobs", type=int, help="processes (default: one, on all cores)")
    command.add_argument(
        "--random-state", type=_at_least(0), default=0, metavar="SEED", help="default 0"
    )
    command.add_argument(
        "--out",
        type=Path,
        metavar="DIRECTORY",
        help="default: DATA-TARGET-disconnect; an earlier report there is replaced",
    )
    command.add_argument("--quiet", action="store_true", help="no progress bar")
    return parser


def _width(text: str) -> float:
    """A width as it is typed: an integer, or inf."""
    return math.inf if text.lower() in ("inf", "infinity") else _at_least(1)(text)


def _at_least(least: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is no integer") from None
        if value < least:
            raise argparse.ArgumentTypeError(f"{text} is less than {least}")
        return value

    return parse


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no number") from None
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not positive and finite")
    return value
