"""Linear algebra on a regularised kernel matrix: a solver sees the matrix, never the data.

`cholesky` factors ``C = K + noise`` once, in place; `Spectral` pays for one eigendecomposition of
K and then answers for every ridge and every training time. Both hand out a `Factor`: solves, log
determinant, evidence and leave-one-out. Tensors are float64 in and out, on one device.
"""

from skntk.solvers.cholesky import CholeskyFactor, cholesky
from skntk.solvers.factor import Factor, LeaveOneOut
from skntk.solvers.flow import ensemble_covariance, readout_ensemble_covariance
from skntk.solvers.spectral import ProfileEvidence, Spectral, SpectralFactor
from skntk.solvers.squared_hinge import HingeSolution, squared_hinge

__all__ = [
    "CholeskyFactor",
    "Factor",
    "HingeSolution",
    "LeaveOneOut",
    "ProfileEvidence",
    "Spectral",
    "SpectralFactor",
    "cholesky",
    "ensemble_covariance",
    "readout_ensemble_covariance",
    "squared_hinge",
]
