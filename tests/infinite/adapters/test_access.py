import subprocess
import sys

import pytest

import skntk.infinite

ADAPTERS = ("GPyTorchNTKKernel", "NNGPKernel", "NTKKernel")

SCRIPT = """
import sys
import skntk.cli.main, skntk.continual, skntk.diagnostics, skntk.infinite as infinite, skntk.metrics
optional = ("gpytorch", "matplotlib", "skntk.infinite.adapters")
loaded = [m for m in sys.modules if m.startswith(optional)]
assert not loaded, loaded
sys.modules["gpytorch"] = None  # as if it were not installed
from skntk.infinite import NNGPKernel, NTKKernel
assert "linear_operator" not in sys.modules
try:
    infinite.GPyTorchNTKKernel
except ImportError as error:
    assert "skntk[gpytorch]" in str(error), error
else:
    raise AssertionError("no ImportError")
"""


def test_optional_libraries_are_imported_on_access_and_a_missing_one_is_named() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_names_are_listed_and_found() -> None:
    assert set(ADAPTERS) <= set(dir(skntk.infinite))
    for name in ADAPTERS:
        assert getattr(skntk.infinite, name).__name__ == name


def test_unknown_name() -> None:
    with pytest.raises(AttributeError, match="no attribute 'RBFKernel'"):
        _ = skntk.infinite.RBFKernel
