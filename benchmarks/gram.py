"""Speed and accuracy of infinite-width NTK Grams beside neural-tangents 0.6.5, jitted.

Both libraries run in this one command, on the same inputs and number of threads, and take turns:
each repeat calls every path of a case twice and times the second call, for the first one has to map
the memory that the others gave back. Medians are printed; compiling is done before and
printed apart. The peer needs an older NumPy and lives in an environment of its own::

    make peers
    python benchmarks/gram.py

The floor is what one evaluation of a collapsed network cannot avoid: one matrix product, one arccos
pass and one write of n x n numbers, none of them using the symmetry.
"""

import argparse
import json
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from _cache import HERE
from _report import markdown_table, publish

import skntk
import skntk.nn as snn

WEIGHT_STD, BIAS_STD = 1.4, 0.1
CHECKED_ROWS = 400


@dataclass(frozen=True)
class Case:
    """One network and kind of input."""

    activation: str
    depth: int
    bias_std: float
    unit_norm: bool
    weight_std: float = WEIGHT_STD

    @property
    def name(self) -> str:
        rows = ", unit rows" if self.unit_norm else ""
        return f"{self.activation} depth {self.depth}, bias {self.bias_std:g}{rows}"


CASES = {
    "General: bias on rows of any norm": [
        Case(activation, depth, BIAS_STD, False)
        for activation in ("relu", "erf")
        for depth in (1, 3, 10)
    ],
    "Collapsible: no bias, or rows of norm one": [
        Case(activation, depth, bias_std, unit_norm)
        for activation, bias_std, unit_norm in (
            ("relu", 0.0, False),
            ("relu", BIAS_STD, True),
            ("erf", BIAS_STD, True),
        )
        for depth in (3, 10, 20)
    ],
}


def ours(case: Case, compiled: bool) -> Callable[[np.ndarray], np.ndarray]:
    """Our Gram of `case` as a function of X: all that a user would write."""
    kernel = skntk.infinite_width(
        snn.MLP(
            in_features=100,
            depth=case.depth,
            activation=case.activation,
            weight_std=case.weight_std,
            bias_std=case.bias_std,
        )
    )
    return lambda X: kernel.gram(X, kind="ntk", dtype="float32", compile=compiled)


class Peer:
    """neural-tangents in a process of its own."""

    def __init__(self, python: Path, threads: int, inputs: dict[bool, np.ndarray]) -> None:
        if not python.exists():
            raise SystemExit(
                f"--peer-python: there is no {python}; run `make peers`, or pass --no-peer."
            )
        self._directory = tempfile.TemporaryDirectory()
        folder = Path(self._directory.name)
        self._process = subprocess.Popen(
            [python, HERE / "_nt_worker.py", str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        for unit_norm, X in inputs.items():
            np.save(folder / f"{unit_norm}.npy", X)
        self.versions = self._ask(do="versions")
        self._ask(do="load", x=str(folder / "False.npy"), unit=str(folder / "True.npy"))

    def compile(self, case: Case) -> float:
        return self._ask(do="compile", case=self._describe(case))["compile_seconds"]

    def seconds(self, case: Case) -> float:
        return self._ask(do="time", case=self._describe(case))["seconds"]

    def rows(self, case: Case, rows: np.ndarray) -> np.ndarray:
        out = str(Path(self._directory.name) / "rows.npy")
        self._ask(do="rows", case=self._describe(case), rows=rows.tolist(), out=out)
        return np.load(out)

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait(timeout=60)
        self._process.stdout.close()
        self._directory.cleanup()

    def _describe(self, case: Case) -> dict:
        return asdict(case) | {"name": case.name}

    def _ask(self, **request: object) -> dict:
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise SystemExit(
                "the peer process ended; run benchmarks/_nt_worker.py by hand to see why."
            )
        return json.loads(answer)


def reference(case: Case, X: np.ndarray) -> np.ndarray:
    """The NTK in float64, by the plain recursion (Jacot et al. 2018)."""
    w2, b2 = case.weight_std**2, case.bias_std**2
    X = X.astype(np.float64)
    K = w2 * (X @ X.T) / X.shape[1] + b2
    T = K
    for _ in range(case.depth):
        q = np.diag(K)
        if case.activation == "relu":  # Cho & Saul (2009), degrees 1 and 0
            scale = np.sqrt(np.outer(q, q))
            angle = np.arccos(np.clip(K / scale, -1.0, 1.0))
            np.fill_diagonal(angle, 0.0)
            sigma = scale * (np.sin(angle) + (np.pi - angle) * np.cos(angle)) / (2 * np.pi)
            derivative = (np.pi - angle) / (2 * np.pi)
        else:  # Williams (1997)
            outer = np.outer(1 + 2 * q, 1 + 2 * q)
            sigma = 2 / np.pi * np.arcsin(2 * K / np.sqrt(outer))
            derivative = 4 / np.pi / np.sqrt(outer - 4 * K**2)
        K = w2 * sigma + b2
        T = K + w2 * T * derivative
    return T


def error(K: np.ndarray, exact: np.ndarray) -> float:
    """Largest deviation of a kernel value, relative to ``sqrt(k(x, x) k(y, y))``."""
    scale = np.sqrt(np.diag(exact))
    return float((np.abs(K - exact) / np.outer(scale, scale)).max())


class Floor:
    """One matrix product, one arccos pass, one write."""

    def __init__(self, unit_rows: np.ndarray) -> None:
        self._X = torch.from_numpy(unit_rows)
        self._cosine = torch.empty(len(unit_rows), len(unit_rows))
        self._out = torch.empty_like(self._cosine)
        self.seconds()

    def seconds(self) -> float:
        start = time.perf_counter()
        torch.mm(self._X, self._X.T, out=self._cosine)
        # acos of a number beyond 1 is NaN, and costs the same
        torch.acos(self._cosine, out=self._cosine)
        self._out.copy_(self._cosine)
        return time.perf_counter() - start


def main() -> None:
    args = _arguments()
    torch.set_num_threads(args.threads)
    X = np.random.default_rng(0).standard_normal((args.n, 100)).astype(np.float32)
    unit = (X / np.linalg.norm(X.astype(np.float64), axis=1, keepdims=True)).astype(np.float32)
    inputs = {False: X, True: unit}
    peer = None if args.no_peer else Peer(args.peer_python, args.threads, inputs)
    floor = Floor(unit)
    paths = args.paths.split(",")
    parts, medians = [], {}
    for title, cases in CASES.items():
        cases = [case for case in cases if args.only in case.name]
        for case in cases:
            medians[case] = _measure(case, inputs[case.unit_norm], paths, peer, floor, args.repeats)
            print(f"{case.name}: {_line(medians[case])}", flush=True)
        if cases:
            parts.append(f"**{title}**\n\n" + _table({c: medians[c] for c in cases}, paths))
    if peer:
        peer.close()
    parts += [_deepest(medians, paths), _notes(args)]
    versions = {f"peer: {key}": value for key, value in peer.versions.items()} if peer else None
    name = "gram" if not args.only and not args.no_peer else "gram (part)"
    body = "\n\n".join(part for part in parts if part)
    publish(name, body, extra_versions=versions, write=not args.no_write)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--peer-python",
        type=Path,
        default=HERE.parent / ".venv-peers" / "bin" / "python",
        help="interpreter of the environment that `make peers` makes (default .venv-peers)",
    )
    parser.add_argument("--no-peer", action="store_true", help="time our side only")
    parser.add_argument("--paths", default="eager,compiled", help="ours; default: %(default)s")
    parser.add_argument("--only", default="", help="cases whose name contains this")
    parser.add_argument("--n", type=int, default=5000)
    parser.add_argument("--threads", type=int, default=2, help="for either library (default 2)")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--no-write", action="store_true", help="print only")
    return parser.parse_args()


def _measure(
    case: Case, X: np.ndarray, paths: list[str], peer: Peer | None, floor: Floor, repeats: int
) -> dict:
    """Median seconds, first-call seconds and error of each path, taking turns."""
    rows = np.random.default_rng(1).permutation(len(X))[:CHECKED_ROWS]
    exact = reference(case, X[rows])
    functions = {path: ours(case, path == "compiled") for path in paths}
    first, errors = {}, {}
    for path, function in functions.items():
        start = time.perf_counter()
        K = function(X)
        first[path] = time.perf_counter() - start
        errors[path] = error(np.asarray(K)[np.ix_(rows, rows)], exact)
        del K
    timers = {path: _timer(function, X) for path, function in functions.items()}
    if peer:
        first["peer"] = peer.compile(case)
        errors["peer"] = error(peer.rows(case, rows), exact)
        timers["peer"] = lambda: peer.seconds(case)
    timers["floor"] = floor.seconds
    times: dict[str, list[float]] = {who: [] for who in timers}
    for _ in range(repeats):
        for who, timer in timers.items():
            timer()  # finds memory as the others left it
            times[who].append(timer())
    return {
        "median": {who: statistics.median(values) for who, values in times.items()},
        "first": first,
        "error": errors,
    }


def _timer(function: Callable, X: np.ndarray) -> Callable[[], float]:
    def seconds() -> float:
        start = time.perf_counter()
        function(X)
        return time.perf_counter() - start

    return seconds


def _line(result: dict) -> str:
    return ", ".join(f"{who} {seconds:.3f} s" for who, seconds in result["median"].items())


def _table(results: dict[Case, dict], paths: list[str]) -> str:
    peer = "peer" in next(iter(results.values()))["median"]
    who = [*paths, *(["peer"] if peer else [])]
    header = ["case", *(f"{w}, s" for w in who)]
    header += [f"peer / {path}" for path in paths] if peer else []
    header += [f"{path} / floor" for path in paths]
    header += [f"{w}, error" for w in who] + [f"{w}, first call s" for w in who]
    rows = []
    for case, result in results.items():
        t = result["median"]
        row = [case.name, *(f"{t[w]:.3f}" for w in who)]
        row += [f"{t['peer'] / t[path]:.1f}" for path in paths] if peer else []
        row += [f"{t[path] / t['floor']:.1f}" for path in paths]
        row += [f"{result['error'][w]:.1e}" for w in who]
        row += [f"{result['first'][w]:.1f}" for w in who]
        rows.append(row)
    return markdown_table(header, rows)


def _deepest(results: dict[Case, dict], paths: list[str]) -> str:
    """What depth 20 costs beside depth 3, where a network collapses."""
    lines = []
    for deep in (case for case in results if case.depth == 20):
        for shallow in results:
            if shallow.name == deep.name.replace("depth 20", "depth 3"):
                ratios = ", ".join(
                    f"{path} {results[deep]['median'][path] / results[shallow]['median'][path]:.2f}"
                    for path in paths
                )
                lines.append(f"- {deep.name}, time over that of depth 3: {ratios}")
    return "\n".join(lines)


def _notes(args: argparse.Namespace) -> str:
    return (
        f"n = {args.n}, d = 100, float32, weight_std = {WEIGHT_STD}, {args.threads} threads each,"
        f" medians of {args.repeats} interleaved repeats. Peer:"
        " `jax.jit(lambda x: kernel_fn(x, None, 'ntk'))`."
        f" Error: largest on {CHECKED_ROWS} rows against float64, relative to"
        " sqrt(k(x, x) k(y, y)). First call: compiling included. Floor: one matrix product, one"
        " arccos pass and one write of n x n, without symmetry."
    )


if __name__ == "__main__":
    main()
