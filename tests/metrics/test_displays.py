import sys

import numpy as np
import pytest
from sklearn.calibration import calibration_curve
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression

from skntk.metrics import (
    OODDisplay,
    ReliabilityDisplay,
    expected_calibration_error,
    ood_auroc,
    predictive_entropy,
)

matplotlib = pytest.importorskip("matplotlib")
matplotlib.use("agg")
plt = pytest.importorskip("matplotlib.pyplot")


@pytest.fixture(scope="module")
def iris():
    X, y = load_iris(return_X_y=True)
    names = np.array(["setosa", "versicolor", "virginica"])[y]
    return LogisticRegression(max_iter=1000).fit(X[::2], names[::2]), X[1::2], names[1::2]


def drawn(seed, n=500):
    """Probabilities of two classes, and labels that follow them."""
    rng = np.random.default_rng(seed)
    p = rng.uniform(size=n)
    return (rng.uniform(size=n) < p).astype(int), np.column_stack([1 - p, p])


def texts(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def test_bins_by_hand():
    # Four bins. (0.25, 0.5]: 0.4 and 0.5, one right. (0.5, 0.75]: 0.7, right. (0.75, 1]: both.
    proba = [[0.4, 0.3, 0.3], [0.5, 0.2, 0.3], [0.1, 0.7, 0.2], [0.1, 0.1, 0.8], [0, 0, 1]]
    display = ReliabilityDisplay.from_predictions([0, 2, 1, 2, 2], proba, n_bins=4)
    np.testing.assert_array_equal(display.counts, [0, 2, 1, 2])
    np.testing.assert_allclose(display.accuracy, [np.nan, 0.5, 1, 1])
    np.testing.assert_allclose(display.confidence, [np.nan, 0.45, 0.7, 0.9])
    assert display.ece == pytest.approx((2 * 0.05 + 1 * 0.3 + 2 * 0.1) / 5, abs=1e-15)
    curve = display.ax_.lines[1]
    np.testing.assert_allclose(curve.get_xydata(), [[0.45, 0.5], [0.7, 1], [0.9, 1]])
    assert texts(display.ax_) == ["calibrated", "ECE = 0.120"]


def test_bins_agree_with_scikit_learn(seed):
    """Two classes: accuracy against confidence is the calibration curve of "was it right?"."""
    y, proba = drawn(seed)
    display = ReliabilityDisplay.from_predictions(y, proba, n_bins=10)
    right = proba.argmax(axis=1) == y
    accuracy, confidence = calibration_curve(right, proba.max(axis=1), n_bins=10)
    some = display.counts > 0
    np.testing.assert_allclose(display.accuracy[some], accuracy, rtol=1e-12)
    np.testing.assert_allclose(display.confidence[some], confidence, rtol=1e-12)
    assert display.counts.sum() == len(y)
    assert display.ece == expected_calibration_error(y, proba, n_bins=10)


def test_reliability_from_estimator(iris):
    model, X, y = iris
    display = ReliabilityDisplay.from_estimator(model, X, y, n_bins=5)
    assert len(display.counts) == 5
    assert display.figure_.axes == display.axes_
    assert display.ax_ is display.axes_[1]
    assert display.name == "LogisticRegression"
    expected = expected_calibration_error(y, model.predict_proba(X), n_bins=5)
    assert texts(display.ax_)[1] == f"LogisticRegression (ECE = {expected:.3f})"
    shares = display.axes_[0].patches[0].get_data().values
    assert shares.sum() == pytest.approx(1)
    np.testing.assert_array_equal(shares * len(y), display.counts)
    for ax in display.axes_:
        assert ax.get_ylabel()
    assert display.ax_.get_xlabel()
    display.figure_.canvas.draw()


def test_several_in_one_picture(iris, seed):
    model, X, y = iris
    first = ReliabilityDisplay.from_estimator(model, X, y)
    second = ReliabilityDisplay.from_predictions(*drawn(seed), name="$d$", ax=first.ax_)
    assert second.ax_ is first.ax_
    assert second.figure_ is first.figure_
    assert len(texts(first.ax_)) == 3  # the diagonal once
    assert texts(first.ax_)[2].startswith(r"\$d\$ (ECE")
    _, a, b = first.ax_.lines
    assert (a.get_linestyle(), a.get_marker()) != (b.get_linestyle(), b.get_marker())
    first.figure_.canvas.draw()


def test_reliability_needs_what_its_score_needs():
    with pytest.raises(ValueError, match="n_bins"):
        ReliabilityDisplay.from_predictions([0, 1], [[0.5, 0.5]] * 2, n_bins=0)
    with pytest.raises(ValueError, match="pass labels="):
        ReliabilityDisplay.from_predictions([0, 0], [[0.5, 0.5]] * 2)
    assert not plt.get_fignums()


def test_distributions_by_hand():
    display = OODDisplay.from_predictions([3, 1], [4, 2, 4])
    inside, outside = display.ax_.lines
    # Steps up at each score, both curves from the least to the largest of all.
    np.testing.assert_allclose(inside.get_xydata(), [[1, 0], [1, 0.5], [3, 1], [4, 1]])
    np.testing.assert_allclose(
        outside.get_xydata(), [[1, 0], [2, 1 / 3], [4, 2 / 3], [4, 1], [4, 1]]
    )
    assert inside.get_drawstyle() == outside.get_drawstyle() == "steps-post"
    assert display.auroc == pytest.approx(5 / 6)
    assert texts(display.ax_) == ["in distribution", "out of distribution (AUROC = 0.833)"]
    np.testing.assert_array_equal(display.score_in, [3, 1])  # in the order given
    display.figure_.canvas.draw()


def test_ood_from_estimator(iris):
    model, X, _ = iris
    display = OODDisplay.from_estimator(model, X, X + 1.0)
    inside, outside = (predictive_entropy(model.predict_proba(Z)) for Z in (X, X + 1.0))
    np.testing.assert_array_equal(display.score_in, inside)
    np.testing.assert_array_equal(display.score_out, outside)
    assert display.auroc == ood_auroc(inside, outside)
    assert "entropy" in display.ax_.get_xlabel()
    other = OODDisplay.from_predictions([0.0, 0.0], [0.0], name="constant", ax=display.ax_)
    assert other.ax_ is display.ax_
    assert len({line.get_linestyle() for line in display.ax_.lines}) == 4
    assert texts(display.ax_)[1].startswith("LogisticRegression, out of")
    assert texts(display.ax_)[3] == "constant, out of distribution (AUROC = 0.500)"
    display.figure_.canvas.draw()


def test_bad_scores_are_refused():
    with pytest.raises(ValueError, match="score_out must hold finite"):
        OODDisplay.from_predictions([0.0], [np.nan])
    assert not plt.get_fignums()


@pytest.mark.parametrize(
    "display",
    [
        ReliabilityDisplay(np.array([2]), np.array([0.5]), np.array([0.6])),
        OODDisplay(np.zeros(2), np.ones(2), 1.0),
    ],
)
def test_drawn_where_told_and_twice(display):
    figure, axes = plt.subplots(1, 2)
    assert display.plot(axes[1]) is display
    assert display.ax_ is axes[1]
    assert display.figure_ is figure
    assert not axes[0].has_data()
    assert display.plot().figure_ is not figure


def test_without_matplotlib(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with pytest.raises(ImportError, match=r"pip install 'skntk\[plot\]'"):
        OODDisplay.from_predictions([0.0], [1.0])
