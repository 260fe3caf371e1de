"""UCI regression on the 20 standard splits: NTKRegressor() beside a tuned GP and finite networks.

The Gaussian process has an RBF kernel with one length scale a feature, tuned by evidence. The
networks are one, an ensemble of five and one with MC dropout, all of one architecture and trained
alike.

Inputs are standardized with the mean and scale of the training rows; targets stay in their units,
and so do RMSE and log-likelihood. The predictive variance is that of an observation: of the latent
function and the noise together.

    python benchmarks/uci_regression.py --data DIR

Every finished (model, set, split) is kept in a file and not computed again until the code it
depends on changes.
"""

import argparse
import time
from pathlib import Path

import numpy as np
from _cache import DEFAULT_DIRECTORY, HERE, ResultCache, code_version, skntk_version
from _network_models import REGRESSION as NETWORKS
from _network_models import REGRESSION_NOTE as NETWORK_NOTE
from _report import markdown_table, publish
from _tuned_gp import fit_tuned_gp
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from skntk.datasets import load
from skntk.metrics import gaussian_log_likelihood

GROUP = "uci_regression/"
SETS = ("concrete", "energy", "kin8nm", "wine-quality-red", "yacht")
# RMSE and negative log-likelihood, as published, on the same kind of splits. Deep ensembles:
# Lakshminarayanan et al. (2017, table 1).
PUBLISHED = {
    "deep ensemble": {
        "concrete": (6.03, 3.06),
        "energy": (2.09, 1.38),
        "kin8nm": (0.09, -1.20),
        "wine-quality-red": (0.64, 0.94),
        "yacht": (1.58, 1.18),
    },
    "MC dropout": {
        "concrete": (4.82, 2.93),
        "energy": (0.54, 1.21),
        "kin8nm": (0.08, -1.14),
        "wine-quality-red": (0.62, 0.93),
        "yacht": (0.67, 1.25),
    },
}


def fit_gp(X: np.ndarray, y: np.ndarray):
    """Return ``predict(X) -> mean, std`` of the tuned Gaussian process."""
    scaler = StandardScaler().fit(X)
    model = fit_tuned_gp(scaler.transform(X), y)
    return lambda Z: model.predict(scaler.transform(Z), return_std=True)


def fit_skntk(X: np.ndarray, y: np.ndarray):
    """Return ``predict(X) -> mean, std`` of ``NTKRegressor()``."""
    from skntk import NTKRegressor

    model = make_pipeline(StandardScaler(), NTKRegressor(random_state=0)).fit(X, y)

    def predict(Z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        mean, latent_std = model.predict(Z, return_std=True)
        return mean, np.sqrt(latent_std**2 + model[-1].noise_variance_)

    return predict


MODELS = {
    "skntk": fit_skntk,
    "GP-RBF": fit_gp,
    **NETWORKS,
}


def main() -> None:
    args = _arguments()
    sets, models = args.sets.split(","), args.models.split(",")
    for option, given, allowed in (("sets", sets, SETS), ("models", models, tuple(MODELS))):
        if unknown := sorted(set(given) - set(allowed)):
            raise SystemExit(f"--{option}: {unknown} unknown; allowed: {', '.join(allowed)}")
    cache = ResultCache(args.resume, ("model", "set", "split", "version"))
    versions = {model: _model_version(model) for model in models}
    records: dict[tuple[str, str], list[dict]] = {}
    with threadpool_limits(args.threads):
        for name in sets:
            data = load(GROUP + name, args.data)
            for split, (train, test) in enumerate(data.splits[: args.splits]):
                for model in models:
                    key = {"model": model, "set": name, "split": split, "version": versions[model]}
                    record = cache.get(**key)
                    if record is None:
                        record = key | _run(model, data.X, data.y, train, test)
                        cache.add(record)
                    records.setdefault((model, name), []).append(record)
                    print(_progress(record), flush=True)
    whole = set(sets) == set(SETS) and args.splits is None
    section = "uci_regression" if whole else "uci_regression (part)"
    if whole and set(models) != set(MODELS):
        section = "uci_regression (chosen models)"
    publish(section, _body(records, models, sets), write=not args.no_write)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="directory with uci_regression/*.npz")
    parser.add_argument("--sets", default=",".join(SETS), help="default: %(default)s")
    parser.add_argument("--models", default=",".join(MODELS), help="default: %(default)s")
    parser.add_argument("--splits", type=int, help="only the first so many of the 20")
    parser.add_argument(
        "--resume",
        type=Path,
        metavar="FILE",
        default=DEFAULT_DIRECTORY / "uci_regression.jsonl",
        help="where finished results are kept",
    )
    parser.add_argument("--threads", type=int, default=2, help="per model (default 2)")
    parser.add_argument("--no-write", action="store_true", help="print only")
    return parser.parse_args()


def _model_version(model: str) -> str:
    if model == "skntk":
        return f"{code_version([HERE / 'uci_regression.py'])}-{skntk_version()}"
    if model in NETWORKS:
        code = code_version([HERE / "uci_regression.py", HERE / "_network_models.py"])
        return f"{code}-{skntk_version()}"
    return code_version([HERE / "uci_regression.py", HERE / "_tuned_gp.py"])


def _run(model: str, X: np.ndarray, y: np.ndarray, train: np.ndarray, test: np.ndarray) -> dict:
    """Fit and score one model on one split."""
    start = time.perf_counter()
    predict = MODELS[model](X[train], y[train])
    fitted = time.perf_counter()
    mean, std = predict(X[test])
    predicted = time.perf_counter()
    return {
        "n": len(y),
        "rmse": float(np.sqrt(np.mean((mean - y[test]) ** 2))),
        "nll": -gaussian_log_likelihood(y[test], mean, std),
        "within_95": float(np.mean(np.abs(mean - y[test]) <= 1.959964 * std)),
        "fit_seconds": fitted - start,
        "predict_seconds": predicted - fitted,
    }


def _progress(r: dict) -> str:
    return (
        f"{r['set']:18s} split {r['split']:2d} {r['model']:13s} RMSE {r['rmse']:8.4f}  "
        f"NLL {r['nll']:8.4f}  in 95 % interval {100 * r['within_95']:5.1f} %  "
        f"fit {r['fit_seconds']:7.1f} s  predict {r['predict_seconds']:5.2f} s"
    )


def _body(records: dict, models: list[str], sets: list[str]) -> str:
    """One table for each score, and what they cost."""
    splits = len(records[models[0], sets[0]])
    parts = [
        f"Mean ± standard error over {splits} splits; NLL is the mean negative log-likelihood of a"
        " test row, smaller is better. The last rows are published numbers, for orientation."
    ]
    if set(models) & set(NETWORKS):
        parts[0] += f" {NETWORK_NOTE}"
    for title, field, column in (("RMSE", "rmse", 0), ("NLL", "nll", 1)):
        rows = [(m, *(_mean_and_error(records[m, name], field) for name in sets)) for m in models]
        rows += [
            (f"{who} (published)", *(f"{values[name][column]:.2f}" for name in sets))
            for who, values in PUBLISHED.items()
        ]
        parts.append(f"**{title}**\n\n" + markdown_table(("model", *sets), rows))
    rows = [
        (f"{m}, {title}", *(f"{np.mean([r[f] for r in records[m, name]]):{form}}" for name in sets))
        for title, f, form in (
            ("fit, s", "fit_seconds", ".2f"),
            ("predict, s", "predict_seconds", ".3f"),
            ("share in 95 % interval", "within_95", ".3f"),
        )
        for m in models
    ]
    parts.append("**Time and coverage, mean over splits**\n\n" + markdown_table(("", *sets), rows))
    for m in (m for m in models if m not in NETWORKS):
        better = [
            name
            for name in sets
            if np.mean([r["nll"] for r in records[m, name]])
            < min(values[name][1] for values in PUBLISHED.values())
        ]
        parts.append(
            f"{m} has a smaller NLL than both published rows on {len(better)} of"
            f" {len(sets)} sets: {', '.join(better) or 'none'}."
        )
    return "\n\n".join(parts)


def _mean_and_error(records: list[dict], field: str) -> str:
    values = np.array([record[field] for record in records])
    if len(values) < 2:
        return f"{values.mean():.3f}"
    return f"{values.mean():.3f} ± {values.std(ddof=1) / np.sqrt(len(values)):.3f}"


if __name__ == "__main__":
    main()
