import math

import numpy as np
import pytest
from scipy.stats import norm
from sklearn.metrics import log_loss

from skntk.metrics import gaussian_log_likelihood, negative_log_likelihood


def test_by_hand():
    # -log(2 pi)/2 - log 2 - 1/2 for a truth one standard deviation of 2 away.
    expected = -0.5 * math.log(2 * math.pi) - math.log(2) - 0.5
    assert gaussian_log_likelihood([3.0], [1.0], [2.0]) == pytest.approx(expected, rel=1e-15)


def test_agrees_with_scipy_and_sums_over_outputs(seed):
    rng = np.random.default_rng(seed)
    y, mean = rng.normal(size=(2, 20, 3))
    std = rng.uniform(0.1, 3, size=(20, 3))
    expected = norm.logpdf(y, mean, std).sum(axis=1).mean()
    assert gaussian_log_likelihood(y, mean, std) == pytest.approx(expected, rel=1e-12)


def test_one_std_for_all():
    y = [0.0, 1.0, 5.0]
    assert gaussian_log_likelihood(y, y, 0.5) == gaussian_log_likelihood(y, y, [0.5] * 3)


def test_change_of_units_adds_its_logarithm(seed):
    rng = np.random.default_rng(seed)
    y, mean = rng.normal(size=(2, 10))
    scaled = gaussian_log_likelihood(1000 * y, 1000 * mean, 1000.0)
    assert scaled == pytest.approx(gaussian_log_likelihood(y, mean, 1.0) - math.log(1000))


@pytest.mark.parametrize(
    ("y", "mean", "std", "message"),
    [
        (np.zeros(3), np.zeros((3, 1)), np.ones(3), "shape"),
        (np.zeros((3, 1)), np.zeros(3), np.ones(3), "shape"),
        (np.zeros(3), np.zeros(3), np.ones(1), "shape"),
        (np.zeros(0), np.zeros(0), np.ones(0), "n > 0"),
        (np.zeros(2), np.zeros(2), np.array([1.0, 0.0]), "positive, its smallest value is 0"),
        (np.zeros(2), np.array([0.0, np.nan]), np.ones(2), "finite"),
    ],
)
def test_bad_input_is_refused(y, mean, std, message):
    with pytest.raises(ValueError, match=message):
        gaussian_log_likelihood(y, mean, std)


def test_nll_by_hand():
    proba = [[0.5, 0.25, 0.25], [0.0, 1.0, 0.0], [0.9, 0.0, 0.1]]
    expected = (math.log(2) + 0 + math.log(10)) / 3
    assert negative_log_likelihood([0, 1, 2], proba) == pytest.approx(expected, rel=1e-14)


def test_nll_agrees_with_scikit_learn(seed):
    rng = np.random.default_rng(seed)
    proba = rng.dirichlet(np.ones(4), size=50)
    words = np.array(["a", "b", "c", "d"])
    y = words[rng.integers(3, size=50)]  # "d" does not occur
    expected = log_loss(y, proba, labels=words)
    assert negative_log_likelihood(y, proba, labels=words) == pytest.approx(expected, rel=1e-12)


def test_nll_of_an_impossible_truth_is_infinite():
    assert negative_log_likelihood([0, 1], [[0.5, 0.5], [1.0, 0.0]]) == math.inf


def test_nll_of_uniform_probabilities():
    y = [2, 0, 0]
    uniform = np.full((3, 5), 0.2)
    nll = negative_log_likelihood(y, uniform, labels=range(5))
    assert nll == pytest.approx(math.log(5), rel=1e-14)
