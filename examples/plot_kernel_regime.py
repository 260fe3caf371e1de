r"""
Is my network in the kernel regime?
===================================

A network is in the kernel regime if training leaves its tangent kernel as it was at initialization:
its function is then that of its linearization, and theory of kernels describes it.
`kernel_regime_report` trains networks of several widths, measures how far they go from their
kernels, and fits how this falls with the width.
"""

import matplotlib.pyplot as plt
from sklearn.datasets import load_diabetes
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skntk import NetworkRegressor
from skntk.diagnostics import KernelRegimeDisplay, kernel_regime_report

# %%
# The network as it is used, with its scaler, and the data that it is trained on. Its width of 512
# is what the verdict is about.

X, y = load_diabetes(return_X_y=True)
X, y = X[:60], y[:60]
network = NetworkRegressor(width=512, depth=2, optimizer="gd", max_epochs=100)
model = make_pipeline(StandardScaler(), network)

report = kernel_regime_report(model, X, y, widths=[32, 128, 1024], n_seeds=4)
print(report.verdict)

# %%
# On the left, how far training goes, over the width; kernel change and linearization error decide.
# In the middle, when it happens. On the right, whether the kernel has turned towards the targets.

KernelRegimeDisplay(report).plot()
plt.show()

# %%
# The claims
# ----------
# Everything falls with the width: the distance of the kernel at initialization from its limit as
# width\ :sup:`-1/2`, the movement of the parameters relative to their size, with two hidden layers,
# about as width\ :sup:`-1`. The narrowest networks leave the kernel regime, the widest do not.

last = report.laws.epoch.max()
laws = report.laws.set_index(["quantity", "epoch"])
print(laws.loc[[("limit_distance", 0), ("parameter_movement", last), ("kernel_change", last)]])
assert laws.low["limit_distance", 0] < -0.5 < laws.high["limit_distance", 0]
assert -1.1 < laws.exponent["parameter_movement", last] < -0.8
assert laws.high["kernel_change", last] < 0
assert laws.high["linearization_error", last] < 0
change = report.summary.query("quantity == 'kernel_change' and epoch == @last").set_index("width")
assert change["mean"][32] > 0.1 > change["mean"][1024]

# %%
# Another optimizer gives another answer: Adam moves all parameters by about its learning rate a
# step, whatever the width, and takes the same network further from its kernel.

adam = kernel_regime_report(
    model.set_params(networkregressor__optimizer="adam"), X, y, widths=[32, 128], n_seeds=4
)
print(adam.verdict)
moved = adam.summary.query("quantity == 'kernel_change'").groupby("width")["mean"].max()
assert moved[512] > change["mean"][512]
