"""One picture under several names, in other crops and sizes, which equal pixels do not find: once the pictures are
equalised (_equalised.py) they lie on each other, and their inner structure can be compared.

Copies in two folds are a leak: the network has seen the row that it is scored on. Neighbouring slices of one person are
found with them. No label is looked at.
"""

import csv
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

from harness.data.duplicates import CROP_ALIKE, structure
from harness.data.sources import Source, read_table
from harness.types import Dataset, Folds


def same_picture(pictures: list[NDArray[np.uint8]]) -> tuple[NDArray[np.int64], int]:
    """(N,) a number for each picture, the same for copies and copies of copies; and how many pairs are alike.

    pictures: (side, side) each, equalised.
    """
    fine = np.stack([structure(one / 255) for one in pictures])
    alike = np.triu(fine @ fine.T >= CROP_ALIKE, 1)
    return connected_components(csr_array(alike), directed=False)[1].astype(np.int64), int(alike.sum())


def leaking(copy: NDArray[np.int64], folds: Folds) -> NDArray[np.bool_]:
    """(N,) development rows of which a copy is in another fold, which their fold's network has trained on."""
    development = folds.fold >= 0
    return np.array(
        [
            fold >= 0 and bool((development & (copy == own) & (folds.fold != fold)).any())
            for own, fold in zip(copy, folds.fold, strict=True)
        ]
    )


def write_grouped(source: Source, dataset: Dataset, copy: NDArray[np.int64], path: Path) -> None:
    """The table of labels again, with a column `copy` that is the same for all copies of one picture."""
    number = dict(zip(dataset.ids.tolist(), copy.tolist(), strict=True))
    of_line = {line: number[name] for line, name in zip(source.lines, source.ids, strict=True) if name in number}
    header, rows, lines = read_table(source.place)
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(
            [
                [*header, "copy"],
                *([*row, f"c{of_line[line]}"] for row, line in zip(rows, lines, strict=True) if line in of_line),
            ]
        )
