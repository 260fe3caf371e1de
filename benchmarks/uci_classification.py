"""Small UCI tables: NTKClassifier() beside NTK-SVM, RBF-SVC, a random forest and finite networks.

The protocol of Arora et al. (2020): four fixed folds per set; the two SVCs are tuned on the fixed
tuning split, ``NTKClassifier()`` inside each fit. The networks, which are not tuned, are one, an
ensemble of five and one with MC dropout, all of one architecture and trained alike. The columns
were standardized over all rows by the collectors of these sets, and every model sees the same ones.

    python benchmarks/uci_classification.py --data DIR

Every finished (model, set) is kept in a file and not computed again until the code it depends on
changes; ``--half dev`` takes every second set by name, for development.
"""

import argparse
import uuid
import warnings
from collections.abc import Callable
from datetime import datetime, timezone
from functools import partial
from pathlib import Path

import numpy as np
from _cache import DEFAULT_DIRECTORY, HERE, ResultCache, code_version, skntk_version
from _network_models import CLASSIFICATION as NETWORKS
from _network_models import CLASSIFICATION_NOTE as NETWORK_NOTE
from _network_models import by_fold
from _report import markdown_table, publish
from _small_table_models import MODELS as TABLE_MODELS
from _small_table_models import SVC_MAX_ITER, Trial
from scipy.stats import rankdata
from sklearn.exceptions import ConvergenceWarning
from threadpoolctl import threadpool_limits

from skntk.datasets import Dataset, load, names
from skntk.metrics import expected_calibration_error

GROUP = "uci_classification/"
SMALL = 1000
PROTOCOL = "NTK-SVM"
MODELS: dict[str, Callable[[Dataset], Trial]] = {
    **TABLE_MODELS,
    **{name: partial(by_fold, fit) for name, fit in NETWORKS.items()},
}
# Probabilities are clipped here before their logarithm is taken, for every model: half a vote of
# the forest's 500 trees, which otherwise gives true classes probability zero.
LOG_CLIP = 1e-3


def main() -> None:
    args = _arguments()
    every = sorted(n for n in names("classification", args.data) if n.startswith(GROUP))
    half = {name: "dev" if i % 2 == 0 else "other" for i, name in enumerate(every)}
    wanted = [name for name in every if args.half in ("all", half[name])]
    if args.sets:
        wanted = [GROUP + name for name in args.sets.split(",")]
        if unknown := sorted(set(wanted) - set(every)):
            raise SystemExit(f"--sets: no such set in {GROUP}: {', '.join(unknown)}")
    models = args.models.split(",")
    if unknown := sorted(set(models) - set(MODELS)):
        raise SystemExit(f"--models: {', '.join(unknown)} unknown; allowed: {', '.join(MODELS)}")

    cache = ResultCache(args.resume, ("model", "set", "version"))
    versions = {model: _model_version(model) for model in models}
    run = uuid.uuid4().hex[:12]
    records = {}
    sets = sorted((load(name, args.data) for name in wanted), key=lambda data: len(data.y))
    with threadpool_limits(args.threads):
        for model in models:  # nobody's first set pays for imports
            MODELS[model](sets[0])
        for data in sets:
            short = data.name.removeprefix(GROUP)
            for model in models:
                record = cache.get(model=model, set=short, version=versions[model])
                if record is None:
                    record = _run(model, data)
                    record |= {
                        "set": short,
                        "version": versions[model],
                        "run": run,
                        "threads": args.threads,
                    }
                    cache.add(record)
                records[model, short] = record
                print(_progress(record), flush=True)
    halves = {name.removeprefix(GROUP): part for name, part in half.items()}
    shown = [name.removeprefix(GROUP) for name in wanted]
    publish(_section(args), _body(records, models, shown, halves), write=not args.no_write)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="directory with uci_classification/*.npz")
    parser.add_argument(
        "--half",
        choices=("dev", "other", "all"),
        default="all",
        help="every second set by name, the rest, or all (default)",
    )
    parser.add_argument("--sets", help="only these, comma separated")
    parser.add_argument("--models", default=",".join(MODELS), help="default: %(default)s")
    parser.add_argument(
        "--resume",
        type=Path,
        metavar="FILE",
        default=DEFAULT_DIRECTORY / "uci_classification.jsonl",
        help="where finished results are kept; a new file times all models afresh",
    )
    parser.add_argument("--threads", type=int, default=1, help="per model (default 1)")
    parser.add_argument("--no-write", action="store_true", help="print only")
    return parser.parse_args()


def _section(args: argparse.Namespace) -> str:
    """A run on part of the sets must not replace the section of the whole run."""
    parts = [] if args.half == "all" else [f"{args.half} half"]
    parts += ["chosen sets"] if args.sets else []
    parts += ["chosen models"] if set(args.models.split(",")) != set(MODELS) else []
    return f"uci_classification ({', '.join(parts)})" if parts else "uci_classification"


def _model_version(model: str) -> str:
    if model in NETWORKS:
        code = code_version([HERE / "_small_table_models.py", HERE / "_network_models.py"])
        return f"{code}-{skntk_version()}"
    code = code_version([HERE / "_small_table_models.py"])
    return f"{code}-{skntk_version()}" if model == "skntk" else code


def _run(model: str, data: Dataset) -> dict:
    """Fit and score one model on one set."""
    started = datetime.now(timezone.utc)
    with warnings.catch_warnings():
        # rare classes: fewer members than calibration has folds
        warnings.filterwarnings("ignore", message="The least populated class", category=UserWarning)
        warnings.filterwarnings(
            "ignore", message="Number of classes in training fold", category=RuntimeWarning
        )
        # a support vector machine stopped at its limit, which is counted and reported
        warnings.filterwarnings("ignore", message="Solver terminated", category=ConvergenceWarning)
        trial = MODELS[model](data)
    return {
        "model": model,
        "date": f"{started:%Y-%m-%d %H:%M}",
        "n": len(data.y),
        **_scores(trial, data),
    }


def _scores(trial: Trial, data: Dataset) -> dict:
    """Accuracy is the mean over folds; log loss and ECE are those of all test rows together."""
    accuracy = [
        float(np.mean(labels == data.y[test]))
        for labels, (_, test) in zip(trial.labels, data.splits, strict=True)
    ]
    truth = np.concatenate([data.y[test] for _, test in data.splits])
    proba = np.concatenate(trial.proba)
    labels = np.unique(data.y)
    given_to_truth = proba[np.arange(len(truth)), np.searchsorted(labels, truth)]
    return {
        "folds": accuracy,
        "accuracy": float(np.mean(accuracy)),
        "log_loss": float(-np.log(np.clip(given_to_truth, LOG_CLIP, 1.0)).mean()),
        "ece": expected_calibration_error(truth, proba, n_bins=15, labels=labels),
        "tune_seconds": trial.tune_seconds,
        "fit_seconds": trial.fit_seconds,
        "predict_seconds": trial.predict_seconds,
        "calibrate_seconds": trial.calibrate_seconds,
        "linear_seconds": trial.linear_seconds,
        "capped_fits": trial.capped_fits,
        "chosen": trial.chosen,
    }


def _progress(r: dict) -> str:
    return (
        f"{r['set']:32s} n={r['n']:5d} {r['model']:13s} accuracy {100 * r['accuracy']:6.2f}  "
        f"log loss {r['log_loss']:.3f}  ECE {r['ece']:.3f}  tuning {r['tune_seconds']:7.1f} s  "
        f"4 fits {r['fit_seconds']:6.1f} s  {r['chosen']}"
    )


def _body(records: dict, models: list[str], sets: list[str], halves: dict[str, str]) -> str:
    """All tables of the section."""
    small = [name for name in sets if records[models[0], name]["n"] <= SMALL]
    parts = []
    for title, chosen in _subsets(sets, small, halves):
        if chosen:
            parts.append(
                f"**{title} ({len(chosen)} sets)**\n\n" + _summary(records, models, chosen)
            )
    parts += [
        _legend(records, models, sets),
        _timing(records, models, sets),
        _per_set(records, models, sets, halves),
    ]
    return "\n\n".join(part for part in parts if part)


def _subsets(sets: list[str], small: list[str], halves: dict[str, str]) -> list:
    subsets = [(f"n <= {SMALL}", small), ("All sizes", sets)]
    if len({halves[name] for name in sets}) == 2:
        for part, title in (("dev", "Development half"), ("other", "Other half")):
            subsets.append((f"{title}, n <= {SMALL}", [s for s in small if halves[s] == part]))
            subsets.append((f"{title}, all sizes", [s for s in sets if halves[s] == part]))
    return subsets


def _summary(records: dict, models: list[str], sets: list[str]) -> str:
    """Means over sets and the comparisons of Fernandez-Delgado et al. (2014)."""

    def column(field: str) -> np.ndarray:
        return np.array([[records[model, name][field] for model in models] for name in sets])

    accuracy = column("accuracy")
    # rounding, so that equal accuracies tie whatever the order in which folds were summed
    ranks = rankdata(-accuracy.round(12), axis=1).mean(axis=0)
    of_best = accuracy / accuracy.max(axis=1, keepdims=True)
    log_loss, ece = column("log_loss").mean(axis=0), column("ece").mean(axis=0)
    seconds = (column("tune_seconds") + column("fit_seconds")).sum(axis=0)
    rows = [
        (
            model,
            f"{100 * accuracy[:, j].mean():.2f}",
            f"{ranks[j]:.2f}",
            f"{100 * (of_best[:, j] >= 0.9).mean():.1f}",
            f"{100 * (of_best[:, j] >= 0.95).mean():.1f}",
            f"{100 * of_best[:, j].mean():.2f}",
            f"{log_loss[j]:.3f}",
            f"{ece[j]:.4f}",
            f"{seconds[j]:.1f}",
        )
        for j, model in enumerate(models)
    ]
    header = (
        "model",
        "accuracy %",
        "rank",
        "P90",
        "P95",
        "PMA",
        "log loss",
        "ECE",
        "tuning + fit, s",
    )
    return markdown_table(header, rows)


def _legend(records: dict, models: list[str], sets: list[str]) -> str:
    capped = sum(records[model, name]["capped_fits"] for model in models for name in sets)
    note = f" {NETWORK_NOTE}" if set(models) & set(NETWORKS) else ""
    return (
        "Rank: mean (Friedman) rank by accuracy among these models, ties shared. P90, P95:"
        " percentage of sets with at least 90 or 95 % of the best accuracy here; PMA: mean"
        " percentage of it. Log loss: mean over sets, probabilities clipped at"
        f" {LOG_CLIP:g} for every model. ECE: 15 bins, mean over sets. Time: sum over sets of"
        " tuning (kernels included) and the four fits, on one core unless `--threads` says"
        " otherwise; the calibration of the SVCs' probabilities is not in it. `skntk` tunes in"
        " each of its four fits, the two SVCs once per set, on half of the rows."
        f" {capped} fits of SVCs were stopped at {SVC_MAX_ITER:.0e} iterations, the limit of LIBSVM"
        f" that scikit-learn lifts.{note}"
    )


def _timing(records: dict, models: list[str], sets: list[str]) -> str:
    """What tuning costs beside the published protocol."""
    if not {"skntk", PROTOCOL} <= set(models):
        return ""
    ours = [records["skntk", name] for name in sets]
    theirs = [records[PROTOCOL, name] for name in sets]
    one_run = len({r["run"] for r in ours + theirs}) == 1
    whole = np.array([a["tune_seconds"] + a["fit_seconds"] for a in ours])
    protocol = np.array([b["tune_seconds"] + b["fit_seconds"] for b in theirs])
    one_fit = np.array([a["fit_seconds"] for a in ours]) / 4
    tuning = np.array([b["tune_seconds"] for b in theirs])
    nonlinear = tuning - np.array([b["linear_seconds"] for b in theirs])
    rows = [
        (
            title,
            f"{a.sum():.1f}",
            f"{b.sum():.1f}",
            f"{a.sum() / b.sum():.2f}",
            f"{np.median(a / b):.2f}",
            f"{(a / b).max():.2f}",
        )
        for title, a, b in (
            ("all four fits / tuning and four fits", whole, protocol),
            ("one fit / tuning alone", one_fit, tuning),
            ("one fit / tuning without the linear kernel", one_fit, nonlinear),
        )
    ]
    table = markdown_table(
        (
            "skntk / NTK-SVM",
            "skntk, s",
            "NTK-SVM, s",
            "ratio of sums",
            "median ratio",
            "largest ratio",
        ),
        rows,
    )
    note = "" if one_run else "\n\nThese times come from different runs: use a new `--resume` file."
    return "**Cost of tuning beside the published protocol**\n\n" + table + note


def _per_set(records: dict, models: list[str], sets: list[str], halves: dict[str, str]) -> str:
    rows = []
    for name in sets:
        of = [records[model, name] for model in models]
        rows.append(
            (
                name,
                of[0]["n"],
                halves[name],
                *(f"{100 * r['accuracy']:.2f}" for r in of),
                *(f"{r['log_loss']:.3f}" for r in of),
                *(f"{r['tune_seconds'] + r['fit_seconds']:.1f}" for r in of),
            )
        )
    header = (
        "set",
        "n",
        "half",
        *models,
        *(f"{m}, log loss" for m in models),
        *(f"{m}, s" for m in models),
    )
    return "**Accuracy, log loss and time per set**\n\n" + markdown_table(header, rows)


if __name__ == "__main__":
    main()
