import math

import numpy as np
import pytest
from scipy.stats import entropy

from skntk.metrics import ood_auroc, predictive_entropy


def test_entropy_by_hand():
    proba = [[1.0, 0.0, 0.0], [0.5, 0.5, 0.0], [1 / 3, 1 / 3, 1 / 3]]
    expected = [0.0, math.log(2), math.log(3)]
    np.testing.assert_allclose(predictive_entropy(proba), expected, rtol=1e-14)


def test_entropy_agrees_with_scipy(seed):
    proba = np.random.default_rng(seed).dirichlet(np.ones(6), size=20)
    np.testing.assert_allclose(predictive_entropy(proba), entropy(proba, axis=1), rtol=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_entropy_is_in_float64(dtype):
    proba = np.full((2, 4), 0.25, dtype=dtype)
    found = predictive_entropy(proba)
    assert found.dtype == np.float64
    assert found.shape == (2,)


@pytest.mark.parametrize(
    ("proba", "message"),
    [
        ([0.2, 0.8], r"shape \(2,\)"),
        (np.empty((0, 3)), "n > 0"),
        ([[0.2, 0.9]], "sum to 1; one is off by 0.1"),
        ([[-0.2, 1.2]], "between 0 and 1"),
        ([[np.nan, 1.0]], "finite"),
    ],
)
def test_entropy_of_no_probabilities_is_refused(proba, message):
    with pytest.raises(ValueError, match=message):
        predictive_entropy(proba)


def test_auroc_counts_pairs_and_half_the_ties(seed):
    rng = np.random.default_rng(seed)
    inside, outside = rng.integers(5, size=30), rng.integers(1, 7, size=17)
    pairs = [(o > i) + 0.5 * (o == i) for i in inside for o in outside]
    assert ood_auroc(inside, outside) == pytest.approx(np.mean(pairs), rel=1e-12)
    assert ood_auroc(outside, inside) == pytest.approx(1 - np.mean(pairs), rel=1e-12)


def test_auroc_at_its_ends():
    assert ood_auroc([0.0, 1.0], [2.0]) == 1
    assert ood_auroc([2.0], [0.0, 1.0]) == 0
    assert ood_auroc([1.0, 1.0], [1.0]) == 0.5


def test_auroc_sees_only_the_order(seed):
    rng = np.random.default_rng(seed)
    inside, outside = rng.normal(size=20), rng.normal(1, size=20)
    assert ood_auroc(np.exp(inside), np.exp(outside)) == ood_auroc(inside, outside)


@pytest.mark.parametrize(
    ("inside", "outside", "message"),
    [
        ([], [1.0], "score_in has shape"),
        ([1.0], [], "score_out has shape"),
        ([[1.0]], [1.0], "score_in has shape"),
        ([1.0], [np.nan], "score_out must hold finite"),
        ([np.inf], [1.0], "score_in must hold finite"),
    ],
)
def test_bad_scores_are_refused(inside, outside, message):
    with pytest.raises(ValueError, match=message):
        ood_auroc(inside, outside)
