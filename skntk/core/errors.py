"""Errors and warnings of the package, each a subclass of the built-in that users catch."""

import numpy as np


class UnsupportedModuleError(NotImplementedError):
    """A module holds an operation that has no infinite-width rule; the message names it."""


class MemoryBudgetError(MemoryError):
    """A result would not fit in memory; raised before anything is allocated."""


class KernelOverflowError(FloatingPointError):
    """A kernel value is not finite in the dtype asked for."""


class NotPositiveDefiniteError(np.linalg.LinAlgError):
    """A regularized kernel matrix could not be factorized; the message names the remedy."""


class TrainingDivergedError(FloatingPointError):
    """The loss of a network in training is not finite; the message names the remedy."""


class SkntkWarning(UserWarning):
    """Base class of the package's warnings."""
