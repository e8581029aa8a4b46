"""Which images a bundle has seen, as salted digests of their pixels: evaluating on them again would be a leak.

A digest tells whoever holds an image whether the bundle was made with it, and nothing to anybody else. It is of the
decoded pixels, so the same picture in another file format has the same one; a picture that was resized or compressed
again has another. Digests are stored in sorted order and say nothing of rows. Knows arrays and bytes only.
"""

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.errors import RequestError
from harness.images.pixels import Pixels
from harness.store.arrays import pack, unpack

SIZE = 8
"""bytes of a digest: two images in a billion share one by chance"""
PARTS = ("development", "test")
FILE = "digests.npz"


def digests(pixels: Pixels, rows: Sequence[int] | NDArray[np.int64], salt: str) -> NDArray[np.uint64]:
    """(n,) of the images `rows`, each (H, W, channels) uint8."""
    key = bytes.fromhex(salt)
    found = np.empty(len(rows), dtype=np.uint64)
    for place, row in enumerate(rows):
        image = np.ascontiguousarray(pixels[int(row)])
        digest = hashlib.blake2b(repr(image.shape).encode(), key=key, digest_size=SIZE)
        digest.update(image.data)
        found[place] = int.from_bytes(digest.digest(), "little")
    return found


def contents_section(
    pixels: Pixels, development: NDArray[np.int64], test: NDArray[np.int64], salt: str
) -> tuple[dict[str, Any], dict[str, bytes]]:
    """(what bundle.json says, files): digests of the development and the test rows, decoded as the bundle's first
    decoding says. salt: hexadecimal, of this data set."""
    parts = zip(PARTS, (development, test), strict=True)
    stored = pack({part: np.sort(digests(pixels, rows, salt)) for part, rows in parts})
    about = {"salt": salt, "decode": 0, "development": len(development), "test": len(test)}
    return about, {FILE: stored}


def seen(about: dict[str, Any], stored: bytes, pixels: Pixels) -> dict[str, NDArray[np.bool_]]:
    """By part, (n,) which images are among the bundle's own. `pixels`: n images in the bundle's first decoding;
    `stored`: the file of `contents_section`. Raises RequestError where the section is none."""
    try:
        mine = digests(pixels, range(len(pixels)), about["salt"])
        known = unpack(stored, FILE)
        return {part: np.isin(mine, known[part].astype(np.uint64)) for part in PARTS}
    except (KeyError, TypeError, ValueError) as error:
        raise RequestError(f"the bundle's contents cannot be read ({error}). Build the ensemble again.") from error
