"""Compressed DICOM frames that pydicom's own plug-ins do not read, and the size that a compressed frame itself claims.

JPEG Lossless (jpegsof3), 12-bit JPEG Extended (libjpeg-turbo), High-Throughput JPEG 2000 and JPEG 2000 colour of more
than 8 bits (OpenJPEG) are decoded by imagecodecs, in the form of a pydicom decoding plug-in. GDCM was tried: damaged
JPEG Lossless ends the whole process. Knows bytes and arrays; pydicom itself stays in `dicom`.
"""

import importlib.util
import struct
import zlib
from typing import Any

from harness.errors import Unreadable

JPEG_EXTENDED = "1.2.840.10008.1.2.4.51"
JPEG_LOSSLESS = ("1.2.840.10008.1.2.4.57", "1.2.840.10008.1.2.4.70")
HTJ2K = ("1.2.840.10008.1.2.4.201", "1.2.840.10008.1.2.4.202", "1.2.840.10008.1.2.4.203")
JPEG_FAMILY = ("1.2.840.10008.1.2.4.50", JPEG_EXTENDED, *JPEG_LOSSLESS)
JPEG_LS = ("1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.81")
JPEG_2000 = ("1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.91", *HTJ2K)
RLE = "1.2.840.10008.1.2.5"
DEFLATED_FRAMES = "1.2.840.10008.1.2.8.1"
"""Deflated Image Frame Compression (PS3.5 A.4.13), used for segmentations"""

DECODER_DEPENDENCIES = dict.fromkeys((JPEG_EXTENDED, *JPEG_LOSSLESS, *JPEG_2000), ("imagecodecs",))
"""read by pydicom: which transfer syntaxes this plug-in is for"""


def is_available(uid: str) -> bool:
    """Asked by pydicom when the plug-in is added."""
    return uid in DECODER_DEPENDENCIES and importlib.util.find_spec("imagecodecs") is not None


def readable() -> dict[str, bool]:
    """Which kinds of compressed frames can be read here. Raises ImportError where a codec does not even load."""
    import imagecodecs
    import jpeg_ls
    from PIL import features

    found = {
        "PNG": features.check("zlib"),
        "JPEG": features.check("jpg"),
        "JPEG 12-bit": imagecodecs.JPEG8.available,
        "JPEG lossless": imagecodecs.JPEGSOF3.available,
        "JPEG 2000": imagecodecs.JPEG2K.available,
        "JPEG-LS": hasattr(jpeg_ls, "decode"),
    }
    return {name: bool(there) for name, there in found.items()}


def decode_frame(source: bytes, runner: Any) -> bytes:
    """One frame's samples, colour by pixel, little endian, in the frame's own colour space; called by pydicom.

    `runner` is pydicom's DecodeRunner: what the header says, and what it should be told of the result.
    """
    import imagecodecs

    if runner.transfer_syntax in JPEG_2000:
        decoded = imagecodecs.jpeg2k_decode(source)
        if runner.photometric_interpretation in ("YBR_ICT", "YBR_RCT"):
            runner.set_option("photometric_interpretation", "RGB")
    elif runner.transfer_syntax in JPEG_LOSSLESS:
        decoded = imagecodecs.jpegsof3_decode(source)  # libjpeg-turbo, by imagecodecs, shows YBR wrong without a word
    elif not source.rstrip(b"\0\xff").endswith(b"\xff\xd9"):
        raise Unreadable("a JPEG frame that is cut off")  # libjpeg-turbo would fill what is missing with grey
    elif runner.samples_per_pixel == 3:  # the same space in and out: the header says which it is, not a JFIF marker
        decoded = imagecodecs.jpeg8_decode(source, colorspace="RGB", outcolorspace="RGB")
    else:
        decoded = imagecodecs.jpeg8_decode(source)
    runner.set_option("planar_configuration", 0)
    runner.set_option("bits_allocated", 8 * decoded.dtype.itemsize)
    return bytes(decoded.astype(decoded.dtype.newbyteorder("<")).tobytes())


def claimed_size(frame: bytes, uid: str) -> tuple[int, int, int] | None:
    """(rows, columns, samples) as the compressed frame itself claims; None for a syntax whose frames do not say.

    Decoders allocate what the frame claims, whatever the header says. Raises Unreadable where no size can be found.
    """
    if uid in JPEG_2000:
        at = frame.find(b"\xff\x4f\xff\x51")
        if at < 0 or len(frame) < at + 42:
            raise Unreadable("compressed pixel data that does not say its size")
        right, bottom, left, top = struct.unpack_from(">4I", frame, at + 8)
        return bottom - top, right - left, struct.unpack_from(">H", frame, at + 40)[0]
    if uid in JPEG_FAMILY or uid in JPEG_LS:
        return _jpeg_size(frame)
    return None


def _jpeg_size(frame: bytes) -> tuple[int, int, int]:
    """From the first start-of-frame segment (ITU-T T.81 B.2.2; T.87 C.2.2 for JPEG-LS)."""
    at = 2
    while at + 10 <= len(frame):
        if frame[at] != 0xFF:
            break
        marker = frame[at + 1]
        if marker == 0xFF:  # a fill byte
            at += 1
            continue
        if (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)) or marker == 0xF7:
            rows, columns, samples = struct.unpack_from(">HHB", frame, at + 5)
            return rows, columns, samples
        at += 2 + int(struct.unpack_from(">H", frame, at + 2)[0])
    raise Unreadable("compressed pixel data that does not say its size")


def inflate(data: bytes, most: int) -> bytes:
    """A raw deflate stream's contents. Raises Unreadable beyond `most` bytes and where the stream is cut off."""
    stream = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        plain = stream.decompress(data, most)
        if not stream.eof and not stream.unconsumed_tail:
            plain += stream.flush()
    except zlib.error:
        raise Unreadable("damaged deflated data") from None
    if stream.unconsumed_tail:
        raise Unreadable("refused as a decompression bomb")
    if not stream.eof:
        raise Unreadable("deflated data that is cut off")
    return plain


def run_lengths(frame: bytes, length: int) -> bytes:
    """The one segment of an RLE frame (PS3.5 annex G), `length` bytes: for packed bits, which pydicom does not read."""
    import imagecodecs

    segments, start = struct.unpack_from("<II", frame)
    if segments != 1 or start < 64:
        raise Unreadable("packed bits in an RLE frame of several segments")
    plain = bytes(imagecodecs.packbits_decode(frame[start:]))
    if len(plain) < length:
        raise Unreadable("an RLE frame that is cut off")
    return plain[:length]
