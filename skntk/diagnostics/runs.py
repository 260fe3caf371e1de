"""Runs of a study: one after the other or by joblib, each kept in a file as soon as it is done."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar

import joblib
import pandas as pd
import torch
from joblib.parallel import ThreadingBackend, get_active_backend

from skntk.core import check_writable, threads_restored, write_atomically
from skntk.diagnostics.fingerprint import fingerprint
from skntk.diagnostics.subject import Network, Subject, draw_seed

#: A run is named by numbers and texts; what it finds is a list of rows.
Unit = dict[str, Any]
Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Task:
    """What all runs of a study have in common; base of those of the reports.

    Attributes
    ----------
    subject : Subject
        The network.
    X, y : array-like
        Data.
    random_state : int
        For all that is drawn.
    """

    subject: Subject
    X: Any
    y: Any
    random_state: int
    #: Fields that matter to a run by its own `key` alone.
    of_units: ClassVar[frozenset[str]] = frozenset()

    def network(self, unit: Unit, **params: Any) -> Network:
        """Estimator of a run, named by ``width`` (or None) and ``seed``, with other parameters."""
        seed = draw_seed(self.random_state, 0, unit["seed"], unit["width"] or 0)
        return self.subject.at(unit["width"], seed, **params)

    def run(self, unit: Unit) -> Rows:
        """What one run finds."""
        raise NotImplementedError

    def runs(
        self,
        units: Sequence[Unit],
        *,
        cache_dir: str | Path | None,
        n_jobs: int | None,
        verbose: int,
    ) -> pd.DataFrame:
        """Rows of all runs; `run_units` with a folder of this study's own.

        Runs of other data or other settings lie elsewhere.
        """
        name = type(self).__name__.strip("_").lower()
        folder = None
        if cache_dir is not None:
            folder = Path(cache_dir) / f"{name}-{self._fingerprint()}"
        options: Any = {"n_jobs": n_jobs, "verbose": verbose, "what": name}
        return pd.DataFrame(run_units(self.run, units, folder=folder, key=self.key, **options))

    def key(self, unit: Unit) -> str:
        """What a run depends on beside the study."""
        return joblib.hash(unit)

    def _fingerprint(self) -> str:
        shared = {"subject", "X", "y"} | self.of_units
        rest = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in shared}
        return fingerprint(self.subject, self.X, self.y, rest)[:16]


def run_units(
    function: Callable[[Unit], Rows],
    units: Sequence[Unit],
    *,
    folder: Path | None = None,
    key: Callable[[Unit], str] = joblib.hash,
    n_jobs: int | None = None,
    verbose: int = 0,
    what: str = "runs",
) -> Rows:
    """Rows of all units, in order.

    Parameters
    ----------
    function : callable
        From a unit to its rows; of what JSON knows, infinity and NaN included.
    units : sequence of dict
        What to run.
    folder : Path, optional
        Where the rows of each unit are kept in a file of their own; units whose file is there are
        read, not run. By default nothing is kept.
    key : callable
        From a unit to the text that its file is told by.
    n_jobs : int, optional
        Processes of joblib, each on one thread; by default all runs are in this one. Also where
        joblib's backend is set to threads, processes are used.
    verbose : int, default=0
        1 shows progress.
    what : str, default="runs"
        What the progress bar counts.

    Examples
    --------
    >>> from skntk.diagnostics.runs import run_units
    >>> run_units(lambda unit: [{**unit, "square": unit["n"] ** 2}], [{"n": 2}, {"n": 3}])
    [{'n': 2, 'square': 4}, {'n': 3, 'square': 9}]
    """
    from tqdm.auto import tqdm

    found: dict[int, Rows] = {}
    if folder is not None:
        check_writable(folder / "unit.json", "cache_dir")
        for i, unit in enumerate(units):
            rows = _read(_path(folder, unit, key))
            if rows is not None:
                found[i] = rows
    missing = [i for i in range(len(units)) if i not in found]
    bar = tqdm(total=len(units), initial=len(found), desc=what, disable=not verbose)
    with bar, threads_restored():
        for i, rows in _computed(function, units, missing, n_jobs):
            if folder is not None:
                write_atomically(_path(folder, units[i], key), json.dumps(rows).encode())
            found[i] = rows
            bar.set_postfix(units[i], refresh=False)
            bar.update()
    return [row for i in range(len(units)) for row in found[i]]


def _computed(
    function: Callable[[Unit], Rows], units: Sequence[Unit], missing: list[int], n_jobs: int | None
) -> Any:
    """Pairs of a unit's place and its rows, as they get done."""
    if n_jobs is None:
        return ((i, function(units[i])) for i in missing)
    run = joblib.delayed(_alone)
    threads = isinstance(get_active_backend()[0], ThreadingBackend)
    backend = "loky" if threads else None  # seeds and tracing of torch are the process's own
    return joblib.Parallel(n_jobs, backend=backend, return_as="generator_unordered")(
        run(function, units[i], i) for i in missing
    )


def _alone(function: Callable[[Unit], Rows], unit: Unit, i: int) -> tuple[int, Rows]:
    """Run one unit on one thread of torch's."""
    if torch.get_num_threads() != 1:
        torch.set_num_threads(1)
    return i, function(unit)


def _path(folder: Path, unit: Unit, key: Callable[[Unit], str]) -> Path:
    """Name that says which run it is, and a hash that alone tells it from others."""
    name = re.sub(r"[^\w=.-]+", "_", ",".join(f"{k}={v}" for k, v in unit.items()))
    return folder / f"{name[:80]},{key(unit)[:12]}.json"


def _read(path: Path) -> Rows | None:
    """Rows of a file that is whole."""
    with contextlib.suppress(OSError, ValueError):
        rows = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(rows, list):
            return rows
    return None
