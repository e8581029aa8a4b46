"""The manifest: every row of a study met with its file, by headers alone, faults listed rather than raised.

source -> filters on what is known of a row without opening it -> headers -> filters on those -> rows and classes. Files
that have not changed are not opened again (see `headers`). Decodes no image; what only decoding can find out
(truncation) is found by `pixels`. Raw group ids end here.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from harness.config.data import Data
from harness.data.manifest import COLUMNS, NO_GROUP, NO_GROUP_VALUE, Labels, choose_rows, needed_columns, require_unique
from harness.data.phantom import ensure_phantom, patients_of
from harness.data.sources import NO_FILE, Source, read_source
from harness.data.where import keep_rows
from harness.errors import RequestError, nearest
from harness.images.headers import (
    DICOM,
    FACTS,
    IDENTIFYING_COLUMNS,
    TECHNICAL_COLUMNS,
    headers_folder,
    headers_of,
    salted,
)
from harness.store.home import Home
from harness.types import Progress

EMPTY_LABEL = "image without label: the label is empty"
UNKNOWN_TO_SHORTCUTS = tuple(DICOM + name for name in ("Rows", "Columns", "PhotometricInterpretation"))
"""said already by width, height and mode"""


@dataclass(frozen=True)
class Scan:
    """A data set as found on disk."""

    root: Path
    manifest: pd.DataFrame
    """columns as in manifest.COLUMNS, and those of TECHNICAL_COLUMNS that DICOM files fill in; all rows that data.where
    asks for, those with a problem too"""
    classes: tuple[str, ...]
    filtered: dict[str, int]
    """rows that each condition of data.where was the first to leave out"""
    cache: str = ""
    """name of the folder that its headers are kept in"""


def scan_data(data: Data, home: Home, progress: Progress, force: bool = False) -> Scan:
    """Read the labels, find the files, read the headers of those that are new or changed; with `force` all.

    Raises RequestError for a wrong request (see sources.read_source, manifest.choose_rows, where.keep_rows) and when no
    image at all is where the labels say; single files that are missing, unlabelled or unreadable are rows with a
    `problem`.
    """
    root = root_of(data, home, progress)
    source = read_source(data, root, home)
    _known_columns(source, data)
    conditions = data.where or {}
    early = {name: one for name, one in conditions.items() if name in source.columns}
    late = {name: one for name, one in conditions.items() if name not in source.columns}
    kept, filtered = keep_rows(source.columns[list(early)], early, str(source.place))
    source = _only(source, kept)
    require_unique(source)
    by_header = [column for _, column in needed_columns(data) if column not in source.columns]
    if not by_header:
        labels = choose_rows(source, data)  # what is wrong with the labels is known before any file is opened
    facts = _headers(root, source, home, progress, force)
    if late or by_header:
        source = _with_facts(source, facts, [*late, *by_header], data)
        kept, left_out = keep_rows(source.columns[list(late)], late, str(root))
        source, facts, filtered = _only(source, kept), facts[kept].reset_index(drop=True), filtered | left_out
        labels = choose_rows(source, data)
    return Scan(root, _manifest(labels, facts, data, home), labels.classes, filtered, headers_folder(root, home).name)


def root_of(data: Data, home: Home, progress: Progress) -> Path:
    """The absolute folder that data.root means; `phantom` is drawn where it is missing."""
    patients = patients_of(data.root)
    return Path(data.root).expanduser().absolute() if patients is None else ensure_phantom(home, progress, patients)


def _known_columns(source: Source, data: Data) -> None:
    """Raises RequestError where a study names a column that neither the source nor a header has, or an identifier
    elsewhere than as its group."""
    here = [str(name) for name in source.columns]
    for key, column in [*needed_columns(data), *((f"data.where.{name}", name) for name in data.where or {})]:
        known = [*here, *(FACTS if "where" in key else ()), *TECHNICAL_COLUMNS]
        known += IDENTIFYING_COLUMNS if key == "data.group" else ()
        if column in known:
            continue
        if column in IDENTIFYING_COLUMNS:
            raise RequestError(
                f"{key}: {column} tells who a person is: it can only be data.group, where it is kept as a salted hash."
            )
        headers = f" From headers: {', '.join(FACTS)}, {DICOM}Modality and the like." if "where" in key else ""
        if column.startswith(DICOM):
            headers = f" Known are {', '.join(name for name in known if name.startswith(DICOM))}."
        none = " Write none where there is no such column." if key == "data.group" else ""
        raise RequestError(
            f"{key}: {source.place} has no column {column!r}.{nearest(column, known)} Its columns are "
            f"{', '.join(here)}.{headers}{none}"
        )


def _only(source: Source, kept: NDArray[np.bool_]) -> Source:
    if kept.all():
        return source
    rows = np.flatnonzero(kept)
    return Source(
        source.place,
        source.columns.iloc[rows].reset_index(drop=True),
        [source.ids[row] for row in rows],
        [source.lines[row] for row in rows],
        [source.problems[row] for row in rows],
    )


def _headers(root: Path, source: Source, home: Home, progress: Progress, force: bool) -> pd.DataFrame:
    """(N,) what the files say; nothing of rows that have a problem already."""
    usable = [row for row, problem in enumerate(source.problems) if not problem]
    facts = headers_of(root, [source.ids[row] for row in usable], home, progress, force)
    facts.loc[facts["size_bytes"] < 0, "problem"] = NO_FILE
    if len(usable) == len(source.ids):
        return facts
    facts.index = pd.Index(usable)
    numbers = {"size_bytes": -1, "mtime_ns": 0, "width": 0, "height": 0}
    whole = facts.reindex(range(len(source.ids)))
    for column in whole:
        whole[column] = whole[column].fillna(numbers.get(str(column), "")).astype(facts[column].dtype)
    whole["id"] = source.ids
    known = np.array(source.problems, dtype=object)
    whole["problem"] = np.where(known != "", known, whole["problem"].to_numpy(dtype=object)).astype(str)
    return whole


def _with_facts(source: Source, facts: pd.DataFrame, columns: list[str], data: Data) -> Source:
    """The source with columns from headers; they are missing where a file has a problem, so that it is told."""
    whole = source.columns.copy()
    for column in columns:
        cells = facts.get(column, pd.Series("", index=facts.index))  # no file of this root is DICOM
        whole[column] = cells.astype(object).where(facts["problem"] == "", None)
    problems = list(facts["problem"])
    if data.group in columns:
        nobody = whole[data.group] == ""
        problems = [NO_GROUP_VALUE if empty else one for empty, one in zip(nobody, problems, strict=True)]
        facts["problem"] = problems
    return replace(source, columns=whole, problems=problems)


def _manifest(labels: Labels, facts: pd.DataFrame, data: Data, home: Home) -> pd.DataFrame:
    rows = labels.rows
    table = pd.concat([rows[["id", "label", "split"]], facts.drop(columns="id")], axis=1)
    if data.group == NO_GROUP:
        table["group"] = np.where(rows["label"] == "", "", rows["id"])
    else:
        hashed = salted(home.salt())
        table["group"] = rows["group"].map({group: hashed(group) if group else "" for group in rows["group"].unique()})
    table.loc[(table["label"] == "") & (table["problem"] == ""), "problem"] = EMPTY_LABEL
    filled = [
        name
        for name in TECHNICAL_COLUMNS
        if name in table and name not in UNKNOWN_TO_SHORTCUTS and (table[name] != "").any()
    ]
    return table[[*COLUMNS, *filled]].reset_index(drop=True)
