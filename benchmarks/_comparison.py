"""Ways to the kernel of one network: peers in processes of their own, turns, a table."""

import argparse
import json
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil
import torch
from _cache import HERE
from _report import markdown_table
from torch import nn

from skntk.finite import empirical_ntk
from skntk.finite.tiles import EmpiricalTiles

#: Largest error that counts as agreement.
AGREEMENT = {"float32": 1e-3, "float64": 1e-10}
#: Rows on which all are compared with float64.
CHECKED_ROWS = 20
#: Share of the free memory that a peer may take.
MEMORY_SHARE = 0.85
#: Seconds: a way that takes longer is timed fewer times.
SLOW = 20.0
_REST = 0.2  # seconds: threads of a BLAS keep spinning for a while after a call


class WorkerError(Exception):
    """A peer could not do what it was asked for."""


class Worker:
    """A peer in a process of its own, which is started again when it has died.

    Parameters
    ----------
    command : list
        What to start; threads and bytes of memory that may be taken are appended.
    setup : list of dict
        Requests with which each process begins.
    threads : int
        For the peer.
    limit : float
        Seconds after which a request is given up.
    """

    def __init__(self, command: list, setup: list[dict], threads: int, limit: float) -> None:
        self._command, self._setup = command, setup
        self._threads, self._limit = threads, limit
        self._process: subprocess.Popen | None = None

    def ask(self, do: str, **request: object) -> dict:
        """Answer of the peer.

        Raises
        ------
        WorkerError
            If it fails, or takes too long.
        """
        if self._process is None:
            memory = int(MEMORY_SHARE * psutil.virtual_memory().available)
            self._process = subprocess.Popen(
                [*self._command, str(self._threads), str(memory)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
            for first in self._setup:
                self._exchange(first)
        return self._exchange({"do": do, **request})

    def close(self) -> None:
        if self._process is not None:
            self._process.stdin.close()
            self._process.wait(timeout=60)
            self._process.stdout.close()
            self._process = None

    def _exchange(self, request: dict) -> dict:
        process = self._process
        timer = threading.Timer(self._limit, process.kill)
        timer.start()
        start = time.perf_counter()
        try:
            process.stdin.write(json.dumps(request) + "\n")
            process.stdin.flush()
            answer = process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        timer.cancel()
        if not answer:
            process.wait()
            self._process = None
            late = time.perf_counter() - start >= self._limit
            raise WorkerError(
                f"took more than {self._limit:g} s" if late else "its process ended: no memory?"
            )
        found = json.loads(answer)
        if "error" in found:
            raise WorkerError(found["error"])
        return found


@dataclass
class Way:
    """One way to the kernel, and what is found out about it."""

    name: str
    run: Callable[[], float] | None = None
    repeats: int = 0
    warm: bool = True
    note: str = ""
    compiling: float | None = None
    error: float | None = None
    difference: float | None = None
    times: list[float] = field(default_factory=list)

    @property
    def median(self) -> float | None:
        return statistics.median(self.times) if self.times else None


class Comparison:
    """One network and its inputs: the ways to their kernel that agree, and their times.

    Parameters
    ----------
    net : torch.nn.Module
        In eval mode, and of the precision of `X`.
    X : ndarray
        Its inputs.
    args : argparse.Namespace
        Of the command.
    folder : Path
        For what the processes exchange.
    """

    def __init__(self, net: nn.Module, X: np.ndarray, args: argparse.Namespace, folder: Path):
        self.net, self.X, self.folder, self._args = net, X, folder, args
        self.ways: list[Way] = []
        self._workers: list[Worker] = []
        self._rows = np.random.default_rng(1).permutation(len(X))[:CHECKED_ROWS]
        np.save(folder / "x.npy", X)
        torch.save(net, folder / "net.pt")
        load = {"do": "load", "net": str(folder / "net.pt"), "x": str(folder / "x.npy")}
        self.torch_func = self.worker([sys.executable, HERE / "_torch_func_worker.py"], [load])
        exact = str(folder / "exact.npy")
        self.torch_func.ask("reference", rows=self._rows.tolist(), out=exact)
        self._exact = np.load(exact)
        self._own = self._scale = np.empty(0)
        self._add_ours()

    def worker(self, command: list, setup: list[dict]) -> Worker:
        """A process that ends with the comparison."""
        made = Worker(command, setup, self._args.threads, self._args.limit)
        self._workers.append(made)
        return made

    def add(self, way: Way, K: np.ndarray, *, slow_repeats: int = 1, seconds: float = 0.0) -> Way:
        """Check a result of a way, and let it take part in the turns if it agrees."""
        n, rows = len(self.X), self._rows
        scale = np.sqrt(np.einsum("iipp->ip", self._exact))
        error = np.abs(K[np.ix_(rows, rows)] - self._exact)
        way.error = float((error / (scale[:, None, :, None] * scale[None, :, None])).max())
        if self._own.size:
            # row by row, for there is no need of more temporaries of that size
            s = self._scale
            way.difference = max(
                float((np.abs(K[i] - self._own[i]) / (s[i][:, None] * s[:, None])).max())
                for i in range(n)
            )
        if not max(way.error, way.difference or 0.0) < AGREEMENT[self._args.dtype]:
            raise SystemExit(
                f"{way.name}: error {way.error:.1e}, difference from ours {way.difference}: no"
                " agreement, so no times."
            )
        way.warm = seconds < SLOW
        way.repeats = self._args.repeats if way.warm else slow_repeats
        self.ways.append(way)
        return way

    def add_unmeasured(self, name: str, note: str) -> None:
        """A way that does not work, or not in time."""
        self.ways.append(Way(name, note=note))

    def take_turns(self) -> None:
        """Time all ways, each as often as it was given repeats; then end the processes.

        The second of two calls, but of what is slow: the first has to map the memory that the
        others gave back.
        """
        for turn in range(max(way.repeats for way in self.ways)):
            for way in self.ways:
                if turn < way.repeats:
                    time.sleep(_REST)
                    try:
                        if way.warm:
                            way.run()
                        way.times.append(way.run())
                    except WorkerError as problem:
                        way.repeats, way.note = turn, f"{way.note}; then {problem}"
        for worker in self._workers:
            worker.close()

    def ratio(self, way: Way) -> float:
        """How many times ours is faster."""
        return way.median / self.ways[0].median

    def _add_ours(self) -> None:
        def run(outputs: str = "full") -> float:
            return seconds_of(lambda: empirical_ntk(self.net, self.X, outputs=outputs))

        K = empirical_ntk(self.net, self.X)
        ours = self.add(Way("skntk", run), K)
        # the function that another is compared with: after its own check
        self._own, self._scale = K, np.sqrt(np.einsum("iipp->ip", K))
        with _profile() as spent:
            total = run()
        ours.note = f"sweeps {spent['forms'] / total:.0%}, contractions {spent['tile'] / total:.0%}"
        run("trace")
        self.ways.append(
            Way('skntk, outputs="trace"', lambda: run("trace"), repeats=self._args.repeats)
        )

    def table(self) -> str:
        """All ways, in Markdown."""
        header = ("", "s", "over ours", "repeats", "compiling, s", "error", "difference", "")
        rows = []
        for way in self.ways:
            ratio = "" if way.median is None else f"{self.ratio(way):.2f}"
            rows.append(
                (
                    way.name,
                    _number(way.median, ".3f"),
                    ratio,
                    way.repeats or "",
                    _number(way.compiling, ".1f"),
                    _number(way.error, ".1e"),
                    _number(way.difference, ".1e"),
                    way.note,
                )
            )
        return markdown_table(header, rows)

    def verdict(self, way: Way | None, least: float, name: str) -> str:
        """What was asked for, and whether it was met."""
        asked = f"- Asked: at least {least:g} times faster than {name}."
        if way is None or way.median is None:
            return f"{asked} Not measured."
        ratio = self.ratio(way)
        return f"{asked} Measured: {ratio:.1f} times. {judged(ratio >= least, self._args)}"


def judged(met: bool, args: argparse.Namespace) -> str:
    if args.quick:
        return "Not judged by so few rows."
    return "Met." if met else "NOT met."


def seconds_of(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


@contextmanager
def _profile() -> Iterator[dict[str, float]]:
    """Seconds in sweeps ("forms", with laying out what they find) and in contractions ("tile")."""
    methods = {name: getattr(EmpiricalTiles, name) for name in ("forms", "tile", "diag")}
    spent = dict.fromkeys(methods, 0.0)

    def timed(name: str) -> Callable:
        def method(*arguments: object) -> object:
            before, start = spent["forms"], time.perf_counter()
            found = methods[name](*arguments)
            within = spent["forms"] - before if name != "forms" else 0.0
            spent[name] += time.perf_counter() - start - within
            return found

        return method

    for name in methods:
        setattr(EmpiricalTiles, name, timed(name))
    try:
        yield spent
    finally:
        spent["tile"] += spent["diag"]
        for name, method in methods.items():
            setattr(EmpiricalTiles, name, method)
