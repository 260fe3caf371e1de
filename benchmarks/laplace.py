"""Linearized Laplace beside laplace-torch: time of fit, tuning and prediction, and agreement.

The same trained network, data, prior and threads for both, in one process:

- digits, a network 64-50-10 (3760 parameters), 1200 training rows, 597 test rows, in float32 for
  laplace-torch, whose default that is, and in float64 for skntk, which runs networks in float32
  only where their last layer alone is uncertain;
- full, Kronecker-factored and diagonal posterior over all weights: the posterior at a prior
  precision of 1; its tuning by the marginal likelihood; class probabilities by the probit link;
- convolutional networks: all layers of LeNet-5, Kronecker-factored, and the last layer of a
  residual network, in full; weights and images are random, for times do not depend on them;
- the last layer of a network with 3000 classes: time and peak memory to predict 1000 rows.

    python benchmarks/laplace.py

laplace-torch is in the environment of the tests (``make test``); its full posterior is tuned once,
which takes minutes.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _memory import peak_bytes
from _report import markdown_table, publish
from sklearn.datasets import load_digits
from threadpoolctl import threadpool_limits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from skntk import LinearizedLaplaceClassifier

HERE = Path(__file__).resolve().parent
TRAINING_ROWS = 1200
CLASSES, FEATURES, ROWS = 3000, 64, 1000
STRUCTURES = ("full", "kron", "diag")
LIMIT_GIB = 2.0


def main() -> None:
    args = _arguments()
    torch.set_num_threads(args.threads)
    if args.many_classes:
        print(json.dumps(many_classes()))
        return
    X, y = load_digits(return_X_y=True)
    X = X / 16
    with threadpool_limits(args.threads):
        net = trained(X[:TRAINING_ROWS], y[:TRAINING_ROWS])
        data = X[:TRAINING_ROWS], y[:TRAINING_ROWS], X[TRAINING_ROWS:]
        ours_only(net, *data)  # neither pays for imports
        results = {s: compare(net, *data, s, args.repeats) for s in args.structures}
        images = {name: compare_images(name, args.repeats) for name in IMAGES}
    many = subprocess.run(
        [sys.executable, __file__, "--many-classes", "--threads", str(args.threads)],
        capture_output=True,
        text=True,
        check=True,
    )
    whole = tuple(args.structures) == STRUCTURES
    publish(
        "laplace" if whole else "laplace (part)",
        _body(results, images, json.loads(many.stdout), args.threads),
        extra_versions={"laplace-torch": version("laplace-torch")},
        write=not args.no_write,
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--structures", nargs="+", default=list(STRUCTURES), choices=STRUCTURES)
    parser.add_argument("--repeats", type=int, default=5, help="of all but the slowest")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--no-write", action="store_true", help="print only")
    parser.add_argument("--many-classes", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def trained(X: np.ndarray, y: np.ndarray) -> nn.Module:
    """The network, trained in float32 with a weight decay."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(64, 50), nn.Tanh(), nn.Linear(50, 10))
    optimizer = torch.optim.Adam(net.parameters(), 1e-2, weight_decay=1e-4)
    rows, labels = torch.tensor(X, dtype=torch.float32), torch.tensor(y)
    for _ in range(300):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(rows), labels).backward()
        optimizer.step()
    return net.eval()


def ours_only(net: nn.Module, X: np.ndarray, y: np.ndarray, Z: np.ndarray) -> None:
    LinearizedLaplaceClassifier(net, prefit=True, curvature="diag").fit(X, y).predict_proba(Z)


def peer() -> tuple[Any, Any, Any]:
    """Classes of laplace-torch, whose package has the name of this script."""
    kept = sys.path[:]
    sys.path[:] = [p for p in kept if Path(p or ".").resolve() != HERE]
    try:
        import laplace
        import laplace.curvature as curvature
    finally:
        sys.path[:] = kept
    return laplace.Laplace, curvature.CurvlinopsGGN, curvature.BackPackGGN


def seconds(function: Callable[[], Any], repeats: int) -> tuple[float, Any]:
    """Median time of a call, and its last result."""
    found = []
    for _ in range(repeats):
        start = time.perf_counter()
        result = function()
        found.append(time.perf_counter() - start)
    return statistics.median(found), result


def compare(
    net: nn.Module, X: np.ndarray, y: np.ndarray, Z: np.ndarray, structure: str, repeats: int
) -> dict:
    """Times of both, and how far their probabilities are apart."""
    print(f"{structure} ...", file=sys.stderr, flush=True)
    Laplace, CurvlinopsGGN, BackPackGGN = peer()
    rows = TensorDataset(torch.tensor(X, dtype=torch.float32), torch.tensor(y))
    test = torch.tensor(Z, dtype=torch.float32)
    # its default backend, and for the diagonal its fastest
    backend = BackPackGGN if structure == "diag" else CurvlinopsGGN
    slow = 1 if structure == "full" else repeats

    def fit_theirs() -> Any:
        la = Laplace(
            net,
            "classification",
            subset_of_weights="all",
            hessian_structure=structure,
            backend=backend,
            prior_precision=1.0,
        )
        la.fit(DataLoader(rows, batch_size=len(rows)))
        return la

    def fit_ours(**more: Any) -> LinearizedLaplaceClassifier:
        return LinearizedLaplaceClassifier(net, prefit=True, curvature=structure, **more).fit(X, y)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fit_theirs_s, la = seconds(fit_theirs, repeats if structure != "full" else 3)

        def predict_theirs() -> Any:
            return la(test, pred_type="glm", link_approx="probit").detach()

        first_theirs_s, fixed = seconds(predict_theirs, 1)
        fixed = fixed.double().numpy()

        tune_theirs_s, _ = seconds(lambda: la.optimize_prior_precision(method="marglik"), slow)
        predict_theirs_s, p_theirs = seconds(predict_theirs, repeats)
        evidence_theirs = float(la.log_marginal_likelihood())
    fit_ours_s, model = seconds(lambda: fit_ours(prior_precision=1.0), repeats)
    first_ours_s, ours_fixed = seconds(lambda: model.predict_proba(Z), 1)
    # tuning is what a tuned fit takes beyond the curvature of the rows
    whole_s, model = seconds(fit_ours, repeats)
    tune_ours_s, _ = seconds(lambda: model._tune(), repeats)
    predict_ours_s, p_ours = seconds(lambda: model.predict_proba(Z), repeats)
    theirs_at_ours = float(
        la.log_marginal_likelihood(prior_precision=torch.tensor(model.prior_precision_))
    )
    return {
        "fit": (fit_theirs_s, fit_ours_s),
        "tuning": (tune_theirs_s, tune_ours_s),
        "fit and tuning": (fit_theirs_s + tune_theirs_s, whole_s),
        "first predict": (first_theirs_s, first_ours_s),
        "predict": (predict_theirs_s, predict_ours_s),
        "precision": (float(la.prior_precision), model.prior_precision_),
        "evidence": (evidence_theirs, model.log_marginal_likelihood_),
        "evidence at ours": theirs_at_ours,
        "difference": float(np.abs(fixed - ours_fixed).max()),
        "accuracy": (
            float((p_theirs.argmax(1).numpy() == _labels()).mean()),
            float((p_ours.argmax(1) == _labels()).mean()),
        ),
    }


class ResidualBlock(nn.Module):
    """Two convolutions with batch normalization, and what goes past them."""

    def __init__(self, c_in: int, c_out: int, stride: int) -> None:
        super().__init__()
        self.inner = nn.Sequential(
            nn.Conv2d(c_in, c_out, 3, stride, 1, bias=False),
            nn.BatchNorm2d(c_out),
            nn.ReLU(),
            nn.Conv2d(c_out, c_out, 3, 1, 1, bias=False),
            nn.BatchNorm2d(c_out),
        )
        self.past = nn.Conv2d(c_in, c_out, 1, stride, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Sum of both, positive part."""
        return torch.relu(self.inner(x) + self.past(x))


def lenet() -> nn.Module:
    """LeNet-5 for images (1, 28, 28)."""
    return nn.Sequential(
        *(nn.Conv2d(1, 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()),
        *(nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10)),
    )


def residual() -> nn.Module:
    """Nine convolutions for images (3, 32, 32)."""
    blocks = [ResidualBlock(16, 16, 1), ResidualBlock(16, 32, 2), ResidualBlock(32, 64, 2)]
    pool = (nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), *blocks, *pool, nn.Linear(64, 10))


# network, shape of its images, training and test rows, parameters, structure
IMAGES: dict[str, tuple] = {
    "LeNet-5, all layers, kron": (lenet, (1, 28, 28), 1000, 100, None, "kron"),
    "residual network, last layer, full": (residual, (3, 32, 32), 1000, 1000, "last_layer", "full"),
}


def compare_images(name: str, repeats: int) -> tuple[dict[str, tuple[float, float]], float]:
    """Times of both for a convolutional network, and how far their probabilities are apart."""
    print(f"{name} ...", file=sys.stderr, flush=True)
    make, shape, n, m, parameters, structure = IMAGES[name]
    Laplace, CurvlinopsGGN, _ = peer()
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    net = make()
    X, Z = (torch.randn(rows, *shape, generator=generator) for rows in (n, m))
    with torch.no_grad():
        net(X)  # statistics of batch normalization
    net.eval()
    y = torch.randint(10, (n,), generator=generator)
    loader = DataLoader(TensorDataset(X, y), batch_size=250)
    la: Any = None

    def fit_theirs() -> None:
        nonlocal la
        la = Laplace(
            net,
            "classification",
            subset_of_weights=parameters or "all",
            hessian_structure=structure,
            backend=CurvlinopsGGN,
        )
        la.fit(loader)

    def predict_theirs(link: str) -> np.ndarray:
        parts = [la(b, link_approx=link, n_samples=100).detach() for b in Z.split(100)]
        return torch.cat(parts).double().numpy()

    model = LinearizedLaplaceClassifier(
        net, prefit=True, parameters=parameters, curvature=structure, prior_precision=1.0
    )
    images = X.numpy(), Z.numpy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fit_theirs()  # neither pays for imports
        predict_theirs_s, theirs = seconds(lambda: predict_theirs("probit"), 1)
        repeats = repeats if predict_theirs_s < 10 else 1
        fit_theirs_s, _ = seconds(fit_theirs, repeats)
        predict_theirs_s, theirs = seconds(lambda: predict_theirs("probit"), repeats)
        mc_theirs_s, _ = seconds(lambda: predict_theirs("mc"), repeats)
    fit_ours_s, _ = seconds(lambda: model.fit(images[0], y.numpy()), repeats)
    model.predict_proba(images[1])
    predict_ours_s, ours = seconds(lambda: model.predict_proba(images[1]), repeats)
    model.set_params(link="mc", n_samples=100)
    mc_ours_s, _ = seconds(lambda: model.predict_proba(images[1]), repeats)
    steps = {
        "fit": (fit_theirs_s, fit_ours_s),
        "predict": (predict_theirs_s, predict_ours_s),
        "predict, 100 draws": (mc_theirs_s, mc_ours_s),
    }
    return steps, float(np.abs(theirs - ours).max())


def _labels() -> np.ndarray:
    return load_digits(return_X_y=True)[1][TRAINING_ROWS:]


def many_classes() -> dict:
    """Last layer with thousands of classes, in a process of its own."""
    rng = np.random.default_rng(0)
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(20, FEATURES), nn.ReLU(), nn.Linear(FEATURES, CLASSES))
    X, y = rng.standard_normal((ROWS, 20)), rng.integers(0, CLASSES, ROWS)
    before = peak_bytes() / 2**30
    model = LinearizedLaplaceClassifier(
        net, prefit=True, parameters="last_layer", curvature="kron", prior_precision=1.0
    )
    start = time.perf_counter()
    model.fit(X, y)
    fitted = time.perf_counter()
    fit_peak = peak_bytes() / 2**30
    p = model.predict_proba(X)
    predicted = time.perf_counter()
    assert p.shape == (ROWS, CLASSES)
    return {
        "fit": fitted - start,
        "predict": predicted - fitted,
        "before": before,
        "fit_peak": fit_peak,
        "peak": peak_bytes() / 2**30,
    }


def _body(results: dict[str, dict], images: dict[str, tuple], many: dict, threads: int) -> str:
    rows = []
    for structure, r in results.items():
        for what in ("fit", "tuning", "fit and tuning", "first predict", "predict"):
            theirs, ours = r[what]
            rows.append(
                (
                    f"{structure}, {what}",
                    f"{theirs:.3f}",
                    f"{ours:.3f}",
                    f"{theirs / ours:.1f}",
                )
            )
    table = markdown_table(("posterior, step", "laplace-torch, s", "skntk, s", "ratio"), rows)
    found = markdown_table(
        ("posterior", "prior precision", "evidence", "its evidence at ours", "accuracy", "apart"),
        [
            (
                s,
                "{:.4g} / {:.4g}".format(*r["precision"]),
                "{:.2f} / {:.2f}".format(*r["evidence"]),
                f"{r['evidence at ours']:.2f}",
                "{:.4f} / {:.4f}".format(*r["accuracy"]),
                f"{r['difference']:.1e}",
            )
            for s, r in results.items()
        ],
    )
    convolutional = markdown_table(
        ("network, posterior, step", "laplace-torch, s", "skntk, s", "ratio"),
        [
            (f"{name}, {what}", f"{theirs:.3f}", f"{ours:.3f}", f"{theirs / ours:.1f}")
            for name, (steps, _) in images.items()
            for what, (theirs, ours) in steps.items()
        ],
    )
    apart = ", ".join(f"{difference:.1e}" for _, difference in images.values())
    return (
        f"Digits, network 64-50-10, {TRAINING_ROWS} training rows, 597 test rows, {threads} "
        "threads; medians (the full posterior of laplace-torch is tuned once). *Fit* is the "
        "posterior at prior precision 1 (for skntk with its evidence), *tuning* is by the marginal "
        "likelihood, with the default settings of each. *Predict* is by the probit link; the first "
        "prediction after a fit at prior precision 1 makes the covariance of the weights, with "
        "both.\n\n"
        f"{table}\n\n"
        "What they find, laplace-torch / skntk: prior precision, log marginal likelihood, that of "
        "laplace-torch at the precision that skntk found, accuracy; and the largest difference of "
        "their probabilities at prior precision 1 (float32 against float64).\n\n"
        f"{found}\n\n"
        "**Convolutional networks**, random weights and images, prior precision 1: "
        + "; ".join(f"{name}: {i[2]} training and {i[3]} test images" for name, i in IMAGES.items())
        + f". Their probabilities by the probit link are apart by at most {apart}.\n\n"
        f"{convolutional}\n\n"
        f"**Last layer with {CLASSES} classes** ({FEATURES} features, Kronecker factors): fit on "
        f"{ROWS} rows {many['fit']:.1f} s, peak {many['fit_peak']:.2f} GiB; prediction of {ROWS} "
        f"rows {many['predict']:.2f} s, peak of the process {many['peak']:.2f} GiB, of which "
        f"{many['before']:.2f} GiB are Python and its libraries (limit {LIMIT_GIB:g} GiB)."
    )


if __name__ == "__main__":
    main()
