"""Gradient-flow ensembles and Gaussian processes of another library, through the regressor."""

import json
import math

import numpy as np
import pytest
import torch

import skntk.nn as snn
from skntk import NTKRegressor

TIMES = {"0p1": 0.1, "1p0": 1.0, "10p0": 10.0, "1000p0": 1000.0, "inf": math.inf}


@pytest.fixture(scope="module", params=[0, 1, 2])
def problem(request, reference_dir):
    text = (reference_dir / "predict.json").read_text()
    about = json.loads(text)["problems"][request.param]
    arrays = np.load(reference_dir / "predict.npz")
    prefix = about["name"] + "/"
    return about, {k.removeprefix(prefix): arrays[k] for k in arrays if k.startswith(prefix)}


def network(spec, d):
    layers, width = [], d
    for layer in spec:
        if layer["layer"] == "Dense":
            scales = {"weight_std": layer["W_std"], "bias_std": layer["b_std"]}
            layers.append(snn.Linear(width, width := 4, **scales))
        else:
            layers.append(
                {"Relu": torch.nn.ReLU, "Gelu": torch.nn.GELU, "Erf": snn.Erf}[layer["layer"]]()
            )
    return torch.nn.Sequential(*layers)


def fitted(problem, kind, time, uncertainty):
    """Fit to both outputs, and give the mean of the first output and its (co)variance.

    The targets are centred inside, the reference's are not. Predictions being linear in the
    targets, a combination of both outputs whose mean is zero is the same in both.
    """
    about, a = problem
    ridge = about["diag_reg"]
    if about["diag_reg_absolute_scale"]:
        ridge /= np.trace(a[f"{kind}_train_train"]) / about["n_train"]
    time *= about["learning_rate"] / about["n_outputs"]  # one output is fitted instead of two
    y = a["y_train"] @ combination(a)
    assert abs(y.mean()) < 1e-14
    model = NTKRegressor(
        module=network(about["spec"], a["x_train"].shape[1]),
        kind=kind,
        alpha=ridge,
        training_time=time,
        tuning=None,
        uncertainty=uncertainty,
    ).fit(a["x_train"], y)
    mean, cov = model.predict(a["x_test"], return_cov=True)
    return mean, cov / y.var()


def combination(a):
    first, second = a["y_train"].mean(0)
    return np.array([second, -first])


def close(actual, expected, scale):
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-7 * scale)


@pytest.mark.parametrize("tag", TIMES)
@pytest.mark.parametrize("kind", ["ntk", "nngp"])
def test_ensembles(problem, kind, tag):
    a = problem[1]
    mean, cov = fitted(problem, kind, TIMES[tag], "ensemble")
    expected = a[f"ensemble_{kind}_mean_t{tag}"] @ combination(a)
    close(mean, expected, np.abs(a["y_train"]).max())
    close(cov, a[f"ensemble_{kind}_cov_t{tag}"], a["nngp_test_test"].max())


@pytest.mark.parametrize(("kind", "name"), [("nngp", "nngp"), ("ntk", "ntkgp")])
def test_gaussian_processes(problem, kind, name):
    a = problem[1]
    mean, cov = fitted(problem, kind, math.inf, "gp")
    close(mean, a[f"gp_{name}_mean"] @ combination(a), np.abs(a["y_train"]).max())
    close(cov, a[f"gp_{name}_cov"], a[f"{kind}_test_test"].max())


def test_both_outputs_at_once_up_to_their_means(problem):
    about, a = problem
    ridge = about["diag_reg"]
    if about["diag_reg_absolute_scale"]:
        ridge /= np.trace(a["ntk_train_train"]) / about["n_train"]
    model = NTKRegressor(
        module=network(about["spec"], 5),
        alpha=ridge,
        tuning=None,
        training_time=10.0 * about["learning_rate"],
    ).fit(a["x_train"], a["y_train"])
    close(
        model.predict(a["x_test"]) @ combination(a),
        a["ensemble_ntk_mean_t10p0"] @ combination(a),
        np.abs(a["y_train"]).max(),
    )
