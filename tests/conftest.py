"""What all tests share: one thread, the seed, and the reference kernels."""

import os
import sys
from pathlib import Path

import hypothesis
import pytest
import torch
from threadpoolctl import threadpool_limits

SEED_VARIABLE = "SKNTK_TEST_SEED"

# Property tests draw the same examples at every run, and others under another seed variable.
hypothesis.settings.register_profile(
    "skntk", derandomize=SEED_VARIABLE not in os.environ, deadline=None, print_blob=True
)
hypothesis.settings.load_profile("skntk")


def _seeds() -> list[int]:
    """Seeds asked for: ``7`` or ``0-4`` (both ends included), by default 0."""
    text = os.environ.get(SEED_VARIABLE, "0")
    first, dash, last = text.partition("-")
    try:
        return list(range(int(first), int(last) + 1)) if dash else [int(first)]
    except ValueError:
        raise pytest.UsageError(
            f"{SEED_VARIABLE}={text!r} must be a seed such as 7, or a range such as 0-4."
        ) from None


def pytest_configure(config: pytest.Config) -> None:
    # Several test processes share the cores (pytest-xdist), so each computes on one thread.
    torch.set_num_threads(1)
    threadpool_limits(1)


def pytest_report_header(config: pytest.Config) -> str:
    return f"seeds of the tests ({SEED_VARIABLE}): {_seeds()}"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "seed" in metafunc.fixturenames:
        metafunc.parametrize("seed", _seeds(), scope="session")


@pytest.fixture(autouse=True)
def _no_figures():
    """Each test starts with no figure open, whatever was drawn before it in its process."""
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close("all")


@pytest.fixture(scope="session")
def reference_dir() -> Path:
    """The directory of kernels computed by another library, where the checkout has it beside it."""
    path = Path(__file__).resolve().parents[2] / "shared" / "reference"
    if not (path / "manifest.json").is_file():
        pytest.skip("the reference kernels (../shared/reference) are not beside this checkout")
    return path
