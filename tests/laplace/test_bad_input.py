"""What the estimators refuse, and that the message says what to do."""

import numpy as np
import pytest
import skorch
import torch
from sklearn.exceptions import NotFittedError
from torch import nn

from skntk import (
    LinearizedLaplaceClassifier,
    LinearizedLaplaceRegressor,
    NetworkClassifier,
    NetworkRegressor,
)
from skntk.core import MemoryBudgetError, TrainingDivergedError

rng = np.random.default_rng(0)
X, Y = rng.standard_normal((20, 3)), np.arange(20) % 3
T = rng.standard_normal(20)


def net(k=3):
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, k))


def fit(module, y=Y, kind=LinearizedLaplaceClassifier, **more):
    return kind(module, prefit=True, **more).fit(X, y)


def test_untrained():
    with pytest.raises(NotFittedError, match="NetworkClassifier"):
        fit(NetworkClassifier())
    with pytest.raises(NotFittedError, match="skorch net that has not been trained"):
        fit(skorch.NeuralNetClassifier(net))
    with pytest.raises(TypeError, match="must be a trained"):
        fit(None)
    with pytest.raises(TypeError, match="must be a trained"):
        fit(nn.Linear)
    with pytest.raises(NotFittedError):
        LinearizedLaplaceClassifier(net(), prefit=True).predict_proba(X)


def test_diverged():
    module = net()
    with torch.no_grad():
        module[0].weight[0, 0] = torch.nan
    with pytest.raises(TrainingDivergedError, match=r"'0.weight'"):
        fit(module)

    class Overflows(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 3)

        def forward(self, x):
            return torch.exp(1e6 * self.layer(x))

    with pytest.raises(TrainingDivergedError, match="outputs of the network are not finite"):
        fit(Overflows())


@pytest.mark.parametrize("k", [1, 2])
def test_targets_are_not_broadcast(k):
    """y of (n,) against outputs of (n, 1) makes no (n, n)."""
    module = net(k)
    if k == 1:
        model = fit(module, T, LinearizedLaplaceRegressor, noise_variance=1.0)
        same = fit(module, T[:, None], LinearizedLaplaceRegressor, noise_variance=1.0)
        assert model.log_marginal_likelihood_ == pytest.approx(same.log_marginal_likelihood_)
        residual = T - model.predict(X)
        fitted = -0.5 * (residual @ residual) - 10 * np.log(2 * np.pi)
        assert model.log_marginal_likelihood_ < fitted
    else:
        with pytest.raises(ValueError, match="2 outputs"):
            fit(module, T, LinearizedLaplaceRegressor)


def test_too_large():
    module = nn.Sequential(nn.Linear(3, 300_000), nn.ReLU(), nn.Linear(300_000, 1))
    with pytest.raises(MemoryBudgetError, match=r"GiB.*kron.*last_layer"):
        fit(module, T, LinearizedLaplaceRegressor, curvature="full", prior_structure="layer")


def test_classes():
    with pytest.raises(ValueError, match="pass classes="):
        fit(net(), np.array(["a", "b"])[Y % 2])
    model = fit(net(), Y % 2)  # a class missing from these rows
    assert model.classes_.tolist() == [0, 1, 2]
    assert model.predict_proba(X).shape == (20, 3)
    named = LinearizedLaplaceClassifier(net(), prefit=True)
    named.fit(X, np.array(["a", "b"])[Y % 2], classes=["b", "a", "c"])
    assert named.classes_.tolist() == ["b", "a", "c"]
    with pytest.raises(ValueError, match="does not know"):
        model.partial_fit(X, Y + 1)
    with pytest.raises(ValueError, match="each label once"):
        LinearizedLaplaceClassifier(net(), prefit=True).fit(X, Y, classes=[0, 0, 1])
    with pytest.raises(ValueError, match="one class"):
        LinearizedLaplaceClassifier(NetworkClassifier(max_epochs=1)).fit(X, np.zeros(20))
    with pytest.raises(ValueError, match="outputs"):
        fit(net(2))


def test_squared_loss():
    trained = NetworkClassifier(width=4, max_epochs=1, loss="squared", random_state=0).fit(X, Y)
    with pytest.raises(ValueError, match="cross_entropy"):
        fit(trained)


def test_contradictions_are_refused_before_training(monkeypatch):
    def fit(*args):
        raise AssertionError("it was trained")

    monkeypatch.setattr(NetworkClassifier, "fit", fit)
    with pytest.raises(ValueError, match="leave it out"):
        LinearizedLaplaceClassifier(NetworkClassifier()).fit(X, Y, classes=[0, 1, 2])
    for call in ("fit", "partial_fit"):
        model = LinearizedLaplaceClassifier(NetworkClassifier(loss="squared"))
        with pytest.raises(ValueError, match="cross_entropy"):
            getattr(model, call)(X, Y)
    for y, options, match in (
        (np.zeros(20), {}, "one class"),
        (Y, {"prior_precision": [-1.0], "prior_structure": "layer"}, "positive"),
    ):
        with pytest.raises(ValueError, match=match):
            LinearizedLaplaceClassifier(NetworkClassifier(), **options).fit(X, y)
    monkeypatch.setattr(NetworkRegressor, "fit", fit)
    with pytest.raises(ValueError, match="pass one number, or 1"):
        LinearizedLaplaceRegressor(NetworkRegressor(), noise_variance=[1.0, 2.0]).fit(X, T)


@pytest.mark.parametrize(
    ("more", "match"),
    [
        ({"prior_precision": -1.0}, "prior_precision"),
        ({"prior_precision": [1.0, 2.0]}, r"needs one number\."),
        ({"prior_precision": [1.0], "prior_structure": "layer"}, r"\['0', '2'\]"),
        ({"prior_precision": [1.0, np.nan], "prior_structure": "layer"}, "positive and finite"),
        ({"curvature": "kfac"}, "curvature"),
        ({"prior_structure": "parameter", "curvature": "kron"}, "coordinates"),
        ({"prior_precision": "validation"}, "X_val"),
        ({"prior_precision": "validation", "prior_structure": "layer"}, "one prior precision"),
        ({"online": True}, "prefit=False"),
        ({"parameters": ["nowhere"]}, "fits none"),
        ({"parameters": []}, "names none of"),
        ({"prior_precision": ["a", "b"], "prior_structure": "layer"}, "must be a number"),
        ({"link": "logit"}, "link"),
    ],
)
def test_parameters(more, match):
    with pytest.raises(ValueError, match=match):
        fit(net(), **more)


def test_names_of_parameters():
    with pytest.raises(TypeError, match=r"parameters=\[1\]"):
        fit(net(), parameters=[1])
    with pytest.raises(TypeError, match="parameters=3"):
        fit(net(), parameters=3)


def test_a_module_with_a_precision_of_its_own():
    class Casts(nn.Linear):
        def forward(self, X):
            return super().forward(X.float())

    with pytest.raises(ValueError, match=r"Casts fails on rows of shape \(3,\) and torch.float64"):
        fit(Casts(3, 3))


def test_noise():
    kind = LinearizedLaplaceRegressor
    with pytest.raises(ValueError, match="noise_variance"):
        fit(net(1), T, kind, noise_variance=0.0)
    with pytest.raises(ValueError, match="pass one number, or 1"):
        fit(net(1), T, kind, noise_variance=[1.0, 2.0])
    with pytest.raises(ValueError, match="must be a number"):
        fit(net(1), T, kind, noise_variance=["a"])
    model = fit(net(1), T, kind)
    with pytest.raises(ValueError, match="positive number"):
        model.log_marginal_likelihood(noise_variance=-1.0)
    with pytest.raises(ValueError, match="cannot both"):
        model.predict(X, return_std=True, return_cov=True)
    with pytest.raises(ValueError, match="n_samples"):
        model.sample_y(X, 0)
    with pytest.raises(ValueError, match="no noise"):
        fit(net()).log_marginal_likelihood(noise_variance=1.0)


def test_weights_and_validation_rows():
    kind = LinearizedLaplaceRegressor
    with pytest.raises(ValueError, match="positive"):
        kind(net(1), prefit=True).fit(X, T, row_weight=np.zeros(20))
    with pytest.raises(ValueError, match=r"wanted \(20,\)"):
        kind(net(1), prefit=True).fit(X, T, row_weight=np.ones(3))
    with pytest.raises(ValueError, match="prefit=True"):
        kind(NetworkRegressor(max_epochs=1)).fit(X, T, row_weight=np.arange(1, 21))
    with pytest.raises(ValueError, match="belong together"):
        kind(net(1), prefit=True, prior_precision="validation").fit(X, T, X_val=X)
    with pytest.raises(ValueError, match="leave it out"):
        kind(net(1), prefit=True, prior_precision=1.0).fit(X, T, X_val=X, y_val=T)
    with pytest.raises(ValueError, match="y has shape"):
        kind(net(1), prefit=True).fit(X, T).partial_fit(X, np.column_stack([T, T]))
    with pytest.raises(ValueError, match="does not know"):
        LinearizedLaplaceClassifier(net(), prefit=True, prior_precision="validation").fit(
            X, Y, X_val=X, y_val=Y + 5
        )


def test_batch_norm_is_that_of_eval_mode():
    module = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 3))
    module(torch.randn(50, 3))
    module.train()
    assert fit(module).predict_proba(X).shape == (20, 3)
    assert module.training


def test_online_needs_a_plain_optimizer():
    trainer = NetworkClassifier(width=4, optimizer="kfac", max_epochs=1)
    with pytest.raises(ValueError, match="online=True"):
        LinearizedLaplaceClassifier(trainer, online=True).fit(X, Y)


def test_features():
    model = fit(net())
    with pytest.raises(ValueError, match="3 features"):
        model.predict(X[:, :2])
    with pytest.raises(ValueError, match="NaN"):
        model.predict(np.full((2, 3), np.nan))
    with pytest.raises(ValueError, match="wanted"):
        model.differentiable(torch.zeros(4, 2))


def test_outputs_that_are_no_logits():
    soft = nn.Sequential(nn.Linear(3, 3), nn.Softmax(dim=1))
    with pytest.raises(ValueError, match="must return logits"):
        fit(soft)
    with pytest.raises(ValueError, match="one logit a class"):
        fit(net(1), Y % 2)
    with pytest.raises(ValueError, match="a label for each of 3 outputs"):
        LinearizedLaplaceClassifier(net(), prefit=True).fit(X, Y % 2, classes=[0, 1])
    with pytest.raises(ValueError, match="trained on the rows of the first call"):
        LinearizedLaplaceClassifier(NetworkClassifier(max_epochs=1)).partial_fit(
            X, Y % 2, classes=[0, 1, 2]
        )


def test_state_of_other_parameters():
    state = fit(net(), parameters="last_layer").state_dict()
    with pytest.raises(ValueError, match="construct the estimator as the one"):
        LinearizedLaplaceClassifier(net(), prefit=True).load_state_dict(state)


def test_criteria_that_contradict():
    with pytest.raises(ValueError, match="online=True"):
        LinearizedLaplaceClassifier(NetworkClassifier(), online=True, prior_precision=1.0).fit(X, Y)
    with pytest.raises(ValueError, match="pass 'scalar'"):
        LinearizedLaplaceClassifier(net(), prefit=True, prior_structure="layer").fit(
            X, Y, X_val=X, y_val=Y
        )


def test_too_many_rows_for_a_joint_covariance():
    model = fit(net(1), T, LinearizedLaplaceRegressor, noise_variance=1.0)
    with pytest.raises(MemoryBudgetError, match="joint covariance"):
        model.predict(np.zeros((1_000_000, 3)), return_cov=True)
