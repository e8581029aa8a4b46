"""Any image file to what the model is shown.

A file as the model is shown it: decoded by content, brought to a square, grey or RGB.

The same function feeds the pixel store, `predict` and `data decode`. Knows nothing of labels or caches.

What a grey picture shows, without what lies around it: of a slice through a head, the head.

The largest connected part that is brighter than the background is cut out, with its holes. What lies outside (letters,
rulers, frames, the table) becomes black, and the grey levels within are stretched to the whole range, so that exports
with another brightness look alike. It is one picture's own doing: no other image has a say. Knows arrays only.

Storage that fails now and then (network drives, tired disks) is asked again, a few times, ever more slowly.
"""

import errno
import hashlib
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from harness.config.data import Decode
from harness.errors import Unreadable, cannot_open
from harness.images import raster
from harness.images.dicom import is_dicom, read_dicom
from harness.images.npz import archive_of, as_file, is_array, read_array

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


BACKGROUND = 0.15
"""of the range of grey: what is darker is no part of the object"""
RANGE = (1.0, 99.0)
"""percentiles within the object that become black and white"""
LOOKED_AT = 512
"""longest side, in pixels, of the copy on which the object is looked for"""


def foreground(picture: NDArray[np.uint8]) -> NDArray[np.float64]:
    """(h, w) from 0 to 1, the box around the object of a grey picture (H, W); the whole picture where nothing stands
    out."""
    from scipy import ndimage

    height, width = picture.shape
    scale = min(1.0, LOOKED_AT / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    small = np.asarray(PIL.Image.fromarray(picture).resize(size, PIL.Image.Resampling.BOX), dtype=np.float64)
    low, high = np.percentile(small, [0.5, 99.5])
    parts, count = ndimage.label(small > low + BACKGROUND * (high - low))
    inside = np.ones(small.shape, dtype=bool)
    if count:
        inside = ndimage.binary_fill_holes(parts == 1 + int(np.bincount(parts.ravel())[1:].argmax()))
    rows, columns = ndimage.find_objects(inside.astype(np.uint8))[0]
    down, across = height / small.shape[0], width / small.shape[1]
    top, bottom = math.floor(rows.start * down), math.ceil(rows.stop * down)
    left, right = math.floor(columns.start * across), math.ceil(columns.stop * across)
    cut = picture[top:bottom, left:right].astype(np.float64)
    mask = PIL.Image.fromarray(inside[rows, columns]).resize(cut.shape[::-1], PIL.Image.Resampling.NEAREST)
    low, high = np.percentile(small[inside], RANGE)
    stretched = np.clip((cut - low) / max(high - low, 1.0), 0.0, 1.0)
    return np.asarray(stretched * np.asarray(mask), dtype=np.float64)


T = TypeVar("T")

FLAKY = frozenset((errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EAGAIN, errno.EBUSY))
"""failures that may pass; that a file is not there or may not be read does not"""
PAUSES = (0.1, 0.4, 1.6)
"""seconds before each further try"""


def patiently(read: Callable[[], T], pause: Callable[[float], None] = time.sleep) -> T:
    """What `read` returns. A failure of FLAKY is tried again after each of PAUSES; raises the last one."""
    for seconds in PAUSES:
        try:
            return read()
        except OSError as error:
            if error.errno not in FLAKY:
                raise
        pause(seconds)
    return read()
