"""scikit-learn's own checks."""

from sklearn.utils.estimator_checks import parametrize_with_checks

from skntk import (
    LinearizedLaplaceClassifier,
    LinearizedLaplaceRegressor,
    NetworkClassifier,
    NetworkRegressor,
)


def small(kind):
    training = {"max_epochs": 20, "learning_rate": 0.06, "random_state": 0}
    return kind(depth=1, width=5, dtype="float64", **training)


ESTIMATORS = [
    LinearizedLaplaceRegressor(small(NetworkRegressor), curvature="full"),
    LinearizedLaplaceRegressor(small(NetworkRegressor), curvature="kron", online=True),
    LinearizedLaplaceClassifier(small(NetworkClassifier), random_state=0),
    LinearizedLaplaceClassifier(
        small(NetworkClassifier),
        curvature="diag",
        prior_precision="marginal_likelihood",
        link="mc",
        n_samples=5,
    ),
]


@parametrize_with_checks(ESTIMATORS)
def test_checks(estimator, check):
    check(estimator)
