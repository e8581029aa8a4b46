"""A file as the model is shown it: decoded by content, brought to a square, grey or RGB.

The same function feeds the pixel store, `predict` and `data decode`. Knows nothing of labels or caches.
"""

import hashlib
from pathlib import Path

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from harness.data import raster
from harness.data.dicom import dicom_header, is_dicom, read_dicom
from harness.data.unreadable import Unreadable as Unreadable
from harness.study.spec import Decode

VERSION = 2
"""part of every pixel store's key: raise it whenever a decoded pixel changes"""
DICOM_SUFFIXES = (".dcm", ".dicom", ".ima")
IMAGE_SUFFIXES = frozenset((*raster.SUFFIXES, *DICOM_SUFFIXES))


def decode(path: Path, how: Decode) -> NDArray[np.uint8]:
    """The file as (S, S, channels) uint8, S = how.size.

    The picture is read at full size (see `raster` and `dicom` for the rules), made grey by Rec. 601 luma or repeated
    to RGB, and resized with antialiasing (triangle filter over the area that one pixel covers): `pad` keeps the
    aspect ratio and centres it on black, `crop` fills the square and cuts the longer side evenly, `stretch` does
    neither. Raises Unreadable(reason) for anything wrong with the file.
    """
    return decode_bytes(read_file(path), path.suffix, how)


def decode_with_digest(path: Path, how: Decode) -> tuple[NDArray[np.uint8], str]:
    """What `decode` gives, and the digest of the file's contents, from one reading."""
    data = read_file(path)
    return decode_bytes(data, path.suffix, how), hashlib.blake2b(data, digest_size=16).hexdigest()


def decode_bytes(data: bytes, suffix: str, how: Decode) -> NDArray[np.uint8]:
    """`decode` for a file already in memory; `suffix` breaks the tie for DICOM without a preamble."""
    picture = read_dicom(data, how.window, how.frame) if _is_dicom(data, suffix) else raster.read_picture(data)
    return to_square(picture, how)


def header(path: Path) -> tuple[int, int, str, str]:
    """(width, height, mode, format) from the file's header alone. Raises Unreadable."""
    data = read_file(path)
    if _is_dicom(data, path.suffix):
        return *dicom_header(data), "DICOM"
    return raster.raster_header(data)


def read_file(path: Path) -> bytes:
    """The file's bytes. Raises Unreadable."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise Unreadable(f"cannot be opened: {error.strerror or type(error).__name__}") from None
    if not data:
        raise Unreadable("an empty file")
    return data


def to_square(picture: NDArray[np.uint8] | PIL.Image.Image, how: Decode) -> NDArray[np.uint8]:
    """(H, W) or (H, W, 3) uint8, or an image of mode L or RGB, to (S, S, channels)."""
    image = picture if isinstance(picture, PIL.Image.Image) else PIL.Image.fromarray(picture)
    if how.channels == 1 and image.mode != "L":
        image = image.convert("L")
    side, (width, height) = how.size, image.size
    box = None
    target = (side, side)
    if how.fit == "crop":
        edge = min(width, height)
        box = ((width - edge) / 2, (height - edge) / 2, (width + edge) / 2, (height + edge) / 2)
    elif how.fit == "pad":
        longer = max(width, height)
        target = (max(1, round(width * side / longer)), max(1, round(height * side / longer)))
    if box is not None or target != image.size:
        image = image.resize(target, PIL.Image.Resampling.BILINEAR, box=box)
    if image.size != (side, side):
        square = PIL.Image.new(image.mode, (side, side))
        square.paste(image, ((side - target[0]) // 2, (side - target[1]) // 2))
        image = square
    if how.channels == 3 and image.mode != "RGB":
        image = image.convert("RGB")
    return np.array(image, dtype=np.uint8).reshape(side, side, how.channels)


def _is_dicom(data: bytes, suffix: str) -> bool:
    return is_dicom(data) or suffix.lower() in DICOM_SUFFIXES
