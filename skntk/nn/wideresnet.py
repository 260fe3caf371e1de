"""The wide residual network for images."""

import copy
import math
from typing import Any

import torch
from torch import nn

from skntk.nn.conv import Conv2d
from skntk.nn.elementwise import activation as make_activation
from skntk.nn.linear import Linear
from skntk.nn.norm import image_norm
from skntk.nn.parametrization import check_size


class WideResNet(nn.Sequential):
    r"""Wide residual network for images of Zagoruyko & Komodakis (2016), without dropout.

    A convolution, three groups of ``(depth - 4) / 6`` residual blocks of two convolutions, the last
    normalization and activation, the mean over pixels, and a linear readout. The groups have
    `width`, 2 `width` and 4 `width` channels; the second and third halve the image. A block is
    pre-activated: normalization and activation stand in front of each convolution.

    The `width` is the number of channels of the first group, and means the same as in `ConvNet` and
    `MLP`. The paper's WRN-16-1 is ``depth=16, width=16``, WRN-16-4 is ``depth=16, width=64``. The
    paper's first convolution always has 16 channels, this one has `width` of them; and all layers
    here have biases, also in front of a normalization, as `bias_std` says.

    Parameters
    ----------
    in_channels : int, default=3
        Channels of the images.
    out_features : int, default=10
        Number of outputs.
    depth : int, default=16
        Number of layers, those of the two shortcuts and the readout included: 10, 16, 22, ....
    width : int, default=16
        Channels of the first group.
    activation : str or torch.nn.Module, default="relu"
        A name of `activation_names` or an elementwise module that does not work in place, copied.
    norm : {None, "layer", "group", "batch"}, default="batch"
        As of `ConvNet`.
    weight_std : float, default=sqrt(2)
        Of every layer.
    bias_std : float, default=0.1
        Of every layer.
    parametrization : {"ntk", "standard", "mup"}, default="ntk"
        Of every layer, see `Conv2d` and `Linear`.

    Raises
    ------
    ValueError
        If an argument is out of its range.

    References
    ----------
    Zagoruyko & Komodakis (2016), "Wide residual networks", table 1.

    Examples
    --------
    >>> import torch, skntk.nn as snn
    >>> net = snn.WideResNet(depth=10, width=4, norm="layer")
    >>> net(torch.zeros(5, 3, 32, 32)).shape
    torch.Size([5, 10])
    """

    def __init__(
        self,
        in_channels: int = 3,
        out_features: int = 10,
        *,
        depth: int = 16,
        width: int = 16,
        activation: str | nn.Module = "relu",
        norm: str | None = "batch",
        weight_std: float = math.sqrt(2),
        bias_std: float = 0.1,
        parametrization: str = "ntk",
    ) -> None:
        if depth < 10 or (depth - 4) % 6:
            raise ValueError(
                f"depth={depth!r} must be 6 b + 4 with b blocks in each group: 10, 16, 22, ...."
            )
        width = check_size("width", width)
        act = make_activation(activation)
        if any(getattr(module, "inplace", False) for module in act.modules()):
            raise ValueError(
                f"activation={activation!r} must not work in place: a shortcut reads its input."
            )
        scales: dict[str, Any] = {
            "weight_std": weight_std,
            "bias_std": bias_std,
            "parametrization": parametrization,
        }
        layers: list[nn.Module] = [Conv2d(in_channels, width, 3, padding=1, **scales)]
        channels = width
        for group in range(3):
            for block in range((int(depth) - 4) // 6):
                stride = 2 if group and not block else 1
                layers.append(_Block(channels, width * 2**group, stride, act, norm, scales))
                channels = width * 2**group
        layers += [image_norm(norm, channels), copy.deepcopy(act)]
        layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), Linear(channels, out_features, **scales)]
        super().__init__(*layers)


class _Block(nn.Module):
    """Pre-activated residual block; a 1 x 1 convolution is the shortcut where the shape changes."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int,
        activation: nn.Module,
        norm: str | None,
        scales: dict[str, Any],
    ) -> None:
        super().__init__()
        self.norm1 = image_norm(norm, in_channels)
        self.activation1 = copy.deepcopy(activation)
        self.conv1 = Conv2d(in_channels, out_channels, 3, stride, 1, **scales)
        self.norm2 = image_norm(norm, out_channels)
        self.activation2 = copy.deepcopy(activation)
        self.conv2 = Conv2d(out_channels, out_channels, 3, padding=1, **scales)
        changes = stride != 1 or in_channels != out_channels
        self.shortcut = Conv2d(in_channels, out_channels, 1, stride, **scales) if changes else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Add the two branches; a convolution of the shortcut reads the activated input."""
        h = self.activation1(self.norm1(x))
        shortcut = x if self.shortcut is None else self.shortcut(h)
        return shortcut + self.conv2(self.activation2(self.norm2(self.conv1(h))))
