"""scikit-learn's own checks."""

from sklearn.utils.estimator_checks import parametrize_with_checks

from skntk import (
    LinearizedLaplaceClassifier,
    LinearizedLaplaceRegressor,
    NetworkClassifier,
    NetworkRegressor,
)


def small(kind):
    training = {"max_epochs": 40, "learning_rate": 0.03, "random_state": 0}
    return kind(depth=1, width=5, dtype="float64", **training)


ESTIMATORS = [
    *(
        LinearizedLaplaceRegressor(small(NetworkRegressor), curvature=c)
        for c in ("full", "kron", "diag")
    ),
    LinearizedLaplaceRegressor(small(NetworkRegressor), parameters="last_layer"),
    LinearizedLaplaceRegressor(small(NetworkRegressor), online=True, curvature="kron"),
    *(
        LinearizedLaplaceClassifier(small(NetworkClassifier), curvature=c)
        for c in ("full", "kron", "diag")
    ),
    LinearizedLaplaceClassifier(small(NetworkClassifier), link="mc", n_samples=5),
    LinearizedLaplaceClassifier(
        small(NetworkClassifier), prior_precision="validation", random_state=0
    ),
]


@parametrize_with_checks(ESTIMATORS)
def test_checks(estimator, check):
    check(estimator)
