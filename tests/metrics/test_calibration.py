import numpy as np
import pytest
from sklearn.metrics import brier_score_loss

from skntk.metrics import brier_score, expected_calibration_error, negative_log_likelihood

SCORES = [brier_score, expected_calibration_error, negative_log_likelihood]


def test_ece_by_hand():
    # Four bins. (0.25, 0.5]: confidences 0.4, 0.5, one right of two: |0.5 - 0.45| = 0.05.
    # (0.5, 0.75]: 0.7, right: 0.3.  (0.75, 1]: 0.8, 1.0, both right: 0.1.
    proba = [[0.4, 0.3, 0.3], [0.5, 0.2, 0.3], [0.1, 0.7, 0.2], [0.1, 0.1, 0.8], [0, 0, 1]]
    ece = expected_calibration_error([0, 2, 1, 2, 2], proba, n_bins=4)
    assert ece == pytest.approx((2 * 0.05 + 1 * 0.3 + 2 * 0.1) / 5, abs=1e-15)


def test_ece_border_belongs_to_the_lower_bin():
    # 0.5 and 0.6 with two bins: apart, the gaps are 0.5 and 0.4; together they would cancel partly.
    proba = [[0.5, 0.5], [0.6, 0.4]]
    assert expected_calibration_error([0, 1], proba, n_bins=2) == pytest.approx(0.55)


def test_ece_of_sure_predictions_is_the_error_rate():
    proba = np.eye(2)[[0, 0, 1, 1]]
    assert expected_calibration_error([0, 1, 1, 1], proba) == pytest.approx(0.25)


def test_ece_vanishes_for_labels_drawn_from_the_probabilities(seed):
    rng = np.random.default_rng(seed)
    errors = []
    for n in (1_000, 100_000):
        p = rng.uniform(size=n)
        y = (rng.uniform(size=n) < p).astype(int)
        errors.append(expected_calibration_error(y, np.column_stack([1 - p, p])))
    # The error is of order sqrt(n_bins / n): a factor of 10, asserted at 3.
    assert errors[1] < errors[0] / 3
    assert errors[1] < 0.01


def test_brier_by_hand():
    proba = [[0.5, 0.3, 0.2], [0.0, 1.0, 0.0], [1.0, 0.0, 0.0]]
    # 0.25 + 0.09 + 0.04; 0; 1 + 1
    assert brier_score([0, 1, 2], proba) == pytest.approx((0.38 + 0 + 2) / 3, abs=1e-15)


def test_brier_agrees_with_scikit_learn(seed):
    rng = np.random.default_rng(seed)
    proba = rng.dirichlet(np.ones(4), size=50)
    y = rng.integers(4, size=50)
    theirs = sum(brier_score_loss(y == c, proba[:, c]) for c in range(4))  # one against the rest
    assert brier_score(y, proba, labels=np.arange(4)) == pytest.approx(theirs, rel=1e-12)


@pytest.mark.parametrize("score", SCORES)
def test_labels(score, seed):
    rng = np.random.default_rng(seed)
    proba = rng.dirichlet(np.ones(3), size=30)
    codes = np.concatenate([np.arange(3), rng.integers(3, size=27)])
    expected = score(codes, proba)
    words = np.array(["a", "b", "c"])
    assert score(words[codes], proba) == expected
    assert score(words[codes], proba[:, [2, 0, 1]], labels=words[[2, 0, 1]]) == pytest.approx(
        expected, rel=1e-12
    )
    # A class that does not occur needs the labels said.
    some = codes != 2
    with pytest.raises(ValueError, match="pass labels="):
        score(codes[some], proba[some])
    assert np.isfinite(score(codes[some], proba[some], labels=[0, 1, 2]))


@pytest.mark.parametrize("score", SCORES)
def test_float32_probabilities_are_accepted(score, seed):
    rng = np.random.default_rng(seed)
    proba = rng.dirichlet(np.ones(100), size=200).astype(np.float32)
    y = rng.integers(100, size=200)
    assert np.isfinite(score(y, proba, labels=np.arange(100)))


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize(
    ("y", "proba", "message"),
    [
        ([0, 1], [0.2, 0.8], "shape"),
        ([0], [[0.2, 0.8], [0.5, 0.5]], "shape"),
        ([[0], [1]], [[0.2, 0.8], [0.5, 0.5]], "shape"),
        ([], np.empty((0, 2)), "n > 0"),
        ([0, 1], [[0.2, 0.9], [0.5, 0.5]], "sum to 1; one is off by 0.1"),
        ([0, 1], [[-0.2, 1.2], [0.5, 0.5]], "between 0 and 1"),
        ([0, 1], [[np.nan, 1.0], [0.5, 0.5]], "finite"),
    ],
)
def test_bad_input_is_refused(score, y, proba, message):
    with pytest.raises(ValueError, match=message):
        score(y, proba)


@pytest.mark.parametrize("score", SCORES)
def test_unknown_label_is_named(score):
    with pytest.raises(ValueError, match=r"y_true holds \[7\]"):
        score([0, 7], [[0.5, 0.5], [0.5, 0.5]], labels=[0, 1])


@pytest.mark.parametrize("n_bins", [0, -1, 2.5])
def test_bad_bins_are_refused(n_bins):
    with pytest.raises(ValueError, match="n_bins"):
        expected_calibration_error([0, 1], [[0.5, 0.5], [0.5, 0.5]], n_bins=n_bins)
