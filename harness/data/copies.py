"""Which images are copies of each other: equal pixel for pixel, or almost.

Almost equal means that small thumbnails correlate, and then that the edges at 64 pixels do: re-encoded, resized and
brightened copies pass both. The pictures are those of `analysis` (prepare.py), at most 128 pixels long, so that what is
found does not depend on data.decode.size. Measured (benchmarks/near_copies.py): of 6.1 million pairs of HAM10000 the
edges of different lesions reach .63, those of copies as JPEG of quality 30 or shrunk to 64 pixels are .70 and more.
Smaller originals have few edges: at 28 pixels different lesions reach .88 and JPEG copies fall to .6, so that there
only what is nearly unchanged is found, and called possible. A 64-bit difference hash was tried first and is useless
here: of two million pairs of chest X-rays of different patients it calls 1,820 copies within one bit.

Knows arrays only.

N: rows, S: side of the images in pixels, T: side of a thumbnail.
"""

import functools
import hashlib
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from harness.images.pixels import Pixels, Ragged

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]

THUMBNAIL, CLOSE_LOOK = 16, 64
"""sides at which all pairs are searched, and at which what was found is confirmed"""
ALIKE, ALIKE_EDGES = 0.995, 0.68
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
    for pairs in correlated(_thumbnails(pixels, THUMBNAIL), ALIKE):
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
