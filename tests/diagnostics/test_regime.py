"""`kernel_regime_report`: rates where theory is right, and what it says where it is not."""

import math

import numpy as np
import pytest
import torch
from skorch.callbacks import Callback
from torch import nn

import skntk
import skntk.nn as snn
from skntk import NetworkClassifier, NetworkRegressor
from skntk.diagnostics import kernel_regime_report, regime
from skntk.diagnostics.regime import QUANTITIES
from skntk.diagnostics.regime_verdict import by_width, law_of

GD = {"optimizer": "gd", "bias_std": 0.3, "dtype": "float64"}


def problem(seed, n=6, d=4):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n, d)), rng.standard_normal(n)


def law(report, quantity, epoch):
    laws = report.laws
    return laws[(laws.quantity == quantity) & (laws.epoch == epoch)].exponent.item()


@pytest.mark.parametrize(
    ("activation", "depth", "widths", "movement", "change"),
    [
        ("erf", 1, (256, 1024, 4096, 16384), (-0.62, -0.38), (-1.35, -0.65)),
        ("erf", 3, (64, 256, 1024), (-1.2, -0.83), (-1.25, -0.5)),
        ("relu", 1, (256, 1024, 4096, 16384), (-0.65, -0.37), (-1.0, -0.27)),
    ],
)
def test_rates(activation, depth, widths, movement, change, seed):
    """Distance from the limit, movement, kernel change and linearization error, over 6 networks.

    Over 10 seeds the exponents are, with their standard deviations: of the distance -0.44 to -0.52
    (0.07); of the movement -0.50 (0.02) with one hidden layer and -1.01 (0.04) with three; of
    kernel change and linearization error -0.98 and -0.96 (erf, 0.07), -0.88 and -0.93 (three
    layers, 0.08 and 0.06), -0.63 and -0.61 (ReLU, 0.09 and 0.06). The bands are 4 or more of these
    wide on either side.
    """
    X, y = problem(seed)
    net = NetworkRegressor(depth=depth, activation=activation, max_epochs=20, **GD)
    report = kernel_regime_report(net, X, y, widths=widths, n_seeds=6, n_times=2, random_state=seed)
    assert -0.8 <= law(report, "limit_distance", 0) <= -0.15
    assert movement[0] <= law(report, "parameter_movement", 20) <= movement[1]
    assert change[0] <= law(report, "kernel_change", 20) <= change[1]
    assert change[0] <= law(report, "linearization_error", 20) <= change[1]
    assert report.reference == "limit"


def test_measures_are_what_they_say(seed):
    """Each against the definition, for a network with two outputs trained for some epochs."""
    X, _ = problem(seed, n=7)
    Y = np.random.default_rng(seed + 1).standard_normal((7, 2))
    net = NetworkRegressor(depth=2, width=16, activation="erf", max_epochs=10, **GD)
    report = kernel_regime_report(net, X, Y, widths=[8, 16], n_seeds=2, random_state=seed)
    assert sorted(report.runs.epoch.unique()) == [0, 1, 2, 3, 6, 10]

    seeds = []
    original = NetworkRegressor.fit

    def fit(self, X, y):
        seeds.append(self.random_state)
        return original(self, X, y)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(NetworkRegressor, "fit", fit)
        kernel_regime_report(net, X, Y, widths=[8, 16], n_seeds=2, random_state=seed)
    last = NetworkRegressor(**{**net.get_params(), "random_state": seeds[-1]}).fit(X, Y)
    first = NetworkRegressor(**{**net.get_params(), "random_state": seeds[-1], "max_epochs": 0})
    w0, w = first.fit(X, Y).module_, last.module_
    row = report.runs[(report.runs.width == 16) & (report.runs.seed == 1)].iloc[-1]

    K0, K = (skntk.empirical_ntk(m, X) for m in (w0, w))
    assert row.kernel_change == pytest.approx(np.linalg.norm(K - K0) / np.linalg.norm(K0))
    limit = skntk.infinite_width(w0)(X)[:, :, None, None] * np.eye(2)
    expected = np.linalg.norm(K - limit) / np.linalg.norm(limit)
    assert row.limit_distance == pytest.approx(expected)
    p0, p = (torch.cat([t.reshape(-1) for t in m.parameters()]).detach() for m in (w0, w))
    assert row.parameter_movement == pytest.approx(float((p - p0).norm() / p0.norm()))
    rows = torch.as_tensor(X)
    lazy = skntk.linearize(w0)
    with torch.no_grad():
        for name, t in lazy.module.named_parameters():
            t.copy_(dict(w.named_parameters())[name])
        f0, f, f_lazy = w0(rows), w(rows), lazy(rows)
    expected = (f - f_lazy).norm() / (f - f0).norm()
    assert row.linearization_error == pytest.approx(float(expected))
    values = np.linalg.eigvalsh(K.transpose(2, 0, 3, 1).reshape(14, 14))
    assert row.smallest_eigenvalue == pytest.approx(values[0])
    assert row.largest_eigenvalue == pytest.approx(values[-1])
    Z = (Y - Y.mean(0)) / Y.std(0)
    loss = 0.5 * np.mean((f.numpy() - Z) ** 2)
    assert row.train_loss == pytest.approx(loss)
    assert row.train_loss == pytest.approx(0.5 * np.mean(((last.predict(X) - Y) / Y.std(0)) ** 2))
    start = report.runs[report.runs.epoch == 0]
    moves = start[["kernel_change", "parameter_movement", "linearization_error"]]
    assert (moves.to_numpy() == 0).all()


def test_summary_and_laws_are_those_of_the_runs(seed):
    X, y = problem(seed)
    net = NetworkRegressor(depth=1, width=64, activation="erf", max_epochs=5, **GD)
    report = kernel_regime_report(net, X, y, widths=[16, 64], n_seeds=3, random_state=seed)
    assert (report.summary.n_runs == 3).all()
    assert (report.summary.n_failed == 0).all()
    for row in report.summary.itertuples():
        runs = report.runs[(report.runs.width == row.width) & (report.runs.epoch == row.epoch)]
        assert row.mean == pytest.approx(runs[row.quantity].mean(), abs=1e-300)
        assert row.standard_error == pytest.approx(runs[row.quantity].sem(), abs=1e-15)
    assert set(report.summary.quantity) == set(QUANTITIES)
    after = report.runs[report.runs.epoch == 5]
    for quantity in QUANTITIES:
        slope = np.polyfit(np.log(after.width), np.log(after[quantity]), 1)[0]
        assert law(report, quantity, 5) == pytest.approx(slope)
    assert np.isnan(law(report, "kernel_change", 0))  # it is 0 then


def test_a_wide_network_is_in_the_kernel_regime_and_a_narrow_one_is_not(seed):
    X, y = problem(seed, n=12)
    params = {"depth": 1, "activation": "erf", "max_epochs": 60, **GD}
    widths = (8, 4096)
    wide = kernel_regime_report(
        NetworkRegressor(width=4096, **params), X, y, widths=widths, n_seeds=4, random_state=seed
    )
    narrow = kernel_regime_report(
        NetworkRegressor(width=8, **params), X, y, widths=widths, n_seeds=4, random_state=seed
    )
    assert wide.in_kernel_regime
    assert not narrow.in_kernel_regime
    assert (wide.width, narrow.width) == (4096, 8)
    assert 8 < narrow.width_needed < 4096
    assert "Width 4096: in the kernel regime" in wide.verdict
    assert narrow.in_kernel_regime is None or "Width 8: not in the kernel regime" in narrow.verdict
    assert "below 10 % from width" in narrow.verdict


def test_tolerance(seed):
    X, y = problem(seed)
    net = NetworkRegressor(depth=1, width=64, max_epochs=10, **GD)
    found = [
        kernel_regime_report(net, X, y, widths=[16, 64], tolerance=t, random_state=seed)
        for t in (1e-6, 1e3)
    ]
    assert [r.in_kernel_regime for r in found] == [False, True]
    assert found[0].runs.equals(found[1].runs)
    needed = [r.width_needed for r in found]
    assert math.isnan(needed[0]) == math.isnan(needed[1])
    assert math.isnan(needed[0]) or needed[0] > needed[1]


def test_decisions_are_by_the_ends_of_intervals(seed, tmp_path):
    X, y = problem(seed)
    net = NetworkRegressor(depth=1, width=64, max_epochs=10, **GD)

    def report(tolerance):
        return kernel_regime_report(
            net, X, y, widths=[16, 64], n_seeds=3, tolerance=tolerance, random_state=seed,
            cache_dir=tmp_path,
        )  # fmt: skip

    runs = report(1.0).runs
    last = runs[runs.epoch == 10]
    found = [by_width(last, q)[64] for q in ("kernel_change", "linearization_error")]
    highest, lowest = max(e.high for e in found), max(e.low for e in found)
    answers = [report(t).in_kernel_regime for t in (highest * 1.01, highest * 0.99, lowest * 1.01)]
    assert answers == [True, None, None]
    assert report(lowest * 0.99).in_kernel_regime is False
    laws = [law_of(last, q) for q in ("kernel_change", "linearization_error")]
    if all(law.falls for law in laws):
        expected = max(law.width_for(0.01)[0] for law in laws)
        assert report(0.01).width_needed == pytest.approx(expected)


def test_two_runs_of_one_report_are_the_same(seed):
    X, y = problem(seed)
    net = NetworkRegressor(depth=1, width=16, max_epochs=3, batch_size=2)
    state = torch.get_rng_state()
    reports = [
        kernel_regime_report(net, X, y, widths=[8, 16], n_seeds=2, random_state=seed)
        for _ in range(2)
    ]
    assert reports[0].runs.equals(reports[1].runs)
    assert torch.equal(torch.get_rng_state(), state)
    other = kernel_regime_report(net, X, y, widths=[8, 16], n_seeds=2, random_state=seed + 1)
    assert not reports[0].runs.kernel_change.equals(other.runs.kernel_change)
    wider = kernel_regime_report(net, X, y, widths=[8, 16, 32], n_seeds=3, random_state=seed)
    shared = wider.runs[(wider.runs.width < 32) & (wider.runs.seed < 2)]
    assert shared.reset_index(drop=True).equals(reports[0].runs)


class Cumulated(nn.Module):
    """A network with a width and a parameter that no limit explains."""

    def __init__(self, width):
        super().__init__()
        self.hidden, self.readout = snn.Linear(4, width), snn.Linear(width, 1)
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x):
        return self.readout(torch.cumsum(self.hidden(x).tanh(), 1) / self.scale)


def test_without_a_limit_the_widest_networks_stand_for_it(seed):
    X, y = problem(seed)
    report = kernel_regime_report(
        Cumulated, X, y, widths=[8, 32, 64], n_seeds=3, n_times=2, random_state=seed
    )
    assert report.reference == "widest networks (width 64)"
    start = report.runs[report.runs.epoch == 0].groupby("width").limit_distance
    assert start.count().tolist() == [3, 3, 0]
    assert (start.mean()[:2] > 0).all()
    assert "from the widest networks (width 64)" not in report.verdict  # it is their own width
    assert report.width == 64


def test_the_reference_is_a_mean_and_shapes_are_compared(seed, monkeypatch):
    rng = np.random.default_rng(seed)
    drawn = [torch.as_tensor(rng.standard_normal((3, 3, 1, 1))) + 5 for _ in range(4)]
    kernels = iter(drawn)
    monkeypatch.setattr(regime, "full_kernel", lambda module, X: next(kernels))
    X, y = problem(seed)
    report = kernel_regime_report(
        Cumulated, X, y, widths=[8, 16], n_seeds=2, n_times=2, module__width=16
    )
    mean = (drawn[2] + drawn[3]).squeeze() / 2
    start = report.runs[(report.runs.epoch == 0) & (report.runs.width == 8)]
    for K, found in zip(drawn, start.limit_distance, strict=False):
        A, B = K.squeeze() / K.squeeze().trace(), mean / mean.trace()
        assert found == pytest.approx(float((A - B).norm() / B.norm()))


def test_frozen_parameters_have_no_limit(seed):
    """The limit trains them all."""

    class Frozen(snn.MLP):
        def __init__(self, width=8):
            super().__init__(4, 1, width=width, depth=1)
            next(self.parameters()).requires_grad_(False)

    X, y = problem(seed)
    report = kernel_regime_report(Frozen, X, y, widths=[8, 16], n_seeds=2, n_times=2)
    assert report.reference == "widest networks (width 16)"


def test_a_class_with_a_default_width_is_judged_at_that(seed):
    class Net(snn.MLP):
        def __init__(self, width=32):
            super().__init__(4, 1, width=width)

    X, y = problem(seed)
    report = kernel_regime_report(Net, X, y, widths=[8, 32, 64], n_seeds=2, n_times=2)
    assert report.width == 32


def test_classes_and_images(seed):
    rng = np.random.default_rng(seed)
    images, labels = rng.standard_normal((9, 1, 4, 4)), np.array(["a", "b", "c"] * 3)
    module = {"module__in_channels": 1, "module__out_features": 3, "module__depth": 1}
    few = {"widths": [4, 8], "n_seeds": 2, "n_times": 2}
    report = kernel_regime_report(snn.ConvNet, images, labels, **few, **module)
    assert report.title.startswith(
        "ConvNet; 200 epochs of adam, cross-entropy loss; 9 rows, 2 seeds"
    )
    net = NetworkClassifier(module=snn.ConvNet, max_epochs=5, **module)
    report = kernel_regime_report(net, images, labels, **few)
    flat = net.set_params(input_shape=(1, 4, 4))
    same = kernel_regime_report(flat, images.reshape(9, -1), labels, **few)
    assert same.runs.equals(report.runs)


class Spoils(Callback):
    """Spoils networks of one width."""

    def on_epoch_end(self, net, **kwargs):
        with torch.no_grad():
            for p in net.module_.parameters():
                p *= math.nan if len(net.module_[0].weight) == 8 else 1


def test_a_width_that_fails_is_in_the_summary(seed):
    X, y = problem(seed)
    net = NetworkRegressor(depth=1, width=16, max_epochs=2, callbacks=[Spoils()])
    report = kernel_regime_report(net, X, y, widths=[8, 32], n_seeds=2)
    summary = report.summary.set_index("width")
    assert (summary.n_failed == summary.index.map({8: 2, 16: 0, 32: 0})).all()
    assert (summary.n_runs[8] == 0).all()
    assert summary["mean"][8].isna().all()
    assert "2 of 6 runs diverged or stopped" in report.verdict
    assert "<table" in report._repr_html_()


def test_few_rows_of_many(seed):
    X, y = problem(seed, n=30)
    net = NetworkRegressor(depth=1, width=16, max_epochs=2, optimizer="gd")
    report = kernel_regime_report(net, X, y, widths=[8, 16], n_seeds=2, n_rows=5)
    assert report.runs.effective_rank.max() <= 5
    assert ", 30 rows" not in report.verdict
    assert "30 rows" in report.title


def test_a_singular_kernel_is_counted_and_has_no_law(seed):
    X, y = problem(seed)
    X[1] = X[0]
    net = NetworkRegressor(depth=1, width=16, max_epochs=2, optimizer="gd")
    report = kernel_regime_report(net, X, y, widths=[8, 16], n_seeds=2)
    assert report.runs.singular.all()
    assert (report.runs.smallest_eigenvalue == 0).all()
    assert math.isnan(law(report, "smallest_eigenvalue", 0))
    assert "In 4 of 4 runs the kernel is singular" in report.verdict
