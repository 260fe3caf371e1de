"""scikit-learn's own checks."""

import numpy as np
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks
from task_streams import classes

from skntk import ContinualNTK, ContinualNTKRegressor

SMALL = {"depth": 1, "width": 8, "dtype": "float64", "random_state": 0}


@parametrize_with_checks(
    [
        ContinualNTK("ogd", max_epochs=20, **SMALL),
        ContinualNTK("joint", **SMALL | {"width": np.inf}),
        ContinualNTKRegressor("ewc", max_epochs=20, **SMALL),
    ]
)
def test_checks(estimator, check):
    check(estimator)


def test_grid_over_widths_and_pipelines():
    """Width is one parameter, infinity included."""
    task = classes(0, n_tasks=1, n=24, per_task=3)[0]
    model = make_pipeline(StandardScaler(), ContinualNTK("sgd", depth=1, max_epochs=5,
                                                         random_state=0))  # fmt: skip
    grid = {"continualntk__width": [8, 64.0, np.inf]}
    found = GridSearchCV(model, grid, cv=3).fit(task.X, task.y)
    assert np.isfinite(found.cv_results_["mean_test_score"]).all()
    fitted = found.best_estimator_[-1]
    again = clone(fitted).partial_fit(StandardScaler().fit_transform(task.X), task.y)
    assert again.get_params() == fitted.get_params()
