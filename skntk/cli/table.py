"""A table from a file: targets, and features as a network can read them."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from sklearn.compose import ColumnTransformer
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from skntk.cli.errors import CommandError

#: Different numbers of a column up to which they are taken for classes.
CLASSES = 20
#: Indicators of a column of texts, at most.
CATEGORIES = 20
#: What stands for a missing value; "None" may be a class.
_MISSING: dict[str, Any] = {
    "keep_default_na": False,
    "na_values": ["", "NA", "N/A", "NaN", "nan", "NULL", "null", "?"],
}
#: Rows below which there is nothing to split.
FEWEST = 8


@dataclass(frozen=True)
class Table:
    """Rows of a file that have a target.

    Attributes
    ----------
    X : DataFrame
        Features.
    y : Series
        Targets: floating point numbers in regression, else texts.
    classifies : bool
        Whether targets are classes.
    notes : list of str
        What was left out, and what may better be.
    """

    X: pd.DataFrame
    y: pd.Series
    classifies: bool
    notes: list[str]

    @classmethod
    def read(cls, path: Path, target: str, task: str, drop: list[str]) -> Table:
        """Read a CSV file.

        Raises
        ------
        CommandError
            If there is no such file or column, or nothing to learn from.
        """
        frame, notes = _read(path)
        for column in (target, *drop):
            if column not in frame:
                raise CommandError(_unknown(column, list(frame.columns)))
        if target in drop:
            raise CommandError(f"--drop names the target {target!r}.")
        known = frame[target].notna()
        if not known.all():
            rows = counted(int((~known).sum()), "row")
            notes.append(f"{rows} without {target!r} left out.")
            frame = frame[known]
        if len(frame) < FEWEST:
            raise CommandError(
                f"{path} has {counted(len(frame), 'row')} with a target; {FEWEST} are needed."
            )
        X, y = frame.drop(columns=[target, *drop]), frame[target]
        for kind, columns in (
            ("of one value", [c for c in X if _is_constant(X[c])]),
            ("that number the rows", [c for c in X if _numbers_rows(str(c), X[c])]),
        ):
            if columns:
                notes.append(f"columns {kind} left out: {', '.join(map(repr, columns))}.")
                X = X.drop(columns=columns)
        texts = [c for c in X if not pd.api.types.is_numeric_dtype(X[c])]
        X = X.assign(**{c: X[c].map(str, na_action="ignore") for c in texts})
        if unlike := [c for c in texts if X[c].nunique() > max(CATEGORIES, len(X) / 2)]:
            notes.append(
                f"most values differ in the text columns {', '.join(map(repr, unlike))}: of use "
                f"only if a few values are frequent, else leave them out with --drop."
            )
        if not len(X.columns):
            raise CommandError(f"{path} has no column beside {target!r} that varies.")
        classifies = _classifies(y, target, task)
        y = y.map(str) if classifies else y.astype(float)
        return cls(X.reset_index(drop=True), y.reset_index(drop=True), classifies, notes)

    def features(self) -> ColumnTransformer:
        """Transformers, not fitted: numbers are standardized, texts become indicators."""
        numbers = [c for c in self.X if pd.api.types.is_numeric_dtype(self.X[c])]
        texts = [c for c in self.X if c not in numbers]
        steps: list[tuple[str, Any, list[str]]] = [
            ("numbers", make_pipeline(SimpleImputer(strategy="median"), StandardScaler()), numbers),
            (
                "texts",
                make_pipeline(
                    SimpleImputer(strategy="constant", fill_value="missing"),
                    OneHotEncoder(
                        handle_unknown="infrequent_if_exist",
                        max_categories=CATEGORIES,
                        sparse_output=False,
                    ),
                ),
                texts,
            ),
        ]
        return ColumnTransformer(steps)


def _classifies(y: pd.Series, target: str, task: str) -> bool:
    """Whether a column of targets holds classes."""
    numeric = pd.api.types.is_numeric_dtype(y) and not pd.api.types.is_bool_dtype(y)
    if task == "regression" and not numeric:
        raise CommandError(f"--task regression needs numbers, but {target!r} holds {y.iloc[0]!r}.")
    if y.nunique() < 2:
        raise CommandError(f"{target!r} has one value only, {y.iloc[0]!r}: nothing to predict.")
    if task == "regression":
        return False
    whole = not numeric or bool((y % 1 == 0).all())
    classes = task == "classification" or not numeric or (whole and y.nunique() <= CLASSES)
    if classes and y.nunique() > len(y) / 2:
        hint = " or --task regression" if numeric else ""
        raise CommandError(
            f"{target!r} has {y.nunique()} different values in {len(y)} rows, too many for "
            f"classes: pass another --target{hint}."
        )
    return classes


def _read(path: Path) -> tuple[pd.DataFrame, list[str]]:
    """The table as it is, separated by commas, semicolons or tabs, and what is to be noted."""
    try:
        with path.open(encoding="utf-8") as lines:
            header = next(lines, "")
        for separator, name in ((";", "semicolons"), ("\t", "tabs")):
            if header.count(separator) > header.count(","):
                point, comma = (
                    pd.read_csv(path, sep=separator, decimal=d, **_MISSING) for d in ".,"
                )
                frame = max(point, comma, key=_count_numeric)
                return frame, [f"{path.name} is separated by {name}."]
        return pd.read_csv(path, **_MISSING), []
    except FileNotFoundError:
        raise CommandError(f"there is no file {path}.") from None
    except UnicodeDecodeError as error:
        raise CommandError(f"{path} is not in UTF-8: {error}. Save it as UTF-8.") from None
    except (OSError, ValueError, pd.errors.ParserError) as error:
        raise CommandError(f"{path} cannot be read as CSV: {error}") from None


def _is_constant(column: pd.Series) -> bool:
    """Whether it says nothing; in texts, but not in numbers, it may say that a value is missing."""
    numeric = pd.api.types.is_numeric_dtype(column) or not column.notna().any()
    return bool(column.nunique(dropna=numeric) < 2)


def _count_numeric(frame: pd.DataFrame) -> int:
    return len(frame.select_dtypes("number").columns)


def _numbers_rows(name: str, column: pd.Series) -> bool:
    """Whether it is the index of a frame, which pandas writes without a name."""
    return name.startswith("Unnamed: ") and bool(column.is_unique)


def counted(n: int, what: str) -> str:
    """A number of things.

    Examples
    --------
    >>> from skntk.cli.table import counted
    >>> counted(1, "row"), counted(2, "row")
    ('1 row', '2 rows')
    """
    return f"{n} {what}" + "s" * (n != 1)


def _unknown(column: str, columns: list[str]) -> str:
    close = difflib.get_close_matches(column, map(str, columns), 1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    return f"there is no column {column!r}.{hint} The file has: {', '.join(map(repr, columns))}."
