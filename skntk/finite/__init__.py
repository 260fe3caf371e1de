"""Finite networks: their Jacobians, kernels and linearizations."""

from skntk.finite.capture import Capture, capture
from skntk.finite.kernel import EmpiricalKernel, empirical_ntk
from skntk.finite.layers import AffineLayer, LookupLayer, PlainLayer
from skntk.finite.linearize import Linearized, linearize
from skntk.finite.products import JacobianOperator

__all__ = [
    "AffineLayer",
    "Capture",
    "EmpiricalKernel",
    "JacobianOperator",
    "Linearized",
    "LookupLayer",
    "PlainLayer",
    "capture",
    "empirical_ntk",
    "linearize",
]
