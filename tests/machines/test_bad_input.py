"""Bad input gets one clear error, and before any work is done."""

import numpy as np
import pytest
import torch
from bad_rows import bad_rows, check_bad_rows

import skntk.nn as snn
from skntk import NTKClassifier, NTKRegressor
from skntk.core import KernelOverflowError, MemoryBudgetError, memory
from skntk.machines import base

X = np.arange(24.0).reshape(8, 3) % 7
Y = np.arange(8) % 2
MACHINES = pytest.mark.parametrize("Machine", [NTKRegressor, NTKClassifier])


@MACHINES
@pytest.mark.parametrize(("data", "error", "message"), bad_rows(X))
def test_x(Machine, data, error, message):
    check_bad_rows(lambda: Machine(tuning=None), X, Y, data, error, message)
    with pytest.raises(error, match=message):
        Machine().fit(data, Y[: np.shape(data)[0]])


@MACHINES
def test_x_of_other_width_at_prediction(Machine):
    model = Machine(tuning=None).fit(X, Y)
    with pytest.raises(ValueError, match="2 features"):
        model.predict(X[:, :2])


@MACHINES
@pytest.mark.parametrize("device", ["cuda:99", "warp", torch.device("cuda", 99)])
def test_device(Machine, device):
    with pytest.raises(ValueError, match=r"device='?(cuda:99|warp).*pass 'cpu'"):
        Machine(device=device).fit(X, Y)


@MACHINES
def test_y_and_weights(Machine):
    with pytest.raises(ValueError, match="inconsistent numbers"):
        Machine().fit(X, Y[:5])
    with pytest.raises(ValueError, match="NaN"):
        Machine().fit(X, np.where(Y, np.nan, 1.0))
    for weights, message in [
        (np.zeros(8), "0 for every row|at least one non-zero"),
        (-np.ones(8), "[Nn]egative"),
        (np.full(8, np.nan), "NaN"),
        (np.ones(5), "shape|inconsistent"),
    ]:
        with pytest.raises(ValueError, match=message):
            Machine().fit(X, Y, sample_weight=weights)
    with pytest.raises(ValueError, match="continuous"):
        NTKClassifier().fit(X, Y + 0.5 * X[:, 0])


@MACHINES
@pytest.mark.parametrize(
    ("params", "error", "message"),
    [
        ({"activation": "rellu"}, ValueError, "rellu"),
        ({"activation": 3}, ValueError, "activation"),
        ({"kind": "nntk"}, ValueError, "kind"),
        ({"embedding": "features"}, ValueError, "embedding"),
        ({"depth": -1}, ValueError, "depth"),
        ({"depth": 1.5}, ValueError, "depth"),
        ({"weight_std": 0.0}, ValueError, "weight_std"),
        ({"weight_std": np.inf}, ValueError, "weight_std"),
        ({"weight_std": np.nan}, ValueError, "weight_std"),
        ({"bias_std": -0.1}, ValueError, "bias_std"),
        ({"bias_std": "none"}, ValueError, "bias_std"),
        ({"alpha": -1.0}, ValueError, "alpha"),
        ({"alpha": np.nan}, ValueError, "alpha"),
        ({"alpha": np.inf}, ValueError, "alpha"),
        ({"alpha": "tuned"}, ValueError, "alpha"),
        ({"alpha": np.inf, "tuning": None}, ValueError, "alpha"),
        ({"tuning": "cv"}, ValueError, "tuning"),
        ({"dtype": "float16"}, ValueError, "float16"),
        ({"ard": True}, ValueError, "marginal_likelihood"),
        ({"ard": True, "tuning": None}, ValueError, "marginal_likelihood"),
        ({"param_grid": {"dept": [1]}}, ValueError, "dept"),
        ({"param_grid": {"depth": []}}, ValueError, "depth"),
        ({"param_grid": {"depth": 3}}, ValueError, "depth"),
        ({"param_grid": {"depth": [-2]}}, ValueError, "depth"),
        ({"param_grid": {"kind": ["nntk"]}}, ValueError, "nntk"),
        ({"param_grid": {"embedding": ["nntk"]}}, ValueError, "nntk.*categorical"),
        ({"param_grid": {"alpha": []}}, ValueError, "alpha"),
        ({"param_grid": {"alpha": [0.1, 0.0]}}, ValueError, "alpha"),
        ({"param_grid": {"alpha": [0.1, np.nan]}}, ValueError, "alpha"),
        ({"param_grid": {"depth": [1]}, "tuning": None}, ValueError, "tuning"),
        ({"param_grid": {"alpha": [1.0]}, "tuning": None}, ValueError, "tuning"),
        ({"param_grid": [1]}, ValueError, "param_grid"),
        ({"module": snn.MLP(3), "param_grid": {"depth": [1]}}, ValueError, "module"),
        ({"module": snn.MLP(3), "module__depth": 2}, ValueError, "class"),
        ({"module__depth": 2}, ValueError, "class"),
        ({"module": "MLP"}, TypeError, "module"),
        ({"module": snn.MLP, "module__in_features": 3, "module__deep": 1}, TypeError, "deep"),
        ({"module": snn.MLP(5)}, ValueError, "3|5"),
        (
            {"module": torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Softmax(1))},
            NotImplementedError,
            "Softmax",
        ),
        ({"device": "tpu"}, ValueError, "no torch device"),
        ({"random_state": "a"}, ValueError, "random_state"),
    ],
)
def test_parameters(Machine, params, error, message):
    model = Machine(**params)  # the constructor never complains
    with pytest.raises(error, match=message):
        model.fit(X, Y)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"alpha": [0.1, 0.2]}, "alpha"),
        ({"alpha": [[0.1]], "tuning": None}, "alpha"),
        ({"alpha": [-0.1], "tuning": None}, "alpha"),
        ({"alpha": [-0.1]}, "alpha"),
        ({"training_time": -1.0}, "training_time"),
        ({"training_time": np.nan}, "training_time"),
        ({"uncertainty": "bayes"}, "uncertainty"),
    ],
)
def test_parameters_of_the_regressor(params, message):
    with pytest.raises(ValueError, match=message):
        NTKRegressor(**params).fit(X, Y)
    with pytest.raises(ValueError, match="alpha"):
        NTKClassifier(alpha=0.0).fit(X, Y)


def test_uncertainties():
    with pytest.raises(ValueError, match="one alpha"):
        NTKRegressor(tuning=None, alpha=[0.1, 0.2], uncertainty="ensemble").fit(X, X[:, :2])
    model = NTKRegressor(tuning=None).fit(X, X[:, :2])
    with pytest.raises(ValueError, match="both"):
        model.predict(X, return_std=True, return_cov=True)
    with pytest.raises(ValueError, match="times"):
        next(model.staged_predict(X, [-1.0]))


@MACHINES
@pytest.mark.parametrize("tuning", ["loo", "marginal_likelihood", None])
def test_a_kernel_that_does_not_fit_is_refused_before_it_is_made(Machine, tuning, monkeypatch):
    for place in (base, memory):
        monkeypatch.setattr(place, "available_bytes", lambda device="cpu": 2**30)

    def made(*_args, **_kwargs):
        raise AssertionError("a kernel was computed")

    monkeypatch.setattr(base.Evaluated, "gram", made)
    rng = np.random.default_rng(0)
    A = rng.standard_normal((200_000, 2))
    with pytest.raises(
        MemoryBudgetError, match=r"\d+ GiB.* 1 GiB .*about \d+ rows would fit"
    ) as info:
        Machine(tuning=tuning).fit(A, A[:, 0] > 0)
    fits = int(str(info.value).split("about ")[1].split(" ")[0])
    matrices = float(str(info.value).split(" for ")[1].split(" ")[0])
    assert matrices * 8 * fits**2 <= 2**30 < matrices * 8 * (fits + 2) ** 2


def test_scores_of_many_classes_that_do_not_fit_are_refused(monkeypatch):
    rng = np.random.default_rng(0)
    monkeypatch.setattr(memory, "available_bytes", lambda device="cpu": 2**24)
    with pytest.raises(MemoryBudgetError, match=r"for 200 classes needs .* param_grid"):
        NTKClassifier().fit(rng.standard_normal((400, 2)), np.arange(400) % 200)


def test_a_covariance_that_does_not_fit_is_refused(monkeypatch):
    model = NTKRegressor(tuning=None).fit(X, Y)
    monkeypatch.setattr(base, "available_bytes", lambda device="cpu": 2**20)
    with pytest.raises(MemoryBudgetError, match=r"the covariance of 5000 rows needs .* GiB"):
        model.predict(np.ones((5000, 3)), return_cov=True)
    model.predict(np.ones((5000, 3)), return_std=True)


@MACHINES
@pytest.mark.parametrize("tuning", ["loo", "marginal_likelihood", None])
def test_overflow_of_the_kernel(Machine, tuning):
    given = {"depth": 6, "bias_std": 0.1, "embedding": "none", "tuning": tuning}
    with pytest.raises(KernelOverflowError, match=r"float32.*weight_std.*dtype='float64'"):
        Machine(weight_std=1e4, dtype="float32", **given).fit(X, Y)
    with pytest.raises(KernelOverflowError, match="weight_std"):
        Machine(weight_std=1e60, **given).fit(X, Y)
    with pytest.raises(KernelOverflowError, match="smaller inputs"):
        Machine(**given).fit(1e160 * (X + 1), Y)
    assert np.isfinite(Machine(weight_std=1e4, **given).fit(X, Y).predict(X)).all()


@MACHINES
def test_not_fitted(Machine):
    for name in {"predict", "predict_proba", "sample_y"} & set(dir(Machine)):
        with pytest.raises(ValueError, match="not fitted"):
            getattr(Machine(), name)(X)


@MACHINES
def test_a_failed_fit_leaves_no_thread_or_random_state_behind(Machine):
    state = torch.random.get_rng_state()
    with pytest.raises(KernelOverflowError):
        Machine(weight_std=1e60, depth=6, n_jobs=2).fit(X, Y)
    assert torch.get_num_threads() == 1
    assert torch.equal(torch.random.get_rng_state(), state)
