"""Images in the order in which convolutions on a CPU are fastest: channels last."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

#: Least side of an image that is laid out anew: torch crashes on some convolutions of narrow ones.
_LEAST_SIDE = 4

_T = torch.Tensor
#: What returns a view of some tensors, and a copy of others: which depends on their order.
_VIEW_OR_COPY = {
    _T.view, _T.reshape, _T.reshape_as, _T.flatten, _T.ravel, _T.contiguous,
    torch.reshape, torch.flatten, torch.ravel,
}  # fmt: skip


class OrderMattersError(Exception):
    """A network does something that depends on the order of its images in memory."""


class ChannelsLast(TorchFunctionMode):
    """Mode in which convolutions of images work with channels last, whatever the network says.

    Most operations keep the order of their input, so that few copies are made. Shapes and values
    are the same, but for rounding. `Tensor.view`, which such images often have not, is replaced by
    `Tensor.reshape`.

    Raises
    ------
    OrderMattersError
        If strides are used, or if, at the end, a copy has been changed in place that may be a view
        in the usual order, or what it was made from.
    """

    def __init__(self) -> None:
        super().__init__()
        self._copies: list[tuple[Tensor, int]] = []

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in (_T.as_strided, torch.as_strided):
            raise OrderMattersError
        if not args or not isinstance(args[0], Tensor):
            return func(*args, **kwargs)
        first, *others = args
        if func is F.conv2d and first.ndim == 4:
            wide = min(first.shape[2:]) >= _LEAST_SIDE
            order = torch.channels_last if wide else torch.contiguous_format
            return func(first.contiguous(memory_format=order), *others, **kwargs)
        if func is _T.view and others and not isinstance(others[0], torch.dtype):
            func = _T.reshape
        out = func(first, *others, **kwargs)
        if func in _VIEW_OR_COPY and _address(out) != _address(first):
            self._copies += [(first, first._version), (out, out._version)]
        return out

    def __exit__(self, *problem: Any) -> None:
        super().__exit__(*problem)
        copies, self._copies = self._copies, []
        if problem[0] is None and any(t._version != version for t, version in copies):
            raise OrderMattersError


def _address(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
