"""Tables of records for a terminal of 80 columns or less. Pure: records in, something to print out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Any, Literal

from harness.output.format import coverage_note
from harness.output.terminal import escape_control

if TYPE_CHECKING:
    from rich.table import Table

TEXT_WIDTH = 10
"""room that a column of text is given at least"""


def table(
    columns: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[str] = (), width: int | None = None
) -> Table:
    """A plain table: no frame, numbers to the right, long texts folded and never cut.

    Numbers stay on one line. Where that needs more than `width`, an interval goes below its value. Without a `width`,
    a column that holds words as well as numbers is a column of text.
    """
    from rich.table import Table
    from rich.text import Text

    if width is not None and _least_width(columns, rows) > width:
        columns = [name.replace(" [", "\n[").replace(" ", "\n") for name in columns]
        rows = [[cell.replace(" [", "\n[") if _is_numeric(cell) else cell for cell in row] for row in rows]
    made = Table(show_header=any(columns), box=None, padding=(0, 2, 0, 0), pad_edge=False)
    numbers = [_numbers_width([row[index] for row in rows]) for index in range(len(columns))]
    if width is None:
        numbers = [whole if all(_is_numeric(row[i]) for row in rows) else 0 for i, whole in enumerate(numbers)]
    for name, whole in zip(columns, numbers, strict=True):
        # rich makes only the other columns narrower, and would cut these off at the window's edge otherwise
        justify: Literal["left", "right"] = "right" if name in right else "left"
        made.add_column(Text(name), justify=justify, overflow="fold", header_style="bold", no_wrap=whole > 0)
    for row in rows:
        cells = [
            fill(escape_control(cell), max(whole, TEXT_WIDTH))
            if whole and not _is_numeric(cell)
            else escape_control(cell)
            for cell, whole in zip(row, numbers, strict=True)
        ]
        made.add_row(*(Text(cell) for cell in cells))
    if note := coverage_note(rows):
        made.caption, made.caption_justify = Text(note), "left"
    return made


def _is_numeric(cell: str) -> bool:
    """Numbers and intervals: what must stay on one line."""
    return cell.lstrip("+-.")[:1].isdigit() and len(cell) <= 25


def _numbers_width(cells: Sequence[str]) -> int:
    return max([len(line) for cell in cells if _is_numeric(cell) for line in cell.split("\n")], default=0)


def _least_width(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> int:
    """What numbers, and some room for each text, need."""
    numbers = [_numbers_width([row[index] for row in rows]) for index in range(len(columns))]
    return sum(found or TEXT_WIDTH for found in numbers) + 2 * (len(columns) - 1)


NULLABLE = ("coverage", "reason")
"""fields of an interval or a difference in which null is not NaN"""


def numbers_of(node: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of an interval or a difference in JSON; where a number is null it is NaN again."""
    return {name: math.nan if found is None and name not in NULLABLE else found for name, found in node.items()}


def short_path(path: Path) -> str:
    """Relative to the working directory where that is shorter."""
    try:
        relative = path.relative_to(Path.cwd())
    except ValueError:
        return str(path)
    return str(relative)
