"""Do networks in use meet the conditions under which natural gradient is promised to be fast?

After Wenger, Dangel & Kristiadi (2023, section 4 and figure 2): C' of Zhang, Martens & Grosse
(2019) along training, for an MLP on MNIST, and a CNN and a small WideResNet on CIFAR-10, on 100
images of ten classes, at several widths; all on squared loss in float64. Beside it what that paper
was asked for:

- ``conditions``: natural gradient, undamped as in the theorem and damped as in use, beside gradient
  descent, Adam and K-FAC: how far each breaks the condition, and how fast each is;
- ``steps``: the influence of the step size;
- ``laziness``: the influence of the scale of the output, centered (Chizat et al. 2019);
- ``parametrization``: NTK, standard, and muP, over widths.

Writes a table and a figure into the documentation, too. Nothing here is timed. Finished runs are
kept, so that a killed benchmark goes on::

    python benchmarks/optimization_conditions.py --data DIR
    python benchmarks/optimization_conditions.py --data DIR --quick      small, nothing written
"""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from _cache import HERE, run_folder
from _report import markdown_table, publish
from torch import nn

import skntk.nn as snn
from skntk import NetworkClassifier
from skntk.datasets import load
from skntk.diagnostics import natural_gradient_conditions
from skntk.diagnostics.displays.style import legend, line_style, log_widths, nudged

DOCS = HERE.parent / "docs"
CLASSES, IMAGES = 10, 10  # and how many of each
SEEDS, EPOCHS = 3, 20
PARTS = ("conditions", "steps", "laziness", "parametrization")
OPTIMIZERS = {
    "gradient descent": {"optimizer": "gd"},
    "Adam": {"optimizer": "adam"},
    "natural gradient": {"optimizer": "natural_gradient", "damping": 0.0, "learning_rate": 0.2},
    "natural gradient, damped": {"optimizer": "natural_gradient"},
    "K-FAC": {"optimizer": "kfac"},
}
STEPS = {
    f"{name}, step {step:g}": {**OPTIMIZERS[name], "learning_rate": step}
    for name, steps in {
        "gradient descent": (0.1, 0.3, 1.0, 3.0),
        "natural gradient": (0.05, 0.1, 0.2, 0.5, 1.0),
    }.items()
    for step in steps
}
SCALES = (0.25, 1.0, 16.0, 256.0, 4096.0)


class ScaledConvNet(nn.Module):
    """A convolutional network whose output is multiplied: the larger, the lazier."""

    def __init__(self, width: int, scale: float, **params: Any) -> None:
        super().__init__()
        self.net, self.scale = snn.ConvNet(width=width, **params), scale

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.scale * self.net(x)


@dataclass(frozen=True)
class Network:
    """A network in use.

    `widths` are those of the first part, `few` those of the last one, none to leave it out.
    """

    data: str
    module: type[nn.Module] | None
    params: dict[str, Any]
    widths: tuple[int, ...]
    few: tuple[int, ...]

    def estimator(self, epochs: int, device: str, **params: Any) -> NetworkClassifier:
        made = {f"module__{key}": value for key, value in self.params.items()}
        if self.module is not None and "parametrization" in params:
            made["module__parametrization"] = params.pop("parametrization")
        return NetworkClassifier(
            depth=2, module=self.module, max_epochs=epochs, device=device, **made, **params
        )


_IMAGES = {"in_channels": 3, "out_features": CLASSES}
NETWORKS = {
    "MLP on MNIST": Network("mnist_10k", None, {}, (64, 256, 1024), (64, 256, 1024)),
    "CNN on CIFAR-10": Network("cifar10_7k", snn.ConvNet, _IMAGES, (8, 16, 32), (8, 16, 32)),
    "WRN-10 on CIFAR-10": Network(
        "cifar10_7k", snn.WideResNet, {**_IMAGES, "depth": 10, "norm": "layer"}, (4, 8), ()
    ),
}


def images(name: str, data: Path | None, each: int) -> tuple[np.ndarray, np.ndarray]:
    """Images (n, C, H, W), so many of each class, and labels; each channel standardized."""
    found = load(name, data)
    rng = np.random.default_rng(0)
    rows = [rng.permutation(np.flatnonzero(found.y == c))[:each] for c in range(CLASSES)]
    rows = np.concatenate(rows)
    X = found.X[rows].reshape(-1, *found.image_shape)
    X = (X - X.mean((0, 2, 3), keepdims=True)) / X.std((0, 2, 3), keepdims=True)
    return X, found.y[rows]


class Study:
    """Runs reports and keeps their summaries and runs, with what they are of."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.summaries: list[pd.DataFrame] = []
        self.runs: list[pd.DataFrame] = []
        self._data: dict[str, tuple[np.ndarray, np.ndarray]] = {}

    def report(self, part: str, name: str, case: str, net: Any, **params: Any) -> None:
        network = NETWORKS[name]
        if network.data not in self._data:
            each = 2 if self.args.quick else IMAGES
            self._data[network.data] = images(network.data, self.args.data, each)
        X, y = self._data[network.data]
        print(f"{part}: {name}{case and ', '}{case}", flush=True)
        report = natural_gradient_conditions(
            net,
            X,
            y,
            n_seeds=self.args.seeds,
            n_times=4,
            cache_dir=self.args.resume,
            verbose=1,
            **params,
        )
        label = {"part": part, "network": name, "case": case}
        self.summaries.append(report.summary.assign(**label))
        self.runs.append(report.runs.assign(**label))
        print(report.verdict, flush=True)

    def conditions(self) -> None:
        for name in self.args.networks:
            network = NETWORKS[name]
            net = network.estimator(self.args.epochs, self.args.device)
            widths = network.widths[:1] if self.args.quick else self.args.widths or network.widths
            self.report("conditions", name, "", net, widths=widths, optimizers=OPTIMIZERS)

    def steps(self) -> None:
        name, width = "CNN on CIFAR-10", 16
        net = NETWORKS[name].estimator(self.args.epochs, self.args.device)
        self.report("steps", name, "", net, widths=[width], optimizers=STEPS)

    def laziness(self) -> None:
        name, width = "CNN on CIFAR-10", 16
        chosen = {o: OPTIMIZERS[o] for o in ("gradient descent", "natural gradient")}
        for scale in SCALES[::4] if self.args.quick else SCALES:
            net = NetworkClassifier(
                module=ScaledConvNet,
                module__scale=scale,
                centered=True,
                max_epochs=self.args.epochs,
                device=self.args.device,
                **{f"module__{k}": v for k, v in _IMAGES.items()},
            )
            self.report("laziness", name, f"{scale:g}", net, widths=[width], optimizers=chosen)

    def parametrization(self) -> None:
        chosen = {o: OPTIMIZERS[o] for o in ("gradient descent", "Adam")}
        for name, network in NETWORKS.items():
            widths = network.few[:1] if self.args.quick else network.few
            if not widths:
                continue
            for kind in ("ntk", "standard", "mup"):
                net = network.estimator(self.args.epochs, self.args.device, parametrization=kind)
                self.report("parametrization", name, kind, net, widths=widths, optimizers=chosen)


def table(summary: pd.DataFrame, part: str) -> str:
    """What each optimizer did, in Markdown."""
    header = ("network", "width", "optimizer", "smallest eigenvalue", "C'", "refuted", "failed",
              "squared residual, a step", "promised", "kept")  # fmt: skip
    case = {"laziness": "output times", "parametrization": "parametrization"}.get(part)
    rows = []
    for row in summary[summary.part == part].itertuples():
        cells = [
            row.network,
            f"{row.width:g}",
            row.optimizer,
            f"{row.smallest_eigenvalue:.2g}",
            _mean(row.c_prime, row.c_prime_error),
            f"{row.n_refuted:g}/{row.n_runs}",
            f"{row.n_failed}",
            "" if np.isnan(row.observed_factor) else f"{row.observed_factor:.3f}",
            "" if np.isnan(row.promised_factor) else f"{row.promised_factor:.2f}",
            "" if np.isnan(row.n_kept) else f"{row.n_kept:g}/{row.n_runs}",
        ]
        rows.append((cells[0], row.case, *cells[1:]) if case else tuple(cells))
    return markdown_table((header[0], case, *header[1:]) if case else header, rows)


def _mean(mean: float, error: float) -> str:
    if np.isnan(mean):
        return ""
    return f"{mean:.3g}" if np.isnan(error) else f"{mean:.3g} ± {error:.2g}"


def findings(summary: pd.DataFrame) -> str:
    """What the runs say of what was asked, whatever it is."""
    lines = []
    for name, rows in summary[summary.part == "conditions"].groupby("network", sort=False):
        refuted, runs, least = int(rows.n_refuted.sum()), rows.n_runs.sum(), rows.c_prime.min()
        lines.append(
            f"- {name}: a condition is refuted in {refuted} of {runs} runs. The smallest mean C' "
            f"of any optimizer and width is {least:.3g}, {least / 0.5:.3g} times what is allowed"
            + _exponent(rows)
        )
        undamped = rows[rows.optimizer == "natural gradient"]
        plain = rows[rows.optimizer == "gradient descent"]
        lines.append(
            "  The undamped natural gradient keeps the promise all the same in "
            f"{undamped.n_kept.sum():g} of {undamped.n_runs.sum()} runs; its squared residual "
            f"shrinks by "
            f"{undamped.observed_factor.mean():.3f} a step, that of gradient descent by "
            f"{plain.observed_factor.mean():.3f}."
        )
    for part, what in (("steps", "step size"), ("laziness", "factor of the output")):
        rows = summary[summary.part == part]
        if len(rows):
            met = rows[rows.c_prime < 0.5]
            named = met.optimizer + (", " + met.case if part == "laziness" else "")
            lines.append(
                f"- By {what}: C' is between {rows.c_prime.min():.3g} and "
                f"{rows.c_prime.max():.3g}; below 1/2 for: {'; '.join(named) or 'none'}."
            )
    rows = summary[(summary.part == "parametrization") & (summary.optimizer == "gradient descent")]
    for (name, kind), found in rows.groupby(["network", "case"], sort=False):
        lines.append(
            f"- {name}, {kind}, gradient descent: C' is {found.c_prime.min():.3g} at the least"
            + _exponent(found)
        )
    return "\n".join(lines)


def _exponent(rows: pd.DataFrame) -> str:
    """How the smallest C' goes with the width."""
    least = rows[np.isfinite(rows.c_prime)].groupby("width").c_prime.min()
    if len(least) < 2:
        return "."
    slope = np.polyfit(np.log(least.index.astype(float)), np.log(least), 1)[0]
    return f"; over widths it goes as width^{slope:.2f}."


def draw(summary: pd.DataFrame, runs: pd.DataFrame, path: Path) -> None:
    """Six panels: C' over width for three networks; speed; step size; laziness; parametrization."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, 4, figsize=(19, 9), layout="constrained")
    main = summary[summary.part == "conditions"]
    for ax, name in zip(axes[0], NETWORKS, strict=False):
        found = main[main.network == name]
        for i, optimizer in enumerate(OPTIMIZERS):
            own = found[found.optimizer == optimizer]
            x = nudged(own.width, i, len(OPTIMIZERS))
            ax.errorbar(x, own.c_prime, own.c_prime_error, label=optimizer, **line_style(i))
        log_widths(ax, sorted(found.width.unique()))
        _allowed(ax)
        ax.set_title(f"{name}: C' over width")
    for ax, name in ((axes[0, 3], "CNN on CIFAR-10"), (axes[1, 0], "WRN-10 on CIFAR-10")):
        found = runs[(runs.part == "conditions") & (runs.network == name) & (runs.status == "ok")]
        found = found[found.width == found.width.max()]
        for i, optimizer in enumerate(OPTIMIZERS):
            own = found[found.optimizer == optimizer]
            steps = np.log10(own.residual.clip(1e-20)).groupby(own.step)
            style = line_style(i)
            ax.errorbar(steps.mean().index, 10 ** steps.mean(), label=optimizer, **style)
        k = np.arange(found.step.max() + 1)
        ax.plot(k, 0.8**k, color="0.6", lw=4, zorder=0, label=r"promised: $(1-\eta)^k$")
        ax.set_yscale("log")
        ax.set(
            xlabel="steps",
            ylabel=r"squared residual, $\|f-y\|^2 / \|f_0-y\|^2$",
            title=f"{name}, width {found.width.max():g}: speed",
        )
        legend(ax)
    found = summary[summary.part == "steps"]
    found = found.assign(step=found.optimizer.str.split("step ").str[1].astype(float))
    for i, optimizer in enumerate(("gradient descent", "natural gradient")):
        own = found[found.optimizer.str.startswith(optimizer) & found.c_prime.notna()]
        axes[1, 1].errorbar(
            own.step, own.c_prime, own.c_prime_error, label=optimizer, **line_style(2 * i)
        )
    axes[1, 1].set_xscale("log")
    axes[1, 1].set(xlabel="step size", title="CNN, width 16: C' over the step size")
    _allowed(axes[1, 1])
    found = summary[summary.part == "laziness"]
    for i, optimizer in enumerate(("gradient descent", "natural gradient")):
        own = found[found.optimizer == optimizer]
        axes[1, 2].errorbar(
            own.case.astype(float), own.c_prime, own.c_prime_error, label=optimizer,
            **line_style(2 * i),
        )  # fmt: skip
    axes[1, 2].set_xscale("log")
    axes[1, 2].set(xlabel="factor of the output (centered)", title="CNN, width 16: laziness")
    _allowed(axes[1, 2])
    found = summary[(summary.part == "parametrization") & (summary.network == "CNN on CIFAR-10")]
    found = found[found.optimizer == "gradient descent"]
    for i, kind in enumerate(found.case.unique()):
        own = found[found.case == kind]
        axes[1, 3].errorbar(own.width, own.c_prime, own.c_prime_error, label=kind, **line_style(i))
    log_widths(axes[1, 3], sorted(found.width.unique()))
    axes[1, 3].set_title("CNN, gradient descent: parametrization")
    _allowed(axes[1, 3])
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=90)
    plt.close(figure)


def _allowed(ax: Any) -> None:
    ax.set_yscale("log")
    ax.set_ylim(0.1, max(ax.get_ylim()[1], 10))
    ax.axhspan(0.1, 0.5, color="0.9", zorder=0)
    ax.text(0.02, 0.5, "allowed", transform=ax.get_yaxis_transform(), va="top", fontsize=8)
    ax.set_ylabel("C' (mean ± standard error)")
    ax.grid(axis="y", color="0.93", zorder=0)
    legend(ax)


def main() -> None:
    args = _arguments()
    study = Study(args)
    torch.set_num_threads(args.threads)
    for part in args.only or PARTS:
        getattr(study, part)()
    summary, runs = pd.concat(study.summaries), pd.concat(study.runs)
    parts = [
        f"{CLASSES} classes, {2 if args.quick else IMAGES} images of each; {args.epochs} steps on "
        f"all of them (batches are larger); {args.seeds} seeds, mean ± standard error; "
        f"computed on {args.device}. C' < 1/2 is allowed."
    ]
    done = list(dict.fromkeys(summary.part))
    parts += [f"**{part}**\n\n{table(summary, part)}" for part in done]
    parts.append(findings(summary))
    whole = set(done) == set(PARTS) and args.device == "cpu" and not (args.quick or args.widths)
    whole &= args.networks == list(NETWORKS)
    whole &= (args.seeds, args.epochs) == (SEEDS, EPOCHS)
    if whole and not args.no_write:
        draw(summary, runs, DOCS / "images" / "optimization_conditions.png")
        main_part = summary[summary.part == "conditions"]
        columns = ["network", "width", "optimizer", "smallest_eigenvalue", "c_prime",
                   "c_prime_error", "n_refuted", "n_runs", "observed_factor"]  # fmt: skip
        written = main_part[columns].map(lambda v: f"{v:.3g}" if isinstance(v, float) else v)
        (DOCS / "tables").mkdir(exist_ok=True)
        written.to_csv(DOCS / "tables" / "optimization_conditions.csv", index=False)
    section = "optimization_conditions" + ("" if whole else f" (part, {args.device})")
    publish(section, "\n\n".join(parts), write=not (args.quick or args.no_write))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", required=True, type=Path, help="folder of the .npz archives")
    parser.add_argument("--only", nargs="+", choices=PARTS, help="default: all")
    parser.add_argument(
        "--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS), help="of the first part"
    )
    parser.add_argument("--widths", nargs="+", type=int, help="of the first part, for all networks")
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="steps of each training")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--quick", action="store_true", help="every path, small, nothing written")
    parser.add_argument("--no-write", action="store_true", help="print only")
    parser.add_argument(
        "--resume",
        type=Path,
        metavar="DIR",
        help="where finished runs are kept (default: by the version of the code)",
    )
    args = parser.parse_args()
    if args.quick:
        args.seeds, args.epochs = 2, 2
    if args.resume is None:
        args.resume = run_folder("optimization_conditions")
    return args


if __name__ == "__main__":
    main()
