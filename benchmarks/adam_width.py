"""How fast finite networks that Adam trains approach the limit, by width and epsilon.

The deviation of linearized and fully trained networks (scaled_adam) from Adam's limit at test rows,
root mean square over rows and networks, and the exponent of the width that fits it.

    python benchmarks/adam_width.py
"""

import argparse
import warnings

import numpy as np
from _report import markdown_table, publish

from skntk import AdamNTKRegressor, NetworkRegressor
from skntk.training import scaling

ROWS, TEST, COLUMNS, STEPS, RATE = 40, 60, 4, 20, 0.03
WIDTHS, EPS = (32, 64, 128, 256, 512, 1024), (1.0, 1e-1, 1e-2, 1e-8)
FEATURES = 2**18


def main() -> None:
    """Train, fit exponents, publish."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=6, help="networks; default %(default)s")
    parser.add_argument("--no-write", action="store_true", help="print only")
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    X = rng.normal(size=(ROWS + TEST, COLUMNS))
    y = np.sin(X[:, 0]) + X[:, 1] * X[:, 2]
    X, Z, y = X[:ROWS], X[ROWS:], (y[:ROWS] - y[:ROWS].mean()) / y[:ROWS].std()
    rows = []
    for eps in EPS:
        # large eps makes steps small: the same distance for all
        rate = RATE * (1 + eps / 0.1)
        limit = AdamNTKRegressor(
            eps=eps, learning_rate=rate, max_epochs=STEPS, n_features=FEATURES, random_state=0
        )
        mean, std = limit.fit(X, y).predict(Z, return_mc_std=True)
        scaling.EPS = eps  # of torch's Adam, before it is scaled
        for regime in ("linearized", "full"):
            errors = [
                _deviation(regime, width, rate, X, y, Z, mean, args.seeds) for width in WIDTHS
            ]
            slope, se = _slope(np.array(errors))
            shown = [f"{np.sqrt(np.mean(e)):.4f}" for e in errors]
            rows.append(
                [f"{eps:g}", regime, *shown, f"{slope:.2f} ± {se:.2f}",
                 f"{np.sqrt(np.mean(std**2)):.4f}", f"{np.sqrt(np.mean(mean**2)):.2f}"]
            )  # fmt: skip
            print(rows[-1], flush=True)
    body = "\n".join([
        f"{ROWS} rows of {COLUMNS} columns, depth 2, ReLU, {STEPS} steps on all rows with "
        f"learning_rate {RATE} (1 + eps / 0.1); deviation from the limit at {TEST} test rows, in "
        f"standard deviations of the targets, root mean square over {args.seeds} networks. The "
        "exponent is fitted to all widths, with its standard error over networks. The limit has "
        f"{FEATURES} features; its Monte-Carlo error is part of the deviations.",
        "",
        markdown_table(["eps", "regime", *(f"width {w}" for w in WIDTHS), "exponent",
                        "error of the limit", "size of the limit"], rows),
    ])  # fmt: skip
    publish("adam_width", body, write=not args.no_write)


def _deviation(
    regime: str, width: int, rate: float, X: np.ndarray, y: np.ndarray, Z: np.ndarray,
    limit: np.ndarray, seeds: int,
) -> list[float]:  # fmt: skip
    """Mean square over rows, of each network."""
    found = []
    for seed in range(seeds):
        net = NetworkRegressor(
            width=width, regime=regime, centered=True, optimizer="scaled_adam", learning_rate=rate,
            max_epochs=STEPS, batch_size=ROWS, random_state=seed,
        )  # fmt: skip
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            found.append(float(np.mean((net.fit(X, y).predict(Z) - limit) ** 2)))
    return found


def _slope(errors: np.ndarray) -> tuple[float, float]:
    """Exponent of the width, and its standard error by leaving networks out in turn."""

    def fit(squares: np.ndarray) -> float:
        rms = np.sqrt(squares.mean(1))
        return float(np.polyfit(np.log(WIDTHS), np.log(rms), 1)[0])

    n = errors.shape[1]
    left_out = [fit(np.delete(errors, i, 1)) for i in range(n)]
    return fit(errors), float(np.sqrt((n - 1) * np.var(left_out)))


if __name__ == "__main__":
    main()
