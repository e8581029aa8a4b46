"""Decode files that claim far more pixels than they hold: a program of its own, so that its memory can be limited.

    python tests/images/bomb_decoding.py MEGABYTES bombs
    python tests/images/bomb_decoding.py MEGABYTES largest

Allows itself so much more memory than it has after its imports, decodes every bomb (or the largest pictures that are
allowed), and prints one JSON object: what was said of each, and the peak of memory above the start in megabytes. Every
bomb claims 4 GB or more.
"""

import io
import json
import multiprocessing
import resource
import struct
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
import PIL.Image
from drawn_files import (
    BIG,
    DEFLATED,
    DEFLATED_FRAMES,
    EXPLICIT,
    HTJ2K,
    JPEG_2000,
    JPEG_LOSSLESS,
    JPEG_LS,
    RLE,
    dicom,
    encoded,
    saved,
)
from peak_memory import peak_megabytes

from harness.config.data import Decode
from harness.errors import Unreadable
from harness.images.decode import decode_bytes
from harness.images.dicom import dicom_header
from harness.images.raster import MAX_PIXELS

SMALL = np.arange(256, dtype=np.uint8).reshape(16, 16)
HUGE = 65_000
ZEROS = 4_300_000_000
"""bytes that some bombs inflate to"""


def bombs() -> Iterator[tuple[str, bytes]]:
    image = PIL.Image.fromarray(SMALL)
    size, large = struct.pack(">II", 16, 16), struct.pack(">II", HUGE, HUGE)
    header = saved(image, "PNG")[12:29].replace(size, large)
    png = saved(image, "PNG")
    yield "size.png", png[:12] + header + struct.pack(">I", zlib.crc32(header)) + png[33:]
    yield "text.png", png[:33] + chunk(b"zTXt", b"Comment\0\0" + deflated(100_000_000, zlib.MAX_WBITS)) + png[33:]
    yield "size.bmp", patched(saved(image, "BMP"), 18, struct.pack("<ii", HUGE, HUGE))
    yield "size.gif", patched(saved(image, "GIF"), 6, struct.pack("<HH", HUGE, HUGE))
    tiff = saved(image, "TIFF")
    for tag in (256, 257):
        at = tiff.index(struct.pack("<HH", tag, 4 if struct.pack("<HH", tag, 4) in tiff else 3))
        tiff = patched(tiff, at + 2, struct.pack("<HII", 4, 1, HUGE))
    yield "size.tif", tiff
    jpeg = saved(image, "JPEG")
    yield "size.jpg", patched(jpeg, jpeg.index(b"\xff\xc0") + 5, struct.pack(">HH", HUGE, HUGE))
    jp2 = saved(image, "JPEG2000")
    at = jp2.index(b"\xff\x51") + 6
    yield "codestream.jp2", patched(jp2, at, large)
    yield "size.pgm", b"P5 65000 65000 255\n" + b"\0" * 100
    webp = saved(image.convert("RGB"), "WEBP", lossless=True)
    yield "size.webp", patched(webp, webp.index(b"VP8L") + 9, struct.pack("<I", (16_383 << 14) | 16_383))

    yield "rows.dcm", dicom(SMALL, EXPLICIT, Rows=HUGE, Columns=HUGE)
    yield "big_endian.dcm", dicom(SMALL, BIG, Rows=HUGE, Columns=HUGE)
    yield "runs.dcm", dicom(SMALL, RLE, Rows=HUGE, Columns=HUGE)
    many = dicom(SMALL, RLE, NumberOfFrames=2**31 - 1)
    yield "frames.dcm", many
    plain = dicom(SMALL, DEFLATED)
    start = 144 + int.from_bytes(plain[140:144], "little")
    much = deflated(ZEROS, -zlib.MAX_WBITS)
    yield "deflated.dcm", plain[:start] + much
    yield "deflated_bare.dcm", plain[132:start] + much
    yield "deflated_lie.dcm", plain[:140] + struct.pack("<I", 10) + plain[144:start] + much
    note = struct.pack("<HH2sHI", 2, 0x0102, b"OB", 0, 100_000) + bytes(100_000)
    uid = plain.index(struct.pack("<HH", 2, 0x0010))
    yield "deflated_late.dcm", plain[:uid] + note + plain[uid:start] + much
    yield "deflated_frame.dcm", dicom(SMALL, DEFLATED_FRAMES, compressed=[much])
    for uid in (JPEG_LOSSLESS, JPEG_LS):
        frame = encoded(SMALL, uid)
        at = next(frame.index(mark) for mark in (b"\xff\xc3", b"\xff\xf7") if mark in frame) + 5
        yield f"{uid}.dcm", dicom(SMALL, uid, compressed=[patched(frame, at, struct.pack(">HH", HUGE, HUGE))])
    for uid in (JPEG_2000, HTJ2K):
        frame = encoded(SMALL, uid)
        at = frame.index(b"\xff\x51") + 6
        yield f"{uid}.dcm", dicom(SMALL, uid, compressed=[patched(frame, at, large)])


def largest() -> Iterator[tuple[str, bytes]]:
    """Pictures of almost as many pixels as are allowed, in files of a few hundred kilobytes."""
    side = int(MAX_PIXELS**0.5)
    for mode, kind in (("1", "PNG"), ("RGBA", "PNG"), ("I;16", "PNG"), ("F", "TIFF")):
        options = {"compression": "tiff_deflate"} if kind == "TIFF" else {"compress_level": 1}
        yield f"{mode}.{kind.lower()}", saved(PIL.Image.new(mode, (side, side)), kind, **options)
    zeros = np.zeros((side, side), np.uint16)
    for uid in (DEFLATED, JPEG_LS, JPEG_2000):
        yield f"{uid}.dcm", dicom(zeros, uid)


def deflated(count: int, bits: int) -> bytes:
    """A deflate stream of so many zeros; blocks that know nothing of each other are made once and repeated."""
    squeezer = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
    block = squeezer.compress(bytes(10_000_000)) + squeezer.flush(zlib.Z_FULL_FLUSH)
    raw = block * (count // 10_000_000) + squeezer.flush()
    return raw if bits < 0 else b"\x78\x9c" + raw


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def patched(data: bytes, at: int, new: bytes) -> bytes:
    return data[:at] + new + data[at + len(new) :]


def outcome(data: bytes, suffix: str) -> str:
    try:
        if suffix == ".dcm":
            with suppress(Unreadable):
                dicom_header(io.BytesIO(data))
        decode_bytes(data, suffix, Decode(size=16))
    except Unreadable as error:
        return error.reason
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "decoded"


def drawn_elsewhere(draw: Callable[[], Iterable[tuple[str, bytes]]]) -> list[tuple[str, bytes]]:
    with ProcessPoolExecutor(1, multiprocessing.get_context("fork")) as pool:
        return pool.submit(list_of, draw).result()


def list_of(draw: Callable[[], Iterable[tuple[str, bytes]]]) -> list[tuple[str, bytes]]:
    return list(draw())


def main(megabytes: int, which: str) -> None:
    decode_bytes(dicom(SMALL, EXPLICIT), ".dcm", Decode(size=16))  # what is imported late is imported now
    # The largest are drawn by another process, whose memory is not counted here.
    made = list(bombs()) if which == "bombs" else drawn_elsewhere(largest)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + megabytes * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    before = peak_megabytes()
    said: dict[str, str] = {}
    for name, data in made:
        said[name] = outcome(data, Path(name).suffix)
    grown = peak_megabytes() - before
    print(json.dumps({"said": said, "grown_mb": grown, "bytes": {name: len(data) for name, data in made}}))


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
