"""Rows that are held out to stop a training early."""

from __future__ import annotations

import math

import numpy as np
import torch
from sklearn.model_selection import train_test_split
from torch import Tensor


def held_out(
    n: int, labels: np.ndarray | None, fraction: float, seed: int
) -> tuple[Tensor, Tensor]:
    """Rows to train on, and to stop early by; of each class some in both, where there are two.

    Parameters
    ----------
    n : int
        Number of rows.
    labels : ndarray of int of shape (n,), optional
        Indices of classes.
    fraction : float
        Of the rows that are held out.
    seed : int
        Of the choice.

    Raises
    ------
    ValueError
        If too few would be left to train on.

    Examples
    --------
    >>> from skntk.training.held_out import held_out
    >>> train, held = held_out(10, None, 0.2, 0)
    >>> len(train), len(held)
    (8, 2)
    """
    counts = np.zeros(0) if labels is None else np.bincount(labels)
    stratify = labels if len(counts) and counts.min() >= 2 else None
    classes = 0 if stratify is None else len(counts)
    held = max(math.ceil(fraction * n), classes)
    if n - held < max(classes, 2):
        raise ValueError(
            f"early_stopping=True holds out {held} of {n} rows and leaves too few to train on; "
            "pass more rows, or early_stopping=False."
        )
    train, test = train_test_split(
        np.arange(n), test_size=held, stratify=stratify, random_state=seed
    )
    return torch.as_tensor(np.sort(train)), torch.as_tensor(np.sort(test))
