"""Gaussian expectations of elementwise functions: formulas alone."""

from skntk.infinite.duals.base import Dual
from skntk.infinite.duals.piecewise import RectifierDual, SignDual
from skntk.infinite.duals.polynomial import PolynomialDual
from skntk.infinite.duals.quadrature import QuadratureDual
from skntk.infinite.duals.smooth import ErfDual, ExpDual, GaussianDual, GELUDual, SinDual

__all__ = [
    "Dual",
    "ErfDual",
    "ExpDual",
    "GELUDual",
    "GaussianDual",
    "PolynomialDual",
    "QuadratureDual",
    "RectifierDual",
    "SignDual",
    "SinDual",
]
