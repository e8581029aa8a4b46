"""Rows met with their files: filters, labels, groups and attributes.

A study's rows: which image, which class, which group, which split, out of whatever columns its source has.

Opens no image. Everything is text: "007" stays "007", and "NA" is a value like any other.

The manifest: every row of a study met with its file, by headers alone, faults listed rather than raised.

source -> filters on what is known of a row without opening it -> headers -> filters on those -> rows and classes. Files
that have not changed are not opened again (see `headers`). Decodes no image; what only decoding can find out
(truncation) is found by `pixels`. Raw group ids end here.

Several labels for one image: a column of yes and no for each, as one text per row in the manifest, and back.

A manifest's `label` holds one character per label, in order: 1 yes, 0 no, ? not known. Knows tables only.

What else a study's table and its images' headers say of each image: sex, age, scanner. For scores by kind only.

Which rows a study uses: data.where, a condition for each of some columns. Knows tables only.

N: rows.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from harness.config.data import Cell, Data
from harness.data.phantom import ensure_phantom, patients_of
from harness.data.sources import NO_FILE, NO_FOLDER, NO_LABEL, NO_MATCH, Source, read_source
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
from harness.metrics import UNKNOWN
from harness.store.home import Home
from harness.types import Progress

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


YES = frozenset(("1", "1.0", "true", "yes", "y"))
NO = frozenset(("0", "0.0", "false", "no", "n"))
EMPTY = frozenset(("", "nan", "na", "null", "none", "-1", "-1.0", "?"))
"""nobody said; -1 is what CheXpert-like tables write for uncertain"""
CODES = {"1": 1, "0": 0, "?": UNKNOWN}


def join_answers(
    table: pd.DataFrame, columns: tuple[str, ...], missing: str, path: Path, lines: list[int]
) -> list[str]:
    """(N,) one text per row, such as '10?', from the yes-or-no columns of a labels table.

    missing: what an empty cell (or -1) means: `refuse`, `ignore` (not known) or `negative` (no). A row that is empty in
    every column has no label: ''. Raises RequestError for cells that are neither yes nor no, with their place.
    """
    coded = np.empty((len(table), len(columns)), dtype="<U1")
    for number, column in enumerate(columns):
        cells = table[column].str.lower()
        for code, words in (("1", YES), ("0", NO), ("?", EMPTY)):
            coded[cells.isin(words).to_numpy(), number] = code
        strange = np.flatnonzero(coded[:, number] == "")
        if len(strange):
            cell, line = table[column].iloc[strange[0]], lines[strange[0]]
            raise RequestError(
                f"data.label: {path}, line {line}: column {column!r} says {cell!r}, which is neither yes nor no. "
                "Several labels are columns of 1 and 0; where an image has one class, name the one column of classes."
            )
    unanswered = (coded == "?").all(axis=1)
    gaps = (coded == "?") & ~unanswered[:, None]
    if missing == "refuse" and gaps.any():
        row, number = np.argwhere(gaps)[0]
        raise RequestError(
            f"data.label: {int(gaps.any(axis=1).sum())} rows of {path} lack some of their labels, the first is line "
            f"{lines[row]}, column {columns[number]!r}. Say what that means: --set data.missing=ignore (not known: "
            "left out of loss and scores) or --set data.missing=negative (no)."
        )
    if missing == "negative":
        coded[gaps] = "0"
    return ["" if empty else "".join(row) for row, empty in zip(coded.tolist(), unanswered.tolist(), strict=True)]


def split_answers(labels: list[str]) -> NDArray[np.int64]:
    """(N, C) 1, 0, UNKNOWN from a manifest's labels."""
    return np.array([[CODES[code] for code in label] for label in labels], dtype=np.int64)


def require_both(labels: list[str], columns: tuple[str, ...], path: Path) -> None:
    """Raises RequestError where a label is yes, or no, for every row: there is nothing to learn."""
    answers = split_answers([label for label in labels if label])
    for number, column in enumerate(columns):
        known = answers[:, number] if len(answers) else np.zeros(0)
        for value, said in ((1, "1 (yes)"), (0, "0 (no)")):
            if not (known == value).any():
                raise RequestError(
                    f"data.label: no row of {path} has {said} in column {column!r}. Leave that label out of data.label."
                )


def read_attributes(
    data: Data, rows: pd.DataFrame, home: Home, progress: Progress
) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """Columns of the source, in the order of the manifest's `rows`, and those of DICOM headers; and which of them are
    private: labels, groups, what tells people apart."""
    root = root_of(data, home, progress)
    source = read_source(data, root, home)
    table = source.columns.fillna("").astype(str)
    table.index = pd.Index(source.ids)
    table = table[~table.index.duplicated()].loc[list(rows["id"])].reset_index(drop=True)
    headers = rows[[name for name in rows if str(name).startswith("dicom.")]].astype(str).reset_index(drop=True)
    labels = (data.label,) if isinstance(data.label, str) else data.label
    private = [data.group, *labels, *([data.join] if data.join else [])]
    return pd.concat([table, headers], axis=1), tuple(private)


Condition = Cell | tuple[Cell | None, ...]
Bools = NDArray[np.bool_]
MOST_OFFERED = 20
"""different values of a column that a message lists"""


def keep_rows(columns: pd.DataFrame, conditions: Mapping[str, Condition], place: str) -> tuple[Bools, dict[str, int]]:
    """((N,) which rows fulfil all conditions, how many rows each condition was the first to leave out).

    columns: the conditions' columns, text or numbers, missing where nothing is known of a row: such a row stays, so
    that its problem is told. place: what to call the table. Raises RequestError where a condition asks for a value
    that no row has, for a range of what is no number, or leaves nothing.
    """
    kept = np.ones(len(columns), dtype=bool)
    left_out: dict[str, int] = {}
    for name, condition in conditions.items():
        cells = columns[name]
        offer = _offer(cells)
        fits = _fits(name, cells, condition, place, offer) | cells.isna().to_numpy()
        said = f"{name}: {_said(condition)}"
        left_out[said] = int((kept & ~fits).sum())
        if left_out[said] and not (kept & fits & cells.notna().to_numpy()).any():
            raise RequestError(f"data.where: {said} leaves no row of {place}.{offer}")
        kept &= fits
    return kept, left_out


def _said(condition: Condition) -> str:
    if not isinstance(condition, tuple):
        return str(condition)
    return f"[{', '.join('null' if one is None else str(one) for one in condition)}]"


def _fits(name: str, cells: "pd.Series[str]", condition: Condition, place: str, offer: str) -> Bools:
    values = condition if isinstance(condition, tuple) else (condition,)
    numbers = pd.to_numeric(cells, errors="coerce").to_numpy(dtype=np.float64)
    if len(values) == 2 and not any(isinstance(value, str) for value in values):
        if np.isnan(numbers).all():
            raise RequestError(
                f"data.where: {name} holds no numbers in {place}, so {_said(condition)} is no range of it."
            )
        low, high = (
            end if value is None else float(value) for value, end in zip(values, (-math.inf, math.inf), strict=True)
        )
        if low > high:
            raise RequestError(f"data.where: {name}: the low end {values[0]} is above the high end {values[1]}.")
        return np.asarray((numbers >= low) & (numbers <= high))
    texts = cells.astype(str)
    fits = np.zeros(len(cells), dtype=bool)
    for value in values:
        here = (texts == str(value)).to_numpy() | ((numbers == value) if not isinstance(value, str) else False)
        if not here.any():
            near = nearest(str(value), set(texts[cells.notna()])) if offer else ""
            raise RequestError(f"data.where: no row of {place} has {name} {value!r}.{near}{offer}")
        fits |= here
    return fits


def _offer(cells: "pd.Series[str]") -> str:
    """What could have been asked for; nothing where the values are so many that they may be names."""
    found = sorted({str(cell) for cell in cells.dropna() if str(cell)})
    numbers = pd.to_numeric(cells, errors="coerce").dropna()
    if len(found) > MOST_OFFERED:
        return f" Its values are {numbers.min():g} to {numbers.max():g}." if len(numbers) else ""
    return f" Its values are {', '.join(found)}." if found else ""
