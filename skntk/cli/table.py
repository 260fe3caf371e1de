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


@dataclass(frozen=True)
class Table:
    """Rows of a file that have a target.

    Attributes
    ----------
    X : DataFrame
        Features.
    y : Series
        Targets: floating point numbers in regression, else texts or numbers.
    classifies : bool
        Whether targets are classes.
    notes : list of str
        What was left out.
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
        try:
            frame = pd.read_csv(path)
        except FileNotFoundError:
            raise CommandError(f"there is no file {path}.") from None
        except (OSError, ValueError, pd.errors.ParserError) as error:
            raise CommandError(f"{path} cannot be read as CSV: {error}") from None
        for column in (target, *drop):
            if column not in frame:
                raise CommandError(_unknown(column, list(frame.columns)))
        if target in drop:
            raise CommandError(f"--drop names the target {target!r}.")
        notes = []
        known = frame[target].notna()
        if not known.all():
            notes.append(f"{(~known).sum()} rows without {target!r} are left out.")
            frame = frame[known]
        X, y = frame.drop(columns=[target, *drop]), frame[target]
        empty = [c for c in X if X[c].nunique(dropna=True) < 2]
        if empty:
            notes.append(f"columns of one value are left out: {', '.join(map(repr, empty))}.")
            X = X.drop(columns=empty)
        if not len(X.columns):
            raise CommandError(f"{path} has no column beside {target!r} that varies.")
        classifies = _classifies(y, target, task)
        if not classifies:
            y = y.astype(float)
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
    if task != "auto":
        return task == "classification"
    return not numeric or y.nunique() <= CLASSES


def _unknown(column: str, columns: list[str]) -> str:
    close = difflib.get_close_matches(column, map(str, columns), 1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    return f"there is no column {column!r}.{hint} The file has: {', '.join(map(repr, columns))}."
