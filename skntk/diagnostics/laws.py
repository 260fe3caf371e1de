"""What repeated runs say: means with intervals, and power laws in the width."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

#: Probability with which an interval covers what it estimates.
LEVEL = 0.95
#: More runs than that are not asked for.
_MOST_RUNS = 1000
#: Widths beyond are no widths of networks.
_WIDEST = 1e12


class Estimate(NamedTuple):
    """A mean over runs.

    Attributes
    ----------
    mean, standard_error : float
        NaN without a run; the error is NaN with one, or with an infinite value.
    low, high : float
        Ends of the interval; NaN like the error.
    n : int
        Number of runs.
    """

    mean: float
    standard_error: float
    low: float
    high: float
    n: int


def estimate(values: Any, overlap: float = 0.0, errors: Any = ()) -> Estimate:
    """Mean over runs with a Student interval.

    Parameters
    ----------
    values : array-like of shape (n,)
        One number a run.
    overlap : float, default=0.0
        Test rows over training rows, where each run draws both at random from the same rows. Runs
        then agree more than independent data would, and the variance of the mean is
        ``(1 / n + overlap)`` times that of a run (Nadeau & Bengio 2003, section 3). 0 for
        independent runs.
    errors : array-like of shape (n,), optional
        Standard errors of the values, as far as each run knows its own from its test rows. The
        variance between runs counts for no less than is expected by them, even if few runs agree
        by chance: for their mean square over ``1 + overlap``, since runs that share rows differ
        less from each other than from the truth.

    Examples
    --------
    >>> from skntk.diagnostics.laws import estimate
    >>> found = estimate([1.0, 2.0, 3.0])
    >>> found.mean, round(found.standard_error, 3), round(found.low, 2), round(found.high, 2)
    (2.0, 0.577, -0.48, 4.48)
    """
    values = np.asarray(values, dtype=float)
    n = len(values)
    if n < 2 or not np.isfinite(values).all():
        mean = float(values.mean()) if n else math.nan
        return Estimate(mean, math.nan, math.nan, math.nan, n)
    mean, spread = float(values.mean()), _spread(values, errors, overlap)
    error = spread * math.sqrt(1 / n + overlap)
    reach = float(stats.t.ppf(0.5 + LEVEL / 2, n - 1)) * error
    return Estimate(mean, error, mean - reach, mean + reach, n)


def estimate_positive(values: Any, others: Sequence[Any] = ()) -> Estimate:
    """Geometric mean over runs of what is positive, with the Student interval of the logarithms.

    Its ends are positive, as they should be, and its error is NaN. Where a value is 0, `estimate`.

    Parameters
    ----------
    values : array-like of shape (n,)
        One number a run.
    others : sequence of array-like
        Runs of other widths, whose logarithms are taken to vary as much: with few runs each, they
        tell the spread together.

    Examples
    --------
    >>> from skntk.diagnostics.laws import estimate_positive
    >>> round(estimate_positive([1.0, 10.0, 100.0]).mean, 6)
    10.0
    """
    values = np.asarray(values, dtype=float)
    n = len(values)
    if n == 0 or not (np.isfinite(values).all() and (values > 0).all()):
        return estimate(values)
    groups = [np.log(values)]
    for other in others:
        positive = np.asarray(other, dtype=float)
        if np.isfinite(positive).all() and (positive > 0).all():
            groups.append(np.log(positive))
    freedom = sum(max(len(group) - 1, 0) for group in groups)
    if not freedom:
        return estimate(values)
    squares = sum(float(((group - group.mean()) ** 2).sum()) for group in groups if len(group))
    error = math.sqrt(squares / freedom / n)
    mean, reach = float(groups[0].mean()), float(stats.t.ppf(0.5 + LEVEL / 2, freedom)) * error
    return Estimate(math.exp(mean), math.nan, math.exp(mean - reach), math.exp(mean + reach), n)


def runs_needed(values: Any, margin: float, overlap: float = 0.0, errors: Any = ()) -> int | None:
    """How many runs would tell a mean from 0, or show that it is within a margin of it.

    Parameters
    ----------
    values : array-like of shape (n,)
        What the runs so far gave; mean and spread are taken from them.
    margin : float
        What counts as no difference.
    overlap, errors
        As of `estimate`.

    Returns
    -------
    int or None
        None if not even 1000 runs would do, for the rows are too few.

    Examples
    --------
    >>> from skntk.diagnostics.laws import runs_needed
    >>> runs_needed([0.1, -0.1, 0.15, -0.05], margin=0.05)
    90
    """
    values = np.asarray(values, dtype=float)
    mean, spread = abs(float(values.mean())), _spread(values, errors, overlap)
    reach = max(mean, margin - mean)
    n = np.arange(2, _MOST_RUNS + 1)
    half = stats.t.ppf(0.5 + LEVEL / 2, n - 1) * spread * np.sqrt(1 / n + overlap)
    enough = n[half < reach]
    return int(enough[0]) if len(enough) else None


def _spread(values: np.ndarray, errors: Any, overlap: float) -> float:
    """Standard deviation between runs, not less than their own errors let expect."""
    own = np.asarray(errors, dtype=float)
    floor = math.sqrt(float(np.mean(own**2)) / (1 + overlap)) if own.size else 0.0
    return max(float(values.std(ddof=1)), floor)


@dataclass(frozen=True)
class PowerLaw:
    r"""Law :math:`q = c \, \text{width}^b`, fitted by least squares to the logarithms of all runs.

    Attributes
    ----------
    exponent : float
        b; NaN if there is no law, for a value is not positive or there are fewer than two widths.
    low, high : float
        Ends of the exponent's Student interval; NaN with two runs.
    widest : float
        Largest width that it was fitted to.
    """

    exponent: float
    low: float
    high: float
    widest: float = math.nan
    _log_scale: float = math.nan
    _center: float = math.nan
    _variances: tuple[float, float] = (math.nan, math.nan)  # of the value at the center, of b
    _quantile: float = math.nan

    @classmethod
    def fit(cls, widths: Sequence[float], values: Sequence[float]) -> PowerLaw:
        """Fit the law to one width and one value for each run.

        Examples
        --------
        >>> from skntk.diagnostics.laws import PowerLaw
        >>> law = PowerLaw.fit([16, 64, 256], [0.4, 0.2, 0.1])
        >>> round(law.exponent, 6), round(law.width_for(0.05)[0])
        (-0.5, 1024)
        """
        x, y = np.asarray(widths, dtype=float), np.asarray(values, dtype=float)
        if len(np.unique(x)) < 2 or not (np.isfinite(y).all() and (y > 0).all()):
            return cls(math.nan, math.nan, math.nan)
        widest = float(x.max())
        x, y = np.log(x), np.log(y)
        center = float(x.mean())
        spread = float(((x - center) ** 2).sum())
        slope = float(((x - center) * y).sum() / spread)
        level = float(y.mean())
        freedom = len(x) - 2
        if freedom < 1:
            return cls(slope, math.nan, math.nan, widest, level, center)
        noise = float(((y - level - slope * (x - center)) ** 2).sum()) / freedom
        quantile = float(stats.t.ppf(0.5 + LEVEL / 2, freedom))
        reach = quantile * math.sqrt(noise / spread)
        variances = noise / len(x), noise / spread
        return cls(slope, slope - reach, slope + reach, widest, level, center, variances, quantile)

    @property
    def falls(self) -> bool:
        """Whether the value falls with the width beyond doubt."""
        return self.high < 0

    def at(self, width: float) -> tuple[float, float, float]:
        """Value at a width, and the ends of its interval."""
        x = math.log(width) - self._center
        middle = self._log_scale + self.exponent * x
        own, slope = self._variances
        reach = self._quantile * math.sqrt(own + slope * x * x)
        return math.exp(middle), math.exp(middle - reach), math.exp(middle + reach)

    def width_for(self, value: float) -> tuple[float, float, float]:
        """Width from which on a law that falls stays below a value, and the ends of its interval.

        Infinite where the law, or an end of its interval, does not get there before width 1e12.
        """
        return (
            self._crossing(value, 0.0),
            self._crossing(value, -self._quantile),
            self._crossing(value, self._quantile),
        )

    def _crossing(self, value: float, quantiles: float) -> float:
        """Width from which on the law, or a curve beside it, is below a value."""
        if math.isnan(self.exponent) or math.isnan(quantiles):
            return math.nan
        own, slope = self._variances if quantiles else (0.0, 0.0)
        x = np.linspace(0.0, math.log(_WIDEST), 4001)
        z = x - self._center
        height = self._log_scale + self.exponent * z + quantiles * np.sqrt(own + slope * z * z)
        above = np.flatnonzero(height > math.log(value))
        if not len(above):
            return 1.0
        last = above[-1]
        if last == len(x) - 1:
            return math.inf
        over, under = height[last] - math.log(value), math.log(value) - height[last + 1]
        return math.exp(x[last] + (x[last + 1] - x[last]) * over / (over + under))
