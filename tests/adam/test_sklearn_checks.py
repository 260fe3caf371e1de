"""Scikit-learn's own checks of both estimators of Adam's limit."""

import pytest
from sklearn.utils.estimator_checks import parametrize_with_checks

from skntk import AdamNTKClassifier, AdamNTKRegressor

SMALL = {"depth": 1, "n_features": 64, "max_epochs": 8, "random_state": 0}


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning")
@parametrize_with_checks([AdamNTKRegressor(**SMALL), AdamNTKClassifier(**SMALL)])
def test_scikit_learn_check(estimator, check):
    check(estimator)
