"""Which rows a study uses: data.where, a condition for each of some columns. Knows tables only.

N: rows.
"""

import math
from collections.abc import Mapping

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from harness.config.data import Cell
from harness.errors import RequestError, nearest

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
