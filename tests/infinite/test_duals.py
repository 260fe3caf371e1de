"""Every dual against integrals in two variables, computed without any of its formulas."""

import itertools
import warnings

import numpy as np
import pytest
import torch
from torch import nn

import skntk.nn as snn
from skntk.core import SkntkWarning, UnsupportedModuleError
from skntk.infinite.duals import QuadratureDual
from skntk.infinite.duals.quadrature import gain_function
from skntk.infinite.elementwise import closed_form
from skntk.infinite.state import State

CLOSED = {
    "relu": nn.ReLU(),
    "leaky": nn.LeakyReLU(0.1),
    "abrelu": snn.ABReLU(-0.3, 0.8),
    "abs": snn.Abs(),
    "linear": snn.ABReLU(0.7, 0.7),
    "sign": snn.Sign(),
    "erf": snn.Erf(),
    "erf_abc": snn.Erf(1.5, 0.7, 0.3),
    "gelu": nn.GELU(),
    "sin": snn.Sin(),
    "sin_abc": snn.Sin(1.3, 0.8, 0.4),
    "cos": snn.Cos(),
    "exp": snn.Exp(0.5, 0.6),
    "gaussian": snn.Gaussian(1.2, -0.7),
    "polynomial": snn.Polynomial([0.2, 0.7, -0.3, 0.1]),
    "hermite": snn.Hermite(3),
}
SMOOTH = ("erf", "erf_abc", "gelu", "sin", "sin_abc", "cos", "exp", "gaussian", "polynomial")
GROWING = ("exp", "sin", "sin_abc", "cos")  # the integrals below do not resolve these at large q

#: Variances and correlation of the pair.
COVARIANCES = [
    (1.0, 1.0, 0.3),
    (1.0, 0.4, -0.7),
    (1e-8, 1e-8, 0.5),
    (1e-6, 1e3, -0.4),
    (1e4, 2e4, 0.2),
    (2.0, 0.5, 0.999),
    (2.0, 0.5, -0.999),
    (1.5, 1.5, 1 - 1e-6),
    (1.0, 3.0, 1.0),
    (1.0, 3.0, -1.0),
    (3.0, 2.0, 0.0),
    (0.0, 1.0, 0.0),
]


def composite(edges, order):
    """Gauss-Legendre nodes and weights in panels."""
    points, weights = np.polynomial.legendre.leggauss(order)
    half = np.diff(edges)[:, None] / 2
    return (edges[:-1, None] + half * (1 + points)).ravel(), (half * weights).ravel()


def unit_rules(order, levels, n):
    """Rules on [0, 1] for n intervals: their panels shrink towards the kinks between these."""
    left = np.concatenate([[0.0], 0.5 ** np.arange(levels, -1, -1)])
    if n == 1:
        return [composite(np.linspace(0, 1, 9), order)]
    both = np.concatenate([left[:-1], 1 - left[-3::-1]])
    middle = [composite(both, order)] * (n - 2)
    return [composite(1 - left[::-1], order), *middle, composite(left, order)]


def normal_rule(mean, std, kinks, order, levels, reach=10.0):
    """Nodes and weights (..., m) for the normal density, with no kink inside a panel."""
    mean, std = np.asarray(mean)[..., None], np.asarray(std)[..., None]
    low, high = mean - reach * std, mean + reach * std
    breaks = [low, *(np.clip(k, low, high) for k in kinks), high]
    nodes, weights = [], []
    rules = unit_rules(order, levels, len(kinks) + 1)
    for (a, b), (t, w) in zip(itertools.pairwise(breaks), rules, strict=True):
        x = a + (b - a) * t
        density = np.exp(-0.5 * ((x - mean) / std) ** 2) / (np.sqrt(2 * np.pi) * std)
        nodes.append(x)
        weights.append(w * (b - a) * density)
    return np.concatenate(nodes, -1), np.concatenate(weights, -1)


def expectation(f, q1, q2, rho, kinks):
    """E[f(u) f(v)] for a pair of Gaussians: an outer rule for u, and one for v given u."""
    if q1 == 0 or q2 == 0:
        f0 = float(f(np.zeros(1))[0])
        q = max(q1, q2)
        if q == 0:
            return f0**2
        x, w = normal_rule(0.0, np.sqrt(q), kinks, 24, 24)
        return f0 * float((f(x) * w).sum())
    x, w = normal_rule(0.0, np.sqrt(q1), kinks, 20, 24)
    mean = rho * np.sqrt(q2 / q1) * x
    if abs(rho) == 1:
        return float((f(x) * f(mean) * w).sum())
    y, v = normal_rule(mean, np.full_like(x, np.sqrt(q2 * (1 - rho**2))), kinks, 24, 12)
    return float((f(x) * (f(y) * v).sum(-1) * w).sum())


def numeric(function):
    """A torch function as a NumPy function."""
    return lambda x: function(torch.from_numpy(x)).detach().numpy()


def slope(function):
    def derivative(x):
        z = torch.from_numpy(x).requires_grad_()
        value = function(z)
        if not value.requires_grad:
            return np.zeros_like(x)
        return torch.autograd.grad(value.sum(), z)[0].numpy()

    return derivative


def evaluate(dual, q1, q2, rho):
    """Dual at one pair, and the scale of both of its results."""
    k1, k2 = (torch.tensor([q], dtype=torch.float64) for q in (q1, q2))
    # 1 at a zero signal, as a state has it.
    delta = torch.tensor([1.0 - rho if q1 and q2 else 1.0], dtype=torch.float64)
    out, dot = dual.cross(State(k1, k2, delta))
    scales = [float((a * b).sqrt()) for a, b in zip(dual.diag(k1), dual.diag(k2), strict=True)]
    return (float(out.nngp), float(dot)), scales


def check(dual, function, covariance, kinks, tol):
    q1, q2, rho = covariance
    ours, scales = evaluate(dual, q1, q2, rho)
    for value, scale, f in zip(ours, scales, (numeric(function), slope(function)), strict=True):
        expected = expectation(f, q1, q2, rho, kinks)
        assert abs(value - expected) <= tol() * scale + 1e-300, (covariance, value, expected)


def usable(name, covariance):
    return not (name in GROWING and max(covariance[:2]) > 10)


@pytest.mark.parametrize("name", CLOSED)
def test_closed_form(name):
    module = CLOSED[name]
    dual = closed_form(module, (), {})
    kinks = (0.0,)
    for covariance in COVARIANCES:
        # The derivative of a kink at a zero signal is a convention (a right angle).
        if usable(name, covariance) and not (covariance[0] == 0 and name not in SMOOTH):
            check(dual, module, covariance, kinks, lambda: 2e-10)


@pytest.mark.parametrize("name", CLOSED)
def test_diagonal_is_the_coincident_limit(name):
    dual = closed_form(CLOSED[name], (), {})
    top = 10.0 if name in GROWING else 1e6
    q = torch.logspace(-10, np.log10(top), 17, dtype=torch.float64)
    for one, other in zip(dual.diag(q), dual.cross(State(q, q, torch.zeros_like(q))), strict=True):
        value = other.nngp if isinstance(other, State) else other
        torch.testing.assert_close(one, value, rtol=1e-13, atol=0)


@pytest.mark.parametrize("name", [n for n in CLOSED if n not in ("sign", "linear")])
def test_trained_gain(name):
    """E[u f'(u) v f'(v)], through which a gain in front of an activation is trained."""
    module = CLOSED[name]
    dual = closed_form(module, (), {}).gain_dual()
    function = gain_function(module)
    if dual is None:
        dual = QuadratureDual(function, name)
    derivative = slope(module)
    for covariance in COVARIANCES[:3]:
        ours, scales = evaluate(dual, *covariance)
        expected = expectation(lambda x: x * derivative(x), *covariance, (0.0,))
        assert ours[0] == pytest.approx(expected, abs=1e-9 * scales[0])


def test_sign_has_no_trained_gain():
    state = State(*(torch.ones(2, dtype=torch.float64) for _ in range(3)))
    assert not closed_form(snn.Sign(), (), {}).gain_dual().cross(state)[0].nngp.any()


@pytest.mark.parametrize(
    ("module", "kinks"),
    [
        (nn.Tanh(), ()),
        (nn.Sigmoid(), ()),
        (nn.SiLU(), ()),
        (nn.Softplus(), ()),
        (nn.GELU("tanh"), ()),
        (nn.Mish(), ()),
        (nn.Tanhshrink(), ()),
        (nn.LogSigmoid(), ()),
        (nn.ELU(), (0.0,)),
        (nn.SELU(), (0.0,)),
        (nn.CELU(0.7), (0.0,)),
        (nn.Softsign(), (0.0,)),
        (nn.ReLU(), (0.0,)),
        (nn.Hardtanh(), (-1.0, 1.0)),
        (nn.ReLU6(), (0.0, 6.0)),
        (nn.Hardswish(), (-3.0, 3.0)),
        (nn.Hardsigmoid(), (-3.0, 3.0)),
        (nn.Softshrink(), (-0.5, 0.5)),
    ],
    ids=lambda v: type(v).__name__ if isinstance(v, nn.Module) else "",
)
def test_series_keeps_its_stated_error(module, kinks):
    dual = QuadratureDual(module, "function")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SkntkWarning)
        for covariance in COVARIANCES[:2] + COVARIANCES[5:9:3]:
            check(dual, module, covariance, kinks, lambda: dual.error + 1e-10)
    if isinstance(module, nn.Tanh | nn.SiLU | nn.Softplus | nn.GELU | nn.Mish | nn.Sigmoid):
        assert dual.error < 1e-9


@pytest.mark.parametrize("q", [1.0, 10.0, 20.0, 40.0, 80.0])
def test_series_of_a_growing_function_keeps_its_stated_error(q):
    dual, exact = QuadratureDual(torch.exp, "exp"), closed_form(snn.Exp(), (), {})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SkntkWarning)
        for rho in (-0.5, 0.9, 1.0):
            ours, _ = evaluate(dual, q, q, rho)
            expected, scales = evaluate(exact, q, q, rho)
            assert abs(ours[0] - expected[0]) <= (dual.error + 1e-13) * scales[0]


def test_a_slow_series_warns_once():
    dual = QuadratureDual(nn.ReLU(), "my function")
    with pytest.warns(SkntkWarning, match=r"my function is accurate to \d"):
        evaluate(dual, 1.0, 1.0, 0.5)
    evaluate(dual, 1.0, 1.0, 0.7)  # a second warning would be an error here
    assert dual.error > 1e-3


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_zero_signal_needs_no_series(dtype):
    """tanh(0) = 0: nothing is left out, and nothing is divided by zero."""
    dual = QuadratureDual(torch.tanh, "tanh")
    k = torch.tensor([0.0, 1.0], dtype=dtype)
    out, dot = dual.cross(State(k[:, None], k[None], torch.ones((2, 2), dtype=dtype)))
    assert torch.isfinite(out.nngp).all()
    assert out.delta[0, 0] == 1
    assert float(dot[0, 0]) == pytest.approx(1.0)
    assert dual.error <= max(1e-13, 4 * torch.finfo(dtype).eps)


def test_float32_series_is_as_good_as_float32():
    dual = QuadratureDual(torch.tanh, "tanh")
    k = torch.linspace(0.1, 4.0, 5)
    delta = torch.linspace(0.0, 2.0, 5)
    state = State(k, k, delta)
    double = State(k.double(), k.double(), delta.double())
    torch.testing.assert_close(
        dual.cross(state)[0].nngp.double(), dual.cross(double)[0].nngp, rtol=2e-6, atol=2e-6
    )


def test_function_that_is_not_a_number():
    with pytest.raises(UnsupportedModuleError, match="root is not a number"):
        evaluate(QuadratureDual(torch.sqrt, "root"), 1.0, 1.0, 0.5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", [n for n in CLOSED if n not in GROWING and n != "hermite"])
def test_large_signals_neither_overflow_nor_cancel(name, dtype):
    """Variances for which (1 + q1) (1 + q2) is not representable."""
    dual = closed_form(CLOSED[name], (), {})
    q = torch.finfo(dtype).max ** (0.1 if name == "polynomial" else 0.7)
    k = torch.tensor([q], dtype=dtype)
    diagonal = torch.stack(dual.diag(k))
    for delta in (0.0, 0.5, 1.0, 2.0):
        out, dot = dual.cross(State(k, k, torch.tensor([delta], dtype=dtype)))
        found = torch.stack([out.nngp, dot])
        assert torch.isfinite(found).all()
        # Cauchy-Schwarz, and equality at coincident signals.
        assert (found.abs() <= diagonal * (1 + 1e-5)).all()
        if delta == 0:
            torch.testing.assert_close(found, diagonal, rtol=1e-5, atol=0)


@pytest.mark.parametrize("name", ["sin", "erf", "gelu", "gaussian", "polynomial", "relu"])
def test_small_signals_do_not_cancel(name):
    """To first order every smooth function is linear: f(0)^2 + f'(0)^2 q12."""
    module = CLOSED[name] if name != "polynomial" else snn.Polynomial([0.0, 0.7, 0.3])
    dual = closed_form(module, (), {})
    k = torch.tensor([1e-12], dtype=torch.float32)
    out, _ = dual.cross(State(k, k, torch.tensor([0.5], dtype=torch.float32)))
    exact, _ = dual.cross(State(k.double(), k.double(), torch.tensor([0.5], dtype=torch.float64)))
    assert float(out.nngp) == pytest.approx(float(exact.nngp), rel=1e-5)


def test_even_function_takes_antipodes_for_coincident_signals():
    dual = closed_form(snn.Abs(), (), {})
    k = torch.ones(1, dtype=torch.float32)
    out, dot = dual.cross(State(k, k, torch.tensor([2.0])))
    assert float(out.delta) == 0
    assert float(dot) == -1
