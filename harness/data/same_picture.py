"""Which images show one picture, and how: equal pixel for pixel, almost equal, or crops of it.

Knows arrays and the manifest. N: rows.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from harness.data.copies import CLOSE_LOOK, almost_equal, equal_to, stored_sides
from harness.data.crops import other_crops
from harness.images.pixels import Pixels

Ints = NDArray[np.int64]
UNKNOWN_SIZE = 2**31


@dataclass(frozen=True)
class SamePicture:
    """Pairs of rows, (n, 2) each, the earlier row first; a pair is of the first kind that it fits."""

    equal: Ints
    """of equal pixels, each row with the first one that has them"""
    near: Ints
    possible: Ints
    """almost equal, of files with fewer than CLOSE_LOOK pixels: copies, or pictures that look alike"""
    crops: Ints


def same_picture(pixels: Pixels, sizes: Ints, apart: Ints) -> SamePicture:
    """Every pair of equal images, and the almost equal ones and crops that are not in one set of `apart` (N,).

    pixels: what the files show, at one size for every data.decode (prepare.py); sizes: (N, 2) width and height of the
    files, in pixels. All rows are compared.
    """
    first = equal_to(pixels)
    again = np.flatnonzero(first != np.arange(len(first)))
    sides = np.minimum(sizes.max(axis=1, initial=0), stored_sides(pixels))
    close, crops = _differ(first, almost_equal(pixels, apart, sides)), other_crops(pixels, sizes, apart)
    known = {(a, b) for a, b in close.tolist()}
    fresh = np.array([(a, b) not in known for a, b in crops.tolist()], dtype=bool)
    small = sides[close].min(axis=1, initial=UNKNOWN_SIZE) < CLOSE_LOOK
    equal = np.stack([first[again], again], axis=1)
    return SamePicture(equal, close[~small], close[small], _differ(first, crops[fresh]))


def _differ(first: Ints, pairs: Ints) -> Ints:
    """Those pairs whose pixels are not equal."""
    return np.asarray(pairs[first[pairs[:, 0]] != first[pairs[:, 1]]])


def sizes_of(rows: pd.DataFrame) -> Ints:
    """(N, 2) width and height of the manifest's rows; where it does not know them, only the store's size counts."""
    return rows.reindex(columns=["width", "height"], fill_value=UNKNOWN_SIZE).to_numpy(dtype=np.int64)
