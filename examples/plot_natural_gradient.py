r"""
When is the natural gradient promised to be fast?
=================================================

Zhang, Martens & Grosse (2019) prove that the natural gradient shrinks the squared residual by
:math:`1 - \eta` a step, if the Jacobian of the network hardly moves: if
:math:`C' = 3 \|J - J_0\|_2 / \sqrt{\lambda_{\min}(J_0 J_0^T)}` stays below 1/2 in a ball around the
initial weights. `natural_gradient_conditions` follows :math:`C'` along training, by several
optimizers and at several widths. A path that meets :math:`C' \ge 1/2` refutes the condition; that
it holds no path can prove.
"""

import matplotlib.pyplot as plt
import numpy as np

from skntk import NetworkRegressor
from skntk.diagnostics import NaturalGradientDisplay, natural_gradient_conditions

# %%
# A problem on which theory is right if anywhere: few points, one hidden layer, a smooth activation.

rng = np.random.default_rng(0)
X, y = rng.standard_normal((6, 6)), rng.standard_normal(6)
network = NetworkRegressor(depth=1, activation="erf", bias_std=0.3, max_epochs=40)
report = natural_gradient_conditions(network, X, y, widths=[64, 1024, 16384])
print(report.verdict)

# %%

NaturalGradientDisplay(report).plot()
plt.show()

# %%
# The claims
# ----------
# :math:`C'` falls about as width\ :sup:`-1/2`, so that the condition, refuted for narrow networks,
# is met by the paths of very wide ones. The natural gradient keeps the promise there, and at the
# other widths too: the condition is sufficient, not necessary.

summary = report.summary.set_index(["optimizer", "width"])
natural = summary.loc["natural_gradient"]
slope = np.polyfit(np.log(natural.index.astype(float)), np.log(natural.c_prime), 1)[0]
print(f"C' of the natural gradient goes as width^{slope:.2f}")
assert -0.65 < slope < -0.35
assert (summary.xs(64, level="width").n_refuted == 3).all()
assert (summary.xs(16384, level="width").c_prime < 0.5).all()
assert natural.admissible_step[16384] > natural.learning_rate[16384]
assert natural.kept.all()
