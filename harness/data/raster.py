"""Pictures that are not DICOM (PNG, JPEG, TIFF, BMP, WebP, GIF...) as 8-bit arrays, through Pillow.

The rules, so that one picture gives one array whatever its file: 1-bit is 0 or 255; alpha is composited on black;
palettes become RGB; CMYK, YCbCr, HSV and LAB become RGB; 16-bit grey is scaled from the full range that the file
declares (65535, or what TIFF's BitsPerSample says) to 0..255; 32-bit integers likewise as 16-bit where they fit, and
otherwise, like floating point, from the range of the values present; EXIF orientation is applied; of several frames
the first is read. Pillow itself reads 16-bit RGB as 8-bit. Knows nothing of sizes, labels or DICOM.
"""

import io
import warnings
from typing import BinaryIO

import numpy as np
import PIL.Image
import PIL.ImageCms
import PIL.ImageOps
from numpy.typing import NDArray

from harness.data.unreadable import Unreadable

MAX_PIXELS = 89_478_485
"""Pillow's own limit, from which it warns; here it refuses"""
SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp", ".gif", ".pgm", ".ppm", ".pnm", ".jp2")

# Pillow warns up to twice the limit: an error instead, so that nothing that large is ever decoded.
warnings.filterwarnings("error", category=PIL.Image.DecompressionBombWarning)


def read_raster(data: bytes) -> NDArray[np.uint8]:
    """A picture file's bytes as (H, W) or (H, W, 3) uint8.

    Raises Unreadable for everything that is wrong with it: unknown format, truncation, bad checksum, bomb.
    """
    image = _open(data)
    try:
        if image.format == "PNG":
            _open(data).verify()  # Pillow decodes without looking at checksums of image data
        image.load()
        bits = _declared_bits(image)
        return _to_8_bits(_upright(image), bits)
    except Unreadable:
        raise
    except MemoryError:
        raise
    except Exception as error:  # Pillow raises OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error...
        raise Unreadable(_reason(error)) from None


def raster_header(file: BinaryIO) -> tuple[int, int, str, str]:
    """(width, height, mode, format) of an open file, of which no more is read than that takes. Raises Unreadable, and
    OSError where the storage fails."""
    image = _open(file)
    return image.width, image.height, image.mode, str(image.format)


def _open(data: bytes | BinaryIO) -> PIL.Image.Image:
    try:
        image = PIL.Image.open(io.BytesIO(data) if isinstance(data, bytes) else data)
        if image.width * image.height > MAX_PIXELS:
            raise Unreadable(f"more than {MAX_PIXELS} pixels: refused as a decompression bomb")
        if image.width < 1 or image.height < 1:
            raise Unreadable("an image without pixels")
        return image
    except Unreadable:
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise Unreadable(_reason(error)) from None


def _upright(image: PIL.Image.Image) -> PIL.Image.Image:
    try:
        return PIL.ImageOps.exif_transpose(image)
    except Exception:  # a damaged EXIF block says nothing about the pixels
        return image


def _to_8_bits(image: PIL.Image.Image, bits: int) -> NDArray[np.uint8]:
    """`bits`: what the file declares for 16-bit grey."""
    mode = image.mode
    if mode in ("L", "RGB"):
        if "transparency" not in image.info:
            return np.asarray(image)
        image = image.convert("RGBA")
    elif mode == "1":
        return np.asarray(image.convert("L"))
    elif mode.startswith("I;16"):
        return _scaled(np.asarray(image), 0, 2.0**bits - 1)
    elif mode in ("I", "F"):
        values = np.asarray(image)
        values = np.where(np.isfinite(values), values, 0)
        fits = mode == "I" and values.min() >= 0 and values.max() <= 65535
        return _scaled(values, *((0.0, 65535.0) if fits else (float(values.min()), float(values.max()))))
    elif mode == "LA":
        grey, alpha = (np.asarray(band, np.uint16) for band in image.split())
        return ((grey * alpha + 127) // 255).astype(np.uint8)
    elif mode in ("P", "PA", "La", "RGBa"):
        image = image.convert("RGBA")
    elif mode == "LAB":
        srgb, lab = PIL.ImageCms.createProfile("sRGB"), PIL.ImageCms.createProfile("LAB")
        converted = PIL.ImageCms.profileToProfile(image, lab, srgb, outputMode="RGB")
        return np.asarray(converted)
    if image.mode == "RGBA":
        colours = np.asarray(image, np.uint16)
        return ((colours[..., :3] * colours[..., 3:] + 127) // 255).astype(np.uint8)
    return np.asarray(image.convert("RGB"))


def _declared_bits(image: PIL.Image.Image) -> int:
    """Asked of the image as opened: copies of it have forgotten."""
    tags = getattr(image, "tag_v2", None)
    bits = tags.get(258) if tags is not None else None
    return int(bits[0]) if bits and 8 < bits[0] <= 16 else 16


def _scaled(values: NDArray[np.generic], low: float, high: float) -> NDArray[np.uint8]:
    if not high > low:
        return np.zeros(values.shape, np.uint8)
    return np.round(np.clip((values.astype(np.float64) - low) / (high - low), 0, 1) * 255).astype(np.uint8)


def _reason(error: Exception) -> str:
    """Pillow's own words, short, without the memory address it sometimes quotes."""
    if isinstance(error, PIL.UnidentifiedImageError):
        return "not an image in any known format"
    if isinstance(error, PIL.Image.DecompressionBombError | PIL.Image.DecompressionBombWarning):
        return f"more than {MAX_PIXELS} pixels: refused as a decompression bomb"
    said = str(error).split("\n")[0][:120]
    known = isinstance(error, OSError | SyntaxError | EOFError) and said
    return said if known else f"damaged file ({type(error).__name__}: {said})"
