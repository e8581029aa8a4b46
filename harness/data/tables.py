"""Tables from files, whoever wrote them: CSV with any delimiter and encoding, or Parquet. Cells are text throughout.

"007" stays "007", and "NA" is a value like any other. Knows nothing of what the columns mean.
"""

import codecs
import csv
import io
from pathlib import Path
from typing import Any

from harness.errors import RequestError

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
