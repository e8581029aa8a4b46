"""The labels file as rows: which image, which class, which group, which split. Every fault of the table is found here.

Opens no image. Everything is text: "007" stays "007", and "NA" is a value like any other.
"""

import codecs
import csv
import hashlib
import io
import posixpath
import string
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from harness.data.answers import join_answers, require_both
from harness.errors import RequestError, nearest
from harness.study.spec import Data

NO_GROUP = "none"
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
    """The labels file's rows, in its order."""

    rows: pd.DataFrame
    """(N,) id, label, group (as written: never store it), split ('' without a split column), line; all but line text"""
    classes: tuple[str, ...]


def read_labels(data: Data, root: Path) -> Labels:
    """Read and check the labels file of a study.

    Raises RequestError for: a missing root or file, text that is no table, missing columns, a template that asks for
    others, paths out of the root, images named twice, empty groups, labels that are no class, fewer than two classes.
    """
    if not root.is_dir():
        raise RequestError(f"data.root: there is no folder {root}. Type: --set data.root=FOLDER")
    path = root / data.labels
    if not path.is_file():
        tables = sorted(file.name for file in root.iterdir() if file.suffix.lower() in (".csv", ".tsv", ".txt"))
        there = f" Tables there: {', '.join(tables[:5])}." if tables else ""
        raise RequestError(f"data.labels: there is no file {path}.{there} Type: --set data.labels=FILE")
    header, records, lines = read_table(path)
    table = pd.DataFrame(records, columns=header, dtype=str)
    wanted = [("data.label", column) for column in ((data.label,) if isinstance(data.label, str) else data.label)]
    if data.group != NO_GROUP:
        wanted.append(("data.group", data.group))
    if data.split is not None:
        wanted.append(("data.split", data.split))
    for key, column in wanted:
        _require_column(key, column, header, path)
    for column in template_columns(data.image):
        _require_column("data.image", column, header, path)
    if table.empty:
        raise RequestError(f"{path}: the table has a header and no rows.")

    rows = pd.DataFrame({"id": image_ids(table, data.image, path, lines), "label": _label(table, data, path, lines)})
    rows["group"] = rows["id"] if data.group == NO_GROUP else table[data.group]
    rows["split"] = "" if data.split is None else table[data.split]
    rows["line"] = lines
    _check_rows(rows, data, path)
    return Labels(rows, _classes(rows, data, path))


def read_table(path: Path) -> tuple[list[str], list[list[str]], list[int]]:
    """(column names, rows of cells, line number of each row) of a table with comma, semicolon or tab between cells.

    UTF-8 with or without byte order mark, UTF-16 with one, else Latin-1. Space around names and cells is
    no part of them. Raises RequestError with the line that does not fit.
    """
    raw = path.read_bytes()
    utf_16 = raw[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)  # what spreadsheets call Unicode text
    try:
        text = raw.decode("utf-16" if utf_16 else "utf-8-sig")
    except UnicodeDecodeError:
        text = raw.decode("latin-1")
    if "\0" in text:
        raise RequestError(f"{path} is not a text table. Save it as CSV in UTF-8, or --set data.labels=FILE")
    first = text.split("\n", 1)[0]
    delimiter = max((",", ";", "\t"), key=first.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True)
    records: list[list[str]] = []
    lines: list[int] = []
    try:
        header = [name.strip() for name in next(reader, [])]
        for record in reader:
            if not any(cell.strip() for cell in record):
                continue
            if len(record) != len(header):
                raise RequestError(
                    f"{path}, line {reader.line_num}: {len(record)} cells, the header names {len(header)} columns. "
                    'Put cells that contain the delimiter in "quotes".'
                )
            records.append([cell.strip() for cell in record])
            lines.append(reader.line_num)
    except csv.Error as error:
        raise RequestError(f"{path}, line {reader.line_num}: not a table ({error}).") from None
    if not any(header):
        raise RequestError(f"{path}: the file is empty. Its first line must name the columns.")
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        raise RequestError(f"{path}: the header names column {', '.join(twice)} twice. Rename one.")
    return header, records, lines


def template_columns(template: str) -> list[str]:
    """The columns that an image template asks for. Raises RequestError where it is no template of columns."""
    try:
        parts = list(string.Formatter().parse(template))
    except ValueError as error:
        raise RequestError(f"data.image: {template!r} is no template ({error}). Write e.g. images/{{file}}") from None
    columns = [name.strip() for _, name, _, _ in parts if name is not None]
    if not columns or any(not name or set(name) & set(".[]") for name in columns):
        raise RequestError(
            f"data.image: {template!r} must name columns in braces and nothing more, "
            "e.g. images/{file} or images/{id:0>3}.png"
        )
    return columns


def fixed_folder(template: str) -> str:
    """The folder that all images of a template lie in: 'images' for 'images/{file}', '' for '{file}'."""
    return template.split("{", 1)[0].rpartition("/")[0]


def image_ids(table: pd.DataFrame, template: str, path: Path, lines: list[int]) -> list[str]:
    """Each row's path from the root, normalised, forward slashes. Raises RequestError where one leaves the root."""
    columns = template_columns(template)
    pattern = "".join(
        text + ("" if name is None else f"{{{name.strip()}{':' + spec if spec else ''}}}")
        for text, name, spec, _ in string.Formatter().parse(template)
    )
    ids: list[str] = []
    cells = zip(*(table[column] for column in columns), strict=True)
    for line, row in zip(lines, cells, strict=True):
        try:
            name = pattern.format_map(dict(zip(columns, row, strict=True))).replace("\\", "/")
        except ValueError as error:
            raise RequestError(
                f"data.image: {template!r} cannot be filled in ({error}). Cells are text: pad with {{id:0>3}}."
            ) from None
        normal = posixpath.normpath(name)
        if posixpath.isabs(normal) or normal.startswith("..") or normal == ".":
            raise RequestError(
                f"{path}, line {line}: the image {name!r} is not inside the root. "
                "Set data.root to a folder that holds all images and name them from there."
            )
        ids.append(normal)
    return ids


def hash_groups(groups: pd.Series, salt: str) -> pd.Series:
    """Each group's keyed hash (BLAKE2b, 64 bits, hex): equal for equal groups, not reversible without `salt`."""
    known = {
        group: hashlib.blake2b(group.encode(), key=salt.encode()[:64], digest_size=8).hexdigest()
        for group in groups.unique()
    }
    return groups.map(known)


def _require_column(key: str, column: str, header: list[str], path: Path) -> None:
    if column not in header:
        none = " Write none where there is no such column." if key == "data.group" else ""
        raise RequestError(
            f"{key}: {path} has no column {column!r}.{nearest(column, header)} "
            f"Its columns are {', '.join(header)}.{none}"
        )


def _check_rows(rows: pd.DataFrame, data: Data, path: Path) -> None:
    twice = rows[rows["id"].duplicated(keep=False)]
    if len(twice):
        same = twice[twice["id"] == twice["id"].iloc[0]]
        raise RequestError(
            f"{path}: {twice['id'].nunique()} images are named more than once, the first is {same['id'].iloc[0]} "
            f"(lines {', '.join(map(str, same['line'][:4]))}). Keep one row for each image."
        )
    ungrouped = rows[rows["group"] == ""]
    if len(ungrouped):
        raise RequestError(
            f"{path}: {len(ungrouped)} rows have no {data.group} (data.group), the first is line "
            f"{ungrouped['line'].iloc[0]}. Fill it in, or write data.group: none if every image stands alone."
        )


def _label(table: pd.DataFrame, data: Data, path: Path, lines: list[int]) -> "pd.Series[str] | list[str]":
    if isinstance(data.label, str):
        return table[data.label]
    return join_answers(table, data.label, data.missing, path, lines)


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
                f"({path}, line {strange['line'].iloc[0]}).{nearest(label, data.classes)} "
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
