"""Image files in memory through a bundle: what a server is asked. The same numbers as `harness predict`.

Knows no MLflow and no HTTP. A row that is no image refuses the whole request, by its number: an answer with a hole in
it would be read as an answer.
"""

import base64
import re
from functools import lru_cache
from typing import Any

import numpy as np

from harness.data.decode import Unreadable, decode_bytes
from harness.ensemble.bundle import Bundle, outputs_of_bundle
from harness.errors import RequestError
from harness.ragged import Pixels, gather
from harness.train.checkpoint import load_fold

LARGEST_FILE = 256 * 2**20
"""bytes of one image file: a large uncompressed multi-frame DICOM"""
BATCH_BYTES = 256 * 2**20
"""decoded images held at a time"""
KEPT_BYTES = 4 * 2**30
"""checkpoints that a server keeps in memory; a larger bundle's are read again for each request"""
BASE64 = re.compile(rb"(?:data:[\w/.+-]+;base64,)?([A-Za-z0-9+/\s]+={0,2}\s*)")


class Answerer:
    """A bundle that stays loaded."""

    def __init__(self, bundle: Bundle, device: str) -> None:
        self._bundle, self._device = bundle, device
        size = sum(path.stat().st_size for member in bundle.weights for path in member)
        self._load = lru_cache(maxsize=None)(load_fold) if size <= KEPT_BYTES else load_fold

    def answer(self, images: list[Any], raw: bool = False) -> list[dict[str, Any]]:
        """{'probabilities': {class: p}} of each image file, given as bytes or as base64. `raw`: not calibrated.

        Raises RequestError that names the row where one is no image.
        """
        bundle = self._bundle
        step = max(1, BATCH_BYTES // sum(decode.side**2 * decode.channels for decode in bundle.decodes))
        answers = []
        for start in range(0, len(images), step):
            decoded = [self._decoded(row, images[row]) for row in range(start, min(start + step, len(images)))]
            pixels: list[Pixels] = []
            for number, how in enumerate(bundle.decodes):
                own = [each[number] for each in decoded]
                pixels.append(gather(own, how.channels) if how.size == "native" else np.stack(own))
            p = outputs_of_bundle(bundle, pixels, self._device, load=self._load).probabilities
            answers += [{"probabilities": dict(zip(bundle.classes, row.tolist(), strict=True))} for row in p]
        return answers

    def _decoded(self, row: int, image: Any) -> list[Any]:
        """One array for each of the bundle's decodings."""
        try:
            data = as_bytes(image)
            return [decode_bytes(data, "", how) for how in self._bundle.decodes]
        except Unreadable as error:
            raise RequestError(
                f"row {row} is no image that can be read: {error.reason}. Send each file whole, as base64: "
                '{"dataframe_records": [{"image": "..."}]}'
            ) from error


def as_bytes(image: Any) -> bytes:
    """The bytes of a file, of its base64 text, or of a data: address. Raises Unreadable."""
    if isinstance(image, str):
        image = image.encode(errors="replace")
    if not isinstance(image, bytes | bytearray | memoryview):
        raise Unreadable(f"{type(image).__name__} instead of the bytes of a file")
    data = bytes(image)
    if not data:
        raise Unreadable("an empty file")
    if len(data) > LARGEST_FILE:
        raise Unreadable(f"{len(data) / 2**20:.0f} MB, more than the {LARGEST_FILE // 2**20} MB of a file")
    text = BASE64.fullmatch(data)
    try:
        return base64.b64decode(text[1]) if text else data
    except ValueError as error:
        raise Unreadable(f"neither a file nor base64 ({error})") from error
