"""Write one section of ``RESULTS.md``: what was run, where, with which versions, and the table."""

import os
import platform
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "RESULTS.md"
TITLE = (
    "# Results\n\nEach section is written by the script that it names; none is edited by hand.\n"
)


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table, padded to be read as text: first column left aligned, others right."""
    cells = [[str(cell) for cell in row] for row in (header, *rows)]
    widths = [max(len(row[j]) for row in cells) for j in range(len(header))]

    def line(row: Sequence[str]) -> str:
        padded = [
            cell.ljust(w) if j == 0 else cell.rjust(w)
            for j, (cell, w) in enumerate(zip(row, widths, strict=True))
        ]
        return "| " + " | ".join(padded) + " |"

    rule = ["-" * w if j == 0 else "-" * (w - 1) + ":" for j, w in enumerate(widths)]
    return "\n".join([line(cells[0]), line(rule), *map(line, cells[1:])])


def write_section(name: str, body: str, *, path: Path = RESULTS) -> None:
    """Put `body` under the heading `name` in the file at `path`, replacing that section only.

    The file is replaced in one step, so a reader, or a kill, never meets half a file.
    """
    text = path.read_text(encoding="utf-8") if path.exists() else TITLE
    parts = re.split(r"(?m)^(?=## )", text)
    sections = {part.splitlines()[0][3:].strip(): part.rstrip() for part in parts[1:]}
    sections[name] = f"## {name}\n\n{body.strip()}"
    whole = "\n\n".join([parts[0].rstrip(), *(sections[key] for key in sorted(sections))]) + "\n"
    _replace(path, whole)


def publish(
    name: str, body: str, *, extra_versions: dict[str, str] | None = None, write: bool = True
) -> None:
    """Print `body` under its provenance and, if `write`, keep it as section `name`."""
    section = f"{provenance(extra_versions)}\n\n{body.strip()}"
    print(f"\n{section}\n")
    if write:
        write_section(name, section)
        print(f"wrote section {name} of {RESULTS.name}")


def provenance(extra_versions: dict[str, str] | None = None) -> str:
    """Command, date, machine and versions, without a path of this machine."""
    versions = {"python": platform.python_version(), **_versions(), **(extra_versions or {})}
    load = f", load {os.getloadavg()[0]:.1f} when written" if hasattr(os, "getloadavg") else ""
    lines = [
        f"- Command: `{command()}`",
        f"- Date: {datetime.now(timezone.utc):%Y-%m-%d %H:%M} UTC",
        f"- Machine: {_cpu_model()}, {_cores()} cores, {_ram_gib():.0f} GiB{load}",
        "- Versions: " + ", ".join(f"{key} {value}" for key, value in versions.items()),
    ]
    return "\n".join(lines)


def command() -> str:
    """The command line as another machine would type it: every path becomes a placeholder."""
    words = ["python", f"benchmarks/{Path(sys.argv[0]).name}"]
    placeholders = {
        "--data": "DIR", "--cache": "DIR", "--resume": "FILE", "--peer-python": "PYTHON"
    }  # fmt: skip
    arguments = iter(sys.argv[1:])
    for word in arguments:
        option, joined, _ = word.partition("=")
        if option in placeholders:
            words += [option, placeholders[option]]
            if not joined:
                next(arguments, None)
        else:
            words.append(shlex.quote(word))
    return " ".join(words)


def git_revision() -> str:
    """Short revision of this checkout, with ``+`` if tracked files differ from it."""
    try:
        revision = _git("rev-parse", "--short", "HEAD")
        # this file of results changes with every run and says nothing about the code
        dirty = _git(
            "status", "--porcelain", "--untracked-files=no", "--", ".", ":!benchmarks/RESULTS.md"
        )
    except (OSError, subprocess.CalledProcessError):
        return "no revision"
    return revision + ("+" if dirty else "")


def _git(*arguments: str) -> str:
    done = subprocess.run(
        ["git", *arguments], cwd=HERE.parent, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def _versions() -> dict[str, str]:
    found = {}
    for name in ("numpy", "scipy", "torch", "scikit-learn", "skntk"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "from source" if name == "skntk" else "absent"
    found["skntk"] += f" (git {git_revision()})"
    return found


def _cpu_model() -> str:
    try:
        info = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.processor() or platform.machine()
    model = re.search(r"(?m)^model name\s*:\s*(.+)$", info)
    return model.group(1).strip() if model else platform.machine()


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _ram_gib() -> float:
    import psutil

    return psutil.virtual_memory().total / 2**30


def _replace(path: Path, text: str) -> None:
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", dir=path.parent, delete=False) as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.chmod(file.name, 0o644)
    os.replace(file.name, path)
