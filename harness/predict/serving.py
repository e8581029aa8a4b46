"""Image files in memory through a bundle: what a server is asked. The same numbers as `harness predict`.

Knows no MLflow and no HTTP. A row that is no image refuses the whole request, by its number: an answer with a hole in
it would be read as an answer.
"""

import base64
import re
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from harness.ensemble.bundle import Bundle
from harness.errors import RequestError, Unreadable
from harness.images.decode import decode_bytes
from harness.images.pixels import Pixels, gather
from harness.predict.outputs import rows_of
from harness.predict.predict import Prediction, answer, joined, outputs_of_part, read_doubts, views
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
        size = sum(path.stat().st_size for member in bundle.weights for path in member)
        self._bundle = replace(bundle, load=lru_cache(maxsize=None)(load_fold)) if size <= KEPT_BYTES else bundle
        self._doubts, self._device = read_doubts(bundle), device

    def answer(self, images: list[Any], raw: bool = False, decide: str = "", tta: int = 1) -> list[dict[str, Any]]:
        """What `harness predict --json` says of each image file, but for its name; files as bytes or as base64.

        `raw`, `decide` ('': as the bundle decides) and `tta` as its options. Raises RequestError that names the row
        where one is no image.
        """
        bundle = self._bundle
        seen = views(bundle.about.get("augment") or {}, tta)
        step = max(1, BATCH_BYTES // sum(how.side**2 * how.channels for how in bundle.decodes))
        parts = []
        for start in range(0, len(images), step):
            rows = range(start, min(start + step, len(images)))
            pixels = self._decoded([(row, images[row]) for row in rows])
            parts.append(outputs_of_part(bundle, pixels, seen, self._doubts.reference, self._device, lambda _: None))
        answers = answer(bundle, joined(parts, len(bundle.classes)), self._doubts, raw, decide or None, None)
        said = rows_of(Prediction(bundle.classes, [Path()] * len(images), answers, []))
        return [{key: value for key, value in row.items() if key != "file"} for row in said]

    def _decoded(self, images: list[tuple[int, Any]]) -> list[Pixels]:
        """The images once for each of the bundle's decodings."""
        decoded = [self._decoded_one(row, image) for row, image in images]
        pixels: list[Pixels] = []
        for number, how in enumerate(self._bundle.decodes):
            own = [each[number] for each in decoded]
            pixels.append(gather(own, how.channels) if how.size == "native" else np.stack(own))
        return pixels

    def _decoded_one(self, row: int, image: Any) -> list[Any]:
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
