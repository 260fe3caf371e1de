"""What orthogonal gradient descent costs: time beside dense gradients, projections, memory.

Beside the stored gradients of the package, which are factored, the same training with gradients
that are written out and made orthonormal.

    python benchmarks/continual_speed.py --data DIR
    python benchmarks/continual_speed.py --data DIR --no-write
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _memory import peak_bytes
from _report import markdown_table, publish

from skntk import ContinualNTK
from skntk.continual import rules
from skntk.continual.gradients import stored_gradients
from skntk.continual.projection import StoredDirections
from skntk.datasets import load
from skntk.nn import MLP

HERE = Path(__file__).resolve().parent
N_TASKS, ROWS, STORED, HIDDEN = 10, 1000, 200, 100
#: Of the wide network that must fit.
WIDE, WIDE_TASKS = 8192, 15
#: Of what is timed: threads, widths of a projection, and numbers of stored gradients.
THREADS, PROJECTED, COUNTS = 2, (100, 1024, 8192), (200, 400, 800, 1600, 3000)


class DenseDirections(StoredDirections):
    """The usual way: gradients written out, made orthonormal as they come, and a product a step."""

    def __init__(self) -> None:
        super().__init__()
        self.Q: torch.Tensor | None = None

    def __len__(self) -> int:
        return 0 if self.Q is None else self.Q.shape[1]

    @property
    def nbytes(self) -> int:
        return 0 if self.Q is None else self.Q.nbytes

    def add(self, parts: Any, n_components: int | None = None) -> None:
        written = [part.written(slice(0, len(part))).float() for part in parts]
        J = torch.cat(written, 1).T
        self.names = [(part.frame, part.size) for part in parts]
        if self.Q is not None:
            J = J - self.Q @ (self.Q.T @ J)
        new = torch.linalg.qr(J).Q
        self.Q = new if self.Q is None else torch.cat([self.Q, new], 1)

    def project(self, vector: dict[str, torch.Tensor]) -> None:
        flat = torch.cat([frame.matrix(vector).flatten() for frame, _ in self.names])
        flat -= self.Q @ (self.Q.T @ flat)
        pieces = flat.split([size for _, size in self.names])
        for (frame, _), piece in zip(self.names, pieces, strict=True):
            matrix = piece.view(frame.B.shape[-1], -1)
            for name, value in frame.split(matrix).items():
                vector[name].copy_(value)


def sequence(directions: type[StoredDirections], X: np.ndarray, y: np.ndarray) -> dict[str, Any]:
    """Ten permuted tasks of 1000 images: seconds in all, and the memory of what is stored."""
    rng = np.random.default_rng(0)
    model = ContinualNTK("ogd", depth=1, width=HIDDEN, memory_size=STORED, max_epochs=5,
                         random_state=0)  # fmt: skip
    original = rules.StoredDirections
    rules.StoredDirections = directions  # type: ignore[misc]
    try:
        begun = time.perf_counter()
        for i in range(N_TASKS):
            at = rng.permutation(len(X))[:ROWS]
            columns = np.arange(X.shape[1]) if i == 0 else rng.permutation(X.shape[1])
            model.partial_fit(X[at][:, columns], y[at], classes=range(10) if i == 0 else None)
        seconds = time.perf_counter() - begun
    finally:
        rules.StoredDirections = original  # type: ignore[misc]
    return {
        "seconds": seconds,
        "bytes": model.memory_["bytes"],
        "stored": model.memory_["gradients"],
    }


def projections(width: int, counts: tuple[int, ...]) -> list[dict[str, float]]:
    """Seconds of one projection against the number of stored gradients."""
    generator = torch.Generator().manual_seed(0)
    net = MLP(784, 10, width=width)
    stored, found = StoredDirections(), []
    n_parameters = sum(p.numel() for p in net.parameters())
    for count in counts:
        X = torch.rand(count - len(stored), 784, generator=generator)
        labels = torch.randint(10, (len(X),), generator=generator)
        begun = time.perf_counter()
        stored.add(stored_gradients(net, X, torch.nn.functional.one_hot(labels, 10) > 0))
        storing = time.perf_counter() - begun
        vector = {n: torch.randn(p.shape, generator=generator) for n, p in net.named_parameters()}
        times = []
        for _ in range(5):
            begun = time.perf_counter()
            stored.project(vector)
            times.append(time.perf_counter() - begun)
        found.append({
            "stored": len(stored), "seconds": float(np.median(times)), "storing": storing,
            "MiB": stored.nbytes / 2**20, "dense MiB": 4 * len(stored) * n_parameters / 2**20,
        })  # fmt: skip
    return found


def wide() -> dict[str, float]:
    """In a process of its own: 15 tasks at width 8192, and the most memory that it took."""
    done = subprocess.run(
        [sys.executable, __file__, "--wide"], cwd=HERE, capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def _wide() -> dict[str, float]:
    rng = np.random.default_rng(0)
    before = peak_bytes() / 2**30
    model = ContinualNTK("ogd", depth=1, width=WIDE, memory_size=STORED, max_epochs=1,
                         batch_size=None, learning_rate=0.1, random_state=0)  # fmt: skip
    begun = time.perf_counter()
    for i in range(WIDE_TASKS):
        X, y = rng.random((STORED, 784)), rng.integers(10, size=STORED)
        model.partial_fit(X, y, classes=range(10) if i == 0 else None)
    return {
        "GiB before": before,
        "GiB at most": peak_bytes() / 2**30,
        "stored": model.memory_["gradients"],
        "stored MiB": model.memory_["bytes"] / 2**20,
        "dense GiB": 4 * model.memory_["gradients"]
        * sum(p.numel() for p in model.module_.parameters()) / 2**30,
        "seconds": time.perf_counter() - begun,
    }  # fmt: skip


def section(data_dir: Path) -> str:
    torch.set_num_threads(THREADS)
    data = load("mnist_10k", data_dir)
    parts = [
        f"{N_TASKS} tasks of {ROWS} images, 784-{HIDDEN}-10, {STORED} stored gradients a task, 5 "
        f"epochs, {THREADS} threads, median of three; beside it the same training with dense "
        "orthonormal gradients, once."
    ]
    rows = []
    for name, kind, repeats in (("factored", StoredDirections, 3), ("dense", DenseDirections, 1)):
        found = [sequence(kind, data.X, data.y) for _ in range(repeats)]
        rows.append((name, f"{np.median([f['seconds'] for f in found]):.1f}",
                     f"{found[0]['bytes'] / 2**20:.0f}", found[0]["stored"]))  # fmt: skip
    parts.append(markdown_table(("stored gradients", "seconds in all", "MiB", "number"), rows))
    rows = [
        (f"{width}, {f['stored']}", f"{1e3 * f['seconds']:.1f}", f"{f['MiB']:.0f}",
         f"{f['dense MiB']:.0f}")
        for width in PROJECTED for f in projections(width, COUNTS)
    ]  # fmt: skip
    parts.append("One projection, by width and number of stored gradients.\n\n" + markdown_table(
        ("width, stored", "ms", "MiB", "MiB if dense"), rows))  # fmt: skip
    found = wide()
    parts.append(
        f"Width {WIDE}, {WIDE_TASKS} tasks, {found['stored']} stored gradients, in a process of "
        f"its own: {found['GiB at most']:.2f} GiB at most (of which {found['GiB before']:.2f} "
        f"before the first task), {found['stored MiB']:.0f} MiB stored; dense gradients would "
        f"take {found['dense GiB']:.0f} GiB."
    )
    return "\n\n".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="directory of the archives")
    parser.add_argument("--no-write", action="store_true")
    parser.add_argument("--wide", action="store_true", help="only the wide network, as JSON")
    options = parser.parse_args()
    if options.wide:
        print(json.dumps(_wide()))
        return
    if options.data is None:
        parser.error("--data is needed")
    publish("continual_speed", section(options.data), write=not options.no_write)


if __name__ == "__main__":
    main()
