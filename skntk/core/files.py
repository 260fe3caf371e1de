"""Files that are replaced in one step."""

import os
import tempfile
import uuid
from pathlib import Path


def check_writable(path: Path, name: str) -> None:
    """Raise ValueError, before long work starts, if a file could not be written there.

    Parameters
    ----------
    path : Path
        The file; its directory is made.
    name : str
        The argument's name, for the message.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from skntk.core import check_writable
    >>> check_writable(Path(tempfile.mkdtemp()) / "result.csv", "path")
    """
    if path.is_dir():
        raise ValueError(f"{name}={str(path)!r} is a directory; pass the path of a file.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        tempfile.NamedTemporaryFile(dir=path.parent).close()
    except OSError as error:
        raise ValueError(f"{name}={str(path)!r} cannot be written: {error}") from error


def write_atomically(path: Path, data: bytes) -> None:
    """Replace a file in one step, so that no kill leaves half of it.

    Parameters
    ----------
    path : Path
        The file, in a directory that exists.
    data : bytes
        Its new content.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from skntk.core import write_atomically
    >>> path = Path(tempfile.mkdtemp()) / "result.txt"
    >>> write_atomically(path, b"done")
    >>> path.read_text()
    'done'
    """
    # not by tempfile, whose files nobody else may read
    half = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with half.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(half, path)
    finally:
        half.unlink(missing_ok=True)
