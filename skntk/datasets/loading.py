"""Find data sets by name: the built-in ones and those in a directory."""

from difflib import get_close_matches
from os import PathLike
from pathlib import Path

from skntk.datasets.archive import archive_task, read_archive
from skntk.datasets.builtin import BUILTIN, load_builtin
from skntk.datasets.dataset import Dataset, Task


def load(name: str, data_dir: str | PathLike[str] | None = None) -> Dataset:
    """Load one data set.

    Parameters
    ----------
    name : str
        A name that :func:`names` lists: ``"iris"`` for a built-in set, and
        ``"uci_regression/yacht"`` for the archive ``uci_regression/yacht.npz`` under `data_dir`.
    data_dir : path-like, optional
        Where archives lie. Built-in sets need none.

    Returns
    -------
    Dataset
        Its table, targets and splits.

    Raises
    ------
    ValueError
        If no data set has that name, two have, or the archive cannot be read.
    FileNotFoundError
        If `data_dir` is not a directory.

    Examples
    --------
    >>> from skntk.datasets import load
    >>> load("diabetes")
    Dataset(name='diabetes', task='regression', target_names=('target',), image_shape=None)
    """
    archives = _archives(data_dir)
    if name in BUILTIN and name in archives:
        raise ValueError(
            f"name={name!r} is a built-in data set and also {archives[name]}; rename the file or "
            "leave data_dir out."
        )
    if name in BUILTIN:
        return load_builtin(name)
    if name in archives:
        return read_archive(archives[name], name)
    raise ValueError(_unknown(name, archives, data_dir))


def names(task: Task | None = None, data_dir: str | PathLike[str] | None = None) -> tuple[str, ...]:
    """List the data sets that :func:`load` finds: the built-in ones, then those in `data_dir`.

    Parameters
    ----------
    task : {"classification", "regression"}, optional
        Only those for this task; by default all.
    data_dir : path-like, optional
        A directory whose archives (``*.npz`` in it or one level down) are listed too; files that
        hold no data set are left out.

    Returns
    -------
    tuple of str
        Sorted within each of the two groups.

    Raises
    ------
    ValueError
        If `task` is neither of the two.
    FileNotFoundError
        If `data_dir` is not a directory.

    Examples
    --------
    >>> from skntk.datasets import names
    >>> names("regression")
    ('diabetes', 'linnerud')
    """
    if task not in (None, "classification", "regression"):
        raise ValueError(f"task={task!r} must be 'classification', 'regression' or None.")
    found = [name for name in sorted(BUILTIN) if task in (None, BUILTIN[name][0])]
    for name, path in _archives(data_dir).items():
        its_task = archive_task(path)
        if its_task is not None and task in (None, its_task):
            found.append(name)
    return tuple(found)


def _archives(data_dir: str | PathLike[str] | None) -> dict[str, Path]:
    """Names and paths of the archives in `data_dir` and in its direct subdirectories, sorted."""
    if data_dir is None:
        return {}
    root = Path(data_dir)
    if not root.is_dir():
        raise FileNotFoundError(
            f"data_dir={str(data_dir)!r} is not a directory; pass the one that holds the .npz "
            "archives, or none for the built-in data sets."
        )
    paths = sorted([*root.glob("*.npz"), *root.glob("*/*.npz")])
    return {path.relative_to(root).with_suffix("").as_posix(): path for path in paths}


def _unknown(name: str, archives: dict[str, Path], data_dir: str | PathLike[str] | None) -> str:
    known = [*sorted(BUILTIN), *archives]
    # Directories aside: the file name alone is what people remember.
    last = {other: other.rpartition("/")[2] for other in known}
    similar = get_close_matches(str(name).rpartition("/")[2], last.values(), n=3)
    near = [other for other in known if last[other] in similar]
    hint = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
    if data_dir is None:
        where = "Built in are"
        remedy = " For an archive, pass data_dir as well."
    else:
        where = f"Built in, and in {str(data_dir)!r}, are"
        remedy = ""
    return f"unknown data set {name!r}.{hint} {where}: {', '.join(known)}.{remedy}"
