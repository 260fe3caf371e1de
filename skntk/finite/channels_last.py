"""Images in the order in which convolutions on a CPU are fastest: channels last."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode


class ChannelsLast(TorchFunctionMode):
    """Mode in which convolutions of images work with channels last, whatever the network says.

    Most operations keep the order of their input, so that few copies are made. Shapes and values
    are the same, but for rounding. `Tensor.view`, which such images often have not, is replaced by
    `Tensor.reshape`; what changes such a view in place, to change the images, does not work.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if args and isinstance(args[0], Tensor) and args[0].ndim == 4:
            image, *others = args
            if func is F.conv2d:
                args = (image.contiguous(memory_format=torch.channels_last), *others)
            elif func is Tensor.view and not isinstance(others[0], torch.dtype):
                func = Tensor.reshape
        return func(*args, **(kwargs or {}))
