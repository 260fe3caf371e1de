"""Adam's limit beside the NTK's and finite networks, and which claims of Sernau (2024) hold.

Each model takes four learning rates and up to 200 steps; the learning rate and the step with the
least loss at held out rows are scored on test rows.

    python benchmarks/adam_limit.py --data DIR
    python benchmarks/adam_limit.py --data DIR --seeds 5 --jobs 2
"""

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from _adam_runs import DEPTH, FEATURES, MODELS, SETS, STEPS, TRAIN, WIDTH, run
from _cache import DEFAULT_DIRECTORY, HERE, ResultCache, code_version
from _report import markdown_table, publish
from joblib import Parallel, delayed
from scipy.stats import rankdata, studentized_range, wilcoxon
from threadpoolctl import threadpool_limits

#: Files that the limit's numbers depend on.
CORE = [HERE.parent / "skntk" / "adam" / f"{name}.py"
        for name in ("features", "rule", "gaussian")]  # fmt: skip
#: Pairs of models whose difference is a claim, or bears on one.
PAIRS = (
    ("lazy, GD", "NTK limit"),
    ("lazy, Adam", "NTK limit"),
    ("full, plain Adam", "NTK limit"),
    ("Adam limit", "NTK limit"),
    ("Adam limit", "lazy, Adam"),
    ("Adam limit", "full, Adam"),
    ("Adam limit", "full, plain Adam"),
)


def main() -> None:
    """Run what is missing, and publish."""
    args = _arguments()
    runs = [HERE / "_adam_runs.py"]
    versions = {m: code_version(runs + CORE * (m == "Adam limit")) for m in MODELS}
    cache = ResultCache(args.resume, ("model", "set", "seed", "version"))
    wanted = [(m, s, seed) for seed in range(args.seeds) for s in SETS for m in MODELS]
    missing = [
        key for key in wanted
        if cache.get(model=key[0], set=key[1], seed=key[2], version=versions[key[0]]) is None
    ]  # fmt: skip
    done = Parallel(n_jobs=args.jobs, return_as="generator_unordered")(
        delayed(_one)(*key, str(args.data)) for key in missing
    )
    for i, record in enumerate(done):
        cache.add({**record, "version": versions[record["model"]]})
        print(f"{i + 1}/{len(missing)} {record}", flush=True)
    records = {
        key: cache.get(model=key[0], set=key[1], seed=key[2], version=versions[key[0]])
        for key in wanted
    }
    publish("adam_limit", _body(records, args.seeds), write=not args.no_write)


def _one(model: str, name: str, seed: int, data: str) -> dict[str, Any]:
    import torch

    torch.set_num_threads(1)
    with threadpool_limits(1):
        return {"model": model, "set": name, "seed": seed, **run(model, name, seed, data)}


def _body(records: dict[tuple, dict], seeds: int) -> str:
    models = list(MODELS)
    errors = np.array([[[records[m, s, i]["error"] for i in range(seeds)] for s in SETS]
                       for m in models])  # fmt: skip
    mean, se = errors.mean(2), errors.std(2, ddof=1) / np.sqrt(seeds)
    ranks = rankdata(mean.round(12), axis=0)
    k, n = len(models), len(SETS)
    critical = studentized_range.ppf(0.95, k, np.inf) / np.sqrt(2) * np.sqrt(k * (k + 1) / (6 * n))
    rows = [
        [s.split("/")[-1], *(f"{100 * mean[m, j]:.1f} ± {100 * se[m, j]:.1f}" for m in range(k))]
        for j, s in enumerate(SETS)
    ]  # fmt: skip
    rows.append(["mean rank", *(f"{r:.2f}" for r in ranks.mean(1))])
    seconds = np.array([[np.mean([records[m, s, i]["all_seconds"] for i in range(seeds)])
                         for s in SETS] for m in models])  # fmt: skip
    rows.append(["seconds, all rates", *(f"{x:.0f}" for x in seconds.mean(1))])
    mc = [records["Adam limit", s, i]["mc"] for s in SETS for i in range(seeds)]
    held = np.array([[min(records[m, s, i]["step"] == STEPS for i in range(seeds)) for s in SETS]
                     for m in models]).mean(1)  # fmt: skip
    return "\n".join([
        f"Test error in percent, mean ± standard error over {seeds} seeds: of labels, or the mean "
        "square in units of the targets' variance. "
        f"Up to {TRAIN} training rows, a fifth of them held out; depth {DEPTH}, ReLU, full "
        f"batches, 4 learning rates, at most {STEPS} steps. Finite networks have width {WIDTH} and "
        "start at 0; lazy ones are linearized. Adam's limit has "
        f"{FEATURES} features of each weight tensor; the "
        f"Monte-Carlo error of its prediction is {np.median(mc):.3f} (median over sets and seeds), "
        f"at most {max(mc):.3f}. 'Adam' has a rate for each tensor (scaled_adam), 'plain Adam' one "
        "rate and the standard parametrization. NTK limit: the analytic kernel, momentum 0.9.",
        "",
        markdown_table(["set", *models], rows),
        "",
        f"Critical difference of mean ranks at 5 % (Nemenyi): {critical:.2f}. Models that took all "
        "steps in every seed, share of the sets: "
        + ", ".join(f"{m} {h:.0%}" for m, h in zip(models, held, strict=True)) + ".",
        "",
        markdown_table(
            ["difference of errors", "wins", "losses", "told apart on", "median, points",
             "Wilcoxon p"],
            [_pair(errors, models, a, b) for a, b in PAIRS],
        ),
        "",
        "Wins: sets on which the first of the two has the smaller mean error. Told apart: sets on "
        "which the difference, paired by seed, is more than twice its standard error (first "
        "better / worse). The test is over sets.",
    ])  # fmt: skip


def _pair(errors: np.ndarray, models: list[str], a: str, b: str) -> Iterable[str]:
    difference = errors[models.index(a)] - errors[models.index(b)]
    mean = difference.mean(1)
    clear = 2 * difference.std(1, ddof=1) / np.sqrt(difference.shape[1]) < abs(mean)
    p = wilcoxon(mean).pvalue if np.any(mean) else 1.0
    better, worse = (clear & (mean < 0)).sum(), (clear & (mean > 0)).sum()
    return [
        f"{a} - {b}",
        str((mean < 0).sum()),
        str((mean > 0).sum()),
        f"{better} / {worse}",
        f"{100 * np.median(mean):+.1f}",
        f"{p:.3f}",
    ]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, type=Path, help="directory of the data sets")
    parser.add_argument("--seeds", type=int, default=3, help="default %(default)s")
    parser.add_argument("--jobs", type=int, default=2, help="at one time; default %(default)s")
    parser.add_argument(
        "--resume",
        type=Path,
        metavar="FILE",
        default=DEFAULT_DIRECTORY / "adam_limit.jsonl",
        help="where finished runs are kept",
    )
    parser.add_argument("--no-write", action="store_true", help="print only")
    return parser.parse_args()


if __name__ == "__main__":
    main()
