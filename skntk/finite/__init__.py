"""Finite networks: their Jacobians, kernels and linearizations."""

from skntk.finite.capture import Capture, capture, last_layer
from skntk.finite.curvature import KroneckerFactors, kronecker_factors, output_hessian
from skntk.finite.kernel import EmpiricalKernel, empirical_ntk
from skntk.finite.layers import AffineLayer, LookupLayer, PlainLayer
from skntk.finite.linearize import Centered, Linearized, linearize
from skntk.finite.products import JacobianOperator

__all__ = [
    "AffineLayer",
    "Capture",
    "Centered",
    "EmpiricalKernel",
    "JacobianOperator",
    "KroneckerFactors",
    "Linearized",
    "LookupLayer",
    "PlainLayer",
    "capture",
    "empirical_ntk",
    "kronecker_factors",
    "last_layer",
    "linearize",
    "output_hessian",
]
