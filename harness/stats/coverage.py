"""How often intervals contained the truth in simulation, where that is less than LEAST: what footnotes are made from.

coverage.json beside this file is written by `python -m benchmarks.coverage --table`. Knows arrays only.
"""

import json
import math
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

LEAST = 0.93
TABLE = Path(__file__).with_name("coverage.json")

Cell = dict[str, Any]


def interval_coverage(metric: str, value: float, rarer: int, several: bool) -> float | None:
    """Of the simulated cell that is nearest: by patients of the rarer class, then by the metric's value. None where it
    is LEAST or more. several: whether some patient has several images."""
    return _below(_nearest(_cells("single", metric, several), rarer, value))


def difference_coverage(metric: str, rarer: int, several: bool) -> float | None:
    """The same for paired differences."""
    return _below(_nearest(_cells("paired", metric, several), rarer, 0.0))


def _nearest(cells: Iterable[Cell], rarer: int, value: float) -> Cell | None:
    return min(
        cells,
        key=lambda cell: (
            abs(math.log(cell["rarer"] / max(rarer, 1))),
            abs(cell["value"] - value) if "value" in cell else 0.0,
        ),
        default=None,
    )


def _below(cell: Cell | None) -> float | None:
    return float(cell["coverage"]) if cell is not None and cell["coverage"] < LEAST else None


def _cells(kind: str, metric: str, several: bool) -> tuple[Cell, ...]:
    return tuple(cell for cell in _table()[kind] if cell["metric"] == metric and cell["several"] == several)


@lru_cache(maxsize=1)
def _table() -> dict[str, list[Cell]]:
    found: dict[str, list[Cell]] = json.loads(TABLE.read_text())
    return found
