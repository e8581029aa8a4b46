"""Pictures that are not DICOM (PNG, JPEG, TIFF, BMP, WebP, GIF...) as 8-bit arrays, through Pillow.

The rules, so that one picture gives one array whatever its file: 1-bit is 0 or 255; alpha (and a transparent colour)
is composited on black; palettes become RGB; CMYK, YCbCr, HSV and LAB become RGB; 16-bit grey is scaled from the full
range that the file declares (65535, or what TIFF's BitsPerSample says) to 0..255, and turned where TIFF calls 0
white; wider integers and floating point are scaled from the smallest of these ranges that holds every value: 0..1
(floating point only), 0..255, 0..65535, and else from the range of the values present; EXIF orientation is applied;
of several frames the first is read. Pillow itself reads 16-bit RGB as 8-bit. Only the formats named here are tried:
Pillow would start other programs for some. Knows nothing of sizes, labels or DICOM.
"""

import io
import warnings
from typing import BinaryIO, NamedTuple

import numpy as np
import PIL.Image
import PIL.ImageCms
import PIL.ImageOps
from numpy.typing import NDArray

from harness.errors import Unreadable
from harness.images.intensity import bytes_of_range

MAX_PIXELS = 89_478_485
"""Pillow's own limit, from which it warns; here it refuses"""
FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "WEBP", "GIF", "PPM", "JPEG2000")
SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp", ".gif", ".pgm", ".ppm", ".pnm", ".jp2")

# Pillow warns up to twice the limit: an error instead, so that nothing that large is ever decoded.
warnings.filterwarnings("error", category=PIL.Image.DecompressionBombWarning)


def read_raster(data: bytes) -> NDArray[np.uint8]:
    """A picture file's bytes as (H, W) or (H, W, 3) uint8. Raises Unreadable for everything that is wrong with it."""
    return np.asarray(read_picture(data))


def read_picture(data: bytes) -> PIL.Image.Image:
    """A picture file's bytes as Pillow's image of mode L or RGB: most files are that already, and nothing is copied.

    Raises Unreadable for everything that is wrong with it: unknown format, truncation, bad checksum, bomb.
    """
    image = _open(data)
    try:
        if image.format == "PNG":
            _open(data).verify()  # Pillow decodes without looking at checksums of image data
        image.load()
        declared = _declared(image)
        image = _upright(image)
        if image.mode in ("L", "RGB") and "transparency" not in image.info:
            return image
        return PIL.Image.fromarray(_to_8_bits(image, declared))
    except (Unreadable, MemoryError):
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
        image = PIL.Image.open(io.BytesIO(data) if isinstance(data, bytes) else data, formats=FORMATS)
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
        if image.getexif().get(0x0112, 1) == 1:
            return image
        return PIL.ImageOps.exif_transpose(image)
    except Exception:  # a damaged EXIF block says nothing about the pixels
        return image


class _Declared(NamedTuple):
    """What a file says of its numbers. Asked of the image as opened: copies of it have forgotten."""

    bits: int
    """of 16-bit grey"""
    zero_is_white: bool
    """TIFF's PhotometricInterpretation, which Pillow heeds for up to 8 bits only"""
    sixteen_bits: bool
    """whether 32-bit integers hold a 16-bit picture"""


def _declared(image: PIL.Image.Image) -> _Declared:
    tags = getattr(image, "tag_v2", None) or {}
    bits = tags.get(258)
    return _Declared(
        bits=int(bits[0]) if bits and 8 < bits[0] <= 16 else 16,
        zero_is_white=tags.get(262) == 0,
        sixteen_bits=image.format in ("PNG", "PPM"),
    )


def _to_8_bits(image: PIL.Image.Image, declared: _Declared) -> NDArray[np.uint8]:
    mode = image.mode
    if mode in ("L", "RGB"):
        clear = image.info["transparency"]
        if isinstance(clear, tuple) and max(clear) > 255:  # of 16-bit RGB, which Pillow has cut to 8
            image.info["transparency"] = tuple(value >> 8 for value in clear)
        image = image.convert("RGBA")
    elif mode == "1":
        return np.asarray(image.convert("L"))
    elif mode.startswith("I;16"):
        grey = bytes_of_range(np.asarray(image), 0, 2.0**declared.bits - 1)
        return _on_black(255 - grey if declared.zero_is_white else grey, image)
    elif mode in ("I", "F"):
        values = np.asarray(image)
        if mode == "F" and not np.isfinite(values).all():
            raise Unreadable("pixel values that are not numbers")
        return _on_black(bytes_of_range(values, *_range(values, declared.sixteen_bits)), image)
    elif mode == "LA":
        return _composited(np.asarray(image))[..., 0]
    elif mode in ("P", "PA", "La", "RGBa"):
        image = image.convert("RGBA")
    elif mode == "LAB":
        srgb, lab = PIL.ImageCms.createProfile("sRGB"), PIL.ImageCms.createProfile("LAB")
        converted = PIL.ImageCms.profileToProfile(image, lab, srgb, outputMode="RGB")
        return np.asarray(converted)
    if image.mode == "RGBA":
        return _composited(np.asarray(image))
    return np.asarray(image.convert("RGB"))


def _composited(colours: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(H, W, C and alpha) on black, (H, W, C); row by row, to spare memory."""
    opaque = np.empty((*colours.shape[:2], colours.shape[2] - 1), np.uint8)
    for row, line in zip(opaque, colours, strict=True):
        row[:] = (line[:, :-1].astype(np.uint16) * line[:, -1:] + 127) // 255
    return opaque


def _on_black(grey: NDArray[np.uint8], image: PIL.Image.Image) -> NDArray[np.uint8]:
    """Black where the 16-bit picture has the value that its file calls transparent."""
    clear = image.info.get("transparency")
    if isinstance(clear, int):
        grey[np.asarray(image) == clear] = 0
    return grey


def _range(values: NDArray[np.generic], sixteen_bits: bool) -> tuple[float, float]:
    """The range that 32-bit numbers are scaled from: see the top of this file."""
    low, high = float(values.min()), float(values.max())
    tops = (65535.0,) if sixteen_bits else (255.0, 65535.0)
    for top in (1.0, *tops) if values.dtype.kind == "f" else tops:
        if low >= 0 and high <= top:
            return 0.0, top
    return low, high


def _reason(error: Exception) -> str:
    """Pillow's own words, short, without the memory address it sometimes quotes."""
    if isinstance(error, PIL.UnidentifiedImageError):
        return "not an image in any known format"
    if isinstance(error, PIL.Image.DecompressionBombError | PIL.Image.DecompressionBombWarning):
        return f"more than {MAX_PIXELS} pixels: refused as a decompression bomb"
    said = str(error).split("\n")[0][:120]
    known = isinstance(error, OSError | SyntaxError | EOFError) and said
    return said if known else f"damaged file ({type(error).__name__}: {said})"
