"""Plain data that a notebook draws as tables: what `--json` prints, with a DataFrame and HTML beside it.

Knows no stage. Nothing is drawn before it is asked for, and pandas is imported only then.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pandas import DataFrame

MOST_ROWS = 60
"""rows of a table in a notebook; `.table` has all"""
Row = Mapping[str, Any]


class Document(dict[str, Any]):
    """One JSON object, the same as the command's `--json`, with its main rows as a table."""

    def __init__(self, document: Mapping[str, Any], title: str, rows: Sequence[Row], columns: Sequence[str] = ()):
        super().__init__(document)
        self._title, self._rows, self._columns = title, rows, columns

    @property
    def table(self) -> DataFrame:
        """The main rows with a column per number: `oof.auroc.value`, `oof.auroc.lo`, ..."""
        return _frame(self._rows)

    def _repr_html_(self) -> str:
        return _html(self._title, self._rows, self._columns)


class Rows(list[dict[str, Any]]):
    """One JSON list, the same as the command's `--json`, as a table."""

    def __init__(self, rows: Sequence[dict[str, Any]], title: str, columns: Sequence[str] = ()):
        super().__init__(rows)
        self._title, self._columns = title, columns

    @property
    def table(self) -> DataFrame:
        """The rows with a column per value; what is nested has dotted names."""
        return _frame(self)

    def _repr_html_(self) -> str:
        return _html(self._title, self, self._columns)


def study_display(document: dict[str, Any]) -> Document:
    """A study by its trials."""
    metric, best, trials = document["metric"], document["best"], document["trials"]
    title = f"study {document['study']}: {document['state']}, {len(trials)} trials"
    title += "" if best is None else f", the best is {best['number']}"
    return Document(document, title, trials, ("number", "state", "params", f"oof.{metric}", "seconds"))


def ensemble_display(document: dict[str, Any]) -> Document:
    """An ensemble, or all methods, by what stands beside it."""
    metric = document["metric"]
    title = f"study {document['study']}: {document['method']} of {len(document['members'])} members"
    return Document(document, title, document["scores"], ("name", "kind", f"oof.{metric}", f"test.{metric}"))


def data_display(document: dict[str, Any]) -> Document:
    """A data set by its parts."""
    title = f"{document['rows']:,} images of {document['groups']:,} groups in {document['root']}"
    return Document(document, title, document["parts"], ("part", "rows", "groups", "counts"))


def _frame(rows: Sequence[Row]) -> DataFrame:
    import pandas as pd

    return pd.DataFrame([_leaves(row, intervals=False) for row in rows])


def _leaves(node: Row, intervals: bool, prefix: str = "") -> dict[str, Any]:
    """A row without nesting: dotted names. With `intervals`, {value, lo, hi} stays one cell."""
    found: dict[str, Any] = {}
    for key, child in node.items():
        name = f"{prefix}{key}"
        if isinstance(child, Mapping) and not (intervals and "value" in child):
            found.update(_leaves(child, intervals, f"{name}."))
        else:
            found[name] = child
    return found


def _html(title: str, rows: Sequence[Row], columns: Sequence[str]) -> str:
    """A caption and a table of the named columns (all, where none is named) that any row has something in."""
    flat = [_leaves(row, intervals=True) for row in rows[:MOST_ROWS]]
    every = list(dict.fromkeys(name for row in flat for name in row))
    wanted = [name for column in columns for name in every if name == column or name.startswith(f"{column}.")] or every
    shown = [name for name in dict.fromkeys(wanted) if any(row.get(name) is not None for row in flat)]
    head = "".join(f"<th>{escape(name)}</th>" for name in shown)
    body = "".join(f"<tr>{''.join(_td(row.get(name)) for name in shown)}</tr>" for row in flat)
    more = f"<p>{len(rows) - MOST_ROWS:,} more rows in <code>.table</code></p>" if len(rows) > MOST_ROWS else ""
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>" if flat else ""
    return f"<p>{escape(title)}</p>{table}{more}"


def _td(value: Any) -> str:
    text = _text(value)
    right = isinstance(value, Mapping | float | int) and not isinstance(value, bool)
    return f'<td style="text-align:{"right" if right else "left"};white-space:pre-wrap">{escape(text)}</td>'


def _text(value: Any) -> str:
    """0.842 [0.801, 0.880]; 0.0012; a, b"""
    if value is None:
        return "-"
    if isinstance(value, Mapping):
        ends = [value.get(end) for end in ("lo", "hi")]
        numbers = [_text(one) for one in (value["value"], *ends)]
        return numbers[0] if None in ends else f"{numbers[0]} [{numbers[1]}, {numbers[2]}]"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        small = value != 0 and abs(value) < 0.001
        return f"{value:.1e}" if small else f"{value:.3f}" if abs(value) < 100 else f"{value:,.4g}"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, list | tuple):
        return ", ".join(_text(one) for one in value) if len(value) <= 8 else f"{len(value)} values"
    return str(value)


def plain(node: Any) -> Any:
    """Plain JSON data: dataclasses as objects, numpy scalars as numbers, NaN and infinities as null."""
    if dataclasses.is_dataclass(node) and not isinstance(node, type):
        return {field.name: plain(getattr(node, field.name)) for field in dataclasses.fields(node)}
    if isinstance(node, Mapping):
        return {str(key): plain(child) for key, child in node.items()}
    if isinstance(node, list | tuple | set | frozenset):
        return [plain(child) for child in node]
    if isinstance(node, Path):
        return str(node)
    if hasattr(node, "tolist") and not isinstance(node, str | bytes):
        return plain(node.tolist())
    if isinstance(node, float) and not math.isfinite(node):
        return None
    return node
