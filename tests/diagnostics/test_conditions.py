"""`natural_gradient_conditions`: against the definitions, and the theorem where it applies."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from skorch.callbacks import Callback

import skntk.nn as snn
from skntk import NetworkClassifier, NetworkRegressor
from skntk.diagnostics import conditions, natural_gradient_conditions
from skntk.finite import capture


def problem(seed, n=8, d=6):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n, d)), rng.standard_normal(n)


def shallow(**params):
    return NetworkRegressor(
        **{"depth": 1, "activation": "erf", "bias_std": 0.3, "max_epochs": 25, **params}
    )


def jacobian(net, X):
    """(n k, P), row by row."""
    found = capture(net, X).jacobians()
    k, n = next(iter(found.values())).shape[:2]
    return torch.cat([J.reshape(k, n, -1) for J in found.values()], 2).transpose(0, 1).flatten(0, 1)


def test_a_wide_shallow_network_meets_the_conditions_and_the_promise(seed):
    """C' at width 65536, for 5 rows: over 24 seeds 0.08 with a standard deviation of 0.03.

    The undamped natural gradient with the step 0.2, which is admissible up to C = 0.29, shrinks the
    squared residual by (1 - 0.2)^2 a step, more than the promised 1 - 0.2; over the seeds by 0.64
    to 2e-6.
    """
    X, y = problem(seed, n=5)
    report = natural_gradient_conditions(
        shallow(),
        X,
        y,
        widths=[65536],
        optimizers=["gd", "natural_gradient"],
        n_seeds=1,
        n_times=4,
        random_state=seed,
    )
    summary = report.summary.set_index("optimizer")
    assert (summary.c_prime < 0.5).all()
    assert not report.refuted
    assert (summary.n_refuted == 0).all()
    natural = summary.loc["natural_gradient"]
    assert natural.learning_rate == pytest.approx(0.2)
    C = natural.c_prime
    assert natural.admissible_step == pytest.approx((1 - 2 * C) / (1 + C) ** 2)
    assert natural.admissible_step > 0.2
    assert natural.kept
    assert natural.observed_factor == pytest.approx(0.64, rel=1e-4)
    assert natural.promised_factor == pytest.approx(0.8)
    assert math.isnan(summary.loc["gd"].promised_factor)
    assert "does not prove that the conditions hold" in report.verdict


def test_a_narrow_network_refutes_them_and_may_train_fast_all_the_same(seed):
    X, y = problem(seed)
    report = natural_gradient_conditions(shallow(width=128), X, y, n_seeds=2)
    assert report.refuted
    summary = report.summary.set_index("optimizer")
    assert summary.index.tolist() == ["gd", "adam", "natural_gradient", "kfac"]
    assert (summary.n_refuted == 2).all()
    assert summary.admissible_step.isna().all()
    assert summary.loc["natural_gradient"].kept
    assert "sufficient, not necessary" in report.verdict


def test_c_prime_falls_with_the_width(seed):
    """About as width^(-1/2): over 12 seeds the exponent is -0.49, with a deviation of 0.04."""
    X, y = problem(seed)
    widths = [256, 2048, 16384]
    report = natural_gradient_conditions(
        shallow(max_epochs=10), X, y, widths=widths, optimizers=["natural_gradient"], n_seeds=3
    )
    slope = np.polyfit(np.log(widths), np.log(report.summary.c_prime), 1)[0]
    assert -0.7 < slope < -0.3


@pytest.mark.parametrize("k", [1, 2])
@pytest.mark.parametrize("solver", ["auto", "lanczos"])
def test_measures_are_what_they_say(solver, k, seed):
    """Along gradient descent, against written out Jacobians of networks trained to each epoch."""
    X, _ = problem(seed, n=5)
    Y = np.random.default_rng(seed + 1).standard_normal((5, k))
    net = shallow(width=24, max_epochs=4, dtype="float64", optimizer="gd", learning_rate=0.3)
    own = {"own": {"optimizer": "gd", "learning_rate": 0.3}}
    report = natural_gradient_conditions(
        net, X, Y, optimizers=own, n_seeds=1, n_times=4, solver=solver, random_state=seed
    )
    drawn = []
    with pytest.MonkeyPatch.context() as patch:
        fit = NetworkRegressor.fit
        patch.setattr(
            NetworkRegressor, "fit", lambda self, X, y: drawn.append(self.random_state)
            or fit(self, X, y)
        )  # fmt: skip
        natural_gradient_conditions(net, X, Y, optimizers=["gd"], n_seeds=1, random_state=seed)
    Z = (Y - Y.mean(0)) / Y.std(0)
    rows = torch.as_tensor(X)

    def at(epochs):
        params = {**net.get_params(), "random_state": drawn[0], "max_epochs": epochs}
        return NetworkRegressor(**params).fit(X, Y).module_

    start = at(0)
    J0, w0 = jacobian(start, rows), torch.cat([p.detach().reshape(-1) for p in start.parameters()])
    smallest = float(torch.linalg.matrix_norm(J0, -2)) ** 2
    first = float(((start(rows).detach().numpy() - Z) ** 2).sum())
    for row in report.runs.itertuples():
        module = at(row.epoch)
        apart = float(torch.linalg.matrix_norm(jacobian(module, rows) - J0, 2))
        w = torch.cat([p.detach().reshape(-1) for p in module.parameters()])
        radius = 3 * math.sqrt(first) / math.sqrt(smallest)
        assert row.smallest_eigenvalue == pytest.approx(smallest, rel=1e-8)
        assert row.c_prime == pytest.approx(3 * apart / math.sqrt(smallest), rel=1e-7, abs=1e-9)
        assert row.radius == pytest.approx(radius, rel=1e-8)
        assert row.distance == pytest.approx(float((w - w0).norm()) / radius, rel=1e-7)
        residual = float(((module(rows).detach().numpy() - Z) ** 2).sum()) / first
        assert row.residual == pytest.approx(residual, rel=1e-7)
        assert row.step == row.epoch


def test_a_singular_kernel_refutes_the_first_condition(seed):
    X, y = problem(seed)
    X[1] = X[0]
    report = natural_gradient_conditions(shallow(width=64), X, y, optimizers=["gd"], n_seeds=2)
    row = report.summary.iloc[0]
    assert report.refuted
    assert row.n_singular == row.n_refuted == 2
    assert row.smallest_eigenvalue == 0
    assert row.c_prime == math.inf
    assert math.isnan(row.admissible_step)
    assert "condition 1 fails in 2 of 2 runs: J J^T is singular" in report.verdict


def test_points_outside_of_the_ball_refute_nothing(seed):
    """Condition 2 is about a ball; a huge step leaves it."""
    X, y = problem(seed)
    far = {"optimizer": "gd", "learning_rate": 0.3, "callbacks": [Pushes()]}
    report = natural_gradient_conditions(
        shallow(width=64, max_epochs=1), X, y, optimizers={"far": far}, n_seeds=1, n_times=2
    )
    last = report.runs.iloc[-1]
    assert last.distance > 1
    assert last.c_prime > 0.5
    assert not report.refuted
    assert report.summary.n_refuted.item() == 0
    assert math.isnan(report.summary.c_prime.item())
    assert "no later point of a path lies in the ball" in report.verdict


def test_what_refutes():
    rows = [(False, 0.5, 0.49), (False, 0.5, 0.5), (False, 1.1, 9.0), (True, 9.0, math.inf),
            (None, math.nan, math.nan)]  # fmt: skip
    runs = pd.DataFrame(rows, columns=["singular", "distance", "c_prime"])
    assert conditions._refuted(runs).tolist() == [False, True, False, True, False]


def test_all_runs_must_refute(seed):
    """At width 8 the conditions are refuted, at 65536 not, and the report says that of neither."""
    X, y = problem(seed, n=5)
    report = natural_gradient_conditions(
        shallow(max_epochs=4), X, y, widths=[8, 65536], optimizers=["gd"], n_seeds=1, n_times=2
    )
    assert report.summary.n_refuted.tolist() == [1, 0]
    assert not report.refuted


class Pushes(Callback):
    """Moves the parameters far away, along which the network is even."""

    def on_epoch_end(self, net, **kwargs):
        with torch.no_grad():
            for p in net.module_.parameters():
                p *= 30


def test_optimizers_of_ones_own(seed):
    X, y = problem(seed)
    own = {
        "slow": {"optimizer": "natural_gradient", "learning_rate": 0.05, "damping": 0.0},
        "damped": {"optimizer": "natural_gradient", "damping": 1.0},
        "batches": {"optimizer": "sgd", "batch_size": 3},
    }
    report = natural_gradient_conditions(
        shallow(width=256, max_epochs=3), X, y, optimizers=own, n_seeds=1
    )
    summary = report.summary.set_index("optimizer")
    assert summary.promised_factor.round(9).tolist()[0] == 0.95
    assert summary.loc["slow"].kept
    assert math.isnan(summary.loc["damped"].promised_factor)
    assert report.runs[report.runs.optimizer == "batches"].step.max() == 9


def test_all_optimizers_start_from_the_same_weights(seed):
    X, y = problem(seed)
    report = natural_gradient_conditions(shallow(width=32, max_epochs=1), X, y, n_seeds=2)
    start = report.runs[report.runs.epoch == 0]
    assert start.groupby("seed").smallest_eigenvalue.nunique().tolist() == [1, 1]
    assert start.smallest_eigenvalue.nunique() == 2
    assert (start.c_prime == 0).all()
    assert (start.residual == 1).all()


def test_centered_networks_start_from_zero(seed):
    X, y = problem(seed)
    report = natural_gradient_conditions(
        shallow(width=64, centered=True, max_epochs=2), X, y, optimizers=["gd"], n_seeds=1
    )
    row = report.runs.iloc[0]
    assert row.radius == pytest.approx(3 * math.sqrt(len(y)) / math.sqrt(row.smallest_eigenvalue))


def test_classifiers_are_trained_on_squared_loss(seed):
    X, _ = problem(seed)
    labels = np.arange(8) % 2
    net = NetworkClassifier(depth=1, width=64, max_epochs=3)
    report = natural_gradient_conditions(net, X, labels, optimizers=["natural_gradient"], n_seeds=1)
    assert report.summary.kept.item()
    assert report.runs.train_loss.iloc[0] == pytest.approx(
        report.runs.train_loss.iloc[-1] / report.runs.residual.iloc[-1]
    )


def test_an_instance_keeps_its_weights(seed):
    X, y = problem(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = snn.MLP(6, 1, width=32)
    report = natural_gradient_conditions(net, X, y, optimizers=["gd"], n_seeds=2)
    assert report.runs.smallest_eigenvalue.nunique() == 1
    assert report.runs.width.isna().all()
    assert report.summary.n_runs.item() == 2


class Ends(Callback):
    def on_epoch_end(self, net, **kwargs):
        if len(net.history) == 8:
            raise KeyboardInterrupt


def test_steps_of_a_run_that_is_stopped(seed):
    X, y = problem(seed, n=12)
    own = {"own": {"optimizer": "sgd", "batch_size": 3, "callbacks": [Ends()]}}
    report = natural_gradient_conditions(
        shallow(width=16, max_epochs=20), X, y, optimizers=own, n_seeds=1
    )
    assert report.runs.status.str.startswith("stopped: ").all()
    assert (report.runs.step == 4 * report.runs.epoch).all()
    assert report.runs.step.max() > 0


def test_no_step_is_admissible_where_a_run_refutes():
    base = {"status": "ok", "smallest_eigenvalue": 1.0, "singular": False, "distance": 0.5,
            "residual": 0.5, "learning_rate": 0.2, "promised": True}  # fmt: skip
    rows = [
        base | {"seed": s, "epoch": 1, "step": 1, "c_prime": c} for s, c in enumerate((0.1, 0.6))
    ]
    row = conditions._summarized(pd.DataFrame(rows))
    assert row["c_prime"] == pytest.approx(0.35)
    assert row["n_refuted"] == 1
    assert math.isnan(row["admissible_step"])
    row = conditions._summarized(pd.DataFrame(rows[:1]))
    assert row["admissible_step"] == pytest.approx(0.8 / 1.21)


def test_a_diverged_run_is_in_its_row(seed):
    """What it had passed before counts as part of its path, its rate does not."""
    X, y = problem(seed)
    own = {
        "wild": {"optimizer": "gd", "learning_rate": 1e4},
        "tame": {"optimizer": "gd", "learning_rate": 0.1},
    }
    report = natural_gradient_conditions(
        shallow(width=64, activation="relu", max_epochs=30), X, y, optimizers=own, n_seeds=2
    )
    wild = report.runs[report.runs.optimizer == "wild"]
    assert wild.status.str.startswith("diverged: ").all()
    summary = report.summary.set_index("optimizer")
    assert summary.n_failed.tolist() == [2, 0]
    assert math.isnan(summary.loc["wild"].observed_factor)
    assert 0 < summary.loc["tame"].observed_factor < 1
    assert "2 of 2 runs diverged" in report.verdict


def test_a_narrow_network_may_break_the_promise(seed):
    X, y = problem(seed)
    bold = {"optimizer": "natural_gradient", "learning_rate": 0.9, "damping": 0.0}
    report = natural_gradient_conditions(
        shallow(width=2), X, y, optimizers={"bold": bold}, n_seeds=2
    )
    row = report.summary.iloc[0]
    assert row.promised_factor == pytest.approx(0.1)
    assert row.observed_factor > row.promised_factor
    assert row.n_kept == 0
    assert row.kept is not None
    assert not row.kept
    assert "kept at all steps in 0 of 2 runs" in report.verdict


def test_a_natural_gradient_that_fails_has_not_kept_its_promise(seed, monkeypatch):
    X, y = problem(seed)
    train = conditions.train_looking
    statuses = iter(["ok", "diverged: by itself"])
    monkeypatch.setattr(
        conditions, "train_looking", lambda *args: (train(*args)[0], next(statuses))
    )
    report = natural_gradient_conditions(
        shallow(width=128), X, y, optimizers=["natural_gradient"], n_seeds=2
    )
    row = report.summary.iloc[0]
    assert (row.n_runs, row.n_failed, row.n_kept) == (2, 1, 1)
    assert not row.kept
    assert row.observed_factor < 1
