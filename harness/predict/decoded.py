"""Images decoded in threads, a part ahead of the networks, so that memory is bounded and nobody waits for the other.

n: images of a part.
"""

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from harness.config.data import Decode
from harness.errors import Unreadable
from harness.hardware import usable_cores
from harness.images.decode import decode_bytes, read_file
from harness.images.pixels import Pixels, gather
from harness.types import Progress

PART_BYTES = 128 * 2**20
"""decoded images of a part; two parts are held at a time"""

Decoded = list[NDArray[np.uint8]] | str
"""the image once for each decoding, or the reason why there is none"""


@dataclass(frozen=True)
class DecodedPart:
    places: list[int]
    """(n,) which of the files these are"""
    pixels: list[Pixels]
    """the n images, once for each decoding"""
    problems: list[tuple[int, str]]
    """files that could not be read, each with its reason"""
    waited: float
    """seconds that the networks waited for this part"""


def decoded(
    files: Sequence[Path], decodes: Sequence[Decode], progress: Progress | None = None
) -> Iterator[DecodedPart]:
    """The files in parts of about PART_BYTES, in their order; the next part is decoded while the caller has this one.

    A file is read once, whatever the number of decodings.
    """
    step = part_length(decodes)
    with ThreadPoolExecutor(usable_cores(), thread_name_prefix="decode") as pool:
        ahead: list[Future[Decoded]] = []
        try:
            ahead = [pool.submit(_decode, file, decodes) for file in files[:step]]
            for start in range(0, len(files), step):
                current, begun = ahead, time.perf_counter()
                read: list[Decoded] = []
                for number, one in enumerate(current, start=1):
                    read.append(one.result())
                    if progress and (start == 0 or number == len(current)):
                        progress("reading images", start + number, len(files))
                waited = time.perf_counter() - begun
                ahead = [pool.submit(_decode, file, decodes) for file in files[start + step : start + 2 * step]]
                current.clear()
                yield _part(start, read, decodes, waited)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def part_length(decodes: Sequence[Decode]) -> int:
    """Images of a part. Images of their own sizes are counted as the largest that they can be."""
    sides = [how.longest if how.size == "native" else how.size for how in decodes]
    return max(1, PART_BYTES // sum(side**2 * how.channels for side, how in zip(sides, decodes, strict=True)))


def _decode(file: Path, decodes: Sequence[Decode]) -> Decoded:
    try:
        data = read_file(file)
        return [decode_bytes(data, file.suffix, how) for how in decodes]
    except Unreadable as error:
        return error.reason


def _part(start: int, read: list[Decoded], decodes: Sequence[Decode], waited: float) -> DecodedPart:
    places = [start + at for at, one in enumerate(read) if not isinstance(one, str)]
    images = [one for one in read if not isinstance(one, str)]
    pixels: list[Pixels] = []
    for number, how in enumerate(decodes):
        own = [one[number] for one in images]
        if how.size == "native":
            pixels.append(gather(own, how.channels))
        else:
            pixels.append(np.stack(own) if own else np.empty((0, how.size, how.size, how.channels), np.uint8))
    return DecodedPart(
        places, pixels, [(start + at, one) for at, one in enumerate(read) if isinstance(one, str)], waited
    )
