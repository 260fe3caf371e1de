"""The rule of updates against torch.optim.Adam, and its members written out."""

import math

import pytest
import torch

from skntk.adam.rule import AdamRule


def gradients(steps=30, seed=0):
    return torch.randn(steps, 4, 3, generator=torch.Generator().manual_seed(seed)) * 0.01


def trained(rule, grads):
    state = rule.start(grads[0].shape)
    for t, g in enumerate(grads, 1):
        rule.step(state, g, t)
    return state.w


@pytest.mark.parametrize("amsgrad", [False, True])
@pytest.mark.parametrize(("beta1", "beta2"), [(0.9, 0.999), (0.0, 0.9), (0.5, 0.2)])
def test_it_is_torchs_adam(beta1, beta2, amsgrad):
    grads = gradients()
    w = torch.zeros(4, 3, requires_grad=True)
    torch_adam = torch.optim.AdamW(
        [w], lr=0.1, betas=(beta1, beta2), eps=1e-3, weight_decay=0.2, amsgrad=amsgrad
    )
    for g in grads:
        w.grad = g.clone()
        torch_adam.step()
    rule = AdamRule(0.1, beta1, beta2, 1e-3, 0.2, amsgrad)
    assert torch.allclose(trained(rule, grads), w.detach(), rtol=1e-5, atol=1e-7)


def test_sign_descent_and_momentum_are_members():
    grads = gradients()
    grads[:, 0, 0] = 0.0  # a dead feature: 0/0 = 0
    signs = trained(AdamRule(0.1, 0, 0, 0), grads)
    assert torch.allclose(signs, -0.1 * grads.sign().sum(0), atol=1e-6)
    w, m = 0.0, 0.0
    for t, g in enumerate(grads, 1):
        m = 0.9 * m + 0.1 * g
        w = (1 - 0.1 * 0.3) * w - 0.1 * m / (1 - 0.9**t)
    found = trained(AdamRule(0.1, 0.9, 0.999, math.inf, 0.3), grads)
    assert torch.allclose(found, w, rtol=1e-5)
    large = trained(AdamRule(0.1 * 1e6, 0.9, 0.999, 1e6, 0.3e-6), grads)
    assert torch.allclose(large, found, rtol=1e-4)


@pytest.mark.parametrize("beta1", [0.0, 0.9])
@pytest.mark.parametrize("beta2", [0.0, 0.999])
@pytest.mark.parametrize("amsgrad", [False, True])
def test_dead_features_stay_finite_without_epsilon(beta1, beta2, amsgrad):
    grads = gradients()
    grads[:, 0] = 0.0
    grads[3:, 1] = 0.0  # dies later
    grads[:, 2] *= 1e-30  # squares underflow
    assert torch.isfinite(trained(AdamRule(0.1, beta1, beta2, 0.0, amsgrad=amsgrad), grads)).all()


def test_arrays_that_have_no_use_are_not_kept():
    rules = [AdamRule(1.0), AdamRule(1.0, amsgrad=True), AdamRule(1.0, beta2=0),
             AdamRule(1.0, eps=math.inf, amsgrad=True)]  # fmt: skip
    assert [rule.n_arrays for rule in rules] == [3, 4, 2, 2]
