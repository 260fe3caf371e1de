"""The kernels inside scikit-learn's estimators."""

import numpy as np
import pytest
from sklearn.gaussian_process import GaussianProcessClassifier, GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, WhiteKernel
from sklearn.kernel_approximation import Nystroem
from sklearn.kernel_ridge import KernelRidge
from sklearn.model_selection import GridSearchCV
from sklearn.svm import SVC

from skntk.infinite import NNGPKernel, NTKKernel

# For some data the best value lies at a bound, of which scikit-learn warns.
pytestmark = pytest.mark.filterwarnings(
    "ignore:The optimal value found:sklearn.exceptions.ConvergenceWarning"
)


@pytest.fixture
def problem(rng):
    X, Z = rng.standard_normal((25, 2)), rng.standard_normal((6, 2))
    return X, np.sin(2 * X[:, 0]) + 0.2 * rng.standard_normal(25), Z


@pytest.mark.parametrize("Kernel", [NTKKernel, NNGPKernel])
def test_posterior_in_closed_form(problem, Kernel) -> None:
    X, y, Z = problem
    kernel = Kernel(2, weight_std=1.3, bias_std=0.3)
    gp = GaussianProcessRegressor(kernel, alpha=0.1, optimizer=None).fit(X, y)
    mean, covariance = gp.predict(Z, return_cov=True)
    C = kernel(X) + 0.1 * np.eye(len(X))
    cross = kernel(Z, X)
    np.testing.assert_allclose(mean, cross @ np.linalg.solve(C, y), rtol=1e-9)
    expected = kernel(Z) - cross @ np.linalg.solve(C, cross.T)
    np.testing.assert_allclose(covariance, expected, atol=1e-11 * kernel.diag(Z).max())
    std = gp.predict(Z, return_std=True)[1]
    np.testing.assert_allclose(std**2, np.diag(covariance), rtol=1e-8)


def test_optimizer_ends_where_the_evidence_is_flat(problem) -> None:
    X, y, _ = problem
    kernel = NTKKernel(1, weight_std=1.0, bias_std=1.0) + WhiteKernel(0.1)
    gp = GaussianProcessRegressor(kernel).fit(X, y)
    theta = gp.kernel_.theta
    value, slope = gp.log_marginal_likelihood(theta, eval_gradient=True)
    assert value > gp.log_marginal_likelihood(kernel.theta)
    inside = (abs(theta[:, None] - gp.kernel_.bounds) > 1e-3).all(1)
    assert inside.any()
    assert (abs(slope[inside]) < 0.05).all()


def test_classifier(problem) -> None:
    X, _, _ = problem
    labels = X[:, 0] > np.median(X[:, 0])
    kernel = ConstantKernel(4.0, "fixed") * NNGPKernel(1, bias_std_bounds="fixed")
    model = GaussianProcessClassifier(kernel).fit(X, labels)
    assert model.log_marginal_likelihood_value_ > model.log_marginal_likelihood(kernel.theta)
    probability = model.predict_proba(X)[:, 1]
    assert probability[labels].mean() > 0.5 > probability[~labels].mean()


def test_kernel_ridge_is_the_posterior_mean(problem) -> None:
    X, y, Z = problem
    ridge = KernelRidge(kernel=NTKKernel(), alpha=0.1).fit(X, y)
    gp = GaussianProcessRegressor(NTKKernel(), alpha=0.1, optimizer=None).fit(X, y)
    np.testing.assert_allclose(ridge.predict(Z), gp.predict(Z), rtol=1e-8)


def test_grid_search_over_depth(problem) -> None:
    X, y, _ = problem
    search = GridSearchCV(KernelRidge(kernel=NTKKernel()), {"kernel__depth": [1, 2]}, cv=3)
    assert search.fit(X, y).best_params_["kernel__depth"] in (1, 2)
    scores = search.cv_results_["mean_test_score"]
    assert np.isfinite(scores).all()
    assert scores[0] != scores[1]


def test_svc_is_that_of_the_precomputed_kernel(problem) -> None:
    X, y, Z = problem
    kernel = NTKKernel()
    direct = SVC(kernel=kernel).fit(X, y > 0)
    precomputed = SVC(kernel="precomputed").fit(kernel(X), y > 0)
    np.testing.assert_allclose(
        direct.decision_function(Z), precomputed.decision_function(kernel(Z, X)), rtol=1e-6
    )


def test_nystroem_with_all_rows_is_exact(problem) -> None:
    X, _, Z = problem
    kernel = NTKKernel(bias_std=0.5)
    features = Nystroem(kernel=kernel, n_components=len(X), random_state=0).fit(X)
    approximate = features.transform(X) @ features.transform(Z).T
    np.testing.assert_allclose(approximate, kernel(X, Z), atol=1e-8 * kernel.diag(X).max())
