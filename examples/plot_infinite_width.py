r"""
From finite networks to the limit
=================================

`infinite_width` reads a `torch.nn.Module` and returns the kernel that its tangent kernel tends to
as the hidden layers grow. Here the tangent kernels of random finite networks are computed from
their gradients, by automatic differentiation, and compared with it. The network is no plain
perceptron: it has a residual branch and an activation without a closed form.

The tangent kernel of a finite network is an average over its hidden units, so that its distance
from the limit should fall as :math:`\text{width}^{-1/2}`. The fitted slope is asserted.
"""

import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn.datasets import load_iris
from sklearn.preprocessing import scale
from torch.func import functional_call, jacrev

import skntk
import skntk.nn as snn


class Residual(torch.nn.Module):
    """Two hidden layers with a skip connection."""

    def __init__(self, in_features, width):
        super().__init__()
        std = {"weight_std": 1.5, "bias_std": 0.3}
        self.first = snn.Linear(in_features, width, **std)
        self.branch = snn.Linear(width, width, **std)
        self.skip = snn.Linear(in_features, width, **std)
        self.last = snn.Linear(width, 1, **std)

    def forward(self, x):
        h = torch.tanh(self.first(x))
        return self.last(torch.relu(self.branch(h) + self.skip(x)))


# %%
# The limit
# ---------
# The width of the module that is read does not matter, and neither do its weights. `tanh` is
# integrated numerically; the bound on the relative error of that is stated.

X = torch.as_tensor(scale(load_iris().data)[::15])  # ten flowers, four features
kernel = skntk.infinite_width(Residual(4, width=1))
limit = kernel(X)
print(f"relative error of the quadrature: below {kernel.quadrature_error:.0e}")

# %%
# Finite networks
# ---------------


def empirical(net):
    """Tangent kernel of a network: products of its gradients at all pairs of inputs."""
    weights = dict(net.named_parameters())
    jacobians = jacrev(lambda w: functional_call(net, w, (X,)).squeeze(-1))(weights)
    return sum(J.flatten(1) @ J.flatten(1).T for J in jacobians.values()).detach()


torch.manual_seed(0)
widths = 2 ** np.arange(5, 10)
kernels = {
    w: torch.stack([empirical(Residual(4, int(w)).double()) for _ in range(40)]) for w in widths
}
errors = np.array([[float((K - limit).norm() / limit.norm()) for K in kernels[w]] for w in widths])
typical = np.sqrt((errors**2).mean(1))
slope, offset = np.polyfit(np.log(widths), np.log(typical), 1)
print(f"error ~ width^{slope:.2f}")

# %%
# On the left every dot is one random network. On the right are all entries of two of the kernels.

figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4.4), layout="constrained")
jitter = np.exp(0.05 * np.random.default_rng(0).standard_normal(errors.shape))
left.loglog(widths[:, None] * jitter, errors, ".", color="0.65", ms=4)
left.loglog(widths, typical, "ko", label="root mean square of 40 networks")
left.loglog(widths, np.exp(offset) * widths**slope, "k-", lw=1, label=f"fitted slope {slope:.2f}")
left.set_xticks(widths, widths)
left.minorticks_off()
left.set(xlabel="width of the hidden layers", ylabel="relative distance from the limit (Frobenius)")
left.legend()
upper = np.triu_indices(len(X))
for w, style in ((widths[0], {"marker": "x", "c": "0.5"}), (widths[-1], {"marker": "o", "c": "k"})):
    right.scatter(limit[upper], kernels[w][0][upper], s=18, lw=1, label=f"width {w}", **style)
reach = [0, 1.05 * float(limit.max())]
right.plot(reach, reach, "k:", lw=1, label="equal")
right.set(xlabel="tangent kernel in the limit", ylabel="tangent kernel of one random network")
right.legend()
plt.show()

# %%
# The claim
# ---------

assert abs(slope + 0.5) < 0.1
