"""torch's threads, around workers that set theirs."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def threads_restored() -> Iterator[None]:
    """Give torch its number of threads back: workers set theirs, which new threads inherit.

    Examples
    --------
    >>> import torch
    >>> from skntk.core import threads_restored
    >>> before = torch.get_num_threads()
    >>> with threads_restored():
    ...     torch.set_num_threads(1)
    >>> torch.get_num_threads() == before
    True
    """
    threads = torch.get_num_threads()
    try:
        yield
    finally:
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
