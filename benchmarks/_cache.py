"""Results kept between runs: one JSON object a line, so that a killed run is resumed."""

import ast
import hashlib
import json
import os
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path

HERE = Path(__file__).resolve().parent
DEFAULT_DIRECTORY = HERE / ".cache"


def run_folder(name: str) -> Path:
    """Folder for the finished runs of a report, by the version of the code that makes it."""
    DEFAULT_DIRECTORY.mkdir(exist_ok=True)
    (DEFAULT_DIRECTORY / ".gitignore").write_text("*\n", encoding="utf-8")
    return DEFAULT_DIRECTORY / f"{name}-{skntk_version()}"


class ResultCache:
    """Records in a JSON-lines file, found by their key fields; the last one written counts.

    Parameters
    ----------
    path : Path
        The file. Its directory is made, with a ``.gitignore`` that keeps it out of the repository.
    key_fields : tuple of str
        Fields of a record that identify it.
    """

    def __init__(self, path: Path, key_fields: tuple[str, ...]) -> None:
        self.path = path
        self.key_fields = key_fields
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.parent == DEFAULT_DIRECTORY:
            (path.parent / ".gitignore").write_text("*\n", encoding="utf-8")
        self._records = {self._key(record): record for record in _complete_lines(path)}

    def get(self, **key: object) -> dict | None:
        """Return the record with these key fields, or None."""
        return self._records.get(self._key(key))

    def add(self, record: dict) -> None:
        """Append `record` in one write, on the disk before this returns."""
        line = (json.dumps(record) + "\n").encode()
        with self.path.open("rb+" if self.path.exists() else "wb+") as file:
            # a line that a kill cut short is ended first, so that it spoils no other
            if file.seek(0, os.SEEK_END) > 0:
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":
                    line = b"\n" + line
        with self.path.open("ab", buffering=0) as file:
            file.write(line)
            os.fsync(file.fileno())
        self._records[self._key(record)] = record

    def _key(self, record: dict) -> tuple:
        return tuple(record[field] for field in self.key_fields)


def code_version(sources: Iterable[Path], *, packages: Iterable[str] = ("scikit-learn",)) -> str:
    """Hash of what a result depends on: the code in files, and the versions of `packages`.

    Comments, docstrings and layout do not count.
    """
    digest = hashlib.sha256()
    for source in sorted(sources):
        tree = _WithoutDocstrings().visit(ast.parse(source.read_text(encoding="utf-8")))
        digest.update(f"{source.name}\n{ast.dump(tree)}\n".encode())
    for package in packages:
        digest.update(f"{package}=={version(package)}\n".encode())
    return digest.hexdigest()[:12]


class _WithoutDocstrings(ast.NodeTransformer):
    def visit_Expr(self, node: ast.Expr) -> ast.Expr | None:
        is_string = isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        return None if is_string else node


def skntk_version() -> str:
    """Hash of the code of the skntk that is imported."""
    import skntk

    root = Path(skntk.__file__).parent
    return code_version(root.rglob("*.py"), packages=("torch", "scikit-learn"))


def _complete_lines(path: Path) -> list[dict]:
    """Every line that parses; a cut one is what a kill leaves, and is done again."""
    records = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return records
