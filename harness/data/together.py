"""Copies of one picture become one group, so that no fold is scored on what another one has trained on.

For data sets whose patients are not known, or not all: images that are equal, almost equal or crops of one picture
(copies.py, crops.py) are taken for one patient, and groups that share such a picture for one group. No label is looked
at. What is found is kept, once per pixel store.
"""

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from harness.data.copies import almost_equal, clusters, equal_to
from harness.data.crops import other_crops
from harness.home import Home, read_json, write_json
from harness.ragged import Pixels

Ints = NDArray[np.int64]
VERSION = 1
"""part of the name of what is kept: raise it whenever other copies are found"""
UNKNOWN_SIZE = 2**31


def copy_pairs(pixels: Pixels, sizes: Ints, apart: Ints) -> Ints:
    """(n, 2) pairs of rows that show one picture and are not in the same set of `apart` (N,).

    sizes: (N, 2) width and height of the files, in pixels.
    """
    first = equal_to(pixels)
    rows = np.flatnonzero(first != np.arange(len(first)))
    equal = np.stack([first[rows], rows], axis=1)
    equal = equal[apart[equal[:, 0]] != apart[equal[:, 1]]]
    return np.concatenate([equal, almost_equal(pixels, apart), other_crops(pixels, sizes, apart)])


def group_copies(rows: pd.DataFrame, pixels: Pixels, store: str, home: Home) -> pd.DataFrame:
    """The manifest's rows, their column `group` joined where groups share a picture. store: name of the pixel store."""
    path = home.work_root / "copies" / f"{store}-{VERSION}.json"
    if not path.is_file():
        alone = np.arange(len(rows), dtype=np.int64)
        write_json(path, copy_pairs(pixels, sizes_of(rows), alone).tolist())
    names, group = np.unique(rows["group"].to_numpy(dtype=np.str_), return_inverse=True)
    pairs = np.array(read_json(path), dtype=np.int64).reshape(-1, 2)
    joined = names.copy()
    for cluster in clusters(group[pairs].astype(np.int64)):
        joined[cluster] = names[cluster[0]]
    return rows.assign(group=joined[group])


def sizes_of(rows: pd.DataFrame) -> Ints:
    """(N, 2) width and height of the manifest's rows; where it does not know them, only the store's size counts."""
    return rows.reindex(columns=["width", "height"], fill_value=UNKNOWN_SIZE).to_numpy(dtype=np.int64)
