"""Where rows come from: label tables, folders, file names and archives.

Where a study's rows come from: a table of labels, the names of the files, or both, met with what lies on disk.

Opens no image and judges no label. A row without a partner is a row with a `problem`, and what is not known of it is
missing in its columns, not empty.

Tables from files, whoever wrote them: CSV with any delimiter and encoding, or Parquet. Cells are text throughout.

"007" stays "007", and "NA" is a value like any other. Knows nothing of what the columns mean.

What the path of an image says about it: templates that build the path from columns, patterns that take it apart.

Paths are from the root, with forward slashes. Knows text only.
"""

import codecs
import csv
import io
import os
import posixpath
import re
import string
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from harness.config.data import Data
from harness.errors import RequestError, nearest
from harness.images.decode import IMAGE_SUFFIXES
from harness.images.npz import is_archive, read_rows
from harness.store.home import Home

FOLDERS = "folders"
"""data.labels: the first folder under the root is the class"""
NO_FILE = "label without image: there is no such file"
NO_LABEL = "image without label: the labels file does not name it"
NO_FOLDER = "image without label: it lies in no folder under the root"
NO_MATCH = "image without label: its name does not match data.pattern"


@dataclass(frozen=True)
class Source:
    """The rows of a study before any image is opened, in manifest order. N rows."""

    place: Path
    """the labels file, or the root: what messages call it"""
    columns: pd.DataFrame
    """(N, ...) text; missing where nothing is known"""
    ids: list[str]
    """(N,) path from the root, or the place in the table where there is no image for a row"""
    lines: list[int]
    """(N,) line in the labels file, 0 where the row is not in it"""
    problems: list[str]
    """(N,) '' or why the row cannot be used"""


def read_source(data: Data, root: Path, home: Home) -> Source:
    """Raises RequestError for a missing root or table, text that is no table, a template or pattern that fits
    nothing, columns that are named twice, paths out of the root."""
    if is_archive(root):
        return _archive(data, root)
    if not root.is_dir():
        raise RequestError(f"data.root: there is no folder (and no .npz file) {root}. Type: --set data.root=FOLDER")
    if data.labels == FOLDERS:
        return _class_folders(data, root, home)
    path = _labels_file(data, root)
    header, records, lines = read_table(path)
    if not records:
        raise RequestError(f"{path}: the table has a header and no rows.")
    table = pd.DataFrame(records, columns=header, dtype=object)
    groups = pattern_columns(data.pattern) if data.pattern else []
    twice = [name for name in groups if name in header and name != data.join]
    if twice:
        raise RequestError(
            f"data.pattern: {', '.join(twice)} is also a column of {path}. Name the group otherwise, or join the two "
            f"on it: --set data.join={twice[0]}"
        )
    if data.join is not None:
        return _joined(table, lines, path, data, root, home)
    for column in template_columns(data.image):
        require_column("data.image", column, header, path)
    ids = image_ids(table, data.image, path, lines)
    strangers = sorted(set(images_under(root, fixed_folder(data.image), home)) - set(ids))
    _require_some_file(root, ids, strangers)
    whole = table.reindex(range(len(ids) + len(strangers)))
    problems = [""] * len(ids) + [NO_LABEL] * len(strangers)
    ids = ids + strangers
    if data.pattern:
        taken = take_apart(ids, data.pattern)
        whole = pd.concat([whole, taken], axis=1)
        unmatched = taken.isna().all(axis=1)
        problems = [problem or (NO_MATCH if bad else "") for problem, bad in zip(problems, unmatched, strict=True)]
    return Source(path, whole, ids, lines + [0] * len(strangers), problems)


def images_under(root: Path, folder: str, home: Home) -> Iterable[str]:
    """Paths from the root of all image files by suffix, and of DICOM files without one, as scanners write them.

    Hidden files and this program's own home are left out.
    """
    suffixes = tuple(IMAGE_SUFFIXES)
    for place, folders, files in os.walk(root / folder):
        folders[:] = [name for name in folders if name[0] != "." and Path(place, name) != home.root]
        inside = Path(place).relative_to(root).as_posix()
        prefix = "" if inside == "." else f"{inside}/"
        for name in files:
            if name[0] != "." and (
                name.lower().endswith(suffixes) or (_no_suffix(name) and _is_film(Path(place, name)))
            ):
                yield prefix + name


def _no_suffix(name: str) -> bool:
    """Also the end of a UID, such as the files 1.2.840.113619.2 of some archives."""
    suffix = name.rpartition(".")[2] if "." in name else ""
    return not suffix or suffix.isdigit()


def _is_film(path: Path) -> bool:
    """By content; an archive's table of contents is none."""
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM" and path.name.upper() != "DICOMDIR"
    except OSError:
        return False


def require_column(key: str, column: str, known: list[str], place: Path) -> None:
    """Raises RequestError that names the nearest column where `column` is none of the known ones."""
    if column not in known:
        raise RequestError(
            f"{key}: {place} has no column {column!r}.{nearest(column, known)} Its columns are {', '.join(known)}."
        )


def _labels_file(data: Data, root: Path) -> Path:
    """From the root, else from the working directory: but a bare name never means a file that happens to lie here."""
    asked = Path(data.labels).expanduser()
    for path in (root / asked, *([asked.absolute()] if len(asked.parts) > 1 else [])):
        if path.is_file():
            return path
    tables = sorted(file.name for file in root.iterdir() if file.suffix.lower() in SUFFIXES)
    there = f" Tables there: {', '.join(tables[:5])}." if tables else ""
    raise RequestError(
        f"data.labels: there is no file {root / asked}.{there} Type: --set data.labels=FILE, or data.labels=folders "
        "where each class has a folder of its own."
    )


def _require_some_file(root: Path, ids: list[str], strangers: list[str]) -> None:
    if any((root / name).exists() for name in ids):
        return
    there = f" Images there are named like {strangers[0]}." if strangers else " No image was found there."
    raise RequestError(
        f"data.image: none of the {len(ids)} labelled images exists under {root}; the first would be {ids[0]}."
        f"{there} Set data.image to match, e.g. images/{{file}} or images/{{id:0>3}}.png"
    )


def _on_disk(pattern: str | None, root: Path, home: Home) -> list[str]:
    folder = pattern_folder(pattern) if pattern else ""
    found = sorted(images_under(root, folder, home))
    if not found:
        raise RequestError(f"data.root: no image was found under {root / folder}. Type: --set data.root=FOLDER")
    return found


def _matched(ids: list[str], pattern: str, root: Path) -> pd.DataFrame:
    taken = take_apart(ids, pattern)
    if taken.isna().all(axis=None):
        raise RequestError(
            f"data.pattern: {pattern} matches none of the {len(ids)} images under {root}. It must match the whole path "
            f"from there; the first is {ids[0]}."
        )
    return taken


def _joined(table: pd.DataFrame, lines: list[int], path: Path, data: Data, root: Path, home: Home) -> Source:
    """Every image on disk with the row of its case; then the rows that no image belongs to."""
    key = data.join or ""
    require_column("data.join", key, list(table.columns), path)
    repeated = table[key].duplicated(keep=False)
    if repeated.any():
        first = table.loc[repeated, key].iloc[0]
        where = ", ".join(str(line) for line, cell in zip(lines, table[key], strict=True) if cell == first)
        raise RequestError(
            f"data.join: {path} has {int(repeated.sum())} rows that share their {key} with another, the first on lines "
            f"{where}. Keep one row for each {key}, or join on another column."
        )
    ids = _on_disk(data.pattern, root, home)
    taken = _matched(ids, data.pattern or "", root)
    row_of = {cell: row for row, cell in enumerate(table[key])}
    rows = [row_of.get(cell, -1) for cell in taken[key]]
    if max(rows) < 0:
        seen = taken[key].dropna().iloc[0]
        raise RequestError(
            f"data.join: no image under {root} has a {key} that {path} names. An image says {seen!r}; compare line "
            f"{lines[0]} of the table, letter by letter."
        )
    unmatched = taken[key].isna()
    problems = [
        NO_MATCH if bad else NO_LABEL if row < 0 else "" for bad, row in zip(unmatched.tolist(), rows, strict=True)
    ]
    of_image = table.reindex(rows).reset_index(drop=True).drop(columns=key)
    whole = pd.concat([taken, of_image], axis=1)
    used = set(rows)
    alone = [row for row in range(len(table)) if row not in used]
    whole = pd.concat([whole, table.loc[alone]], ignore_index=True)
    return Source(
        path,
        whole,
        # Without an image the row is called by its place: what it is joined on may be a patient's name.
        ids + [f"{path.name}:{lines[row]}" for row in alone],
        [lines[row] if row >= 0 else 0 for row in rows] + [lines[row] for row in alone],
        problems + [NO_FILE] * len(alone),
    )


def _archive(data: Data, root: Path) -> Source:
    """The images, labels and official split of one .npz file."""
    needless = [key for key in ("labels", "pattern", "join") if getattr(data, key) != Data.model_fields[key].default]
    if needless:
        raise RequestError(f"data.{needless[0]}: {root} holds its own labels and split. Leave this key out.")
    rows = read_rows(root)
    return Source(root, rows.columns, rows.ids, [0] * len(rows.ids), [""] * len(rows.ids))


def _class_folders(data: Data, root: Path, home: Home) -> Source:
    """Every image on disk, of the class that its first folder is named."""
    if data.join is not None:
        raise RequestError("data.join: data.labels: folders has no table to join. Leave join out, or name a table.")
    ids = _on_disk(data.pattern, root, home)
    folders = [name.partition("/")[0] if "/" in name else None for name in ids]
    columns = pd.DataFrame({"file": ids, "folder": folders, "label": folders}, dtype=object)
    problems = [""] * len(ids)
    if data.pattern:
        taken = _matched(ids, data.pattern, root)
        problems = [NO_MATCH if bad else "" for bad in taken.isna().all(axis=1)]
        columns = pd.concat([columns.drop(columns=[name for name in taken if name in columns]), taken], axis=1)
    if data.label in ("folder", "label") and data.label not in (pattern_columns(data.pattern) if data.pattern else ()):
        problems = [
            problem or (NO_FOLDER if folder is None else "") for problem, folder in zip(problems, folders, strict=True)
        ]
    return Source(root, columns, ids, [0] * len(ids), problems)


SUFFIXES = (".csv", ".tsv", ".txt", ".parquet", ".pq")
PARQUET_MARK = b"PAR1"
Table = tuple[list[str], list[list[str]], list[int]]
"""column names, rows of cells, line number of each row (of Parquet: row numbers, from 1)"""


def read_table(path: Path) -> Table:
    """A table with comma, semicolon or tab between cells, or a Parquet file, told apart by content.

    Text: UTF-8 with or without byte order mark, UTF-16 with one, else Latin-1. Space around names and cells is no part
    of them. Parquet: whole numbers without a point, empty cells as '', nested columns left out.
    Raises RequestError with the line that does not fit.
    """
    raw = path.read_bytes()
    return _parquet(raw, path) if raw[:4] == PARQUET_MARK else _text(raw, path)


def _text(raw: bytes, path: Path) -> Table:
    utf_16 = raw[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)  # what spreadsheets call Unicode text
    try:
        text = raw.decode("utf-16" if utf_16 else "utf-8-sig")
    except UnicodeDecodeError:
        text = raw.decode("latin-1")
    if "\0" in text:
        raise RequestError(
            f"{path} is not a text table. Save it as CSV in UTF-8 or as Parquet, or --set data.labels=FILE"
        )
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
    _check_header(header, path)
    return header, records, lines


def _parquet(raw: bytes, path: Path) -> Table:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(pa.BufferReader(raw))
    except (pa.ArrowException, OSError) as error:
        raise RequestError(f"{path}: not readable as Parquet ({str(error).splitlines()[0][:100]}).") from None
    flat = [name for name in table.column_names if not pa.types.is_nested(table.schema.field(name).type)]
    header = [name.strip() for name in flat]
    _check_header(header, path)
    columns = [_cells(table.column(name).to_pylist()) for name in flat]
    return header, [list(row) for row in zip(*columns, strict=True)], list(range(1, table.num_rows + 1))


def _cells(values: list[Any]) -> list[str]:
    """As text. Whole numbers that a gap in the column has turned into floats are whole again."""
    floats = [value for value in values if isinstance(value, float)]
    if floats and all(value != value or value.is_integer() for value in floats):
        values = [int(value) if isinstance(value, float) and value == value else value for value in values]
    return ["" if value is None or value != value else str(value).strip() for value in values]


def _check_header(header: list[str], path: Path) -> None:
    if not any(header):
        raise RequestError(f"{path}: the file is empty. Its first line must name the columns.")
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        raise RequestError(f"{path}: the header names column {', '.join(twice)} twice. Rename one.")


META = re.compile(r"[\\^$.|?*+(){}\[\]]")
"""what begins the part of a pattern that is not plain text"""


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


def pattern_folder(pattern: str) -> str:
    """The folder that all images of a pattern lie in: 'images' for r'images/(?P<case>.+)', '' for r'(?P<case>.+)'."""
    if "|" in pattern:
        return ""
    found = META.search(pattern)
    plain = pattern if found is None else pattern[: found.start()]
    if found is not None and found.group() in "?*+{":
        plain = plain[:-1]  # a quantifier belongs to the letter before it
    return plain.rpartition("/")[0]


def pattern_columns(pattern: str) -> list[str]:
    """The names of a pattern's groups, in order."""
    return list(re.compile(pattern).groupindex)


def take_apart(ids: list[str], pattern: str) -> pd.DataFrame:
    """(N, groups) text: what the pattern's named groups match in each path as a whole; missing where it does not.

    A group that takes no part in a match is ''.
    """
    compiled = re.compile(pattern)
    matches = [compiled.fullmatch(name) for name in ids]
    columns = {
        group: [None if match is None else match.group(group) or "" for match in matches]
        for group in compiled.groupindex
    }
    return pd.DataFrame(columns, index=range(len(ids)), dtype=object)
