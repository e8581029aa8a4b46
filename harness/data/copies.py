"""Which images are copies of each other: equal pixel for pixel, or almost.

Almost equal means that small thumbnails correlate, and then that the edges at 64 pixels do: re-encoded and resized
copies pass both. Measured on HAM10000 with ALIKE at .998: pairs of different lesions that look alike at 16 pixels
reached .43 on edges, copies as JPEG of quality 50 or at half size .68 and more. A 64-bit difference hash was tried
first and is useless here: of two million pairs of chest X-rays of different patients it calls 1,820 copies within one
bit. Knows arrays only.

N: rows, S: side of the stored images in pixels, T: side of a thumbnail.
"""

import hashlib

import numpy as np
from numpy.typing import NDArray

from harness.ragged import Pixels, Ragged

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]

THUMBNAIL, CLOSE_LOOK = 16, 64
"""sides at which all pairs are searched, and at which what was found is confirmed"""
ALIKE, ALIKE_EDGES = 0.995, 0.5
"""least correlation of two copies' thumbnails, and of their edges"""
EDGE = 4.0
"""steps above so many grey levels count as this one, or the black border that images share would outweigh them"""
MOST_COMPARED = 20_000
"""all pairs of up to this many images are compared: seconds of work"""
BLOCK = 512


def equal_to(pixels: Pixels) -> Ints:
    """(N,) the first row with the same pixels as this one: the row itself where there is no earlier."""
    first: dict[bytes, int] = {}
    found = np.empty(len(pixels), dtype=np.int64)
    for row in range(len(pixels)):
        image = np.ascontiguousarray(pixels[row])
        digest = hashlib.blake2b(image.data, digest_size=16, salt=str(image.shape[:2]).encode()).digest()
        found[row] = first.setdefault(digest, row)
    return found


def almost_equal(pixels: Pixels, apart: Ints) -> Ints:
    """(n, 2) pairs of rows that are almost equal and not in the same set of `apart` (N,).

    Only the first MOST_COMPARED rows are compared. An image of one flat grey is like no other.
    """
    compared = min(len(pixels), MOST_COMPARED)
    small = _thumbnails(pixels[slice(compared)], THUMBNAIL)
    pairs = []
    for start in range(0, compared, BLOCK):
        like = small[start : start + BLOCK] @ small[start:].T
        a, b = np.nonzero(like >= ALIKE)
        a, b = a + start, b + start
        keep = (a < b) & (apart[a] != apart[b])
        pairs.append(np.stack([a[keep], b[keep]], axis=1))
    found = np.concatenate(pairs) if pairs else np.empty((0, 2), dtype=np.int64)
    rows, at = np.unique(found, return_inverse=True)
    if len(rows) == 0:
        return np.empty((0, 2), dtype=np.int64)
    edges, at = _edges(pixels[rows]), at.reshape(-1, 2)
    steps = range(0, len(at), BLOCK)
    alike = [np.einsum("nd,nd->n", edges[at[i : i + BLOCK, 0]], edges[at[i : i + BLOCK, 1]]) for i in steps]
    return np.asarray(found[np.concatenate(alike) >= ALIKE_EDGES])


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


def _edges(pixels: Pixels) -> Floats:
    """(N, D) clipped steps from pixel to pixel at CLOSE_LOOK, down and across, with length 1."""
    small = _shrunk(pixels, CLOSE_LOOK)
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


def _area_means(size: int, side: int) -> Floats:
    """(side, size) weights that average equal stretches of a line of pixels, cutting pixels where they must."""
    edges = np.linspace(0, size, side + 1)
    pixel = np.arange(size)
    low, high = edges[:-1, None], edges[1:, None]
    overlap = np.clip(np.minimum(high, pixel + 1) - np.maximum(low, pixel), 0, 1)
    return np.asarray(overlap / overlap.sum(axis=1, keepdims=True), dtype=np.float32)
