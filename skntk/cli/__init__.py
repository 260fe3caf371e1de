"""The command line: reports on tables in files."""

from skntk.cli.main import main

__all__ = ["main"]
