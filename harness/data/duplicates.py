"""Copies of images: equal, nearly equal and cropped, and copies as one group.

Which images are copies of each other: equal pixel for pixel, or almost.

Almost equal means that small thumbnails correlate, and then that the edges at 64 pixels do: re-encoded, resized and
brightened copies pass both. The pictures are those of `analysis` (prepare.py), at most 128 pixels long, so that what is
found does not depend on data.decode.size. Measured (benchmarks/near_copies.py): of 6.1 million pairs of HAM10000 the
edges of different lesions reach .63, those of copies as JPEG of quality 30 or shrunk to 64 pixels are .70 and more.
Smaller originals have few edges: at 28 pixels different lesions reach .88 and JPEG copies fall to .6, so that there
only what is nearly unchanged is found, and called possible. A 64-bit difference hash was tried first and is useless
here: of two million pairs of chest X-rays of different patients it calls 1,820 copies within one bit.

Knows arrays only.

N: rows, S: side of the images in pixels, T: side of a thumbnail.

One picture in several crops and sizes, which neither equal pixels nor thumbnails find.

What each picture shows is cut out (images/decode.py), brought to one size, and its inner fine structure correlated with
that of all others. Measured with ALIKE at .8 on pairs of different patients: none of 494 chest X-rays (largest .54), of
500 dermatoscopies (.63) or of 240 histology crops (.68); of 200 head CT slices of one patient each, as their publisher
says, 18 pairs, all of which are the same slice or its neighbour to the eye. Turned and mirrored copies are not found.
Knows arrays only.

N: rows, S: side of the square that pictures are compared in.

Which images show one picture, and how: equal pixel for pixel, almost equal, or crops of it.

Knows arrays and the manifest. N: rows.

Copies of one picture become one group, so that no fold is scored on what another one has trained on.

For data sets whose patients are not known, or not all: images that are equal, almost equal or crops of one picture
are taken for one patient, and groups that share such a picture for one group. All rows are compared,
at one size for every data.decode, and no label is looked at. What is found is kept, once per store of those pictures.
"""

import functools
import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pandas as pd
import PIL.Image
from numpy.typing import NDArray

from harness.hardware import usable_cores
from harness.images.decode import foreground
from harness.images.pixels import Pixels, Ragged
from harness.numbering import by_appearance, first_rows, numbered
from harness.store.files import read_json, write_json
from harness.store.home import Home

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]

THUMBNAIL, CLOSE_LOOK = 16, 64
"""sides at which all pairs are searched, and at which what was found is confirmed"""
NEAR_COPY_ALIKE, ALIKE_EDGES = 0.995, 0.68
"""least correlation of two copies' thumbnails, and of their edges"""
ALIKE_EDGES_SMALL = 0.9
"""least correlation of edges where an original has fewer than CLOSE_LOOK pixels"""
EDGE = 4.0
"""steps above so many grey levels count as this one, or the black border that images share would outweigh them"""
BLOCK, WIDE = 512, 16384
"""rows and columns of the correlations that are in memory at a time"""
CONFIRMED = 4096
"""pairs that are confirmed at a time"""


def equal_to(pixels: Pixels) -> Ints:
    """(N,) the first row with the same pixels as this one: the row itself where there is no earlier."""
    first: dict[bytes, int] = {}
    found = np.empty(len(pixels), dtype=np.int64)
    for row in range(len(pixels)):
        image = np.ascontiguousarray(pixels[row])
        digest = hashlib.blake2b(image.data, digest_size=16, salt=str(image.shape[:2]).encode()).digest()
        found[row] = first.setdefault(digest, row)
    return found


def almost_equal(pixels: Pixels, apart: Ints, sides: Ints | None = None) -> Ints:
    """(n, 2) pairs of rows that are almost equal and not in the same set of `apart` (N,).

    sides: (N,) the longer side of each file, where pixels may be enlarged. All pairs are compared; of more than two
    images that are copies of each other as many pairs are given as join them. An image of one flat grey is like no
    other.
    """
    known = stored_sides(pixels) if sides is None else np.minimum(sides, stored_sides(pixels))
    joined = _Joined(len(pixels))
    found = [np.empty((0, 2), dtype=np.int64)]
    for pairs in correlated(_thumbnails(pixels, THUMBNAIL), NEAR_COPY_ALIKE):
        pairs = pairs[apart[pairs[:, 0]] != apart[pairs[:, 1]]]
        for at in range(0, len(pairs), CONFIRMED):
            some = joined.fresh(pairs[at : at + CONFIRMED])
            alike = some[_edges_agree(pixels, some, np.minimum(CLOSE_LOOK, known[some].min(axis=1)))]
            joined.join(alike)
            found.append(alike)
    return np.concatenate(found)


def stored_sides(pixels: Pixels) -> Ints:
    """(N,) the longer side of each image, in pixels."""
    if isinstance(pixels, Ragged):
        return np.asarray(pixels.sizes.max(axis=1, initial=0))
    return np.full(len(pixels), max(pixels.shape[1:3]), dtype=np.int64)


def correlated(unit: Floats, least: float) -> Iterator[Ints]:
    """(n, 2) pairs of rows, the earlier first, whose product is `least` or more, block by block; unit: (N, D) of length
    1 each. N * N / 2 products are made, and BLOCK * WIDE of them are in memory."""
    for start in range(0, len(unit), BLOCK):
        for at in range(start, len(unit), WIDE):
            a, b = np.nonzero(unit[start : start + BLOCK] @ unit[at : at + WIDE].T >= least)
            pairs = np.stack([a + start, b + at], axis=1)
            yield pairs[pairs[:, 0] < pairs[:, 1]]


class _Joined:
    """Sets of rows that pairs have joined so far."""

    def __init__(self, rows: int) -> None:
        self._parent = np.arange(rows)

    def _roots(self, rows: Ints) -> Ints:
        roots = self._parent[rows]
        while (self._parent[roots] != roots).any():
            roots = self._parent[roots]
        return np.asarray(roots)

    def fresh(self, pairs: Ints) -> Ints:
        """Those pairs whose rows are not in one set yet."""
        roots = self._roots(pairs)
        return np.asarray(pairs[roots[:, 0] != roots[:, 1]])

    def join(self, pairs: Ints) -> None:
        for pair in pairs:
            low, high = sorted(self._roots(pair).tolist())
            self._parent[high] = low


def _edges_agree(pixels: Pixels, pairs: Ints, sides: Ints) -> NDArray[np.bool_]:
    """(n,) whether the edges of pairs (n, 2) correlate, each compared at its side (n,)."""
    agree = np.zeros(len(pairs), dtype=bool)
    for side in np.unique(sides).tolist():
        here = np.flatnonzero(sides == side)
        rows, at = np.unique(pairs[here], return_inverse=True)
        edges, at = _edges(pixels[rows], side), at.reshape(-1, 2)
        least = ALIKE_EDGES if side == CLOSE_LOOK else ALIKE_EDGES_SMALL
        for some in range(0, len(here), BLOCK):
            a, b = at[some : some + BLOCK].T
            agree[here[some : some + BLOCK]] = np.einsum("nd,nd->n", edges[a], edges[b]) >= least
    return agree


def clusters(pairs: Ints) -> list[Ints]:
    """The sets of rows that pairs join, each in order, by first row."""
    parent: dict[int, int] = {}

    def root(row: int) -> int:
        while parent.setdefault(row, row) != row:
            parent[row] = parent[parent[row]]
            row = parent[row]
        return row

    for a, b in pairs.tolist():
        low, high = sorted((root(a), root(b)))
        parent[high] = low
    joined: dict[int, list[int]] = {}
    for row in sorted(parent):
        joined.setdefault(root(row), []).append(row)
    return [np.array(rows, dtype=np.int64) for rows in joined.values()]


def _thumbnails(pixels: Pixels, side: int) -> Floats:
    """(N, side * side) small pictures with mean 0 and length 1; zeros for a flat image."""
    small = _shrunk(pixels, side).reshape(len(pixels), -1)
    small -= small.mean(axis=1, keepdims=True)
    # less than one grey level of contrast is rounding, not a picture
    return _of_length_one(small, np.sqrt(small.shape[1]))


def _edges(pixels: Pixels, side: int) -> Floats:
    """(N, D) clipped steps from pixel to pixel at `side`, down and across, with length 1."""
    small = _shrunk(pixels, side)
    down, across = np.diff(small, axis=1), np.diff(small, axis=2)
    steps = np.concatenate([down.reshape(len(small), -1), across.reshape(len(small), -1)], axis=1)
    return _of_length_one(np.clip(steps, -EDGE, EDGE), 1e-6)


def _of_length_one(x: Floats, least: float) -> Floats:
    length = np.linalg.norm(x, axis=1, keepdims=True)
    return np.asarray(np.where(length > least, x / np.maximum(length, 1e-9), 0.0), dtype=np.float32)


def _shrunk(pixels: Pixels, side: int) -> Floats:
    """(N, side, side) area means in grey levels; small images of one size keep it, those of their own are stretched."""
    if isinstance(pixels, Ragged):
        stretched = np.empty((len(pixels), side, side), dtype=np.float32)
        for row in range(len(pixels)):
            picture = pixels[row].astype(np.float32).mean(axis=2)
            height, width = picture.shape
            stretched[row] = _area_means(height, side) @ picture @ _area_means(width, side).T
        return stretched
    n, size = pixels.shape[:2]
    shrink = _area_means(size, min(side, size))
    found = np.empty((n, len(shrink), len(shrink)), dtype=np.float32)
    for start in range(0, n, BLOCK):
        block = pixels[start : start + BLOCK].astype(np.float32)
        grey = block[..., 0] if block.shape[3] == 1 else block.mean(axis=3)
        found[start : start + BLOCK] = shrink @ grey @ shrink.T
    return found


@functools.cache
def _area_means(size: int, side: int) -> Floats:
    """(side, size) weights that average equal stretches of a line of pixels, cutting pixels where they must."""
    edges = np.linspace(0, size, side + 1)
    pixel = np.arange(size)
    low, high = edges[:-1, None], edges[1:, None]
    overlap = np.clip(np.minimum(high, pixel + 1) - np.maximum(low, pixel), 0, 1)
    return np.asarray(overlap / overlap.sum(axis=1, keepdims=True), dtype=np.float32)


UNKNOWN = 2**31
Grey = NDArray[np.float64]
DETAILED = 64
"""least side of a file, and least length of what is looked at: of 1,600 retinas of 28 pixels 60 pairs were called
copies, and few are"""
SIDE = 96
"""of the square, in pixels"""
CROP_ALIKE = 0.8
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
    for pairs in correlated(short, CROP_ALIKE - MARGIN):
        pairs = rows[pairs]
        pairs = pairs[apart[pairs[:, 0]] != apart[pairs[:, 1]]]
        for at in range(0, len(pairs), CONFIRMED):
            some = pairs[at : at + CONFIRMED]
            looked_at, place = np.unique(some, return_inverse=True)
            fine, place = _structures(pixels, looked_at), place.reshape(-1, 2)
            found.append(some[np.einsum("nd,nd->n", fine[place[:, 0]], fine[place[:, 1]]) >= CROP_ALIKE])
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


VERSION = 2
"""part of the name of what is kept: raise it whenever other copies are found"""


def group_copies(rows: pd.DataFrame, pixels: Pixels, store: str, home: Home) -> pd.DataFrame:
    """The manifest's rows, their column `group` joined where groups share a picture. pixels, store: what the files
    show (prepare.py), and the name of the store that has it."""
    path = home.work_root / "copies" / f"{store}-{VERSION}.json"
    if not path.is_file():
        found = same_picture(pixels, sizes_of(rows), np.arange(len(rows), dtype=np.int64))
        write_json(path, np.concatenate([found.equal, found.near, found.possible, found.crops]).tolist())
    of_row = rows["group"].to_numpy(dtype=np.str_)
    group = by_appearance(of_row)
    names = of_row[first_rows(group)]
    pairs = np.array(read_json(path), dtype=np.int64).reshape(-1, 2)
    joined = names.copy()
    for cluster in clusters(group[pairs]):
        joined[cluster] = names[cluster[0]]
    return rows.assign(group=numbered(joined[group]))
