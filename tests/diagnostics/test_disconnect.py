"""`disconnect_report`: readings that differ by one thing, and what is said of the differences."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import accuracy_score, r2_score
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from skorch.callbacks import Callback, LRScheduler
from torch import nn

import skntk
import skntk.nn as snn
from skntk import NetworkClassifier, NetworkRegressor, NTKRegressor
from skntk.diagnostics import disconnect_report
from skntk.diagnostics.disconnect import _finding
from skntk.diagnostics.disconnect_verdict import DIFFERENCES, _answer
from skntk.diagnostics.laws import estimate
from skntk.diagnostics.readings import READINGS
from skntk.diagnostics.subject import draw_seed


def problem(seed, n=40, d=3):
    """A smooth function with little noise."""
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, d))
    return X, np.sin(X[:, 0]) + 0.5 * X[:, 1] + 0.1 * rng.standard_normal(n)


WIDE = {"depth": 1, "activation": "erf", "bias_std": 0.3, "dtype": "float64"}


@pytest.mark.slow
@pytest.mark.parametrize("centered", [False, True])
def test_where_theory_is_right_no_difference_is_told_from_zero(centered, seed):
    """Gradient descent on a wide shallow erf network: at width 8192, 8 runs.

    Over 12 seeds, centered or not, these are 72 intervals: each holds 0, the widest is 0.03 wide.
    """
    X, y = problem(seed)
    net = NetworkRegressor(**WIDE, centered=centered, optimizer="gd", max_epochs=20)
    report = disconnect_report(net, X, y, widths=[8192], n_seeds=8, random_state=seed)
    summary = report.summary
    assert (summary.low <= 0).all()
    assert (summary.high >= 0).all()
    assert (summary.finding == "none").all()
    assert "kernel theory describes the network's R^2" in report.verdict


def recorded(report_of):
    """The seeds of the networks that a report trains."""
    seeds = []
    fit = NetworkRegressor.fit

    def noting(self, X, y):
        seeds.append(self.random_state)
        return fit(self, X, y)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(NetworkRegressor, "fit", noting)
        report = report_of()
    return report, list(dict.fromkeys(seeds))


@pytest.mark.parametrize("centered", [False, True])
@pytest.mark.parametrize("optimizer", ["gd", "adam"])
def test_readings_are_those_of_the_estimators(optimizer, centered, seed):
    """The same networks and machines, fitted one by one on the same split."""
    X, y = problem(seed)
    params = {**WIDE, "width": 32, "centered": centered, "optimizer": optimizer, "max_epochs": 30}
    net = NetworkRegressor(**params)
    report, seeds = recorded(lambda: disconnect_report(net, X, y, n_seeds=2, random_state=seed))
    for row, random_state in zip(report.runs.itertuples(), seeds, strict=True):
        state = draw_seed(seed, 1, row.seed)
        A, B, a, b = train_test_split(X, y, test_size=0.25, random_state=state)
        full = NetworkRegressor(**params, random_state=random_state).fit(A, a)
        lazy = NetworkRegressor(
            **{**params, "learning_rate": full.net_.lr},
            regime="linearized",
            random_state=random_state,
        ).fit(A, a)
        assert row.full == pytest.approx(full.score(B, b), abs=1e-9)
        assert row.linearized == pytest.approx(lazy.score(B, b), abs=1e-9)
        apart = (full._forward(B) - lazy._forward(B)).square().mean().sqrt()
        assert row.feature_learning_distance == pytest.approx(float(apart))
        assert row.constant == pytest.approx(r2_score(b, np.full(len(b), a.mean())))
        if optimizer == "gd":
            assert row.time == pytest.approx(full.net_.lr * 30)
        else:
            assert row.kernel_loss == pytest.approx(row.linearized_loss, rel=1e-6)
        same = {key: WIDE[key] for key in ("depth", "activation", "bias_std")}
        machine = NTKRegressor(
            **same, width=32, centered=centered, alpha=0.0, tuning=None, embedding="none",
            training_time=row.time, random_state=random_state,
        ).fit(A, a)  # fmt: skip
        assert row.kernel == pytest.approx(machine.score(B, b), abs=1e-8)
        limit = NTKRegressor(
            **same, alpha=0.0, tuning=None, embedding="none", training_time=row.time
        )
        if centered:
            assert row.limit == pytest.approx(limit.fit(A, a).score(B, b), abs=1e-8)
        else:  # it starts from the network's function at initialization
            start = NetworkRegressor(**{**params, "max_epochs": 0}, random_state=random_state)
            f = start.fit(A, a)._forward
            z = (a - a.mean()) / a.std()
            kernel = skntk.infinite_width(start.module_)
            values, vectors = np.linalg.eigh(kernel(A))
            grown = -np.expm1(-values * row.time / len(A)) / values
            dual = vectors @ (grown * (vectors.T @ (z - f(A).numpy()[:, 0])))
            found = (f(B).numpy()[:, 0] + kernel(B, A) @ dual) * a.std() + a.mean()
            assert row.limit == pytest.approx(r2_score(b, found), abs=1e-8)


@pytest.mark.parametrize(
    "params", [{"momentum": 0.5}, {"callbacks": [LRScheduler("StepLR", step_size=5, gamma=0.5)]}]
)
def test_only_plain_gradient_descent_has_a_time_of_its_own(params, seed):
    X, y = problem(seed)
    net = NetworkRegressor(**WIDE, width=32, optimizer="gd", max_epochs=20, **params)
    report = disconnect_report(net, X, y, n_seeds=2)
    np.testing.assert_allclose(report.runs.kernel_loss, report.runs.linearized_loss, rtol=1e-6)


def test_the_linearization_is_trained_as_the_network_is(seed, monkeypatch):
    """With the rate and the damping that suit the network, where the estimator says "auto"."""
    X, y = problem(seed)
    fitted = []
    fit = NetworkRegressor.fit
    monkeypatch.setattr(
        NetworkRegressor, "fit", lambda self, X, y: fitted.append(self) or fit(self, X, y)
    )
    net = NetworkRegressor(depth=1, width=16, optimizer="kfac", max_epochs=3)
    disconnect_report(net, X, y, n_seeds=2)
    full, lazy = (
        [n for n in fitted if n.regime == regime and n.max_epochs == 3]
        for regime in ("full", "linearized")
    )
    assert [n.net_.lr for n in full] == [n.net_.lr for n in lazy] == [n.learning_rate for n in lazy]
    assert [n._damping for n in full] == [n.damping for n in lazy]


def test_differences_telescope(seed):
    X, y = problem(seed)
    net = NetworkRegressor(depth=1, width=16, max_epochs=10)
    report = disconnect_report(net, X, y, widths=[8, 16, np.inf], n_seeds=3)
    runs = report.runs
    total = runs.feature_learning + runs.optimizer + runs.finite_width
    np.testing.assert_allclose(total, runs.full - runs.limit, atol=1e-12)
    np.testing.assert_allclose(runs.total, total, atol=1e-12)
    assert list(report.summary.difference) == 2 * list(DIFFERENCES)
    assert list(report.scores.reading) == 2 * list(READINGS)
    for row in report.summary.itertuples():
        own = runs[runs.width == row.width]
        values = own[row.difference]
        assert row.mean == pytest.approx(values.mean(), abs=1e-15)
        errors = own[f"{row.difference}_error"]
        spread = max(values.std(), np.sqrt((errors**2).mean() / (1 + 10 / 30)))
        expected = spread * math.sqrt(1 / 3 + 10 / 30)  # Nadeau & Bengio
        assert row.standard_error == pytest.approx(expected)


def test_splits_of_few_of_many_rows_hardly_overlap(seed):
    X, y = problem(seed)
    net = NetworkRegressor(depth=1, width=8, max_epochs=5)
    report = disconnect_report(net, X, y, n_seeds=4, train_size=12, test_size=4)
    for row in report.summary.itertuples():
        values, errors = (report.runs[f"{row.difference}{end}"] for end in ("", "_error"))
        expected = estimate(values, 4 / 36, errors)
        assert (row.low, row.high) == pytest.approx((expected.low, expected.high))


def test_runs_that_agree_by_chance_are_not_exact(seed):
    """The error of a difference of accuracies is that of a paired comparison of test rows."""
    X, y = problem(seed)
    net = NetworkClassifier(depth=1, width=8, max_epochs=5)
    report = disconnect_report(net, X, (y > 0).astype(int), n_seeds=2, test_size=10)
    assert (report.summary.high - report.summary.low >= 0).all()
    for row in report.runs.itertuples():
        # differences of one row are -1, 0 or 1: of n rows, d more are right on one side
        d = abs(round(10 * row.feature_learning))
        least = math.sqrt((d - d**2 / 10) / 9 / 10) if d else 0.0
        assert row.feature_learning_error >= least - 1e-12


def test_scores_are_those_of_the_estimators_for_constant_targets(seed):
    X, _ = problem(seed)
    net = NetworkRegressor(depth=1, width=8, max_epochs=2)
    report = disconnect_report(net, X, np.full(40, 3.0), n_seeds=2)
    assert np.isfinite(report.runs[list(READINGS)].to_numpy()).all()


def test_splits_are_shared_by_widths_and_weights_are_not(seed):
    X, y = problem(seed)
    net = NetworkRegressor(depth=1, max_epochs=1, centered=True, learning_rate=1e-12)
    report = disconnect_report(net, X, y, widths=[8, 16], n_seeds=3, random_state=seed)
    # hardly trained and centered, all predict the mean of the training rows
    scores = report.runs.pivot(index="seed", columns="width", values="full")
    np.testing.assert_allclose(scores[8], scores[16], rtol=1e-6)
    np.testing.assert_allclose(report.runs.full, report.runs.constant, atol=1e-6)
    assert scores[8].nunique() == 3
    assert (report.runs[list(DIFFERENCES)].abs().max() < 1e-6).all()


def test_feature_learning_is_found(seed):
    """A parity of two of 25 inputs: the trained network finds the two, its lazy twin does not.

    Over 12 seeds the difference of accuracies is 0.15 to 0.21, its interval never below 0.019.
    """
    rng = np.random.default_rng(seed)
    X = rng.choice([-1.0, 1.0], (500, 25))
    y = np.where(X[:, 0] * X[:, 1] > 0, "same", "other")
    net = NetworkClassifier(
        depth=1, width=48, centered=True, optimizer="adam", learning_rate=0.05, max_epochs=40
    )
    report = disconnect_report(net, X, y, n_seeds=6, random_state=seed)
    row = report.summary.set_index("difference").loc["feature_learning"]
    assert row.finding == "positive"
    assert row["mean"] > 0.1
    assert "does not describe the network's accuracy: feature learning" in report.verdict


def test_classes(seed):
    """Accuracies are those of squared loss on indicators, with the kernel of all outputs."""
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((40, 3))
    y = np.array(["red", "green", "blue"])[(X[:, 0] > 0) + (X[:, 1] > 0) * 1]
    net = NetworkClassifier(depth=1, width=24, optimizer="gd", max_epochs=30, dtype="float64")
    report = disconnect_report(net, X, y, n_seeds=2, random_state=seed)
    assert report.score == "accuracy"
    for name in READINGS:
        assert report.runs[name].between(0, 1).all()
    row = report.runs.iloc[0]
    state = draw_seed(seed, 1, 0)
    A, B, a, b = train_test_split(X, y, test_size=0.25, random_state=state, stratify=y)
    weights = draw_seed(seed, 0, 0, 24)
    full = NetworkClassifier(**{**net.get_params(), "loss": "squared", "random_state": weights})
    start = NetworkClassifier(**{**full.get_params(), "max_epochs": 0}).fit(A, a)
    assert row.full == pytest.approx(full.fit(A, a).score(B, b))
    K = skntk.empirical_ntk(start.module_, A).transpose(0, 2, 1, 3).reshape(90, 90)
    cross = skntk.empirical_ntk(start.module_, B, A).transpose(0, 2, 1, 3).reshape(30, 90)
    gap = (np.eye(3)[np.unique(a, return_inverse=True)[1]] - start._forward(A).numpy()).ravel()
    values, vectors = np.linalg.eigh(K)
    dual = vectors @ (-np.expm1(-values * row.time / 90) / values * (vectors.T @ gap))
    outputs = start._forward(B).numpy() + (cross @ dual).reshape(10, 3)
    predicted = start.classes_[outputs.argmax(1)]
    assert row.kernel == pytest.approx(accuracy_score(b, predicted))


def test_several_targets(seed):
    X, y = problem(seed)
    net = NetworkRegressor(**WIDE, width=2048, centered=True, optimizer="gd", max_epochs=30)
    report = disconnect_report(net, X, np.stack([y, -y, X[:, 2]], 1), n_seeds=3)
    assert (report.runs.optimizer_distance < 0.05).all()
    assert (report.runs.finite_width_distance < 0.2).all()


def test_a_module_as_it_stands(seed):
    X, y = problem(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = snn.MLP(3, 1, width=32)
    report = disconnect_report(net, X, y, n_seeds=2)
    assert report.runs.width.isna().all()
    assert "As it stands: " in report.verdict
    report.plot()


def test_no_limit_of_a_convolutional_network(seed):
    rng = np.random.default_rng(seed)
    X, y = rng.standard_normal((24, 1, 4, 4)), np.arange(24) % 2
    net = NetworkClassifier(
        module=snn.ConvNet,
        width=8,
        module__in_channels=1,
        module__out_features=2,
        module__depth=1,
        max_epochs=3,
    )
    report = disconnect_report(net, X, y, n_seeds=2)
    assert report.runs.limit.isna().all()
    assert report.runs.kernel.notna().all()
    findings = report.summary.set_index("difference").finding
    assert (findings[["finite_width", "total"]] == "no limit").all()
    assert findings["feature_learning"] not in ("no limit", "unknown")
    assert "finite width: not known, for there is no analytic limit" in report.verdict
    report.plot()


def test_transformers_are_fitted_on_training_rows(seed):
    X, y = problem(seed)
    seen = []

    class Noting(StandardScaler):
        def fit(self, X, y=None, sample_weight=None):
            seen.append(len(X))
            return super().fit(X, y, sample_weight)

    net = NetworkRegressor(depth=1, width=8, max_epochs=2)
    disconnect_report(make_pipeline(Noting(), net), X, y, n_seeds=2)
    assert seen == [30, 30]


def test_pandas(seed):
    X, y = problem(seed)
    frame = pd.DataFrame(X, columns=["a", "b", "c"], index=np.arange(40) * 7)
    net = NetworkRegressor(depth=1, width=8, max_epochs=2)
    found = disconnect_report(net, frame, pd.Series(y, index=frame.index), n_seeds=2)
    assert found.runs.equals(disconnect_report(net, X, y, n_seeds=2).runs)


class Dropping(nn.Sequential):
    def __init__(self, width=8, rate=0.5):
        super().__init__(nn.Linear(3, width), nn.Tanh(), nn.Dropout(rate), nn.Linear(width, 1))


def test_dropout_has_no_linearization(seed):
    X, y = problem(seed)
    with pytest.raises(ValueError, match=r"Dropping, with Dropout at '2',.* Pass a rate of 0"):
        disconnect_report(NetworkRegressor(module=Dropping, max_epochs=1), X, y, n_seeds=2)
    net = NetworkRegressor(module=Dropping, module__rate=0.0, max_epochs=1)
    assert (disconnect_report(net, X, y, n_seeds=2).runs.status == "ok").all()


class Ends(Callback):
    def on_epoch_end(self, net, **kwargs):
        if len(net.history) == 2:
            raise KeyboardInterrupt


def test_a_run_that_a_callback_stops_is_in_no_mean(seed):
    X, y = problem(seed)
    net = NetworkRegressor(depth=1, width=8, max_epochs=4, callbacks=[Ends()])
    report = disconnect_report(net, X, y, n_seeds=2)
    assert report.runs.status.str.startswith("stopped: full: a callback stopped it after 2").all()
    assert (report.summary.n_failed == 2).all()
    assert "nothing is known" in report.verdict


@pytest.mark.parametrize(
    ("findings", "answer"),
    [
        ("none none none none", "kernel theory describes the network's R^2."),
        ("none none undecided none", "describes the network's R^2 in total; undecided: finite"),
        ("none undecided none undecided", "undecided whether kernel theory describes"),
        ("positive none undecided undecided", "does not describe the network's R^2: feature"),
        ("positive negative none none", "R^2: feature learning and optimizer."),
        ("undecided none none negative", "does not describe the network's R^2: in total."),
        ("none none,no limit,no limit", "there is no limit to compare with"),
        ("unknown unknown unknown unknown", "nothing is known."),
    ],
)
def test_answers(findings, answer):
    parts = findings.replace(",", " ").replace("no limit", "no_limit").split()
    found = [part.replace("_", " ") for part in parts]
    rows = pd.DataFrame({"difference": list(DIFFERENCES), "finding": found})
    assert answer in _answer(rows, "R^2")


def test_a_diverged_run_is_in_its_row_and_in_no_mean(seed, monkeypatch):
    X, y = problem(seed)
    net = NetworkRegressor(depth=1, width=8, optimizer="gd", max_epochs=20)
    wild = net.set_params(learning_rate=1e5)
    report = disconnect_report(wild, X, y, n_seeds=2)
    assert report.runs.status.str.startswith("diverged: full: ").all()
    assert report.summary["mean"].isna().all()
    assert (report.summary.n_failed == 2).all()
    assert "2 of 2 runs diverged or stopped" in report.verdict
    report.plot()

    original = NetworkRegressor.fit
    calls = []

    def fit(self, X, y):
        calls.append(self.max_epochs)
        if calls.count(20) == 1:  # the first training of the first run
            self.learning_rate = 1e5
        return original(self, X, y)

    monkeypatch.setattr(NetworkRegressor, "fit", fit)
    report = disconnect_report(net.set_params(learning_rate="auto"), X, y, n_seeds=3)
    assert report.runs.status.str.startswith("diverged").tolist() == [True, False, False]
    assert report.runs.status.tolist()[1:] == ["ok", "ok"]
    assert (report.summary.n_runs == 2).all()
    mean = report.runs.feature_learning[1:].mean()
    assert report.summary["mean"].iloc[0] == pytest.approx(mean)


@pytest.mark.parametrize(
    ("mean", "reach", "finding"),
    [
        (0.0, 0.01, "none"),
        (0.01, 0.005, "none"),  # told from 0, but too small to matter
        (0.01, 0.02, "undecided"),
        (0.0, 0.1, "undecided"),
        (0.05, 0.04, "positive"),
        (-0.05, 0.04, "negative"),
        (0.05, math.nan, "unknown"),
    ],
)
def test_findings(mean, reach, finding):
    row = {"difference": "optimizer", "low": mean - reach, "high": mean + reach}
    assert _finding(row, 0.02) == finding


def test_undecided_says_what_would_decide(seed):
    X, y = problem(seed)
    net = NetworkRegressor(depth=1, width=8, max_epochs=20)
    report = disconnect_report(net, X, y, n_seeds=2, margin=1e-6)
    assert "undecided: 5 runs or more may say what would tell" in report.verdict
    report = disconnect_report(net, X, y, n_seeds=5, margin=1e-6)
    undecided = report.summary[report.summary.finding == "undecided"]
    for row in undecided.itertuples():
        if math.isnan(row.runs_needed):
            assert "undecided: more rows may tell, more runs hardly" in report.verdict
        else:
            assert f"about {row.runs_needed:.0f} runs may tell" in report.verdict
