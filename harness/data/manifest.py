"""A study's rows: which image, which class, which group, which split, out of whatever columns its source has.

Opens no image. Everything is text: "007" stays "007", and "NA" is a value like any other.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from harness.config.data import Data
from harness.data.answers import join_answers, require_both
from harness.data.sources import NO_FOLDER, NO_LABEL, NO_MATCH, Source
from harness.errors import RequestError, nearest

NO_GROUP = "none"
NO_GROUP_VALUE = "the image's header has no value for data.group"
COLUMNS = (
    "id",
    "label",
    "group",
    "split",
    "width",
    "height",
    "mode",
    "format",
    "size_bytes",
    "mtime_ns",
    "problem",
)
"""of a manifest. id: path from the root; group: salted hash, or the row's id where the study says none; problem: ''
or why the row cannot be used (a file without a label has the label '')"""


@dataclass(frozen=True)
class Labels:
    """The rows of a study, in the order of their source."""

    rows: pd.DataFrame
    """(N,) id, label, group (as written: never store it), split ('' without a split column), line, problem; all but
    line text"""
    classes: tuple[str, ...]


def needed_columns(data: Data) -> list[tuple[str, str]]:
    """(key, column) of every column that a study names besides its filters."""
    wanted = [("data.label", column) for column in ((data.label,) if isinstance(data.label, str) else data.label)]
    if data.group != NO_GROUP:
        wanted.append(("data.group", data.group))
    if data.split is not None:
        wanted.append(("data.split", data.split))
    return wanted


def choose_rows(source: Source, data: Data) -> Labels:
    """The study's own columns of a source, checked. Rows that cannot be used anyway are not looked at.

    Raises RequestError where no row can be used, for empty groups, labels that are no class and fewer than two classes.
    """
    path, table = source.place, source.columns.fillna("")
    rows = pd.DataFrame({"id": source.ids, "label": _label(table, data, path, source.lines)}, dtype=str)
    rows["group"] = rows["id"] if data.group == NO_GROUP else table[data.group].astype(str)
    rows["split"] = "" if data.split is None else table[data.split].astype(str)
    rows["line"] = source.lines
    rows["problem"] = pd.Series(source.problems, dtype=str)
    rows.loc[rows["problem"].isin([NO_LABEL, NO_FOLDER, NO_MATCH]), "label"] = ""
    usable = rows[rows["problem"] == ""]
    if usable.empty:
        reasons = "; ".join(f"{count} x {reason}" for reason, count in rows["problem"].value_counts().head(3).items())
        raise RequestError(
            f"{path}: none of the {len(rows)} rows can be used: {reasons}. The first is {rows['id'][0]}."
        )
    _check_rows(usable, data, path)
    return Labels(rows, _classes(usable, data, path))


def require_unique(source: Source) -> None:
    """Raises RequestError where an image is named twice."""
    ids = pd.Series(source.ids, dtype=object)
    twice = ids[ids.duplicated(keep=False)]
    if len(twice):
        lines = [str(source.lines[row]) for row in np.flatnonzero(ids == twice.iloc[0])]
        raise RequestError(
            f"{source.place}: {twice.nunique()} images are named more than once, the first is {twice.iloc[0]} "
            f"(lines {', '.join(lines[:4])}). Keep one row for each image, or choose rows with data.where."
        )


def _check_rows(rows: pd.DataFrame, data: Data, path: Path) -> None:
    ungrouped = rows[rows["group"] == ""]
    if len(ungrouped):
        raise RequestError(
            f"{path}: {len(ungrouped)} rows have no {data.group} (data.group), the first is "
            f"{_place(path, ungrouped.iloc[0])}. Fill it in, or write data.group: none if every image stands alone."
        )


def _label(table: pd.DataFrame, data: Data, path: Path, lines: list[int]) -> "pd.Series[str] | list[str]":
    if isinstance(data.label, str):
        return table[data.label]
    return join_answers(table, data.label, data.missing, path, lines)


def _place(path: Path, row: "pd.Series[str]") -> str:
    """Where a row is written down: a line of the table, or the image itself."""
    return f"{path}, line {row['line']}" if row["line"] else f"{row['id']} under {path}"


def _classes(rows: pd.DataFrame, data: Data, path: Path) -> tuple[str, ...]:
    if not isinstance(data.label, str):
        if data.classes is not None and data.classes != data.label:
            raise RequestError("data.classes: with several label columns the classes are those columns. Leave it out.")
        require_both(list(rows["label"]), data.label, path)
        return data.label
    found = sorted(set(rows["label"]) - {""}, key=_natural)
    if data.classes is not None:
        strange = rows[~rows["label"].isin([*data.classes, ""])]
        if len(strange):
            label = strange["label"].iloc[0]
            raise RequestError(
                f"data.classes: {len(strange)} rows have a label that is no class, the first is {label!r} "
                f"({_place(path, strange.iloc[0])}).{nearest(label, data.classes)} "
                f"Classes: {', '.join(data.classes)}; labels found: {', '.join(found[:20])}."
            )
        unseen = [name for name in data.classes if name not in found]
        if unseen:
            raise RequestError(
                f"data.classes: no row of {path} has the label {', '.join(unseen)}. "
                f"Labels found in column {data.label}: {', '.join(found[:20])}."
            )
    if len(found) < 2:
        raise RequestError(
            f"data.label: column {data.label!r} of {path} has {len(found)} class ({', '.join(found) or 'all empty'}); "
            "two or more are needed. Choose another column with --set data.label=COLUMN"
        )
    if len(found) > 1000:
        raise RequestError(
            f"data.label: column {data.label!r} of {path} has {len(found)} different values: is it the label?"
        )
    return data.classes if data.classes is not None else tuple(found)


def _natural(label: str) -> tuple[int, int, str]:
    """Whole numbers by value and before words, so that classes 0..10 stand in order."""
    return (0, int(label), label) if label.isascii() and label.isdigit() else (1, 0, label)
