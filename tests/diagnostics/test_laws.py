"""Intervals that cover what they should, and laws that are found again."""

import math

import numpy as np
import pytest
from scipy import stats

from skntk.diagnostics.laws import PowerLaw, estimate, estimate_positive, runs_needed

TRIALS = 2000


def test_interval_is_that_of_scipy(seed):
    values = np.random.default_rng(seed).standard_normal(7)
    found = estimate(values)
    expected = stats.ttest_1samp(values, 0.0).confidence_interval(0.95)
    assert found.mean == pytest.approx(values.mean())
    assert found.standard_error == pytest.approx(stats.sem(values))
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))


@pytest.mark.parametrize("n", [2, 5])
def test_interval_covers_the_mean(n, seed):
    """In 95 % of 2000 trials, within four standard errors of that share (0.5 %)."""
    draws = np.random.default_rng(seed).standard_normal((TRIALS, n)) + 3
    covered = [(e.low <= 3 <= e.high) for e in map(estimate, draws)]
    assert np.mean(covered) == pytest.approx(0.95, abs=0.02)


def test_intervals_of_overlapping_splits_cover(seed):
    """Runs share a part: with test rows a third of training rows, it is what the factor is for.

    Each run is a mean over test rows drawn from few rows, so that runs agree; the corrected
    interval covers the mean of all possible rows about as often as it says, the naive one far
    less. Of 2000 trials; the standard error of a share is half a per cent.
    """
    rng = np.random.default_rng(seed)
    n, test, runs = 40, 10, 10
    covered = {0.0: 0, test / (n - test): 0}
    for _ in range(TRIALS):
        rows = rng.standard_normal(n)
        values = [rows[rng.permutation(n)[:test]].mean() for _ in range(runs)]
        for overlap in covered:
            found = estimate(values, overlap)
            covered[overlap] += found.low <= 0 <= found.high
    naive, corrected = (c / TRIALS for c in covered.values())
    assert corrected > 0.92
    assert naive < 0.9


def test_positive_values_have_positive_intervals(seed):
    logs = np.random.default_rng(seed).standard_normal(3)
    found, expected = estimate_positive(np.exp(logs)), estimate(logs)
    assert (found.mean, found.low, found.high) == pytest.approx(
        (math.exp(expected.mean), math.exp(expected.low), math.exp(expected.high))
    )
    assert found.low > 0
    assert estimate_positive([0.0, 0.0])[:4] == (0.0, 0.0, 0.0, 0.0)
    assert estimate_positive([]).n == 0


def test_runs_that_agree_are_as_uncertain_as_each_of_them():
    found = estimate([0.5, 0.5, 0.5, 0.5], overlap=0.25, errors=[0.1, 0.2, 0.1, 0.2])
    expected = math.sqrt((0.1**2 + 0.2**2) / 2 / (1 + 0.25)) * math.sqrt(1 / 4 + 0.25)
    assert found.standard_error == pytest.approx(expected)
    assert found.low < 0.5 < found.high
    apart = estimate([0.0, 1.0], errors=[0.1, 0.1])
    assert apart == estimate([0.0, 1.0])
    assert runs_needed([0.0, 0.0], 0.1, errors=[0.2, 0.2]) > runs_needed([0.0, 0.0], 0.1)


def test_one_run_or_none():
    one, none = estimate([2.0]), estimate([])
    assert one.mean == 2.0
    assert math.isnan(one.low)
    assert math.isnan(none.mean)
    assert (one.n, none.n) == (1, 0)


def test_a_law_without_noise_is_found_exactly():
    widths = [8, 32, 128, 512] * 2
    law = PowerLaw.fit(widths, [3 * w**-0.7 for w in widths])
    assert (law.exponent, law.low, law.high) == pytest.approx((-0.7,) * 3)
    assert law.falls
    assert law.at(100)[0] == pytest.approx(3 * 100**-0.7)
    needed = (3 / 0.01) ** (1 / 0.7)
    assert law.width_for(0.01) == pytest.approx((needed,) * 3, rel=1e-6)


def test_exponents_are_those_of_linear_regression(seed):
    rng = np.random.default_rng(seed)
    widths = np.repeat([16, 64, 256], 4)
    values = np.exp(rng.standard_normal(12) * 0.2) * widths**-0.5
    law = PowerLaw.fit(widths, values)
    other = stats.linregress(np.log(widths), np.log(values))
    reach = stats.t.ppf(0.975, 10) * other.stderr
    assert law.exponent == pytest.approx(other.slope)
    assert (law.low, law.high) == pytest.approx((other.slope - reach, other.slope + reach))


def test_intervals_of_laws_cover(seed):
    """Of the exponent, of the value at a width, and of the width for a value, at 95 %."""
    rng = np.random.default_rng(seed)
    widths = np.repeat([16, 64, 256], 3)
    covered = np.zeros(3)
    for _ in range(TRIALS // 4):
        values = 2 * widths**-0.5 * np.exp(0.1 * rng.standard_normal(9))
        law = PowerLaw.fit(widths, values)
        _, low, high = law.at(1024)
        _, first, last = law.width_for(2 * 1024**-0.5)
        covered += law.low <= -0.5 <= law.high, low <= 2 * 1024**-0.5 <= high, first <= 1024 <= last
    assert covered / (TRIALS // 4) == pytest.approx(np.full(3, 0.95), abs=0.045)


@pytest.mark.parametrize("values", [[0.0, 1.0, 2.0], [-1.0, 1.0, 2.0], [np.nan, 1.0, 2.0]])
def test_no_law_of_what_is_not_positive(values):
    law = PowerLaw.fit([1, 2, 4], values)
    assert math.isnan(law.exponent)
    assert not law.falls
    assert all(map(math.isnan, law.width_for(0.1)))


def test_no_law_of_one_width_and_no_interval_of_two_runs():
    assert math.isnan(PowerLaw.fit([8, 8, 8], [1.0, 2.0, 3.0]).exponent)
    law = PowerLaw.fit([8, 16], [2.0, 1.0])
    assert law.exponent == pytest.approx(-1)
    assert math.isnan(law.low)
    assert not law.falls
    assert law.width_for(0.5)[0] == pytest.approx(32)


def test_a_law_that_does_not_fall_is_never_small():
    widths = [8, 16, 32, 64]
    law = PowerLaw.fit(widths, [1.0, 1.1, 1.2, 1.3])
    assert law.width_for(0.1)[0] == math.inf
    assert PowerLaw.fit(widths, [0.02, 0.02, 0.01, 0.01]).width_for(0.5)[0] == 1.0


def test_needed_runs_are_enough(seed):
    rng = np.random.default_rng(seed)
    values = rng.standard_normal(6) * 0.1
    margin = 2 * abs(values.mean()) + 0.1
    n = runs_needed(values, margin)
    half = stats.t.ppf(0.975, n - 1) * values.std(ddof=1) / n**0.5
    assert half < max(abs(values.mean()), margin - abs(values.mean()))
    fewer = stats.t.ppf(0.975, n - 2) * values.std(ddof=1) / (n - 1) ** 0.5 if n > 2 else math.inf
    assert fewer >= max(abs(values.mean()), margin - abs(values.mean()))


def test_no_number_of_runs_makes_up_for_few_rows():
    assert runs_needed([0.1, -0.1, 0.1, -0.1], margin=0.02, overlap=0.5) is None
