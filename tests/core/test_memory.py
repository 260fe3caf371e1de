"""Asking before a large allocation."""

import builtins

import psutil
import pytest

from skntk import core
from skntk.core import memory


def test_fits():
    core.require(1, "one byte", "nothing")


def test_does_not_fit(monkeypatch):
    monkeypatch.setattr(memory, "available_bytes", lambda device="cpu": 3 * 2**30)
    core.require(3 * 2**30, "all", "nothing")
    message = r"the matrix needs 5 GiB but 3 GiB are available on cpu\. Use less\."
    with pytest.raises(core.MemoryBudgetError, match=message):
        core.require(5 * 2**30, "the matrix", "Use less.")
    assert issubclass(core.MemoryBudgetError, builtins.MemoryError)


@pytest.mark.parametrize(
    ("limit", "used", "expected"),
    [("max", "5", None), ("1000", "400", 600), ("1000", "1400", 0), ("nonsense", "1", None)],
)
def test_control_group(monkeypatch, tmp_path, limit, used, expected):
    """The smaller of what the system has and of what the control group leaves."""
    (tmp_path / "memory.max").write_text(limit)
    (tmp_path / "memory.current").write_text(used)
    monkeypatch.setattr(memory, "Path", lambda path: tmp_path / path.split("/")[-1])
    system = psutil.virtual_memory().total
    found = core.available_bytes()
    assert 0 < found <= system if expected is None else found == expected


@pytest.mark.parametrize(
    ("nbytes", "text"),
    [(2**30, "1 GiB"), (1.5 * 2**40, "1.54e+03 GiB"), (2**20, "1 MiB"), (2**10, "0.000977 MiB")],
)
def test_format(nbytes, text):
    assert core.format_bytes(nbytes) == text


def test_errors_are_those_that_users_catch():
    assert issubclass(core.KernelOverflowError, FloatingPointError)
    assert issubclass(core.UnsupportedModuleError, NotImplementedError)
    assert issubclass(core.SkntkWarning, UserWarning)
