"""Kernel machines of infinitely wide networks, as scikit-learn estimators."""


from skntk.machines.regressor import NTKRegressor

__all__ = ["NTKRegressor"]
