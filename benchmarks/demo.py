"""The main job on real data: NTK estimators with their defaults beside the usual small-data models.

Three classification tables and one regression table that scikit-learn ships, five-fold
cross-validation, every model tuned inside each training part. Ends with a table and a picture.

    python benchmarks/demo.py [--out results/demo.png]
"""

import argparse
import os
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from _report import markdown_table
from _tuned_gp import fit_tuned_gp
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor, StackingClassifier
from sklearn.linear_model import BayesianRidge, LogisticRegression
from sklearn.model_selection import (
    GridSearchCV,
    KFold,
    StratifiedKFold,
    StratifiedShuffleSplit,
)
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from skntk import NTKClassifier, NTKRegressor
from skntk.datasets import Dataset, load
from skntk.metrics import expected_calibration_error

OURS = ("NTKClassifier", "NTKRegressor")
FOLDS = 5
DIGITS_ROWS = 600
TREES = 300
SVC_GRID = {"svc__C": np.logspace(-1, 3, 5), "svc__gamma": np.logspace(-4, 0, 5)}
LOGISTIC_GRID = {"logisticregression__C": np.logspace(-3, 2, 6)}


# Models: each takes training rows and returns what predicts test rows. A classifier returns two
# functions, for labels and for probabilities; a regressor one, for mean and standard deviation.


def ntk_classifier(X, y):
    """Defaults; tuned inside `fit`."""
    return _both(make_pipeline(StandardScaler(), NTKClassifier()).fit(X, y))


def rbf_svc(X, y):
    """C and gamma by inner five-fold accuracy; labels are its own, probabilities by Platt scaling.

    The latter is a logistic regression on cross-validated decisions for all classes: scaling each
    class by itself, as `CalibratedClassifierCV` does, has a much larger log loss on ten digits.
    """
    search = GridSearchCV(make_pipeline(StandardScaler(), SVC()), SVC_GRID, cv=5).fit(X, y)
    scaling = LogisticRegression(max_iter=5000)
    svc = StackingClassifier([("svc", search.best_estimator_)], scaling, cv=5)
    return search.predict, svc.fit(X, y).predict_proba


def random_forest(X, y):
    """300 trees; nothing to tune."""
    return _both(RandomForestClassifier(TREES, random_state=0).fit(X, y))


def logistic(X, y):
    """C by inner five-fold log loss."""
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=5000))
    return _both(GridSearchCV(model, LOGISTIC_GRID, scoring="neg_log_loss").fit(X, y))


def _both(model):
    return model.predict, model.predict_proba


def ntk_regressor(X, y):
    """Defaults; the variance of an observation is that of the function and of the noise."""
    scaler = StandardScaler().fit(X)
    model = NTKRegressor().fit(scaler.transform(X), y)

    def predict(Z):
        mean, std = model.predict(scaler.transform(Z), return_std=True)
        return mean, np.sqrt(std**2 + model.noise_variance_)

    return predict


def gaussian_process(X, y):
    """RBF kernel with one length scale a feature, by the evidence, from three starts."""
    scaler = StandardScaler().fit(X)
    model = fit_tuned_gp(scaler.transform(X), y)
    return lambda Z: model.predict(scaler.transform(Z), return_std=True)


def forest_regressor(X, y):
    """300 trees, with the spread of the out-of-bag residuals for every row."""
    model = RandomForestRegressor(TREES, oob_score=True, random_state=0).fit(X, y)
    std = np.sqrt(np.mean((y - model.oob_prediction_) ** 2))
    return lambda Z: (model.predict(Z), np.full(len(Z), std))


def bayesian_ridge(X, y):
    """Ridge and noise by the evidence."""
    model = make_pipeline(StandardScaler(), BayesianRidge()).fit(X, y)
    return lambda Z: model.predict(Z, return_std=True)


CLASSIFIERS = {
    "NTKClassifier": ntk_classifier,
    "tuned RBF-SVC": rbf_svc,
    "random forest": random_forest,
    "logistic regression": logistic,
}
REGRESSORS = {
    "NTKRegressor": ntk_regressor,
    "tuned RBF GP": gaussian_process,
    "random forest": forest_regressor,
    "Bayesian ridge": bayesian_ridge,
}


# Running


@dataclass
class Outcome:
    """Out-of-fold predictions of one model on one data set.

    `first` and `second` are what is predicted for every row: for a classifier probabilities (n, C)
    and nothing, for a regressor mean and standard deviation (n,). `losses` are the two losses of
    every row, (n,) each: error and log loss, or squared error and negative log density.
    """

    first: np.ndarray
    second: np.ndarray | None
    losses: dict[str, np.ndarray]
    seconds: float


def tables() -> list[Dataset]:
    """The data sets; of the digits a stratified subset, to keep the demo short."""
    digits = load("digits")
    cut = StratifiedShuffleSplit(1, train_size=DIGITS_ROWS, random_state=0)
    rows, _ = next(cut.split(digits.X, digits.y))
    subset = Dataset(
        f"digits ({DIGITS_ROWS} rows)",
        digits.task,
        digits.X[rows],
        digits.y[rows],
        digits.feature_names,
        digits.target_names,
        image_shape=digits.image_shape,
    )
    return [load("wine"), load("breast_cancer"), subset, load("diabetes")]


def classify(data: Dataset, fit) -> Outcome:
    """Cross-validate a classifier."""
    proba = np.zeros((len(data.y), len(data.target_names)))
    labels = np.zeros_like(data.y)
    start = time.perf_counter()
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=0)
    for train, test in folds.split(data.X, data.y):
        predict, predict_proba = fit(data.X[train], data.y[train])
        labels[test], proba[test] = predict(data.X[test]), predict_proba(data.X[test])
    seconds = time.perf_counter() - start
    error = (labels != data.y).astype(float)
    # As sklearn.metrics.log_loss, which the forest's zeros need.
    truth = proba[np.arange(len(data.y)), data.y].clip(np.finfo(float).eps)
    return Outcome(proba, None, {"error": error, "log loss": -np.log(truth)}, seconds)


def regress(data: Dataset, fit) -> Outcome:
    """Cross-validate a regressor."""
    mean, std = np.zeros(len(data.y)), np.zeros(len(data.y))
    start = time.perf_counter()
    for train, test in KFold(FOLDS, shuffle=True, random_state=0).split(data.X):
        mean[test], std[test] = fit(data.X[train], data.y[train])(data.X[test])
    seconds = time.perf_counter() - start
    residual = data.y - mean
    density = 0.5 * (np.log(2 * np.pi * std**2) + (residual / std) ** 2)
    return Outcome(mean, std, {"squared error": residual**2, "NLL": density}, seconds)


# Reporting


def classification_scores(data: Dataset, outcome: Outcome) -> dict[str, float]:
    """Accuracy in per cent, log loss, calibration error in per cent."""
    return {
        "accuracy %": 100 * (1 - outcome.losses["error"].mean()),
        "log loss": outcome.losses["log loss"].mean(),
        "ECE %": 100 * expected_calibration_error(data.y, outcome.first),
    }


def regression_scores(data: Dataset, outcome: Outcome) -> dict[str, float]:
    """Root mean squared error, negative log-likelihood, coverage of 90 % intervals in per cent."""
    inside = np.abs(data.y - outcome.first) <= 1.6449 * outcome.second
    return {
        "RMSE": np.sqrt(outcome.losses["squared error"].mean()),
        "NLL": outcome.losses["NLL"].mean(),
        "in 90 % interval": 100 * inside.mean(),
    }


def distance(name: str, score: float) -> float:
    """How far a score is from perfect."""
    return {"accuracy %": -score, "in 90 % interval": abs(score - 90)}.get(name, score)


def table(data: list[Dataset], results: dict[str, dict[str, Outcome]], scores) -> str:
    """One row a data set and model; a star at the best of each column."""
    rows, names = [], []
    for d in data:
        found = {m: scores(d, o) for m, o in results[d.name].items()}
        names = list(next(iter(found.values())))
        best = {s: min(distance(s, f[s]) for f in found.values()) for s in names}
        for model, f in found.items():
            cells = []
            for s in names:
                digits = 1 if "%" in s or s == "RMSE" else 3
                star = "*" if distance(s, f[s]) <= best[s] + 1e-12 else " "
                cells.append(f"{f[s]:.{digits}f}{star}")
            seconds = f"{results[d.name][model].seconds:.1f}"
            rows.append((d.name, model, *cells, seconds))
    return markdown_table(("data", "model", *names, "time s"), rows)


def rivals_ahead(results: dict[str, dict[str, Outcome]]) -> list[str]:
    """Where another model's mean loss is lower, with the standard error of the difference."""
    lines = []
    for name, outcomes in results.items():
        ours = next(m for m in OURS if m in outcomes)
        for loss, mine in outcomes[ours].losses.items():
            rival = min(outcomes, key=lambda m, loss=loss: outcomes[m].losses[loss].mean())
            gap = mine - outcomes[rival].losses[loss]
            if gap.mean() > 0:
                error = gap.std(ddof=1) / np.sqrt(len(gap))
                clear = "clearly" if gap.mean() > 2 * error else "within two standard errors"
                lines.append(
                    f"- {name}, {loss}: {rival} is lower by {gap.mean():.3g} ± {error:.2g}, {clear}"
                )
    return lines


# Drawing

# Of the reliability diagram: borders of its bins, and the fewest rows of one that is drawn.
BINS, FEWEST = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98), 10
MARKERS = {0: "o", 1: "s", 2: "^", 3: "D"}
GREYS = {0: "black", 1: "0.35", 2: "0.55", 3: "white"}


def draw(data: list[Dataset], results: dict[str, dict[str, Outcome]], path: Path) -> None:
    """Error, log loss, reliability and predictive intervals on one page."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    tables, target = data[:-1], data[-1]
    figure, axes = plt.subplots(2, 2, figsize=(10, 8), layout="constrained")
    _dots(axes[0, 0], tables, results, "error", 100)
    axes[0, 0].set(xlabel="test error (%)", title="Error (lower is better; ± one standard error)")
    _dots(axes[0, 1], tables, results, "log loss", 1)
    axes[0, 1].set(xlabel="test log loss (nats)", title="Log loss (lower is better)")
    _reliability(axes[1, 0], tables, results)
    _intervals(axes[1, 1], target, results[target.name])
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels), frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def _style(i: int) -> dict:
    return {"marker": MARKERS[i], "color": "black", "markerfacecolor": GREYS[i], "markersize": 7}


def _dots(ax, tables, results, loss: str, factor: float) -> None:
    for i, model in enumerate(CLASSIFIERS):
        losses = [factor * results[d.name][model].losses[loss] for d in tables]
        means = [v.mean() for v in losses]
        bars = [v.std() / np.sqrt(len(v)) for v in losses]
        y = np.arange(len(tables)) + 0.16 * (i - 1.5)
        ax.errorbar(means, y, xerr=bars, ls="none", lw=1, label=model, **_style(i))
    ax.set_yticks(range(len(tables)), [d.name for d in tables])
    ax.set_xlim(left=0)
    ax.invert_yaxis()
    ax.grid(axis="x", color="0.9")


def _reliability(ax, tables, results) -> None:
    """Confidence in the predicted class against how often it is right, all tables together."""
    ax.plot([0, 1], [0, 1], color="0.6", lw=1, ls=":")
    for i, model in enumerate(CLASSIFIERS):
        proba = [results[d.name][model].first for d in tables]
        confidence = np.concatenate([p.max(1) for p in proba])
        right = np.concatenate([p.argmax(1) == d.y for p, d in zip(proba, tables, strict=True)])
        bins = np.digitize(confidence, BINS)
        enough = [b for b in np.unique(bins) if (bins == b).sum() >= FEWEST]
        x, y = ([v[bins == b].mean() for b in enough] for v in (confidence, right))
        ax.plot(x, y, lw=0.8, **_style(i))
    ax.set(
        xlabel="confidence in the predicted class",
        ylabel="fraction that is right",
        title="Reliability, all three tables (dotted: calibrated)",
        xlim=(0.28, 1.02),
        ylim=(0.28, 1.02),
    )


def _intervals(ax, target: Dataset, outcomes: dict[str, Outcome]) -> None:
    """Sorted predictions of the NTK regressor with 90 % intervals, and what was observed."""
    outcome = outcomes["NTKRegressor"]
    order = outcome.first.argsort()
    mean, reach = outcome.first[order], 1.6449 * outcome.second[order]
    x = np.arange(len(order))
    ax.fill_between(x, mean - reach, mean + reach, color="0.85", label="90 % interval")
    ax.plot(x, mean, color="black", label="prediction")
    ax.plot(x, target.y[order], ".", color="0.35", ms=3, label="observed")
    inside = np.mean(np.abs(target.y - outcome.first) <= 1.6449 * outcome.second)
    ax.set(
        xlabel="test rows, by prediction",
        ylabel="disease progression (score)",
        title=f"NTKRegressor on {target.name}, {100 * inside:.0f} % inside",
    )
    ax.legend(loc="upper left", fontsize=8)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("results/demo.png"), help="the picture")
    out = parser.parse_args().out

    begin = time.perf_counter()
    data = tables()
    results: dict[str, dict[str, Outcome]] = {}
    for d in data:
        models, run = (CLASSIFIERS, classify), (REGRESSORS, regress)
        fits, evaluate = models if d.task == "classification" else run
        results[d.name] = {}
        for model, fit in fits.items():
            outcome = results[d.name][model] = evaluate(d, fit)
            print(f"{d.name}: {model} took {outcome.seconds:.1f} s", flush=True)
    draw(data, results, out)

    print(f"\n{FOLDS}-fold cross-validation; tuning, where there is any, inside each fold.")
    print("A star marks the best; time is that of all folds, tuning included.\n")
    print(table(data[:-1], results, classification_scores), end="\n\n")
    print(table(data[-1:], results, regression_scores))
    ahead = rivals_ahead(results)
    print("\nWhere another model is ahead (mean difference per row, with its standard error):")
    print("\n".join(ahead or ["- nowhere"]))
    print(f"\n{time.perf_counter() - begin:.0f} s in all; picture: {os.path.relpath(out)}")


if __name__ == "__main__":
    main()
