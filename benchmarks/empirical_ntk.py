"""Speed and memory of empirical NTKs beside neural-tangents 0.6.5 and `torch.func`.

All run in this one command, the peers in processes of their own, on the same inputs, weights,
precision and number of threads, and take turns; medians are printed. Parts:

- ``mlp``: a ReLU MLP 64-512-512-10, n = 500, all pairs of outputs: (n, n, 10, 10). Beside it each
  implementation of neural-tangents; the recipe of PyTorch's tutorial on `torch.func`; and the
  layerwise contraction written by hand for this one network, for orientation;
- ``cnn``: two convolutional networks of about 1e5 parameters on 100 images, one with as many
  channels in each layer, one with twice as many after each pooling, beside `torch.func`;
- ``wrn``: WideResNet-16-1 on 50 images, beside `torch.func`;
- ``memory``: peak memory of a fresh process, n = 2000 with networks of about 1e6 parameters.

The images are the first of CIFAR-10 if there is a ``cifar10_7k.npz`` in ``--data``, and random
otherwise. A peer runs at its best batch size, which is looked for on parts of the matrix first;
what is reported is always the whole matrix. Before anything is timed, all results must agree. The
peers are not asked for the symmetry of the matrix, which their recipes do not use.

neural-tangents needs an older NumPy and lives in an environment of its own::

    make peers
    python benchmarks/empirical_ntk.py --data DIR
    python benchmarks/empirical_ntk.py --data DIR --only cnn wrn
    python benchmarks/empirical_ntk.py --quick --no-peer        every path, small, nothing written
"""

import argparse
import itertools
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from _cache import HERE
from _comparison import (
    AGREEMENT,
    CHECKED_ROWS,
    SLOW,
    Comparison,
    Way,
    Worker,
    WorkerError,
    judged,
    seconds_of,
)
from _memory import peak_bytes
from _report import markdown_table, publish
from torch import Tensor, nn

import skntk.nn as snn
from skntk.finite import empirical_ntk

PARTS = ("mlp", "cnn", "wrn", "memory")
OUTPUTS = 10
#: Least ratios asked for, and most memory.
OVER_NEURAL_TANGENTS, OVER_TORCH_FUNC_MLP, OVER_TORCH_FUNC_IMAGES = 25, 100, 5
PEAK_GIB = 4
#: Least rows on which sizes of chunks are compared.
PROBED_ROWS = 100
#: Seconds: a batch size that would take longer is not tried.
LONGEST_TRIAL = 150.0


@dataclass(frozen=True)
class Sizes:
    """How much of everything: in full, or what exercises every path quickly."""

    mlp: int = 500
    cnn: int = 100
    wrn: int = 50
    memory: int = 2000
    memory_probe: int = 100


QUICK = Sizes(mlp=20, cnn=4, wrn=2, memory=100, memory_probe=4)


def relu_mlp(*widths: int) -> nn.Sequential:
    """Plain dense layers with torch's own initial weights."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for fan_in, fan_out in itertools.pairwise(widths):
        layers += [nn.ReLU()] if layers else []
        layers.append(nn.Linear(fan_in, fan_out))
    return nn.Sequential(*layers)


def conv_net(width: int) -> nn.Module:
    """Three blocks of a convolution, ReLU and average pooling."""
    torch.manual_seed(0)
    return snn.ConvNet(3, OUTPUTS, depth=3, width=width)


def doubling_net() -> nn.Sequential:
    """Plain convolutions with 32, 64 and 128 channels, max pooling, and a mean over pixels."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(64, 128, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(128, OUTPUTS),
    )


def wide_resnet() -> nn.Module:
    """WideResNet-16-1, whose BatchNorm applies its running statistics."""
    torch.manual_seed(0)
    return snn.WideResNet(depth=16, width=16, norm="batch").eval()


def n_parameters(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


def table(n: int, d: int) -> np.ndarray:
    """Standard normal rows."""
    return np.random.default_rng(0).standard_normal((n, d))


def images(n: int, data: Path | None) -> np.ndarray:
    """Images (n, 3, 32, 32), each channel standardized: of CIFAR-10, or noise without `data`."""
    if data is None:
        X = table(n, 3 * 32 * 32).reshape(n, 3, 32, 32)
    else:
        with np.load(data / "cifar10_7k.npz") as arrays:
            X = arrays["train_images"][:n].transpose(0, 3, 1, 2) / 255.0
    X = np.ascontiguousarray(X)
    return (X - X.mean((0, 2, 3), keepdims=True)) / X.std((0, 2, 3), keepdims=True)


def by_hand(net: nn.Sequential, X: Tensor) -> Tensor:
    """The kernel of a ReLU MLP by one matrix product for each layer's inputs and derivatives."""
    linear = [layer for layer in net if isinstance(layer, nn.Linear)]
    n, k = len(X), linear[-1].out_features
    with torch.no_grad():
        inputs, active = [X], []
        for layer in linear[:-1]:
            z = layer(inputs[-1])
            active.append(z > 0)
            inputs.append(z.relu())
        B = torch.eye(k, dtype=X.dtype)[:, None].expand(k, n, k)
        K = X.new_zeros(k, n, k, n)
        for i in reversed(range(len(linear))):
            A = inputs[i] @ inputs[i].T + 1.0  # the bias is a weight of an input that is one
            flat = B.reshape(k * n, -1)
            K.addcmul_((flat @ flat.T).view(K.shape), A[:, None])
            if i:
                B = (flat @ linear[i].weight).view(k, n, -1) * active[i - 1]
    return K.permute(1, 3, 0, 2)


def batch_sizes(n: int) -> list[int]:
    """Those that are tried: all divide n."""
    return [n // parts for parts in (10, 4, 2, 1) if n % parts == 0 and n >= parts]


def add_torch_func(comparison: Comparison, slow_repeats: int) -> tuple[list[Way], Way | None]:
    """The recipe at its best block and chunk of rows and without; with one Jacobian, not two."""
    worker, n = comparison.torch_func, len(comparison.X)
    chunks: dict[int, float] = {}
    for chunk in sorted({1, 2, 5, 10, 25, 50, 100, n}):
        rows = min(n, max(chunk, PROBED_ROWS))
        if chunk > n:
            break
        try:
            chunks[chunk] = worker.ask("chunk", chunk=chunk, rows=rows)["seconds"] / rows
        except WorkerError:
            break
    chunk = min(chunks, key=chunks.__getitem__)
    blocks: dict[int, float] = {}
    last: tuple[int, float] | None = None
    for block in batch_sizes(n):
        if last and last[1] * (block / last[0]) ** 2 > LONGEST_TRIAL:
            break
        try:
            tile = worker.ask("tile", block=block, chunk=chunk)
        except WorkerError:
            break
        parts, one, both = n // block, tile["jacobian"], tile["contraction"]
        last = block, 2 * one + both
        blocks[block] = 2 * one + both if parts == 1 else parts * one + parts**2 * (one + both)
    block = min(blocks, key=blocks.__getitem__)

    def timed(rows: int, once: bool, out: Path | None = None, mapped: int = chunk) -> float:
        file = None if out is None else str(out)
        return worker.ask("kernel", block=rows, chunk=mapped, once=once, out=file)["seconds"]

    out = comparison.folder / "torch_func.npy"
    seconds = timed(block, False, out)
    held = "all rows at a time" if block == n else f"blocks of {block} rows"
    mapped = f"vmap over {chunk} rows"
    recipe = Way("torch.func, recipe", lambda: timed(block, False), note=f"{held}, {mapped}")
    comparison.add(recipe, np.load(out), slow_repeats=slow_repeats, seconds=seconds)
    recipes = [recipe]
    if chunk < n == block and 2 * n * chunks.get(n, SLOW) < SLOW:  # as the tutorial has it
        note = f"all rows at a time, vmap over {n} rows"
        plain = Way("torch.func, no chunks", lambda: timed(n, False, mapped=n), note=note)
        seconds = timed(n, False, out, n)
        recipes.append(comparison.add(plain, np.load(out), seconds=seconds))
    name = "torch.func, one Jacobian"
    try:
        seconds = timed(n, True, out)
    except WorkerError as problem:
        comparison.add_unmeasured(name, str(problem))
        return recipes, None
    once = Way(name, lambda: timed(n, True), note=f"all rows at a time, {mapped}")
    return recipes, comparison.add(once, np.load(out), seconds=seconds)


IMPLEMENTATIONS = ("JACOBIAN_CONTRACTION", "NTK_VECTOR_PRODUCTS", "STRUCTURED_DERIVATIVES")
REPAIRED = ", repaired"


@dataclass
class Peer:
    """An implementation of neural-tangents at its best batch size."""

    implementation: str
    worker: Worker
    batch: int
    compiling: float
    expected: float


def add_neural_tangents(
    comparison: Comparison, python: Path, slow_repeats: int
) -> tuple[Way | None, Way | None, dict[str, str]]:
    """Its implementations: the best as installed, the repaired one, and the peer's versions."""
    arrays = {}
    linear = [layer for layer in comparison.net if isinstance(layer, nn.Linear)]
    for i, layer in enumerate(linear):
        arrays[f"{i}.weight"] = layer.weight.detach().numpy()
        arrays[f"{i}.bias"] = layer.bias.detach().numpy()
    weights, x = comparison.folder / "weights.npz", comparison.folder / "x.npy"
    np.savez(weights, **arrays)
    load = {"do": "load", "weights": str(weights), "x": str(x)}
    command = [python, HERE / "_nt_entk_worker.py"]
    as_installed = comparison.worker(command, [load])
    with_repair = comparison.worker(command, [load, {"do": "repair"}])
    versions = as_installed.ask("versions")
    outcomes: dict[str, Peer | WorkerError] = {}
    jobs = [(name, as_installed) for name in IMPLEMENTATIONS] + [(IMPLEMENTATIONS[-1], with_repair)]
    for implementation, worker in jobs:
        name = f"neural-tangents, {implementation}"
        name += REPAIRED if worker is with_repair else ""
        try:
            outcomes[name] = _best_batch(implementation, worker, len(comparison.X))
        except WorkerError as problem:
            outcomes[name] = problem
    expected = {
        name: peer.expected
        for name, peer in outcomes.items()
        if isinstance(peer, Peer) and peer.worker is as_installed
    }
    best = min(expected, key=expected.__getitem__, default="")
    ways = {}
    for name, peer in outcomes.items():
        if isinstance(peer, WorkerError):
            comparison.add_unmeasured(name, str(peer))
        elif name != best and peer.expected > LONGEST_TRIAL:
            note = f"not run: about {peer.expected:.0f} s by a tile of {peer.batch} rows"
            comparison.add_unmeasured(name, note)
        else:
            try:
                ways[name] = _add_peer(comparison, name, peer, slow_repeats if name == best else 1)
            except WorkerError as problem:
                comparison.add_unmeasured(name, str(problem))
    restored = ways.get(f"neural-tangents, {IMPLEMENTATIONS[-1]}{REPAIRED}")
    return ways.get(best), restored, versions


def _best_batch(implementation: str, worker: Worker, n: int) -> Peer:
    """Try tiles of several sizes; fail as the smallest does."""
    best: Peer | None = None
    last: tuple[int, float] | None = None
    for batch in batch_sizes(n):
        if last and last[1] * (batch / last[0]) ** 2 > LONGEST_TRIAL:
            break
        try:
            tile = worker.ask("tile", implementation=implementation, batch=batch)
        except WorkerError:
            if best is None:
                raise
            break
        last = batch, tile["seconds"]
        expected = tile["seconds"] * (n / batch) ** 2
        if best is None or expected < best.expected:
            best = Peer(implementation, worker, batch, tile["compile"], expected)
    assert best is not None
    return best


def _add_peer(comparison: Comparison, name: str, peer: Peer, slow_repeats: int) -> Way:
    out = comparison.folder / "peer.npy"

    def timed(file: Path | None = None) -> float:
        return peer.worker.ask(
            "kernel",
            implementation=peer.implementation,
            batch=peer.batch,
            out=None if file is None else str(file),
        )["seconds"]

    seconds = timed(out)
    whole = peer.batch == len(comparison.X)
    note = "all rows at a time" if whole else f"batches of {peer.batch} rows"
    way = Way(name, timed, note=note, compiling=peer.compiling)
    return comparison.add(way, np.load(out), slow_repeats=slow_repeats, seconds=seconds)


def compare_mlp(args: argparse.Namespace, sizes: Sizes) -> tuple[str, dict[str, str]]:
    """Table and verdicts of the MLP, and the versions of neural-tangents and what it needs."""
    net = relu_mlp(64, 512, 512, OUTPUTS).to(getattr(torch, args.dtype))
    X = table(sizes.mlp, 64).astype(args.dtype)
    versions: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        comparison = Comparison(net, X, args, Path(folder))
        rows = torch.from_numpy(X)
        hand = Way("by hand, layerwise", lambda: seconds_of(lambda: by_hand(net, rows)))
        comparison.add(hand, by_hand(net, rows).numpy())
        recipes, once = add_torch_func(comparison, args.slow_repeats)
        installed = repaired = None
        if not args.no_peer:
            installed, repaired, versions = add_neural_tangents(
                comparison, args.peer_python, args.slow_repeats
            )
        comparison.take_turns()
    lines = []
    if not args.no_peer:
        name = "" if installed is None else f", the best as installed ({installed.name})"
        lines.append(comparison.verdict(installed, OVER_NEURAL_TANGENTS, "neural-tangents" + name))
        if repaired is not None:
            name = "neural-tangents' STRUCTURED_DERIVATIVES, repaired"
            lines.append(comparison.verdict(repaired, OVER_NEURAL_TANGENTS, name))
    lines += _torch_func_verdicts(comparison, recipes, once, OVER_TORCH_FUNC_MLP)
    title = f"ReLU MLP 64-512-512-{OUTPUTS}"
    return _part(title, net, X, comparison, lines), versions


def compare_images(title: str, net: nn.Module, n: int, args: argparse.Namespace) -> str:
    """Table and verdict of a network for images."""
    net = net.to(getattr(torch, args.dtype))
    X = images(n, args.data).astype(args.dtype)
    with tempfile.TemporaryDirectory() as folder:
        comparison = Comparison(net, X, args, Path(folder))
        recipes, once = add_torch_func(comparison, args.slow_repeats)
        comparison.take_turns()
    lines = _torch_func_verdicts(comparison, recipes, once, OVER_TORCH_FUNC_IMAGES)
    kind = "images of CIFAR-10" if args.data else "images of noise"
    return _part(f"{title}, {kind}", net, X, comparison, lines)


def _torch_func_verdicts(
    comparison: Comparison, recipes: list[Way], once: Way | None, least: float
) -> list[str]:
    tuned = recipes[0] if recipes[0].times else None
    lines = [comparison.verdict(tuned, least, "the recipe of torch.func, at its best chunk")]
    lines += [
        comparison.verdict(plain, least, "the recipe of torch.func, as the tutorial has it")
        for plain in recipes[1:]
        if plain.times
    ]
    if once is not None:
        lines.append(comparison.verdict(once, least, "torch.func with one Jacobian for both sides"))
    return lines


def _part(
    title: str, net: nn.Module, X: np.ndarray, comparison: Comparison, lines: list[str]
) -> str:
    head = f"**{title}**: {n_parameters(net):,} parameters, n = {len(X)}, {X.dtype}, full kernel"
    return "\n\n".join([head, comparison.table(), "\n".join(lines)])


MEMORY_NETS = {
    "mlp": ("ReLU MLP 100-950-950-10", lambda: relu_mlp(100, 950, 950, OUTPUTS)),
    "cnn": ("ConvNet of width 236", lambda: conv_net(236)),
}


def memory(args: argparse.Namespace, sizes: Sizes) -> str:
    """Table of peak memory, each in a process of its own."""
    n, rows = sizes.memory, []
    done = {}
    for kind, dtype in (("mlp", "float64"), ("mlp", "float32"), ("cnn", "float32")):
        fits = n
        if kind == "cnn":  # its time grows with the square of the rows
            probe = _in_fresh_process(args, kind, sizes.memory_probe, dtype)["seconds"]
            fits = sizes.memory_probe * int((args.memory_limit / probe) ** 0.5)
            fits = min(n, max(sizes.memory_probe, fits))
        used = done[kind, dtype] = _in_fresh_process(args, kind, fits, dtype)
        rows.append(
            (
                MEMORY_NETS[kind][0],
                f"{used['parameters']:,}",
                dtype,
                fits,
                f"{used['result'] / 2**30:.2f}",
                f"{used['peak'] / 2**30:.2f}",
                f"{used['seconds']:.1f}",
            )
        )
    header = ("", "parameters", "", "n", "kernel, GiB", "peak, GiB", "s")
    peak = done["mlp", "float64"]["peak"] / 2**30
    note = (
        "All that the process ever held at once, PyTorch and the kernel itself included; one call"
        f" each. The rows of the ConvNet are as many as fit in about {args.memory_limit:g} s."
    )
    verdict = (
        f"- Asked: less than {PEAK_GIB} GiB in float64 at n = 2000. Measured: {peak:.2f} GiB at"
        f" n = {n}. {judged(peak < PEAK_GIB, args)}"
    )
    title = f"**Peak memory** of a fresh process, full kernel of {OUTPUTS} outputs"
    return "\n\n".join([title, markdown_table(header, rows), note, verdict])


def _in_fresh_process(args: argparse.Namespace, kind: str, n: int, dtype: str) -> dict:
    command = [sys.executable, Path(__file__), "--memory-worker", kind, str(n), dtype]
    command += ["--threads", str(args.threads)]
    command += ["--data", args.data] if args.data else []
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=max(600, args.limit)
    )
    if done.returncode:
        raise SystemExit(f"the memory worker failed at {kind}, n={n}:\n{done.stderr}")
    return json.loads(done.stdout)


def _peak_of_one_call(kind: str, n: int, dtype: str, data: Path | None) -> dict[str, float]:
    """Run in a fresh process."""
    net = MEMORY_NETS[kind][1]().to(getattr(torch, dtype))
    X = (table(n, 100) if kind == "mlp" else images(n, data)).astype(dtype)
    start = time.perf_counter()
    K = empirical_ntk(net, X)
    seconds = time.perf_counter() - start
    return {
        "parameters": n_parameters(net),
        "result": K.nbytes,
        "peak": peak_bytes(),
        "seconds": seconds,
    }


def main() -> None:
    args = _arguments()
    torch.set_num_threads(args.threads)
    if args.memory_worker:
        kind, n, dtype = args.memory_worker
        print(json.dumps(_peak_of_one_call(kind, int(n), dtype, args.data)))
        return
    if "mlp" in args.only and not args.no_peer and not args.peer_python.exists():
        raise SystemExit(
            f"--peer-python: there is no {args.peer_python}; run `make peers`, or pass --no-peer."
        )
    sizes = QUICK if args.quick else Sizes()
    versions: dict[str, str] = {}
    parts = []
    for part in (part for part in PARTS if part in args.only):
        if part == "mlp":
            body, versions = compare_mlp(args, sizes)
        elif part == "cnn":
            same = compare_images("ConvNet of width 72", conv_net(72), sizes.cnn, args)
            doubling = compare_images("CNN 32-64-128", doubling_net(), sizes.cnn, args)
            body = f"{same}\n\n{doubling}"
        elif part == "wrn":
            body = compare_images("WideResNet-16-1", wide_resnet(), sizes.wrn, args)
        else:
            body = memory(args, sizes)
        print(f"\n{body}", flush=True)
        parts.append(body)
    parts.append(_notes(args))
    whole = set(args.only) == set(PARTS) and not args.no_peer and args.dtype == "float32"
    name = "empirical_ntk" if whole else f"empirical_ntk (part: {', '.join(sorted(args.only))})"
    publish(
        name,
        "\n\n".join(parts),
        extra_versions={f"peer: {key}": value for key, value in versions.items()},
        write=not (args.no_write or args.quick),
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--peer-python",
        type=Path,
        default=HERE.parent / ".venv-peers" / "bin" / "python",
        help="interpreter of the environment that `make peers` makes (default .venv-peers)",
    )
    parser.add_argument("--no-peer", action="store_true", help="leave neural-tangents out")
    parser.add_argument("--data", type=Path, help="folder of cifar10_7k.npz; without it, noise")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="parts to run")
    parser.add_argument("--quick", action="store_true", help="few rows; nothing is written")
    parser.add_argument("--dtype", choices=sorted(AGREEMENT), default="float32")
    parser.add_argument("--threads", type=int, default=2, help="for each library (default 2)")
    parser.add_argument("--repeats", type=int, default=5, help="default 5")
    parser.add_argument(
        "--slow-repeats",
        type=int,
        default=3,
        help=f"of a peer that takes more than {SLOW:g} s and is compared with (default 3)",
    )
    parser.add_argument(
        "--limit", type=float, default=1200.0, help="seconds for any one call (default 1200)"
    )
    parser.add_argument(
        "--memory-limit", type=float, default=300.0, help="seconds for the ConvNet's memory"
    )
    parser.add_argument("--no-write", action="store_true", help="print only")
    parser.add_argument(
        "--memory-worker", nargs=3, metavar=("KIND", "N", "DTYPE"), help=argparse.SUPPRESS
    )
    args = parser.parse_args()
    if args.quick:
        args.memory_limit, args.repeats = min(args.memory_limit, 2.0), min(args.repeats, 2)
    return args


def _notes(args: argparse.Namespace) -> str:
    return (
        f"{args.dtype} where nothing else is said, {args.threads} threads each, medians of"
        " interleaved repeats, each the second of two calls; what takes more than"
        f" {SLOW:g} s has single calls, and fewer of them, as the tables say. Error: largest on"
        f" {CHECKED_ROWS} rows against float64 by torch.func, relative to sqrt(k(x, x) k(y, y));"
        " difference: largest from ours on all rows; one of"
        " 1e-4 is a ReLU whose input is zero within rounding. What is neither sweeps nor"
        " contractions is planning and assembling. Full kernels of both libraries are those of"
        " all pairs of outputs, (n, n, 10, 10); ours and that by hand lie in memory as"
        " (10, n, 10, n)."
        " Peers: `empirical_ntk_fn(f, trace_axes=(), vmap_axes=0, implementation=...)`, compiled"
        " before, `neural_tangents.batch` where it is in batches; repaired: two names put back"
        " that it looks for in `jax.interpreters.ad`. torch.func:"
        " `vmap(jacrev(functional_call))` and `einsum('Naf,Mbf->NMab')`; its recipe takes the"
        " Jacobian of both sides."
    )


if __name__ == "__main__":
    main()
