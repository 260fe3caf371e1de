"""Convolutions with their parametrization written out."""

import math
from collections.abc import Sequence

import torch
from torch.nn import functional as F

from skntk.nn.parametrization import Affine, check_size

PADDING_MODES = ("zeros", "circular")


class _Conv(Affine):
    """What convolutions over one and over two axes share."""

    axes: int

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, ...],
        stride: int | tuple[int, ...] = 1,
        padding: int | tuple[int, ...] | str = 0,
        *,
        padding_mode: str = "zeros",
        bias: bool = True,
        weight_std: float = 1.0,
        bias_std: float = 0.0,
        parametrization: str = "ntk",
    ) -> None:
        m, n = check_size("in_channels", in_channels), check_size("out_channels", out_channels)
        kernel = self._per_axis("kernel_size", kernel_size, 1)
        steps = self._per_axis("stride", stride, 1)
        if isinstance(padding, str):
            if padding not in ("same", "valid"):
                raise ValueError(f"padding={padding!r} must be 'same', 'valid' or integers.")
            if padding == "same" and set(steps) != {1}:
                raise ValueError(
                    f"padding='same' needs stride=1, not stride={stride!r}; pass padding as "
                    "integers."
                )
        else:
            padding = self._per_axis("padding", padding, 0)
        if padding_mode not in PADDING_MODES:
            raise ValueError(f"padding_mode={padding_mode!r} must be one of {PADDING_MODES}.")
        super().__init__((n, m, *kernel), bias, weight_std, bias_std, parametrization)
        self.in_channels, self.out_channels = m, n
        self.kernel_size, self.stride, self.padding = kernel, steps, padding
        self.padding_mode = padding_mode
        self.reset_parameters()

    def _per_axis(self, name: str, value: int | Sequence[int], least: int) -> tuple[int, ...]:
        """Return one int per spatial axis."""
        sizes = tuple(value) if isinstance(value, Sequence) else (value,) * self.axes
        if len(sizes) != self.axes or any(int(s) != s or s < least for s in sizes):
            raise ValueError(
                f"{name}={value!r} must be an integer of at least {least}, or a tuple of "
                f"{self.axes} of them."
            )
        return tuple(int(s) for s in sizes)

    @property
    def fans(self) -> tuple[int, int, int]:
        """Channels in, channels out, and the area of the kernel."""
        return self.in_channels, self.out_channels, math.prod(self.kernel_size)

    def _padded(self, x: torch.Tensor) -> tuple[torch.Tensor, tuple[int, ...]]:
        """Return the input and the zeros to put on both sides of each axis of it."""
        if isinstance(self.padding, str):
            totals = [k - 1 if self.padding == "same" else 0 for k in self.kernel_size]
        else:
            totals = [2 * p for p in self.padding]
        before = tuple(total // 2 for total in totals)
        if self.padding_mode == "zeros" and not any(total % 2 for total in totals):
            return x, before
        around: list[int] = []
        for b, total in zip(reversed(before), reversed(totals), strict=True):  # last axis first
            around += [b, total - b]
        mode = "constant" if self.padding_mode == "zeros" else self.padding_mode
        return F.pad(x, around, mode=mode), (0,) * self.axes

    def extra_repr(self) -> str:
        """Return the arguments, for ``repr``."""
        return (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, "
            f"stride={self.stride}, padding={self.padding!r}, "
            f"padding_mode={self.padding_mode!r}, {super().extra_repr()}"
        )


class Conv2d(_Conv):
    r"""Convolution of images in the NTK, standard or muP parametrization.

    With :math:`m` channels in, :math:`n` out, a kernel of area :math:`q`, fan-in :math:`m q`, and
    :math:`W * x` the sum over channels and kernel as in `torch.nn.Conv2d`:

    ========== ================================= ============================ ====================
    name       function                          initial ``weight``           initial ``bias``
    ========== ================================= ============================ ====================
    "ntk"      sigma_w/sqrt(m q) W*x + sigma_b b N(0, 1)                      N(0, 1)
    "standard" W*x + b                           N(0, sigma_w^2 / (m q))      N(0, sigma_b^2)
    "mup"      sqrt(n/(m q)) W*x + sqrt(n) b     N(0, sigma_w^2 / max(m, n))  N(0, sigma_b^2 / n)
    ========== ================================= ============================ ====================

    The fan-in is the same at the border, where part of the kernel sees padding. With a kernel of
    area 1 this is `Linear`, at each pixel.

    Parameters
    ----------
    in_channels, out_channels : int
        Channels of the input and of the output.
    kernel_size : int or tuple of 2 int
        Height and width of the kernel.
    stride : int or tuple of 2 int, default=1
        Steps of the kernel.
    padding : int, tuple of 2 int, "same" or "valid", default=0
        Pixels added on both sides of each axis. "valid" adds none; "same" keeps the size, with
        ``stride=1`` only, and adds one more pixel at the end of an axis if its kernel is even.
    padding_mode : {"zeros", "circular"}, default="zeros"
        What is added: zeros, or the pixels of the opposite side.
    bias : bool, default=True
        Whether there is a trained bias.
    weight_std : float, default=1.0
        Standard deviation of the weights, per fan-in; at least 0.
    bias_std : float, default=0.0
        Standard deviation of the bias; at least 0. A bias with ``bias_std=0`` has no effect in the
        NTK parametrization, and is trained from zero in the others.
    parametrization : {"ntk", "standard", "mup"}, default="ntk"
        What is trained. "mup" is for finite networks: it has no kernel limit.

    Raises
    ------
    ValueError
        If an argument is out of its range.

    References
    ----------
    Arora et al. (2019), "On exact computation with an infinitely wide neural net", section 4;
    Xiao et al. (2018), "Dynamical isometry and a mean field theory of CNNs", section 2, for
    circular padding; for the parametrizations, those of `Linear`.

    Examples
    --------
    >>> import torch, skntk.nn as snn
    >>> layer = snn.Conv2d(3, 5, 3, padding="same", weight_std=1.4, bias_std=0.1)
    >>> layer(torch.ones(2, 3, 8, 8)).shape
    torch.Size([2, 5, 8, 8])
    """

    axes = 2

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply the layer: (n, in_channels, height, width) to (n, out_channels, ...)."""
        weight_scale, bias_scale = self.scales
        bias = None if self.bias is None else bias_scale * self.bias
        x, padding = self._padded(x)
        return F.conv2d(x, weight_scale * self.weight, bias, self.stride, padding)


class Conv1d(_Conv):
    r"""Convolution of sequences in the NTK, standard or muP parametrization.

    The table of `Conv2d` holds, with the length of the kernel as its area.

    Parameters
    ----------
    in_channels, out_channels : int
        Channels of the input and of the output.
    kernel_size : int or tuple of 1 int
        Length of the kernel.
    stride : int or tuple of 1 int, default=1
        Steps of the kernel.
    padding : int, tuple of 1 int, "same" or "valid", default=0
        Positions added on both sides, as in `Conv2d`.
    padding_mode : {"zeros", "circular"}, default="zeros"
        What is added: zeros, or the positions of the opposite side.
    bias : bool, default=True
        Whether there is a trained bias.
    weight_std : float, default=1.0
        Standard deviation of the weights, per fan-in; at least 0.
    bias_std : float, default=0.0
        Standard deviation of the bias; at least 0.
    parametrization : {"ntk", "standard", "mup"}, default="ntk"
        What is trained.

    Raises
    ------
    ValueError
        If an argument is out of its range.

    References
    ----------
    Those of `Conv2d`.

    Examples
    --------
    >>> import torch, skntk.nn as snn
    >>> layer = snn.Conv1d(3, 5, 3, stride=2, weight_std=1.4, bias_std=0.1)
    >>> layer(torch.ones(2, 3, 9)).shape
    torch.Size([2, 5, 4])
    """

    axes = 1

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply the layer: (n, in_channels, length) to (n, out_channels, ...)."""
        weight_scale, bias_scale = self.scales
        bias = None if self.bias is None else bias_scale * self.bias
        x, padding = self._padded(x)
        return F.conv1d(x, weight_scale * self.weight, bias, self.stride, padding)
