"""Time and memory of exact regression: NTKRegressor beside scikit-learn's Gaussian process.

- fit + predict(return_std=True) at n = 5000 against GaussianProcessRegressor(optimizer=None);
- peak memory of the same, in units of one n x n float64 matrix (``--large`` adds n = 20000);
- leave-one-out tuning over 5 depths x 20 alphas at n = 2000 against the five Grams and five
  eigendecompositions that it needs (``--grid-search`` adds GridSearchCV over the same grid).

    python benchmarks/regression.py [--large] [--grid-search]
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from _memory import peak_bytes, start_of_peak
from _report import markdown_table, publish
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF
from sklearn.model_selection import GridSearchCV
from threadpoolctl import threadpool_limits

import skntk
import skntk.nn as snn

D = 20
NOISE = 1e-2
NETWORK = {"activation": "relu", "weight_std": float(np.sqrt(2)), "bias_std": 0.1}
GRID = {"depth": [1, 2, 3, 4, 5], "alpha": np.logspace(-6, 1, 20).tolist()}
_REST = 0.2  # seconds


def table(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A smooth function of some of D standard normal features, with noise: (n, D), (n,)."""
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, D))
    y = np.sin(X[:, 0]) + X[:, 1] * X[:, 2] + 0.5 * X[:, 3] ** 2 + 0.1 * rng.standard_normal(n)
    return X, y


def ours(depth: int | str = "auto") -> skntk.NTKRegressor:
    """Nothing to tune: one alpha, and the default depth, which is 1, or another."""
    return skntk.NTKRegressor(depth=depth, alpha=NOISE, tuning=None)


def peer() -> GaussianProcessRegressor:
    """The same work in scikit-learn: one Gram, one Cholesky, one triangular solve per test row."""
    return GaussianProcessRegressor(RBF(np.sqrt(D)), alpha=NOISE, optimizer=None, normalize_y=True)


def main() -> None:
    args = _arguments()
    torch.set_num_threads(args.threads)
    if args.memory_worker:
        print(json.dumps(_peak_matrices(*args.memory_worker)))
        return
    parts = []
    with threadpool_limits(args.threads):
        if "speed" in args.parts:
            parts.append(_speed(args.n, args.repeats))
        if "memory" in args.parts:
            parts.append(_memory([args.n, 20000] if args.large else [args.n], args.threads))
        if "loo" in args.parts:
            parts.append(_leave_one_out(args.repeats, args.grid_search))
    name = "regression" if args.parts == _PARTS and args.n == 5000 else "regression (part)"
    publish(name, "\n\n".join(parts), write=not args.no_write)


_PARTS = "speed,memory,loo"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", default=_PARTS, help="default: %(default)s")
    parser.add_argument("--n", type=int, default=5000, help="training rows (default 5000)")
    parser.add_argument("--large", action="store_true", help="peak memory at n = 20000 too")
    parser.add_argument("--grid-search", action="store_true", help="time GridSearchCV too")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--no-write", action="store_true", help="print only")
    parser.add_argument(
        "--memory-worker", nargs=2, type=int, metavar=("N", "M"), help=argparse.SUPPRESS
    )
    return parser.parse_args()


def _interleaved(jobs: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median seconds of each job; they take turns, with a rest before each.

    Threads of a BLAS keep spinning for a while after a call, and would slow down the next job.
    """
    times: dict[str, list[float]] = {name: [] for name in jobs}
    for _ in range(repeats):
        for name, job in jobs.items():
            time.sleep(_REST)
            start = time.perf_counter()
            job()
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def _speed(n: int, repeats: int) -> str:
    X, y = table(n)
    small = slice(200)
    for make in (ours, peer):  # imports and thread pools are not what is timed
        make().fit(X[small], y[small]).predict(X[small], return_std=True)
    rows = []
    for m in (1000, 5000):
        Z, _ = table(m, seed=1)
        jobs = {"default depth": ours, "depth 3": lambda: ours(3), "peer": peer}
        seconds = _interleaved(
            {
                name: lambda make=make, Z=Z: make().fit(X, y).predict(Z, return_std=True)
                for name, make in jobs.items()
            },
            repeats,
        )
        theirs = seconds.pop("peer")
        for name, own in seconds.items():
            rows.append(
                (f"{m} test rows, {name}", f"{own:.2f}", f"{theirs:.2f}", f"{own / theirs:.2f}")
            )
    header = (
        f"n = {n}, d = {D}",
        "NTKRegressor(tuning=None), s",
        "GaussianProcessRegressor(optimizer=None), s",
        "ratio",
    )
    return (
        f"**fit + predict(return_std=True)**, medians of {repeats} interleaved repeats\n\n"
        + markdown_table(header, rows)
    )


def _memory(sizes: list[int], threads: int) -> str:
    rows = []
    for n in sizes:
        command = [
            sys.executable,
            Path(__file__),
            "--memory-worker",
            str(n),
            "1000",
            "--threads",
            str(threads),
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"the memory worker failed at n={n}:\n{done.stderr}")
        used = json.loads(done.stdout)
        rows.append(
            (
                f"n = {n}, 1000 test rows",
                f"{used['gib']:.2f}",
                f"{used['matrices']:.2f}",
                f"{used['seconds']:.1f}",
            )
        )
    header = ("fit + predict(return_std=True)", "peak, GiB", "in n x n float64", "s")
    return (
        "**Peak memory**, of a process of its own, over what it held after imports and a small"
        " fit\n\n" + markdown_table(header, rows)
    )


def _peak_matrices(n: int, m: int) -> dict[str, float]:
    """Run in a fresh process: its peak resident memory over what it holds before the work."""
    X, y = table(n)
    Z, _ = table(m, seed=1)
    ours().fit(X[:200], y[:200]).predict(Z[:50], return_std=True)
    before = start_of_peak()
    start = time.perf_counter()
    ours().fit(X, y).predict(Z, return_std=True)
    seconds = time.perf_counter() - start
    used = peak_bytes() - before
    return {"gib": used / 2**30, "matrices": used / (8.0 * n * n), "seconds": seconds}


def _leave_one_out(repeats: int, grid_search: bool) -> str:
    n = 2000
    X, y = table(n)

    def tuned() -> skntk.NTKRegressor:
        return skntk.NTKRegressor(embedding="none", tuning="loo", param_grid=GRID, **NETWORK).fit(
            X, y
        )

    def grams() -> list[torch.Tensor]:
        return [_gram(X, depth) for depth in GRID["depth"]]

    matrices = grams()
    jobs = {
        "loo": tuned,
        "grams": grams,
        "eigendecompositions": lambda: [torch.linalg.eigh(K) for K in matrices],
    }
    for job in jobs.values():
        job()
    seconds = _interleaved(jobs, repeats)
    loo, unavoidable = seconds["loo"], seconds["grams"] + seconds["eigendecompositions"]
    rows = [
        ('tuning="loo", 5 depths x 20 alphas', f"{loo:.2f}", "1.00"),
        ("five Grams", f"{seconds['grams']:.2f}", ""),
        ("five eigendecompositions", f"{seconds['eigendecompositions']:.2f}", ""),
        ("Grams and eigendecompositions", f"{unavoidable:.2f}", f"{loo / unavoidable:.2f}"),
    ]
    if grid_search:
        base = skntk.NTKRegressor(tuning=None, **NETWORK)
        search = _interleaved({"search": lambda: GridSearchCV(base, GRID, cv=5).fit(X, y)}, 1)
        rows.append(
            (
                "GridSearchCV(cv=5), same grid, once",
                f"{search['search']:.2f}",
                f"{loo / search['search']:.4f}",
            )
        )
    return (
        f"**Leave-one-out tuning at n = {n}**, medians of {repeats} interleaved repeats\n\n"
        + markdown_table(("", "s", "loo over this"), rows)
    )


def _gram(X: np.ndarray, depth: int) -> torch.Tensor:
    kernel = skntk.infinite_width(snn.MLP(in_features=D, depth=depth, **NETWORK))
    return torch.as_tensor(kernel.gram(X, kind="ntk"))


if __name__ == "__main__":
    main()
