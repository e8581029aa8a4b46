"""Several labels for one image: a column of yes and no for each, as one text per row in the manifest, and back.

A manifest's `label` holds one character per label, in order: 1 yes, 0 no, ? not known. Knows tables only.
"""

from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from harness.errors import RequestError
from harness.metrics import UNKNOWN

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
