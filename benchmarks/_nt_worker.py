"""Peer process of ``gram.py``: neural-tangents Grams, timed in its own environment.

The parent starts it with the interpreter of that environment and speaks JSON, one object a line::

    {"do": "versions"}
    {"do": "load", "x": "x.npy", "unit": "unit.npy"}       the inputs, float32
    {"do": "compile", "case": {...}}                       -> {"compile_seconds": ...}
    {"do": "time", "case": {...}}                          -> {"seconds": ...}
    {"do": "rows", "case": {...}, "rows": [...], "out": "k.npy"}

A case has ``name, activation, depth, weight_std, bias_std, unit_norm``. Times are those of the
jitted kernel function at its best: compiled before, input on the device, result awaited.
"""

import json
import os
import sys
import time


def _limit_threads(count: int) -> None:
    """Pin the process to `count` cores: XLA sizes its thread pool by the cores it may use."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:count])


def main() -> None:
    """Answer requests from standard input until it closes."""
    answers, sys.stdout = sys.stdout, sys.stderr
    _limit_threads(int(sys.argv[1]))

    import jax
    import jaxlib
    import neural_tangents
    import numpy as np
    from neural_tangents import stax

    inputs: dict[bool, jax.Array] = {}
    compiled = {}

    def kernel_fn(case):
        activation = {"relu": stax.Relu, "erf": stax.Erf}[case["activation"]]
        bias_std = case["bias_std"] or None
        dense = [stax.Dense(512, case["weight_std"], bias_std) for _ in range(case["depth"] + 1)]
        layers = [dense[0]]
        for layer in dense[1:]:
            layers += [activation(), layer]
        kernel = stax.serial(*layers)[2]
        return jax.jit(lambda x: kernel(x, None, "ntk"))

    def gram(case):
        return compiled[case["name"]](inputs[case["unit_norm"]]).block_until_ready()

    for line in sys.stdin:
        request = json.loads(line)
        case, do = request.get("case"), request["do"]
        answer = {}
        if do == "versions":
            # the archived package does not say its version in an attribute on every release
            from importlib.metadata import version

            answer = {
                "neural-tangents": version("neural-tangents"),
                "jax": jax.__version__,
                "jaxlib": jaxlib.__version__,
                "numpy": np.__version__,
            }
            assert neural_tangents is not None
        elif do == "load":
            inputs = {
                False: jax.device_put(np.load(request["x"])),
                True: jax.device_put(np.load(request["unit"])),
            }
        elif do == "compile":
            compiled[case["name"]] = kernel_fn(case)
            start = time.perf_counter()
            gram(case)
            answer = {"compile_seconds": time.perf_counter() - start}
        elif do == "time":
            start = time.perf_counter()
            gram(case)
            answer = {"seconds": time.perf_counter() - start}
        elif do == "rows":
            rows = np.asarray(request["rows"])
            np.save(request["out"], np.asarray(gram(case))[np.ix_(rows, rows)])
        else:
            raise ValueError(f"do={do!r} is no request of this worker")
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
