"""A file as the model is shown it: decoded by content, brought to a square, grey or RGB.

The same function feeds the pixel store, `predict` and `data decode`. Knows nothing of labels or caches.
"""

import hashlib
from pathlib import Path

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from harness.config.data import Decode
from harness.data import raster
from harness.data.dicom import is_dicom, read_dicom
from harness.data.foreground import foreground
from harness.data.npz import archive_of, as_file, is_array, read_array
from harness.data.retries import patiently
from harness.errors import Unreadable, cannot_open

VERSION = 2
"""part of every pixel store's key: raise it whenever a decoded pixel changes"""
DICOM_SUFFIXES = (".dcm", ".dicom", ".ima")
IMAGE_SUFFIXES = frozenset((*raster.SUFFIXES, *DICOM_SUFFIXES))


def decode(path: Path, how: Decode) -> NDArray[np.uint8]:
    """The file as (S, S, channels) uint8, S = how.size; or (H, W, channels), its own size, where that is `native`.

    The picture is read at full size (see `raster` and `dicom` for the rules), made grey by Rec. 601 luma or repeated
    to RGB, cut to its `foreground` where `trim` says so, and resized with antialiasing (triangle filter over the area
    that one pixel covers): `pad` keeps the aspect ratio and centres it on black, `crop` fills the square and cuts the
    longer side evenly, `stretch` does neither. Raises Unreadable(reason) for anything wrong with the file.
    """
    return decode_bytes(read_file(path), path.suffix, how)


def decode_with_digest(path: Path, how: Decode) -> tuple[NDArray[np.uint8], str]:
    """What `decode` gives, and the digest of the file's contents, from one reading."""
    data = read_file(path)
    return decode_bytes(data, path.suffix, how), hashlib.blake2b(data, digest_size=16).hexdigest()


def decode_bytes(data: bytes, suffix: str, how: Decode) -> NDArray[np.uint8]:
    """`decode` for a file already in memory; `suffix` breaks the tie for DICOM without a preamble."""
    if is_array(data):
        return to_size(read_array(data), how)
    dicom = looks_like_dicom(data, suffix)
    picture = read_dicom(data, how.window, how.frame) if dicom else raster.read_picture(data)
    return to_size(picture, how)


def read_file(path: Path) -> bytes:
    """The file's bytes, or an image's of an archive (see `npz`); failing storage is tried again. Raises Unreadable."""
    try:
        data = patiently(path.read_bytes if archive_of(path) is None else lambda: as_file(path))
    except OSError as error:
        raise cannot_open(error) from None
    if not data:
        raise Unreadable("an empty file")
    return data


def to_size(picture: NDArray[np.uint8] | PIL.Image.Image, how: Decode) -> NDArray[np.uint8]:
    """(H, W) or (H, W, 3) uint8, or an image of mode L or RGB, to (S, S, channels), or to (H, W, channels) where images
    keep their size."""
    image = picture if isinstance(picture, PIL.Image.Image) else PIL.Image.fromarray(picture)
    if how.channels == 1 and image.mode != "L":
        image = image.convert("L")
    if how.trim:
        image = PIL.Image.fromarray(np.round(255 * foreground(np.asarray(image))).astype(np.uint8))
    image = _shrunk(image, how.longest) if how.size == "native" else _squared(image, how.size, how.fit)
    if how.channels == 3 and image.mode != "RGB":
        image = image.convert("RGB")
    return np.array(image, dtype=np.uint8).reshape(image.height, image.width, how.channels)


def _shrunk(image: PIL.Image.Image, longest: int) -> PIL.Image.Image:
    longer = max(image.size)
    if longer <= longest:
        return image
    width, height = (max(1, round(side * longest / longer)) for side in image.size)
    return image.resize((width, height), PIL.Image.Resampling.BILINEAR)


def _squared(image: PIL.Image.Image, side: int, fit: str) -> PIL.Image.Image:
    width, height = image.size
    box = None
    target = (side, side)
    if fit == "crop":
        edge = min(width, height)
        box = ((width - edge) / 2, (height - edge) / 2, (width + edge) / 2, (height + edge) / 2)
    elif fit == "pad":
        longer = max(width, height)
        target = (max(1, round(width * side / longer)), max(1, round(height * side / longer)))
    if box is not None or target != image.size:
        image = image.resize(target, PIL.Image.Resampling.BILINEAR, box=box)
    if image.size != (side, side):
        square = PIL.Image.new(image.mode, (side, side))
        square.paste(image, ((side - target[0]) // 2, (side - target[1]) // 2))
        image = square
    return image


def looks_like_dicom(data: bytes, suffix: str) -> bool:
    """By the first bytes of a file (132 of them are enough), or else by its name."""
    return is_dicom(data) or suffix.lower() in DICOM_SUFFIXES
