"""The affine layer with its parametrization written out."""

import torch
from torch.nn import functional as F

from skntk.nn.parametrization import Affine, check_size


class Linear(Affine):
    r"""Affine layer in the NTK, standard or muP parametrization.

    With fan-in :math:`m`, fan-out :math:`n`, standard normal :math:`W_{ij}, b_i`, and
    ``weight_std`` :math:`\sigma_w`, ``bias_std`` :math:`\sigma_b`, the layer's function at
    initialization is :math:`\sigma_w / \sqrt{m}\, W x + \sigma_b\, b` in all of them but the muP
    readout, which is smaller by :math:`\sqrt{n / m}`. They differ in what is trained:

    ========== =============================== ============================ ====================
    name       function                        initial ``weight``           initial ``bias``
    ========== =============================== ============================ ====================
    "ntk"      sigma_w/sqrt(m) W x + sigma_b b N(0, 1)                      N(0, 1)
    "standard" W x + b                         N(0, sigma_w^2 / m)          N(0, sigma_b^2)
    "mup"      sqrt(n/m) W x + sqrt(n) b       N(0, sigma_w^2 / max(m, n))  N(0, sigma_b^2 / n)
    ========== =============================== ============================ ====================

    Parameters
    ----------
    in_features : int
        Fan-in, the size of the last axis of the input.
    out_features : int
        Fan-out, the size of the last axis of the output.
    bias : bool, default=True
        Whether there is a trained bias.
    weight_std : float, default=1.0
        Standard deviation of the weights, per fan-in; at least 0.
    bias_std : float, default=0.0
        Standard deviation of the bias; at least 0. A bias with ``bias_std=0`` has no effect in the
        NTK parametrization, and is trained from zero in the standard one.
    parametrization : {"ntk", "standard", "mup"}, default="ntk"
        What is trained. "mup" is for finite networks: it has no kernel limit.

    Raises
    ------
    ValueError
        If an argument is out of its range.

    References
    ----------
    Jacot, Gabriel & Hongler (2018), section 2; Sohl-Dickstein et al. (2020), "On the infinite
    width limit of neural networks with a standard parameterization"; Yang, Simon & Bernstein
    (2023), "A spectral condition for feature learning", condition 1.

    Examples
    --------
    >>> import torch, skntk.nn as snn
    >>> layer = snn.Linear(3, 5, weight_std=1.4, bias_std=0.1)
    >>> layer(torch.ones(2, 3)).shape
    torch.Size([2, 5])
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        weight_std: float = 1.0,
        bias_std: float = 0.0,
        parametrization: str = "ntk",
    ) -> None:
        m, n = check_size("in_features", in_features), check_size("out_features", out_features)
        super().__init__((n, m), bias, weight_std, bias_std, parametrization)
        self.in_features, self.out_features = m, n
        self.reset_parameters()

    @property
    def fans(self) -> tuple[int, int, int]:
        """Units in, units out, and 1 weight between each pair."""
        return self.in_features, self.out_features, 1

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply the layer to the last axis: (..., in_features) to (..., out_features)."""
        weight_scale, bias_scale = self.scales
        bias = None if self.bias is None else bias_scale * self.bias
        # inputs are scaled, not weights, of which a wide layer has many more
        x = x if weight_scale == 1 else weight_scale * x
        return F.linear(x, self.weight, bias)

    def extra_repr(self) -> str:
        """Return the arguments, for ``repr``."""
        return f"{self.in_features}, {self.out_features}, {super().extra_repr()}"
