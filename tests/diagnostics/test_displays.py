"""Pictures: made from estimators and reports, alone and within others, also of what went wrong."""

import dataclasses
import pickle
import sys

import numpy as np
import pytest

from skntk import NetworkRegressor
from skntk.diagnostics import (
    DisconnectDisplay,
    KernelRegimeDisplay,
    NaturalGradientDisplay,
    disconnect_report,
    kernel_regime_report,
    natural_gradient_conditions,
)

matplotlib = pytest.importorskip("matplotlib")
matplotlib.use("agg")
plt = pytest.importorskip("matplotlib.pyplot")

X, Y = np.random.default_rng(0).standard_normal((12, 3)), np.random.default_rng(1).random(12)
NET = NetworkRegressor(depth=1, width=8, max_epochs=3, optimizer="gd")
WILD = NetworkRegressor(depth=1, width=8, max_epochs=20, optimizer="gd", learning_rate=1e6)
TWO = {"widths": [4, 8], "n_seeds": 2}
GD = {"optimizers": ["gd", "natural_gradient"]}
ONE = GD | {"n_seeds": 1}
KINDS = [
    pytest.param(kernel_regime_report, KernelRegimeDisplay, TWO, 3, id="regime"),
    pytest.param(natural_gradient_conditions, NaturalGradientDisplay, TWO | GD, 3, id="widths"),
    pytest.param(
        natural_gradient_conditions, NaturalGradientDisplay, {"n_seeds": 1} | GD, 2, id="one"
    ),
    pytest.param(disconnect_report, DisconnectDisplay, TWO, 2, id="disconnect"),
]


@pytest.fixture(scope="module", params=[pytest.param(kind.values, id=kind.id) for kind in KINDS])
def kind(request):
    """A report, its display, how many panels that has, and the parameters."""
    make, display, params, panels = request.param
    return make(NET, X, Y, **params), display, panels, params


def test_displays(kind):
    report, display, panels, params = kind
    drawn = report.plot()
    assert isinstance(drawn, display)
    assert drawn.report is report
    assert len(drawn.figure_.axes) == len(drawn.axes_) == panels
    assert drawn.ax_ in drawn.axes_
    for ax in drawn.axes_:
        assert ax.get_xlabel()
        assert ax.get_ylabel()
        assert ax.get_title()
        assert ax.get_legend() is not None
        assert ax.has_data()
    own = display.from_estimator(NET, X, Y, **params)
    assert own.report.runs.equals(report.runs)


def test_an_axes_of_ones_own(kind):
    report, display, _, _ = kind
    figure, axes = plt.subplots(1, 2)
    drawn = display(report).plot(axes[1])
    assert drawn.ax_ is axes[1]
    assert drawn.figure_ is figure
    assert axes[1].has_data()
    assert not axes[0].has_data()


@pytest.mark.parametrize(("make", "display", "params", "panels"), KINDS)
def test_a_report_of_failures_can_be_drawn(make, display, params, panels):
    if make is natural_gradient_conditions:
        params = params | {"optimizers": {"wild": {"optimizer": "gd", "learning_rate": 1e6}}}
    report = make(WILD, X, Y, **params)
    assert report.runs.status.str.startswith("diverged").all()
    report.plot().figure_.canvas.draw()


@pytest.mark.parametrize("make", [kernel_regime_report, natural_gradient_conditions])
def test_singular_kernels_can_be_drawn(make):
    make(NET, X[[0, 0, 1, 2]], Y[:4], **TWO).plot().figure_.canvas.draw()


def test_pages(kind, tmp_path):
    report = kind[0]
    path = tmp_path / "deep" / "report.html"
    report.to_html(path)
    page = path.read_text(encoding="utf-8")
    assert page.startswith("<!doctype html>")
    assert "data:image/png;base64," in page
    assert report.title in page
    assert "http" not in page  # it needs no other file
    assert report.verdict.splitlines()[0].replace("'", "&#x27;") in page
    assert [p.name for p in path.parent.iterdir()] == ["report.html"]
    plt.close("all")
    assert report.to_png().startswith(b"\x89PNG")
    assert not plt.get_fignums()
    with pytest.raises(ValueError, match="is a directory"):
        report.to_html(tmp_path)


def test_titles_are_text(tmp_path):
    report = kernel_regime_report(NET, X, Y, **TWO)
    report = dataclasses.replace(report, title="<b>a & b")
    report.to_html(tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "<b>" not in page + report._repr_html_()
    assert page.count("&lt;b&gt;a &amp; b") == 2


def test_optimizers_of_any_name(tmp_path):
    own = {"a/b $c": {"optimizer": "gd"}, "../$d$": {"optimizer": "gd", "learning_rate": 0.1}}
    report = natural_gradient_conditions(NET, X, Y, optimizers=own, cache_dir=tmp_path, n_seeds=2)
    assert len(list(tmp_path.rglob("*.json"))) == 4
    drawn = report.plot()
    drawn.figure_.canvas.draw()
    assert [t.get_text() for t in drawn.ax_.get_legend().get_texts()] == [r"a/b \$c", r"../\$d\$"]


def test_reports_speak_and_travel(kind):
    report = kind[0]
    assert repr(report).startswith(type(report).__name__)
    assert report.verdict in repr(report)
    assert "<table" in report._repr_html_()
    copy = pickle.loads(pickle.dumps(report))
    assert copy.runs.equals(report.runs)
    assert copy.verdict == report.verdict


def test_without_matplotlib(monkeypatch):
    """Reports are made all the same, and drawing says what is missing."""
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    report = disconnect_report(NET, X, Y, n_seeds=2)
    with pytest.raises(ImportError, match=r"pip install 'skntk\[plot\]'"):
        report.plot()
