"""Runs that are kept: an interrupted report goes on, and ends as if nothing had happened."""

import json
import math
import os
import signal
import subprocess
import sys
import time

import joblib
import numpy as np
import pandas as pd
import pytest
from sklearn.compose import ColumnTransformer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from skntk import NetworkRegressor
from skntk.diagnostics import (
    disconnect_report,
    kernel_regime_report,
    natural_gradient_conditions,
)
from skntk.diagnostics.recording import spread_epochs
from skntk.diagnostics.runs import run_units

X, Y = np.random.default_rng(0).standard_normal((12, 3)), np.random.default_rng(1).random(12)
NET = NetworkRegressor(depth=1, width=8, max_epochs=2, random_state=3)
REPORTS = [
    pytest.param(kernel_regime_report, {"widths": [4, 8]}, id="regime"),
    pytest.param(natural_gradient_conditions, {"optimizers": ["gd", "adam"]}, id="conditions"),
    pytest.param(disconnect_report, {"widths": [4, 8]}, id="disconnect"),
]


def square(unit):
    return [{**unit, "square": unit["n"] ** 2, "nan": math.nan, "inf": math.inf}]


UNITS = [{"n": n} for n in range(5)]


@pytest.mark.parametrize("n_jobs", [None, 1, 2])
def test_rows_come_in_order(n_jobs, tmp_path):
    for folder in (None, tmp_path):
        rows = run_units(square, UNITS, folder=folder, n_jobs=n_jobs)
        assert [row["square"] for row in rows] == [0, 1, 4, 9, 16]
        assert all(math.isnan(row["nan"]) and math.isinf(row["inf"]) for row in rows)
    assert len(list(tmp_path.iterdir())) == 5


def test_what_is_done_is_not_done_again(tmp_path):
    done = []

    def noting(unit):
        done.append(unit["n"])
        if unit["n"] == 3 and len(done) == 4:
            raise KeyboardInterrupt
        return square(unit)

    with pytest.raises(KeyboardInterrupt):
        run_units(noting, UNITS, folder=tmp_path)
    assert run_units(noting, UNITS, folder=tmp_path)[3]["square"] == 9
    assert done == [0, 1, 2, 3, 3, 4]


@pytest.mark.parametrize("content", ["", '[{"n": 1', '{"n": 1}', "\x00\x01"])
def test_a_file_that_is_not_whole_is_made_again(content, tmp_path):
    run_units(square, UNITS, folder=tmp_path)
    (path,) = tmp_path.glob("n=2,*.json")
    path.write_text(content)
    assert run_units(square, UNITS, folder=tmp_path)[2]["square"] == 4
    assert json.loads(path.read_text())[0]["square"] == 4


def test_progress(capsys):
    run_units(square, UNITS, verbose=1, what="squares")
    assert "squares" in capsys.readouterr().err
    run_units(square, UNITS)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(("report", "params"), REPORTS)
def test_reports_go_on_with_what_was_kept(report, params, tmp_path, monkeypatch):
    whole = report(NET, X, Y, n_seeds=2, **params)
    first = report(NET, X, Y, n_seeds=2, cache_dir=tmp_path, **params)
    files = sorted(tmp_path.rglob("*.json"))
    for path in files[1:]:
        path.unlink()
    fits = []
    fit = NetworkRegressor.fit
    monkeypatch.setattr(
        NetworkRegressor, "fit", lambda self, *args: fits.append(self) or fit(self, *args)
    )
    resumed = report(NET, X, Y, n_seeds=2, cache_dir=tmp_path, **params)
    some = len(fits)
    assert sorted(tmp_path.rglob("*.json")) == files
    report(NET, X, Y, n_seeds=2, cache_dir=tmp_path, **params)
    for found in (first, resumed):
        assert found.runs.equals(whole.runs)
        assert found.summary.equals(whole.summary)
        assert found.verdict == whole.verdict
    again = len(fits) - some
    assert 0 <= again < some  # the regime report looks for an analytic limit each time
    fits.clear()
    report(NET, X, Y, n_seeds=3, cache_dir=tmp_path, **params)
    assert len(sorted(tmp_path.rglob("*.json"))) == len(files) * 3 // 2  # earlier ones are reused


@pytest.mark.parametrize(("report", "params"), REPORTS)
def test_what_was_kept_belongs_to_the_same_study(report, params, tmp_path):
    """Other data, settings or transformers have a folder of their own."""
    others = [
        (NET, X + 1, Y, {}),
        (NET, X, Y + 1, {}),
        (NetworkRegressor(depth=1, width=8, max_epochs=3), X, Y, {}),
        (NET, X, Y, {"random_state": 1}),
    ]
    first = report(NET, X, Y, n_seeds=2, cache_dir=tmp_path, **params)
    for net, A, b, more in others:
        found = report(net, A, b, n_seeds=2, cache_dir=tmp_path, **params, **more)
        assert not found.runs.equals(first.runs)
    assert len(list(tmp_path.iterdir())) == 5


def process(unit):
    return [{"pid": os.getpid()}]


def test_threads_are_not_used():
    """What torch draws and traces belongs to the process."""
    with joblib.parallel_config(backend="threading"):
        rows = run_units(process, UNITS, n_jobs=2)
    assert os.getpid() not in {row["pid"] for row in rows}


@pytest.mark.parametrize(("report", "params"), REPORTS)
def test_transformers_of_named_columns(report, params, tmp_path):
    """They see what the user gave, once."""
    frame = pd.DataFrame(X, columns=["a", "b", "c"]).assign(kind=["u", "v"] * (len(X) // 2))
    front = ColumnTransformer(
        [
            ("numbers", StandardScaler(), ["a", "b"]),
            ("texts", OneHotEncoder(sparse_output=False), ["kind"]),
        ]
    )
    model = make_pipeline(front, NET)
    kept = report(model, frame, Y, n_seeds=2, cache_dir=tmp_path, **params)
    assert kept.runs.equals(report(model, frame, Y, n_seeds=2, **params).runs)
    assert kept.runs.equals(report(model, frame, Y, n_seeds=2, cache_dir=tmp_path, **params).runs)


@pytest.mark.slow
@pytest.mark.parametrize(("report", "params"), REPORTS)
def test_processes_find_the_same(report, params):
    """To rounding: they compute on one thread."""
    alone = report(NET, X, Y, n_seeds=2, **params).runs
    together = report(NET, X, Y, n_seeds=2, n_jobs=2, **params).runs
    numbers = alone.select_dtypes("number").columns
    np.testing.assert_allclose(together[numbers], alone[numbers], rtol=1e-5, atol=1e-9)
    assert (together.status == "ok").all()


CHILD = """
import sys, time
import numpy as np
import torch
torch.set_num_threads(1)
from skntk import NetworkRegressor
from skntk.diagnostics import disconnect_report
X, Y = np.random.default_rng(0).standard_normal((12, 3)), np.random.default_rng(1).random(12)
net = NetworkRegressor(depth=1, width=8, max_epochs=int(sys.argv[2]), random_state=3)
disconnect_report(net, X, Y, n_seeds=12, cache_dir=sys.argv[1])
"""


@pytest.mark.slow
def test_a_killed_report_goes_on(tmp_path):
    """Killed while it writes; nothing half done is taken for done."""
    child = subprocess.Popen([sys.executable, "-c", CHILD, str(tmp_path), "2"])
    deadline = time.monotonic() + 120
    while len(list(tmp_path.rglob("*.json"))) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    child.send_signal(signal.SIGKILL)
    child.wait()
    kept = len(list(tmp_path.rglob("*.json")))
    assert 3 <= kept < 12
    resumed = disconnect_report(NET, X, Y, n_seeds=12, cache_dir=tmp_path)
    assert resumed.runs.equals(disconnect_report(NET, X, Y, n_seeds=12).runs)


@pytest.mark.parametrize("last", [1, 2, 7, 100, 1000])
@pytest.mark.parametrize("n_times", [2, 3, 6, 20])
def test_epochs_are_spread(last, n_times):
    epochs = spread_epochs(last, n_times)
    assert epochs[0] == 0
    assert epochs[-1] == last
    assert list(epochs) == sorted(set(epochs))
    assert len(epochs) <= n_times
