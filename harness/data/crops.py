"""One picture in several crops and sizes, which neither equal pixels nor thumbnails find.

What each picture shows is cut out (foreground.py), brought to one size, and its inner fine structure correlated with
that of all others. Measured with ALIKE at .8 on pairs of different patients: none of 494 chest X-rays (largest .54), of
500 dermatoscopies (.63) or of 240 histology crops (.68); of 200 head CT slices of one patient each, as their publisher
says, 18 pairs, all of which are the same slice or its neighbour to the eye. Turned and mirrored copies are not found.
Knows arrays only.

N: rows, S: side of the square that pictures are compared in.
"""

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from harness.data.foreground import foreground
from harness.ragged import Pixels

Grey = NDArray[np.float64]
Ints = NDArray[np.int64]
DETAILED = 64
"""least side, in the file and in the store: of 1,600 retinas of 28 pixels 60 pairs were called copies, and few are"""
SIDE = 96
"""of the square, in pixels"""
ALIKE = 0.8
"""least correlation of two crops of one picture"""
COARSE = 1 / 30
"""of a side: structure wider than this (the object's own outline and brightness) is taken away first"""
INNER = 0.2
"""of a side, cut off all around"""
MOST_COMPARED = 5_000
"""pictures of which all pairs are compared: some 2 to 5 ms each"""
BLOCK = 512


def other_crops(pixels: Pixels, sizes: Ints, apart: Ints) -> Ints:
    """(n, 2) pairs of rows that show one picture and are not in the same set of `apart` (N,).

    pixels: (N, ...) of the pixel store; sizes: (N, 2) width and height of the files. Images with less than DETAILED
    pixels a side have no fine structure, and only the first MOST_COMPARED of the others are compared.
    """
    stored = [min(pixels[row].shape[:2]) for row in range(len(pixels))]
    rows = np.flatnonzero(np.minimum(sizes.min(axis=1), stored) >= DETAILED)[:MOST_COMPARED]
    if len(rows) < 2:
        return np.empty((0, 2), dtype=np.int64)
    fine = np.stack([structure(in_square(foreground(_grey(pixels[row])), SIDE)) for row in rows.tolist()])
    pairs = []
    for start in range(0, len(fine), BLOCK):
        a, b = np.nonzero(fine[start : start + BLOCK] @ fine[start:].T >= ALIKE)
        a, b = rows[a + start], rows[b + start]
        keep = (a < b) & (apart[a] != apart[b])
        pairs.append(np.stack([a[keep], b[keep]], axis=1))
    return np.concatenate(pairs)


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
