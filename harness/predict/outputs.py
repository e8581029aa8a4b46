"""Answers as CSV, JSON or Parquet: the same columns in all three.

file, a probability per class, decision, disagreement, out_of_distribution, abstain; per series also series and images;
with heat maps also overlay. What a bundle cannot say is empty (CSV) or null.
"""

import csv
import io
import json
import math
from pathlib import Path
from typing import Any

import pandas as pd

from harness.errors import RequestError, nearest
from harness.predict.predict import Prediction

OWN = ("file", "series", "images", "decision", "disagreement", "out_of_distribution", "abstain", "overlay")
SUFFIXES = (".csv", ".json", ".parquet")
SEPARATOR = "+"
"""between the classes of a decision for several labels"""


def require_suffix(path: Path, option: str) -> str:
    """The file's ending. Raises RequestError for one that says no format, and for a folder."""
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        near = nearest(suffix, SUFFIXES)
        raise RequestError(
            f"{option} {path}: the ending says the format, and {suffix or 'none'!r} says none.{near} "
            f"Type {option} {path.with_suffix('.csv')}, or .json, or .parquet."
        )
    if path.is_dir():
        raise RequestError(f"{option} {path}: this is a folder; name a file, such as {path / 'predictions.csv'}.")
    return suffix


def rows_of(found: Prediction) -> list[dict[str, Any]]:
    """One plain dict per answer: file, probabilities by class name, and what else is known of it."""
    answers = found.answers
    rows = []
    for n, file in enumerate(found.files):
        row: dict[str, Any] = {"file": str(file)}
        if answers.series[n] is not None or (len(answers.images) and answers.images.max() > 1):
            row |= {"series": _series(answers.series[n]), "images": int(answers.images[n])}
        said = [name for name, yes in zip(found.classes, answers.decided[n], strict=True) if yes]
        row |= {
            "probabilities": dict(zip(found.classes, answers.probabilities[n].tolist(), strict=True)),
            "decision": SEPARATOR.join(said),
            "disagreement": _number(answers.disagreement[n]),
            "out_of_distribution": _number(answers.out_of_distribution[n]),
            "abstain": None if answers.abstain is None else bool(answers.abstain[n]),
        }
        if found.overlays:
            overlay = found.overlays[n]
            row["overlay"] = None if overlay is None else str(overlay)
        rows.append(row)
    return rows


def _series(number: int | None) -> str | None:
    return None if number is None else f"series-{number}"


def _number(x: float) -> float | None:
    return float(x) if math.isfinite(x) else None


def as_document(found: Prediction) -> list[dict[str, Any]]:
    """What --json prints; null probabilities and a reason where a file could not be read."""
    return rows_of(found) + [
        {"file": str(file), "probabilities": None, "problem": reason} for file, reason in found.problems
    ]


def as_table(found: Prediction) -> tuple[list[str], list[list[Any]]]:
    """(columns, rows) with a column per class; a class whose name is a column's own is called `p(NAME)`."""
    rows = rows_of(found)
    own = [name for name in OWN if rows and name in rows[0]] or ["file", *OWN[3:7]]
    before, after = [n for n in own if n in OWN[:3]], [n for n in own if n in OWN[3:]]
    classes = [f"p({name})" if name in OWN else name for name in found.classes]
    body = [[*(row[n] for n in before), *row["probabilities"].values(), *(row[n] for n in after)] for row in rows]
    return [*before, *classes, *after], body


def as_csv(found: Prediction) -> str:
    columns, rows = as_table(found)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([_cell(cell) for cell in row] for row in rows)
    return text.getvalue()


def _cell(value: Any) -> Any:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "" if value is None else repr(value) if isinstance(value, float) else value


def as_file(found: Prediction, suffix: str) -> bytes:
    """The contents of a .csv, .json or .parquet file."""
    if suffix == ".csv":
        return as_csv(found).encode("utf-8", "surrogateescape")
    if suffix == ".json":
        return (json.dumps(as_document(found), indent=2, allow_nan=False) + "\n").encode()
    columns, rows = as_table(found)
    buffer = io.BytesIO()
    pd.DataFrame(rows, columns=columns).to_parquet(buffer, index=False)
    return buffer.getvalue()
