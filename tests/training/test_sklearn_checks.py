"""Scikit-learn's own checks of both network estimators, in each regime and by each optimizer."""

import pytest
from sklearn.utils.estimator_checks import parametrize_with_checks

from skntk import NetworkClassifier, NetworkRegressor

FLOAT32 = "rounding in float32 depends on the shape of a matrix product; the check wants 1e-7"
TO_1E_7 = ["check_methods_subset_invariance", "check_methods_sample_order_invariance"]
#: With epochs that suffice for the scores that some checks want.
ADAM = {"optimizer": "adam", "learning_rate": 0.1, "max_epochs": 10}
GD = {"optimizer": "gd", "momentum": 0.8, "max_epochs": 12}
NATURAL = {"optimizer": "natural_gradient", "max_epochs": 6}
KFAC = {"optimizer": "kfac", "max_epochs": 5}
LAZY = {"regime": "linearized"}


def small(Estimator, **params):
    return Estimator(depth=1, width=8, random_state=0, **params)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning")
@parametrize_with_checks(
    [
        small(Estimator, dtype="float64", **params)
        for Estimator, made in [
            (NetworkRegressor, [KFAC, GD | LAZY, NATURAL | LAZY]),
            (NetworkClassifier, [GD, NATURAL, KFAC | LAZY]),
        ]
        for params in made
    ]
)
def test_scikit_learn_check(estimator, check):
    check(estimator)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning")
@parametrize_with_checks(
    [small(NetworkRegressor, **ADAM), small(NetworkClassifier, **ADAM)],
    # Rounding depends on the alignment of memory, too, so they may also pass.
    expected_failed_checks=lambda estimator: dict.fromkeys(TO_1E_7, FLOAT32),
    xfail_strict=False,
)
def test_scikit_learn_check_in_float32(estimator, check):
    check(estimator)
