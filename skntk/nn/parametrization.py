"""What the affine layers share: the table of parametrizations, and checks of their arguments."""

import math
from abc import ABC, abstractmethod

import torch
from torch import nn

PARAMETRIZATIONS = ("ntk", "standard", "mup")


class Affine(nn.Module, ABC):
    r"""Weight and bias of an affine layer, drawn and scaled as the parametrization says.

    A layer adds its own sizes, which `fans` reads, draws its parameters once it has them, and
    applies ``scales`` in its forward pass.

    With :math:`m` units or channels in, :math:`n` out and :math:`q` weights between each pair of
    them, which is the area of a convolution's kernel and 1 in a dense layer:

    ========== ================= ======= ============================ ====================
    name       weight's scale    bias's  initial ``weight``           initial ``bias``
    ========== ================= ======= ============================ ====================
    "ntk"      sigma_w/sqrt(m q) sigma_b N(0, 1)                      N(0, 1)
    "standard" 1                 1       N(0, sigma_w^2 / (m q))      N(0, sigma_b^2)
    "mup"      sqrt(n/(m q))     sqrt(n) N(0, sigma_w^2 / max(m, n))  N(0, sigma_b^2 / n)
    ========== ================= ======= ============================ ====================

    Parameters
    ----------
    shape : tuple of int
        Of the weight: n, m, and the sizes of the kernel.
    bias : bool
        Whether there is a trained bias.
    weight_std, bias_std : float
        Standard deviations :math:`\sigma_w` per fan-in and :math:`\sigma_b`; at least 0.
    parametrization : {"ntk", "standard", "mup"}
        Row of the table.

    Raises
    ------
    ValueError
        If an argument is out of its range.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        bias: bool,
        weight_std: float,
        bias_std: float,
        parametrization: str,
    ) -> None:
        super().__init__()
        for name, std in (("weight_std", weight_std), ("bias_std", bias_std)):
            if not (math.isfinite(std) and std >= 0):
                raise ValueError(f"{name}={std!r} must be a finite number of at least 0.")
        if parametrization not in PARAMETRIZATIONS:
            raise ValueError(
                f"parametrization={parametrization!r} must be one of {PARAMETRIZATIONS}."
            )
        self.weight_std, self.bias_std = float(weight_std), float(bias_std)
        self.parametrization = parametrization
        self.weight = nn.Parameter(torch.empty(shape))
        self.bias = nn.Parameter(torch.empty(shape[0])) if bias else None

    @property
    @abstractmethod
    def fans(self) -> tuple[int, int, int]:
        """The numbers m, n and q of the table."""

    def reset_parameters(self) -> None:
        """Draw weight and bias anew from torch's global generator."""
        m, n, q = self.fans
        weight_std, bias_std = {
            "ntk": (1.0, 1.0),
            "standard": (self.weight_std / math.sqrt(m * q), self.bias_std),
            "mup": (self.weight_std / math.sqrt(max(m, n)), self.bias_std / math.sqrt(n)),
        }[self.parametrization]
        nn.init.normal_(self.weight, std=weight_std)
        if self.bias is not None:
            nn.init.normal_(self.bias, std=bias_std)

    @property
    def scales(self) -> tuple[float, float]:
        """Multipliers of weight and bias in the forward pass."""
        m, n, q = self.fans
        return {
            "ntk": (self.weight_std / math.sqrt(m * q), self.bias_std),
            "standard": (1.0, 1.0),
            "mup": (math.sqrt(n / (m * q)), math.sqrt(n)),
        }[self.parametrization]

    def extra_repr(self) -> str:
        """Return the arguments, for ``repr``."""
        return (
            f"bias={self.bias is not None}, weight_std={self.weight_std:g}, "
            f"bias_std={self.bias_std:g}, parametrization={self.parametrization!r}"
        )


def check_size(name: str, size: int) -> int:
    """Return `size` as an int, or raise ValueError if it is no integer of at least 1.

    Parameters
    ----------
    name : str
        Of the argument, for the message.
    size : int
        Its value.

    Examples
    --------
    >>> from skntk.nn.parametrization import check_size
    >>> check_size("width", 16.0)
    16
    """
    if int(size) != size or size < 1:
        raise ValueError(f"{name}={size!r} must be an integer of at least 1.")
    return int(size)
