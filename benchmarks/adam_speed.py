"""What Adam's limit costs: a long training, its memory, features drawn again, and how it grows.

python benchmarks/adam_speed.py
python benchmarks/adam_speed.py --no-write
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from _memory import peak_bytes, start_of_peak
from _report import markdown_table, publish

from skntk import AdamNTKRegressor

HERE = Path(__file__).resolve().parent
#: Of the long training.
ROWS, STEPS, FEATURES, DEPTH, COLUMNS = 2000, 500, 100_000, 2, 20
#: Steps, and GiB, of the one whose features are drawn again.
SHORT, TIGHT = 10, 0.05
#: Of the growth: one of rows, features and hidden layers is varied at a time.
BASE = {"rows": 1000, "features": 32768, "depth": 2}
VARIED = {
    "rows": (500, 1000, 2000, 4000),
    "features": (16384, 32768, 65536, 131072),
    "depth": (1, 2, 3, 4),
}


def table(rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows with a smooth target."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(rows, COLUMNS))
    return X, np.sin(X[:, 0]) + X[:, 1] * X[:, 2]


def training(steps: int, budget: float | None) -> dict[str, float]:
    """In a process of its own: seconds of a fit, and the most memory beyond its data."""
    command = [
        sys.executable,
        __file__,
        "--fit",
        str(steps),
        "-1" if budget is None else str(budget),
    ]
    done = subprocess.run(command, cwd=HERE, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def _training(steps: int, budget: float | None) -> dict[str, float]:
    X, y = table(ROWS)
    before = start_of_peak()
    model = AdamNTKRegressor(
        DEPTH, learning_rate=0.01, max_epochs=steps, n_features=FEATURES, sampler="networks",
        memory_budget=budget, random_state=0,
    )  # fmt: skip
    start = time.perf_counter()
    model.fit(X, y)
    seconds = time.perf_counter() - start
    peak = peak_bytes() - before
    start = time.perf_counter()
    mean = model.predict(X[:500])
    return {
        "seconds": seconds,
        "GiB": peak / 2**30,
        "kept": model._blocks.nbytes / 2**30,
        "predict": time.perf_counter() - start,
        "hash": float(np.frombuffer(mean.tobytes(), np.int64).sum() % 2**53),
        "loss": float(model.loss_curve_[-1]),
    }


def seconds_per_step(rows: int, features: int, depth: int) -> float:
    """Median over three trainings of the time of five further steps."""
    X, y = table(rows)
    found = []
    for _ in range(3):
        times = []
        for steps in (2, 7):
            model = AdamNTKRegressor(
                depth, learning_rate=0.01, max_epochs=steps, n_features=features,
                sampler="networks", random_state=0,
            )  # fmt: skip
            start = time.perf_counter()
            model.fit(X, y)
            times.append(time.perf_counter() - start)
        found.append((times[1] - times[0]) / 5)
    return float(np.median(found))


def main() -> None:
    """Measure and publish."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--no-write", action="store_true", help="print only")
    parser.add_argument("--fit", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.fit:
        budget = float(args.fit[1])
        print(json.dumps(_training(int(args.fit[0]), None if budget < 0 else budget)))
        return
    runs = {
        f"{STEPS} steps, at most 1 GiB of features": training(STEPS, 1.0),
        f"{SHORT} steps": training(SHORT, None),
        f"{SHORT} steps, at most {TIGHT} GiB of features": training(SHORT, TIGHT),
    }
    names = list(runs)
    rows = [
        [name, f"{r['seconds']:.1f}", f"{r['kept']:.3f}", f"{r['GiB']:.2f}", f"{r['predict']:.1f}",
         f"{r['loss']:.4f}"]
        for name, r in runs.items()
    ]  # fmt: skip
    same = runs[names[1]]["hash"] == runs[names[2]]["hash"]
    growth, exponents = [], []
    for what, values in VARIED.items():
        times = [seconds_per_step(**{**BASE, what: value}) for value in values]
        growth += [[what, value, f"{1000 * t:.0f}"] for value, t in zip(values, times, strict=True)]
        exponents.append(f"{what} {np.polyfit(np.log(values), np.log(times), 1)[0]:.2f}")
        print(what, times, flush=True)
    body = "\n".join([
        f"{ROWS} rows of {COLUMNS} columns, {FEATURES} features of each weight tensor, depth "
        f"{DEPTH}, sampler='networks', Adam on all rows.",
        "",
        markdown_table(["training", "fit, s", "features kept, GiB", "memory, GiB",
                        "predict 500 rows, s", "last loss"], rows),
        "",
        f"The same bits with {TIGHT} GiB, where features are drawn again in each step: {same}.",
        "",
        f"Time of a step, one of rows, features and hidden layers varied; else {BASE}:",
        "",
        markdown_table(["varied", "value", "ms a step"], growth),
        "",
        f"Exponents: {', '.join(exponents)}.",
    ])  # fmt: skip
    publish("adam_speed", body, write=not args.no_write)


if __name__ == "__main__":
    main()
