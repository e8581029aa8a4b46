"""One picture in several crops and sizes, which neither equal pixels nor thumbnails find.

What each picture shows is cut out (foreground.py), brought to one size, and its inner fine structure correlated with
that of all others. Measured with ALIKE at .8 on pairs of different patients: none of 494 chest X-rays (largest .54), of
500 dermatoscopies (.63) or of 240 histology crops (.68); of 200 head CT slices of one patient each, as their publisher
says, 18 pairs, all of which are the same slice or its neighbour to the eye. Turned and mirrored copies are not found.
Knows arrays only.

N: rows, S: side of the square that pictures are compared in.
"""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from harness.data.copies import CONFIRMED, correlated, stored_sides
from harness.hardware import usable_cores
from harness.images.decode import foreground
from harness.images.pixels import Pixels

UNKNOWN = 2**31
Grey = NDArray[np.float64]
Ints = NDArray[np.int64]
DETAILED = 64
"""least side of a file, and least length of what is looked at: of 1,600 retinas of 28 pixels 60 pairs were called
copies, and few are"""
SIDE = 96
"""of the square, in pixels"""
ALIKE = 0.8
"""least correlation of two crops of one picture"""
COARSE = 1 / 30
"""of a side: structure wider than this (the object's own outline and brightness) is taken away first"""
INNER = 0.2
"""of a side, cut off all around"""
SHORT, MARGIN = 256, 0.11
"""numbers that each picture is projected to for the search, and by how much two crops may correlate less there: five
standard errors, (1 - ALIKE**2) / sqrt(SHORT) each"""
CHUNK = 64
"""pictures looked at by one thread at a time"""


def other_crops(pixels: Pixels, sizes: Ints, apart: Ints) -> Ints:
    """(n, 2) pairs of rows that show one picture and are not in the same set of `apart` (N,).

    pixels: (N, ...) as `almost_equal` takes them; sizes: (N, 2) width and height of the files. Images with less than
    DETAILED pixels a side have no fine structure. All pairs of the others are compared: their structure projected to
    SHORT random directions first, and in full where that agrees.
    """
    rows = np.flatnonzero(np.minimum(sizes.min(axis=1, initial=UNKNOWN), stored_sides(pixels)) >= DETAILED)
    if len(rows) < 2:
        return np.empty((0, 2), dtype=np.int64)
    directions = None
    short = np.empty((len(rows), SHORT), dtype=np.float32)
    for start in range(0, len(rows), CONFIRMED):
        fine = _structures(pixels, rows[start : start + CONFIRMED])
        if directions is None:
            directions = np.random.default_rng(0).standard_normal((fine.shape[1], SHORT), dtype=np.float32)
        seen = fine @ directions
        short[start : start + CONFIRMED] = seen / np.maximum(np.linalg.norm(seen, axis=1, keepdims=True), 1e-9)
    found = [np.empty((0, 2), dtype=np.int64)]
    for pairs in correlated(short, ALIKE - MARGIN):
        pairs = rows[pairs]
        pairs = pairs[apart[pairs[:, 0]] != apart[pairs[:, 1]]]
        for at in range(0, len(pairs), CONFIRMED):
            some = pairs[at : at + CONFIRMED]
            looked_at, place = np.unique(some, return_inverse=True)
            fine, place = _structures(pixels, looked_at), place.reshape(-1, 2)
            found.append(some[np.einsum("nd,nd->n", fine[place[:, 0]], fine[place[:, 1]]) >= ALIKE])
    return np.concatenate(found)


def _structures(pixels: Pixels, rows: Ints) -> NDArray[np.float32]:
    """(n, D) the fine structure of these rows."""

    def look(some: list[int]) -> list[NDArray[np.float32]]:
        return [structure(in_square(foreground(_grey(pixels[row])), SIDE)) for row in some]

    chunks = [rows[start : start + CHUNK].tolist() for start in range(0, len(rows), CHUNK)]
    with ThreadPoolExecutor(usable_cores()) as pool:
        return np.array([one for found in pool.map(look, chunks) for one in found], dtype=np.float32)


def in_square(shown: Grey, side: int) -> Grey:
    """(side, side), the picture's longer side as long as that, black around it."""
    scale = side / max(shown.shape)
    size = tuple(max(1, round(length * scale)) for length in reversed(shown.shape))
    small = np.asarray(PIL.Image.fromarray(shown.astype(np.float32)).resize(size, PIL.Image.Resampling.BOX))
    square = np.zeros((side, side))
    top, left = (side - small.shape[0]) // 2, (side - small.shape[1]) // 2
    square[top : top + small.shape[0], left : left + small.shape[1]] = small
    return square


def structure(square: Grey) -> NDArray[np.float32]:
    """(D,) the inner fine structure of a picture (S, S), with mean 0 and length 1; zeros where there is none."""
    from scipy import ndimage

    cut = round(INNER * len(square))
    fine = (square - ndimage.gaussian_filter(square, COARSE * len(square)))[cut:-cut, cut:-cut].ravel()
    fine = fine - fine.mean()
    length = float(np.linalg.norm(fine))
    # less than one grey level of contrast is rounding, not a picture
    return np.asarray(fine / length if length > np.sqrt(fine.size) / 255 else 0.0 * fine, dtype=np.float32)


def _grey(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return image[..., 0] if image.shape[2] == 1 else image.mean(axis=2).astype(np.uint8)
