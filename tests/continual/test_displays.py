import sys
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest

from skntk.continual.displays import ForgettingDisplay, OverlapDisplay, ScoreMatrixDisplay

matplotlib = pytest.importorskip("matplotlib")
matplotlib.use("agg")
plt = pytest.importorskip("matplotlib.pyplot")

nan = np.nan
SCORES = np.array([[0.75, nan, nan], [0.5, 1.0, nan], [0.25, 0.5, 0.75]])
AVERAGES = [0.75, 0.75, 0.5]
FIRST = [0.75, 0.5, 0.25]
OVERLAP = np.array([[1.0, 0.25], [0.25, 1.0]])


def texts(items):
    return [item.get_text() for item in items]


def drawn(T, seed=0):
    """Scores of T tasks, none above the diagonal."""
    scores = np.random.default_rng(seed).uniform(size=(T, T))
    scores[np.triu_indices(T, 1)] = nan
    return scores


def test_matrix():
    display = ScoreMatrixDisplay(SCORES, ["a", "b", "c"], name="plain", score_name="R²")
    assert display.scores is SCORES
    assert display.tasks == ["a", "b", "c"]
    assert display.plot() is display
    assert display.figure_ is display.ax_.figure
    (image,) = display.ax_.images
    np.testing.assert_array_equal(image.get_array().filled(nan), SCORES)
    assert image.get_clim() == (0, 1)
    expected = {(0, 0): "0.75", (0, 1): "0.50", (1, 1): "1.00", (0, 2): "0.25", (1, 2): "0.50"}
    found = {text.get_position(): text.get_text() for text in display.ax_.texts}
    assert found == expected | {(2, 2): "0.75"}  # x is the task, y is when
    assert texts(display.ax_.get_xticklabels()) == texts(display.ax_.get_yticklabels())
    assert texts(display.ax_.get_xticklabels()) == ["a", "b", "c"]
    assert display.ax_.get_title() == "plain"
    assert display.ax_.get_xlabel() == "tested on task"
    assert display.ax_.get_ylabel() == "after learning task"
    assert [ax.get_ylabel() for ax in display.figure_.axes] == ["after learning task", "R²"]


def luminance(color):
    """Relative luminance (Web Content Accessibility Guidelines 2.1)."""
    rgb = np.array(matplotlib.colors.to_rgb(color))
    linear = np.where(rgb <= 0.03928, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    return linear @ [0.2126, 0.7152, 0.0722]


def test_numbers_are_readable_and_blanks_are_not_zeros():
    scores = np.linspace(0, 1, 100).reshape(10, 10)
    display = ScoreMatrixDisplay(scores).plot()
    (image,) = display.ax_.images
    for text, score in zip(display.ax_.texts, scores.flat, strict=True):
        cell, ink = luminance(image.cmap(image.norm(score))[:3]), luminance(text.get_color())
        assert (max(cell, ink) + 0.05) / (min(cell, ink) + 0.05) > 4.5
    assert luminance(image.cmap(np.ma.masked)[:3]) == pytest.approx(1)
    assert luminance(image.cmap(0.0)[:3]) < 0.95


def test_scores_below_0_have_greys_of_their_own():
    display = ScoreMatrixDisplay([[0.5, nan], [-1.5, 0.25]]).plot()
    assert display.ax_.images[0].get_clim() == (-1.5, 1)
    assert texts(display.ax_.texts) == ["0.50", "-1.50", "0.25"]


@pytest.mark.parametrize(("T", "numbers", "ticks"), [(12, 78, 12), (13, 0, 13), (40, 0, 14)])
def test_many_tasks(T, numbers, ticks):
    display = ScoreMatrixDisplay(drawn(T)).plot()
    assert len(display.ax_.texts) == numbers
    shown = texts(display.ax_.get_xticklabels())
    assert len(shown) == ticks
    assert shown == [str(int(at)) for at in display.ax_.get_xticks()]


LONG = "a task with quite a long name, number {}, $x"


@pytest.mark.parametrize(("T", "name"), [(2, LONG), (15, "{}"), (15, LONG)])
def test_labels_do_not_overlap(T, name):
    tasks = [name.format(i) for i in range(T)]
    display = ScoreMatrixDisplay(drawn(T), tasks, name="costs $1 or $2").plot()
    display.figure_.canvas.draw()
    rows = [label.get_window_extent() for label in display.ax_.get_yticklabels()]
    assert all(a.y0 > b.y1 for a, b in pairwise(rows))
    columns = display.ax_.get_xticklabels()
    if columns[0].get_rotation():
        # Two slanted lines are apart if what is between their ends, across them, is their height.
        height = columns[0].get_fontsize() * display.figure_.dpi / 72
        step = np.diff(display.ax_.transData.transform([(0, 0), (1, 0)])[:, 0])[0]
        assert step / np.sqrt(2) > height
    else:
        boxes = [label.get_window_extent() for label in columns]
        assert all(a.x1 < b.x0 for a, b in pairwise(boxes))
    whole = display.figure_.bbox
    for label in (*columns, *display.ax_.get_yticklabels(), display.ax_.title):
        box = label.get_window_extent()
        assert box.x0 >= whole.x0
        assert box.y0 >= whole.y0
        assert box.x1 <= whole.x1
        assert box.y1 <= whole.y1


def test_long_names_keep_both_ends():
    display = ScoreMatrixDisplay(SCORES, [f"permutation of pixels {i}" for i in range(3)]).plot()
    first, second, _ = texts(display.ax_.get_xticklabels())
    assert first == "permutat…pixels 0"
    assert second == "permutat…pixels 1"


def test_curves():
    other = SCORES / 2
    display = ForgettingDisplay([SCORES, other], names=["one", "other"], tasks="abc").plot()
    assert display.figure_.axes == display.axes_
    assert display.ax_ is display.axes_[0]
    for ax, expected in zip(display.axes_, (AVERAGES, FIRST), strict=True):
        one, two = ax.lines
        np.testing.assert_array_equal(one.get_xdata(), [1, 2, 3])
        np.testing.assert_array_equal(one.get_ydata(), expected)
        np.testing.assert_array_equal(two.get_ydata(), np.array(expected) / 2)
        assert one.get_linestyle() != two.get_linestyle()
        assert texts(ax.get_legend().get_texts()) == ["one", "other"]
        assert ax.get_xlabel() == "tasks learnt"
        assert ax.get_ylabel() == "accuracy"
    assert display.axes_[1].get_title() == "First task: a"


def test_seeds_are_averaged():
    seeds = np.stack([SCORES, SCORES - 0.2, SCORES + 0.2])
    given = [seeds, SCORES]
    display = ForgettingDisplay(given, names=["three seeds", "one"], score_name="R²").plot()
    assert display.scores is given
    for ax, expected in zip(display.axes_, (AVERAGES, FIRST), strict=True):
        (bars,) = ax.containers
        np.testing.assert_allclose(bars.lines[0].get_ydata(), expected, atol=1e-15)
        # Their standard deviation is 0.2, so the standard error is 0.2 / sqrt(3).
        ends = np.array([segment[:, 1] for segment in bars.lines[2][0].get_segments()])
        error = 0.2 / np.sqrt(3)
        np.testing.assert_allclose(ends.T, np.add.outer([-error, error], expected), atol=1e-15)
        assert ax.get_ylabel() == "R² (mean ± standard error)"
        assert len(ax.get_legend().get_texts()) == 2


def test_one_seed_has_no_bars():
    display = ForgettingDisplay([SCORES[None]], names=["one"]).plot()
    np.testing.assert_array_equal(display.ax_.lines[0].get_ydata(), AVERAGES)
    assert not display.ax_.containers


@pytest.mark.parametrize(("T", "ticks"), [(1, 1), (40, 14)])
def test_few_and_many_tasks(T, ticks):
    seeds = np.stack([drawn(T, i) for i in range(3)])
    _, axes = plt.subplots(1, 2)
    ForgettingDisplay([drawn(T), seeds], names=["$a", "b$"]).plot(axes[0])
    OverlapDisplay(np.eye(T), np.zeros(T - 1), np.zeros(T - 1)).plot(axes[1])
    axes[0].figure.canvas.draw()
    assert len(axes[0].get_xticks()) == len(axes[1].get_xticks()) == ticks


def test_one_task_has_no_forgetting():
    display = OverlapDisplay([[1.0]], [], []).plot()
    assert display.axes_[1].lines[-1].get_xydata().shape == (0, 2)


def test_overlap():
    predicted, observed = [0.1, -0.05, 0.3], [0.2, 0.0, 0.25]
    display = OverlapDisplay(OVERLAP, predicted, observed, tasks=["x", "y"])
    assert display.overlap is OVERLAP
    assert (display.predicted, display.observed) == (predicted, observed)
    assert display.plot() is display
    assert display.ax_ is display.axes_[0]
    (image,) = display.ax_.images
    np.testing.assert_array_equal(image.get_array(), OVERLAP)
    assert image.get_clim() == (0, 1)
    assert texts(display.ax_.get_xticklabels()) == ["x", "y"]
    line, points = display.axes_[1].lines
    np.testing.assert_array_equal(line.get_xdata(), line.get_ydata())
    np.testing.assert_array_equal(points.get_xdata(), predicted)
    np.testing.assert_array_equal(points.get_ydata(), observed)
    ax = display.axes_[1]
    assert ax.get_xlim() == ax.get_ylim() == tuple(line.get_xdata())
    assert ax.get_xlim()[0] < -0.05
    assert ax.get_xlim()[1] > 0.3
    assert ax.get_aspect() == 1


def report(**changes):
    found = {"scores": SCORES, "tasks": [4, 7, 2], "name": "plain", "score_name": "R²"}
    return SimpleNamespace(**(found | changes))


def test_from_reports(seed):
    matrix = ScoreMatrixDisplay.from_report(report())
    assert matrix.scores is SCORES
    assert (matrix.tasks, matrix.name, matrix.score_name) == ([4, 7, 2], "plain", "R²")
    assert texts(matrix.ax_.get_xticklabels()) == ["4", "7", "2"]
    other = drawn(3, seed)
    curves = ForgettingDisplay.from_reports([report(), report(scores=other, name="other")])
    assert [scores is given for scores, given in zip(curves.scores, (SCORES, other), strict=True)]
    assert curves.names == ["plain", "other"]
    assert curves.tasks == [4, 7, 2]
    assert curves.ax_.get_ylabel() == "R²"
    assert curves.axes_[1].get_title() == "First task: 4"
    found = SimpleNamespace(overlap=OVERLAP, predicted=[0.1], observed=[0.2], tasks=["x", "y"])
    overlap = OverlapDisplay.from_report(found)
    assert overlap.overlap is OVERLAP
    assert (overlap.predicted, overlap.observed, overlap.tasks) == ([0.1], [0.2], ["x", "y"])
    assert texts(overlap.ax_.get_xticklabels()) == ["x", "y"]


def test_drawn_where_told_and_twice():
    figure, axes = plt.subplots(1, 4)
    found = SimpleNamespace(overlap=OVERLAP, predicted=[0.1], observed=[0.2], tasks=None)
    matrix = ScoreMatrixDisplay.from_report(report(), ax=axes[0])
    curves = ForgettingDisplay.from_reports([report()], ax=axes[1])
    overlap = OverlapDisplay.from_report(found, ax=axes[2])
    assert (matrix.ax_, curves.ax_, overlap.ax_) == tuple(axes[:3])
    assert matrix.figure_ is curves.figure_ is overlap.figure_ is figure
    assert curves.axes_ == [axes[1]]
    assert overlap.axes_ == [axes[2]]
    assert not axes[3].has_data()
    figure.canvas.draw()
    assert figure.bbox.contains(*curves.ax_.get_legend().get_window_extent().p0)
    assert plt.get_fignums() == [figure.number]
    assert matrix.plot().figure_ is not figure


@pytest.mark.parametrize(
    ("display", "message"),
    [
        (ScoreMatrixDisplay(SCORES[:2]), r"scores has shape \(2, 3\); wanted \(T, T\)"),
        (ScoreMatrixDisplay(np.zeros((0, 0))), r"scores has shape \(0, 0\)"),
        (ScoreMatrixDisplay([[np.inf]]), "scores holds an infinite number"),
        (ScoreMatrixDisplay(SCORES, ["a"]), "tasks has 1 elements; wanted 3"),
        (ForgettingDisplay([], names=[]), "scores has 0 elements and names 0"),
        (ForgettingDisplay([SCORES], names=["a", "b"]), "scores has 1 elements and names 2"),
        (ForgettingDisplay([SCORES, SCORES[0]], names="ab"), r"scores\[1\] has shape \(3,\)"),
        (ForgettingDisplay([SCORES[None, :2]], names="a"), r"scores\[0\] has shape \(1, 2, 3\)"),
        (ForgettingDisplay([np.zeros((0, 2, 2))], names="a"), r"scores\[0\] has shape \(0, 2, 2\)"),
        (ForgettingDisplay([SCORES, SCORES.T], names="ab"), r"scores\[1\] must be finite on and"),
        (ForgettingDisplay([SCORES, [[1.0]]], names="ab"), r"matrices of \[1, 3\] tasks"),
        (ForgettingDisplay([SCORES], names="a", tasks=[1]), "tasks has 1 elements; wanted 3"),
        (OverlapDisplay(OVERLAP[:1], [], []), r"overlap has shape \(1, 2\); wanted \(T, T\)"),
        (OverlapDisplay(2 * OVERLAP, [], []), "overlap has numbers from 0 to 2; wanted 0 to 1"),
        (OverlapDisplay(-OVERLAP, [], []), "overlap has numbers from -1 to 1; wanted 0 to 1"),
        (OverlapDisplay(OVERLAP, [0.1], []), r"predicted has shape \(1,\) and observed \(0,\)"),
        (OverlapDisplay(OVERLAP, 0.1, 0.1), r"predicted has shape \(\) and observed \(\)"),
        (OverlapDisplay(OVERLAP, [nan], [0.1]), "predicted and observed must hold finite"),
        (OverlapDisplay(OVERLAP, [], [], tasks="abc"), "tasks has 3 elements; wanted 2"),
    ],
)
def test_bad_input_is_refused_before_a_figure_is_made(display, message):
    with pytest.raises(ValueError, match=message):
        display.plot()
    assert not plt.get_fignums()


@pytest.mark.parametrize("changes", [{"tasks": [4, 2, 7]}, {"score_name": "accuracy"}])
def test_reports_of_different_things(changes):
    with pytest.raises(ValueError, match=r"reports has R² on the tasks \[4, 7, 2\] and .* on \["):
        ForgettingDisplay.from_reports([report(), report(**changes)])


def test_no_reports():
    with pytest.raises(ValueError, match="reports is empty"):
        ForgettingDisplay.from_reports([])


def test_without_matplotlib(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    for display in (
        ScoreMatrixDisplay(SCORES),
        ForgettingDisplay([SCORES], names=["plain"]),
        OverlapDisplay(OVERLAP, [], []),
    ):
        with pytest.raises(ImportError, match=r"pip install 'skntk\[plot\]'"):
            display.plot()
