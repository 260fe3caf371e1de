"""Peer process of ``empirical_ntk.py``: empirical NTKs by neural-tangents, in its own environment.

The parent starts it with the interpreter of that environment and speaks JSON, one object a line::

    {"do": "versions"}
    {"do": "load", "weights": "weights.npz", "x": "x.npy"}   of a ReLU MLP
    {"do": "repair"}
    {"do": "tile", "implementation": "NTK_VECTOR_PRODUCTS", "batch": 50}
                                                      -> {"compile": ..., "seconds": ...}
    {"do": "kernel", "implementation": ..., "batch": ..., "out": null}   -> {"seconds": ...}

A tile is that of ``batch`` rows and ``batch`` others; of all rows, the kernel itself. Times are of
the compiled function with its input on the device and the result awaited, except that the first
kernel in batches of fewer than all rows compiles.
What fails is answered by ``{"error": ...}``.

``repair`` gives back to ``jax.interpreters.ad`` two names that neural-tangents 0.6.5 looks up there
and that are gone from jax 0.4.38; STRUCTURED_DERIVATIVES does not run without them.
"""

import json
import resource
import sys
import time

SLOW = 20.0  # seconds; what takes longer is not run again to be timed warm


def limit_memory(size: int) -> None:
    """Let a request for more than `size` bytes fail instead of the whole process, or another."""
    if sys.platform == "linux":
        resource.setrlimit(resource.RLIMIT_DATA, (size, size))


def first_line(problem: BaseException) -> str:
    """What went wrong, short enough for a table."""
    text = (str(problem).splitlines() or [""])[0]
    return f"{type(problem).__name__}: {text[:120]}"


def main() -> None:
    """Answer requests from standard input until it closes."""
    answers, sys.stdout = sys.stdout, sys.stderr
    from _nt_worker import _limit_threads

    _limit_threads(int(sys.argv[1]))
    limit_memory(int(sys.argv[2]))
    peer = Peer()
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = getattr(peer, request.pop("do"))(**request)
        except Exception as problem:  # of any kind: jax and XLA have their own
            answer = {"error": first_line(problem)}
        print(json.dumps(answer or {}), file=answers, flush=True)


class Peer:
    """What is loaded and compiled, and a method for each request."""

    def __init__(self) -> None:
        self._params, self._x = [], None
        self._functions = {}

    def versions(self) -> dict[str, str]:
        from importlib.metadata import version

        return {name: version(name) for name in ("neural-tangents", "jax", "jaxlib", "numpy")}

    def load(self, weights: str, x: str) -> None:
        import jax
        import numpy as np

        X = np.load(x)
        if X.dtype == np.float64:
            jax.config.update("jax_enable_x64", True)
        with np.load(weights) as arrays:
            layers = len(arrays.files) // 2
            pairs = [(arrays[f"{i}.weight"].T, arrays[f"{i}.bias"]) for i in range(layers)]
        self._params, self._x = jax.device_put(pairs), jax.device_put(X)

    def repair(self) -> None:
        import jax
        from jax._src import source_info_util
        from jax.interpreters import ad

        ad.source_info_util, ad.config = source_info_util, jax.config

    def tile(self, implementation: str, batch: int) -> dict[str, float]:
        x1, x2 = self._x[:batch], self._x[batch : 2 * batch]
        if batch == len(self._x):
            x2 = None
        start = time.perf_counter()
        compiled = self._jitted(implementation).lower(x1, x2, self._params).compile()
        compiling = time.perf_counter() - start
        if x2 is None:
            self._functions[implementation, batch] = compiled
        seconds = self._seconds(compiled, x1, x2)[0]
        if seconds < SLOW:
            seconds = self._seconds(compiled, x1, x2)[0]
        return {"compile": compiling, "seconds": seconds}

    def kernel(self, implementation: str, batch: int, out: str | None) -> dict[str, float]:
        import neural_tangents
        import numpy as np

        key = implementation, batch
        if key not in self._functions:  # in batches, each of which is jitted by neural-tangents
            ntk_fn = self._ntk_fn(implementation)
            self._functions[key] = neural_tangents.batch(ntk_fn, batch, device_count=0)
        seconds, K = self._seconds(self._functions[key], self._x, None)
        if out:
            np.save(out, np.asarray(K))
        return {"seconds": seconds}

    def _jitted(self, implementation: str):
        import jax

        return jax.jit(self._ntk_fn(implementation))

    @staticmethod
    def _ntk_fn(implementation: str):
        import neural_tangents

        return neural_tangents.empirical_ntk_fn(
            _relu_mlp,
            trace_axes=(),
            vmap_axes=0,
            implementation=neural_tangents.NtkImplementation[implementation],
        )

    def _seconds(self, function, x1, x2):
        start = time.perf_counter()
        K = function(x1, x2, self._params).block_until_ready()
        return time.perf_counter() - start, K


def _relu_mlp(params, x):
    import jax.numpy as jnp

    for i, (weight, bias) in enumerate(params):
        x = (jnp.maximum(x, 0) if i else x) @ weight + bias
    return x


if __name__ == "__main__":
    main()
