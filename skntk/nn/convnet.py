"""A plain convolutional network for images."""

import copy
import math

from torch import nn

from skntk.nn.conv import Conv2d
from skntk.nn.elementwise import activation as make_activation
from skntk.nn.linear import Linear
from skntk.nn.norm import image_norm
from skntk.nn.parametrization import check_size


class ConvNet(nn.Sequential):
    r"""Convolutional network: blocks, the mean over pixels, and a linear readout.

    A block is a convolution that keeps the size of the image, a normalization if there is one, an
    activation, and average pooling. The network takes images of any size that the pooling leaves
    at least one pixel of: with side ``pool**depth`` at least.

    Parameters
    ----------
    in_channels : int, default=3
        Channels of the images.
    out_features : int, default=1
        Number of outputs.
    depth : int, default=3
        Number of blocks, at least 1.
    width : int, default=64
        Channels of each block.
    kernel_size : int or tuple of 2 int, default=3
        Of each convolution.
    activation : str or torch.nn.Module, default="relu"
        A name of `activation_names` or an elementwise module, copied into each block.
    norm : {None, "layer", "group", "batch"}, default=None
        None; over all channels and pixels of an image; over groups of channels, whose number is
        the largest divisor of `width` up to 32 and to half of it; or over the images of a
        batch, with which the output for one image depends on the others until ``eval()`` is called.
    pool : int, default=2
        Side of the squares that are averaged at the end of a block; 1 for none.
    weight_std : float, default=sqrt(2)
        Of every layer. With ReLU, sqrt(2) keeps the signal's size from layer to layer, apart from
        the border and the pooling.
    bias_std : float, default=0.1
        Of every layer.
    parametrization : {"ntk", "standard", "mup"}, default="ntk"
        Of every layer, see `Conv2d` and `Linear`.

    Raises
    ------
    ValueError
        If an argument is out of its range.

    Examples
    --------
    >>> import torch, skntk.nn as snn
    >>> net = snn.ConvNet(3, 10, depth=2, width=16, norm="layer")
    >>> net(torch.zeros(5, 3, 32, 32)).shape
    torch.Size([5, 10])
    """

    def __init__(
        self,
        in_channels: int = 3,
        out_features: int = 1,
        *,
        depth: int = 3,
        width: int = 64,
        kernel_size: int | tuple[int, int] = 3,
        activation: str | nn.Module = "relu",
        norm: str | None = None,
        pool: int = 2,
        weight_std: float = math.sqrt(2),
        bias_std: float = 0.1,
        parametrization: str = "ntk",
    ) -> None:
        depth, width = check_size("depth", depth), check_size("width", width)
        pool = check_size("pool", pool)
        layers: list[nn.Module] = []
        for block in range(depth):
            layers.append(
                Conv2d(
                    width if block else in_channels,
                    width,
                    kernel_size,
                    padding="same",
                    weight_std=weight_std,
                    bias_std=bias_std,
                    parametrization=parametrization,
                )
            )
            if norm is not None:
                layers.append(image_norm(norm, width))
            layers.append(copy.deepcopy(make_activation(activation)))
            if pool > 1:
                layers.append(nn.AvgPool2d(pool))
        layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
        layers.append(
            Linear(
                width,
                out_features,
                weight_std=weight_std,
                bias_std=bias_std,
                parametrization=parametrization,
            )
        )
        super().__init__(*layers)
