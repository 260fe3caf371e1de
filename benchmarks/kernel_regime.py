"""Where theory is right: the laws of the kernel regime, as the reports of skntk measure them.

Small synthetic problems, random targets at standard normal rows, and networks of one or three
hidden layers in the NTK parametrization:

- ``laws``: exponents in the width of `kernel_regime_report`, by gradient descent. Theory: the
  distance from the limit falls as width^-1/2; parameters move relative to their size as width^-1/2
  with one hidden layer and about width^-1 with more; kernel change and linearization error fall as
  width^-1/2 or faster, for smooth activations as width^-1;
- ``conditions``: C' and the rate of the undamped natural gradient, at width 65536;
- ``differences``: those of `disconnect_report` with gradient descent, at width 8192.

    python benchmarks/kernel_regime.py
"""

import argparse
from typing import Any

import numpy as np
import torch
from _report import markdown_table, publish

from skntk import NetworkRegressor
from skntk.diagnostics import (
    disconnect_report,
    kernel_regime_report,
    natural_gradient_conditions,
)

LAWS = (
    ("erf", 1, (256, 1024, 4096, 16384)),
    ("erf", 3, (64, 256, 1024)),
    ("relu", 1, (256, 1024, 4096, 16384)),
)
QUANTITIES = ("limit_distance", "parameter_movement", "kernel_change", "linearization_error")
EPOCHS = 20


def network(**params: Any) -> NetworkRegressor:
    return NetworkRegressor(bias_std=0.3, dtype="float64", **params)


def noise(seed: int, n: int, d: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n, d)), rng.standard_normal(n)


def smooth(seed: int, n: int = 40) -> tuple[np.ndarray, np.ndarray]:
    """A function that can be learned, with little noise."""
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, 3))
    return X, np.sin(X[:, 0]) + 0.5 * X[:, 1] + 0.1 * rng.standard_normal(n)


def laws(problems: int) -> str:
    rows = []
    for activation, depth, widths in LAWS:
        net = network(activation=activation, depth=depth, width=widths[-1], optimizer="gd",
                      max_epochs=EPOCHS)  # fmt: skip
        found = []
        for seed in range(problems):
            report = kernel_regime_report(
                net, *noise(seed, 6, 4), widths=widths, n_seeds=6, n_times=2, random_state=seed
            )
            exponents = report.laws.set_index(["quantity", "epoch"]).exponent
            found.append([exponents[q, 0 if q == "limit_distance" else EPOCHS] for q in QUANTITIES])
        found = np.array(found)
        cells = [f"{m:.2f} ± {s:.2f}" for m, s in zip(found.mean(0), found.std(0), strict=True)]
        rows.append((activation, depth, f"{widths[0]} to {widths[-1]}", *cells))
        print(*rows[-1], flush=True)
    header = ("activation", "hidden layers", "widths", *(q.replace("_", " ") for q in QUANTITIES))
    return (
        f"Exponents in the width over {problems} problems of 6 rows (mean ± standard deviation), 6 "
        f"networks of each width, {EPOCHS} steps.\n\n" + markdown_table(header, rows)
    )


def conditions(problems: int) -> str:
    rows = []
    for n in (5, 8):
        for activation in ("erf", "relu"):
            found = [
                natural_gradient_conditions(
                    network(activation=activation, depth=1, max_epochs=25),
                    *noise(seed, n, 6),
                    widths=[65536],
                    optimizers=["gd", "natural_gradient"],
                    n_seeds=1,
                    n_times=4,
                    random_state=seed,
                ).summary.set_index("optimizer")
                for seed in range(problems)
            ]
            natural = [summary.loc["natural_gradient"] for summary in found]
            c = [row.c_prime for row in natural]
            plain = [summary.c_prime["gd"] for summary in found]
            factors = [row.observed_factor for row in natural]
            rows.append((
                n,
                activation,
                f"{np.mean(c):.2f} ({min(c):.2f} to {max(c):.2f})",
                f"{np.mean(plain):.2f} ({min(plain):.2f} to {max(plain):.2f})",
                f"{sum(v < 0.5 for v in c)}/{problems}",
                f"{min(factors):.4f} to {max(factors):.4f}",
                f"{natural[0].promised_factor:.2f}",
                f"{sum(int(row.n_kept) for row in natural)}/{problems}",
            ))  # fmt: skip
            print(*rows[-1], flush=True)
    header = ("rows", "activation", "C' of the natural gradient", "C' of gradient descent",
              "below 1/2", "squared residual, a step", "promised", "kept")  # fmt: skip
    return (
        f"C' at width 65536, one hidden layer, {problems} problems: mean (range).\n\n"
        + markdown_table(header, rows)
    )


def differences(problems: int) -> str:
    rows = []
    for centered in (False, True):
        net = network(activation="erf", depth=1, optimizer="gd", max_epochs=50, centered=centered)
        found = [
            disconnect_report(
                net, *smooth(seed), widths=[8192], n_seeds=8, random_state=seed
            ).summary.set_index("difference")
            for seed in range(problems)
        ]
        for name in found[0].index:
            of = [summary.loc[name] for summary in found]
            hold = sum(row.low <= 0 <= row.high for row in of)
            widest = max(row.high - row.low for row in of)
            none = sum(row.finding == "none" for row in of)
            rows.append(("zero" if centered else "random", name.replace("_", " "),
                         f"{hold}/{problems}", f"{widest:.4f}", f"{none}/{problems}"))  # fmt: skip
            print(*rows[-1], flush=True)
    header = ("start", "difference of R^2", "intervals that hold 0", "widest", "none beyond 0.02")
    return (
        f"One hidden layer of 8192 units (erf), gradient descent, 8 runs each on {problems} "
        "problems.\n\n" + markdown_table(header, rows)
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--problems", type=int, default=5, help="of each kind")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--no-write", action="store_true", help="print only")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    parts = [part(args.problems) for part in (laws, conditions, differences)]
    publish("kernel_regime", "\n\n".join(parts), write=not args.no_write)


if __name__ == "__main__":
    main()
