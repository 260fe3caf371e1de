"""Faults that were found by trying, each with what is right."""

import joblib
import numpy as np
import pytest
import torch
from skorch.callbacks import LRScheduler
from torch import nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import LambdaLR

from skntk import (
    LinearizedLaplaceClassifier,
    LinearizedLaplaceRegressor,
    NetworkClassifier,
    NetworkRegressor,
)
from skntk.core import NotPositiveDefiniteError
from skntk.laplace import posterior
from skntk.laplace.tangent import Tangent

rng = np.random.default_rng(0)
X, Y, Z = rng.standard_normal((20, 4)), rng.standard_normal((20, 2)), rng.standard_normal((3, 4))


def net(k=1):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, k)).double()


def regressor(module, **more):
    return LinearizedLaplaceRegressor(module, **{"prefit": True, "noise_variance": 1.0, **more})


@pytest.mark.parametrize("curvature", ["full", "kron", "diag"])
def test_states_are_snapshots(curvature):
    options = {"curvature": curvature, "prior_precision": 1.0}
    model = regressor(net(), **options).fit(X, Y[:, 0])
    state, before = model.state_dict(), model.predict(Z, return_std=True)[1]
    model.partial_fit(X, Y[:, 0])
    loaded = regressor(net(), **options).load_state_dict(state)
    np.testing.assert_allclose(loaded.predict(Z, return_std=True)[1], before, rtol=1e-10)
    loaded.partial_fit(X, Y[:, 0])
    again = regressor(net(), **options).load_state_dict(state)
    np.testing.assert_allclose(again.predict(Z, return_std=True)[1], before, rtol=1e-10)


def test_draws_of_several_threads():
    model = regressor(net(), curvature="diag").fit(X, Y[:, 0])
    expected = model.sample_y(X, 5)

    def work(i):
        return model.sample_y(X, 5) if i % 2 else model.predict(X, return_std=True)[1]

    with joblib.parallel_config(backend="threading", n_jobs=4):
        found = joblib.Parallel()(joblib.delayed(work)(i) for i in range(16))
    std = model.predict(X, return_std=True)[1]
    for i, value in enumerate(found):
        np.testing.assert_allclose(value, expected if i % 2 else std, rtol=1e-9)


def test_wrong_batching_rule():
    """torch's rule for PReLU is wrong where rows are as many as outputs."""
    module = nn.Sequential(nn.Linear(4, 5), nn.PReLU(), nn.Linear(5, 3)).double()
    targets = rng.standard_normal((20, 3))
    model = regressor(module, prior_precision=1.0).fit(X, targets)
    _, cov = model.differentiable(torch.tensor(Z))
    np.testing.assert_allclose(cov.detach(), model.predict_function(Z, joint=True)[1], atol=1e-9)


class Parted(nn.Module):
    """The last layer's weight and bias belong to two modules."""

    def __init__(self):
        super().__init__()
        self.w = nn.Linear(4, 2, bias=False).double()
        self.bias = nn.Parameter(torch.randn(2).double())

    def forward(self, x):
        return F.linear(x, self.w.weight, self.bias)


def test_layer_with_two_priors():
    module = Parted()
    options = {"curvature": "full", "prior_structure": "layer"}
    model = regressor(module, prior_precision=[0.1, 5.0], **options).fit(X, Y)
    names = model._curvature.tangent.group_names("layer")
    A = np.column_stack([X, np.ones(20)])
    prior = {"": 0.1, "w": 5.0} if names[0] == "" else {"w": 0.1, "": 5.0}
    S = np.linalg.inv(A.T @ A + np.diag([prior["w"]] * 4 + [prior[""]]))
    B = np.column_stack([Z, np.ones(3)])
    std = model.predict(Z, return_std=True)[1]
    np.testing.assert_allclose(std[:, 0] ** 2, np.diag(B @ S @ B.T), rtol=1e-9)


@pytest.mark.parametrize(("structure", "smallest"), [("layer", 1e-9), ("scalar", 1e-15)])
def test_precision_that_is_lost_in_rounding(structure, smallest):
    """In the space of the weights, and in that of the outputs."""
    options = {"curvature": "full", "prior_structure": structure, "noise_variance": 1e-6}
    with pytest.raises(NotPositiveDefiniteError, match="lost in rounding"):
        regressor(net(2), prior_precision=smallest, **options).fit(X[:6], Y[:6])


@pytest.mark.parametrize("n", [6, 20])
def test_searches_go_past_precisions_that_are_lost(n):
    """Inputs so large that a part of the grid is lost, in either space."""
    module, large = net(2), 1e6 * X
    module[1] = nn.ReLU()
    with torch.no_grad():
        targets = module(torch.tensor(large)).numpy() + Y
    held = {"X_val": large[n // 2 :], "y_val": targets[n // 2 :]}
    model = regressor(module, curvature="full").fit(large[:n], targets[:n], **held)
    scores = model.validation_scores_
    assert np.isnan(scores[0])
    assert np.nanmax(scores) == scores[-1]
    assert model.prior_precision_ == 1e4
    evident = regressor(module, curvature="full").fit(large[:n], targets[:n])
    assert np.isfinite(evident.log_marginal_likelihood_)


class Squeezing(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = net()

    def forward(self, x):
        return self.inner(x).squeeze()


def test_one_row_of_a_module_that_squeezes():
    one = regressor(Squeezing(), prior_precision=1.0).fit(X, Y[:, 0])
    two = regressor(net(), prior_precision=1.0).fit(X, Y[:, 0])
    for a, b in zip(one.predict(X[:1], True), two.predict(X[:1], True), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10)
    np.testing.assert_allclose(one.sample_y(X[:1], 3), two.sample_y(X[:1], 3), rtol=1e-9)


def decays(model):
    return [g["weight_decay"] for g in model.network_.net_.optimizer_.param_groups]


def test_online_reaches_every_network(tmp_path):
    common = {"depth": 1, "width": 5, "max_epochs": 20, "random_state": 0}
    centered = NetworkRegressor(centered=True, **common)
    # of the four parameters that are trained, and not of their anchors
    assert min(decays(LinearizedLaplaceRegressor(centered, online=True).fit(X, Y))[:4]) > 0
    schedule = LRScheduler(LambdaLR, lr_lambda=lambda epoch: 1.0)
    scheduled = NetworkRegressor(callbacks=[schedule], **common)
    assert min(decays(LinearizedLaplaceRegressor(scheduled, online=True).fit(X, Y))) > 0
    # a checkpoint of another training is told apart
    kept = NetworkRegressor(checkpoint=str(tmp_path / "net"), **common)
    kept.fit(X, Y)
    with pytest.raises(ValueError, match="belongs to a fit"):
        LinearizedLaplaceRegressor(kept.set_params(max_epochs=40), online=True).fit(X, Y)
    with pytest.raises(ValueError, match="'scalar' or 'layer'"):
        LinearizedLaplaceRegressor(
            NetworkRegressor(**common), online=True, prior_structure="parameter"
        ).fit(X, Y)


def test_checkpoint_of_a_network_that_is_trained_twice(tmp_path):
    path = tmp_path / "net"
    trainer = NetworkClassifier(
        depth=1, width=5, max_epochs=3, random_state=0, checkpoint=str(path)
    )
    model = LinearizedLaplaceClassifier(trainer, random_state=0).fit(X, np.arange(20) % 2)
    assert path.exists()
    again = LinearizedLaplaceClassifier(trainer, random_state=0).fit(X, np.arange(20) % 2)
    np.testing.assert_array_equal(again.predict_proba(X), model.predict_proba(X))


def test_images_with_axes_in_another_order():
    images, labels = rng.standard_normal((12, 3, 5, 5)), np.arange(12) % 2
    module = nn.Sequential(nn.Conv2d(3, 2, 3), nn.Flatten(), nn.Linear(18, 2))
    model = LinearizedLaplaceClassifier(module, prefit=True, prior_precision=1.0)
    model.fit(images, labels)
    with pytest.raises(ValueError, match=r"those of fit had \(3, 5, 5\)"):
        model.predict(images.transpose(0, 2, 3, 1))


def test_failed_refits_leave_no_other_posterior():
    model = regressor(net(), prior_precision=1.0).fit(X, Y[:, 0])
    with pytest.raises(ValueError, match="outputs"):
        model.fit(X, Y)
    with pytest.raises(Exception, match="not fitted"):
        model.predict(X)


@pytest.mark.parametrize("backwards", [False, True])
def test_a_last_layer_that_is_the_output_of_some_rows_alone(backwards):
    """Of the first two rows, say, whose outputs a ReLU leaves as they are."""
    module = nn.Sequential(*net(2), nn.ReLU())
    active = (module(torch.tensor(X)) > 0).all(1).numpy()
    assert 2 <= active.sum() < len(X)
    order = np.argsort(active if backwards else ~active, kind="stable")
    options = {"parameters": "last_layer", "prior_precision": 1.0}
    model = regressor(module, curvature="full", **options).fit(X[order], Y[order])
    layer = module[:2]
    with torch.no_grad():
        A = np.column_stack([layer(torch.tensor(X)).numpy(), np.ones(20)])
        B = np.column_stack([layer(torch.tensor(Z)).numpy(), np.ones(3)])
        on, on_test = (module(torch.tensor(x)).numpy() > 0 for x in (X, Z))
    std = model.predict(Z, return_std=True)[1]
    for k in range(2):
        S = np.linalg.inv(A[on[:, k]].T @ A[on[:, k]] + np.eye(6))
        expected = np.where(on_test[:, k], np.einsum("nd,de,ne->n", B, S, B), 0.0)
        np.testing.assert_allclose(std[:, k] ** 2, expected, rtol=1e-8, atol=1e-12)


def test_rows_that_a_kept_product_does_not_hold_for():
    module = nn.Sequential(*net(2), nn.ReLU())
    active = (module(torch.tensor(X)) > 0).all(1).numpy()
    options = {"parameters": "last_layer", "curvature": "full", "prior_precision": 1.0}
    model = regressor(module, **options).partial_fit(X[active], Y[active])
    with pytest.raises(ValueError, match="all rows to fit at once"):
        model.partial_fit(X[~active], Y[~active])


def test_differentiable_variance_of_certain_outputs():
    """In the space of the outputs, where the inverse of the kernel would lose digits."""
    with torch.no_grad():
        module = net()
        for p in module.parameters():
            p.mul_(3)
    model = regressor(module, noise_variance=1e-6, prior_precision=1e-5).fit(X, Y[:, 0])
    for grad in (False, True):
        rows = torch.tensor(X[:4], requires_grad=grad)
        cov = model.differentiable(rows)[1][:, 0, :, 0].detach().numpy()
        np.testing.assert_allclose(cov.diagonal(), 1e-6, rtol=2e-3)


def test_state_of_a_network_that_is_not_finite_at_zero():
    class Standardizes(nn.Linear):
        def forward(self, x):
            return super().forward((x - x.mean(1, keepdim=True)) / x.std(1, keepdim=True))

    module = Standardizes(4, 1).double()
    model = regressor(module, prior_precision=1.0).fit(X, Y[:, 0])
    again = regressor(module, prior_precision=1.0).load_state_dict(model.state_dict())
    np.testing.assert_array_equal(
        again.predict(Z, return_std=True)[1], model.predict(Z, return_std=True)[1]
    )


def test_inference_mode():
    model = regressor(net(), prior_precision=1.0).fit(X, Y[:, 0])
    expected = model.predict_function(Z)[1]
    with torch.inference_mode():
        np.testing.assert_allclose(model.predict_function(Z)[1], expected)
        cov = model.differentiable(torch.tensor(Z))[1]
    np.testing.assert_allclose(cov.diagonal(dim1=0, dim2=2)[0, 0].detach(), expected[:, 0, 0])


@pytest.mark.parametrize("parameters", [None, "last_layer"])
def test_validation_rows_are_swept_once(parameters, monkeypatch):
    """Where they can be kept; where not, the scores are the same."""
    held = {"X_val": Z, "y_val": Y[:3]}
    swept = []
    blocks = Tangent.blocks

    def counting(self, X, **more):
        swept.append(len(X))
        return blocks(self, X, **more)

    monkeypatch.setattr(Tangent, "blocks", counting)

    def scores():
        swept.clear()
        model = regressor(net(2), curvature="full", prior_structure="scalar", parameters=parameters)
        model.set_params(noise_variance=[1.0, 2.0]).fit(X, Y, **held)
        return model.validation_scores_

    kept = scores()
    few = swept.count(3)
    monkeypatch.setattr(posterior, "_KEPT", 0)
    np.testing.assert_allclose(scores(), kept, rtol=1e-12)
    if parameters is None:
        assert few <= 2 < swept.count(3)
