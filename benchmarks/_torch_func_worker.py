"""Peer process of ``empirical_ntk.py``: the empirical NTK by the recipe of PyTorch's tutorial.

"Neural tangent kernels" in the tutorials of `torch.func`: the Jacobians of both sets of rows, by
``vmap(jacrev(functional_call))``, contracted one parameter after the other by ``einsum``. A process
of its own, so that neither library changes how the other's memory is allocated, and one that runs
out of memory stops nothing else. JSON, one object a line::

    {"do": "load", "net": "net.pt", "x": "x.npy"}
    {"do": "reference", "rows": [...], "out": "k.npy"}    some rows, in float64
    {"do": "chunk", "chunk": 10, "rows": 100}    -> {"seconds": ...} of a Jacobian
    {"do": "tile", "block": 100, "chunk": 10}    -> {"jacobian": ..., "contraction": ...}, seconds
    {"do": "kernel", "block": 100, "chunk": 10, "once": false, "out": null} -> {"seconds": ...}

``block`` is the number of rows whose Jacobians are held at a time, ``chunk`` that of one call of
vmap; ``once`` takes the Jacobian of a single set of rows, where the recipe has two. What fails is
answered by ``{"error": ...}``.
"""

import copy
import json
import sys
import time
from collections.abc import Callable

import numpy as np
import torch
from _nt_entk_worker import first_line, limit_memory
from torch import Tensor, nn
from torch.func import functional_call, jacrev, vmap

SLOW = 20.0  # seconds; what takes longer is not run again to be timed warm


def main() -> None:
    """Answer requests from standard input until it closes."""
    answers, sys.stdout = sys.stdout, sys.stderr
    torch.set_num_threads(int(sys.argv[1]))
    limit_memory(int(sys.argv[2]))
    net, X = nn.Identity(), torch.empty(0)
    for line in sys.stdin:
        request = json.loads(line)
        try:
            if request["do"] == "load":
                net = torch.load(request["net"], weights_only=False)
                X = torch.from_numpy(np.load(request["x"]))
                answer = {}
            else:
                answer = _answer(net, X, **request)
        except (RuntimeError, MemoryError) as problem:
            answer = {"error": first_line(problem)}
        print(json.dumps(answer), file=answers, flush=True)


def _answer(net: nn.Module, X: Tensor, do: str, **options: object) -> dict:
    if do == "reference":
        rows = X[torch.tensor(options["rows"])].double()
        exact = copy.deepcopy(net).double()
        J = jacobian(exact, rows, 1)
        np.save(options["out"], contraction(J, J).numpy())
        return {}
    chunk = options["chunk"]
    if do == "chunk":
        return {"seconds": _warm(lambda: jacobian(net, X[: options["rows"]], chunk))}
    block = options["block"]
    if do == "tile":
        both = _warm(lambda: (jacobian(net, X[:block], chunk), jacobian(net, X[-block:], chunk)))
        J1, J2 = jacobian(net, X[:block], chunk), jacobian(net, X[-block:], chunk)
        return {"jacobian": both / 2, "contraction": _warm(lambda: contraction(J1, J2))}
    if do == "kernel":
        start = time.perf_counter()
        K = kernel(net, X, block, chunk, options["once"])
        seconds = time.perf_counter() - start
        if options["out"]:
            np.save(options["out"], K.numpy())
        return {"seconds": seconds}
    raise ValueError(f"do={do!r} is no request of this worker")


def _warm(function: Callable[[], object]) -> float:
    """Seconds of the second call, or of the first if it is slow."""
    seconds = 0.0
    for _ in range(2):
        start = time.perf_counter()
        function()
        seconds = time.perf_counter() - start
        if seconds > SLOW:
            break
    return seconds


def jacobian(net: nn.Module, X: Tensor, chunk: int) -> list[Tensor]:
    """Jacobians (n, k, size) of all rows with respect to each parameter."""
    parameters = {name: p.detach() for name, p in net.named_parameters()}

    def one_row(chosen: dict[str, Tensor], x: Tensor) -> Tensor:
        return functional_call(net, chosen, (x.unsqueeze(0),)).squeeze(0)

    size = None if chunk >= len(X) else chunk
    found = vmap(jacrev(one_row), (None, 0), chunk_size=size)(parameters, X)
    return [J.flatten(2) for J in found.values()]


def contraction(J1: list[Tensor], J2: list[Tensor]) -> Tensor:
    """Kernel (n1, n2, k, k) of two lists of Jacobians, as in the tutorial."""
    parts = [torch.einsum("Naf,Mbf->NMab", one, two) for one, two in zip(J1, J2, strict=True)]
    return torch.stack(parts).sum(0)


def kernel(net: nn.Module, X: Tensor, block: int, chunk: int, once: bool) -> Tensor:
    """Kernel of all rows with themselves, (n, n, k, k)."""
    n = len(X)
    if block >= n:
        J1 = jacobian(net, X, chunk)
        return contraction(J1, J1 if once else jacobian(net, X, chunk))
    K = torch.empty(0)
    for i in range(0, n, block):
        J1 = jacobian(net, X[i : i + block], chunk)
        for j in range(0, n, block):
            tile = contraction(J1, jacobian(net, X[j : j + block], chunk))
            if not len(K):
                K = tile.new_empty(n, n, *tile.shape[2:])
            K[i : i + block, j : j + block] = tile
    return K


if __name__ == "__main__":
    main()
