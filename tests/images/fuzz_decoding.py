"""Damage files at random and decode them: a program of its own, so that a test can bound its memory and its time.

    python tests/images/fuzz_decoding.py COUNT SEED MOST_BYTES FOLDER...

Starts from every file under the folders that has at most MOST_BYTES, cuts it off, flips bits or both, and decodes.
Prints one JSON object: how many were decoded and refused, every other exception, every cut that shows another picture
than the whole file, and the peak of memory. The name of the file in work goes to standard error first, so that a crash
says whose it was.
"""

import hashlib
import json
import random
import sys
import traceback
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from peak_memory import peak_megabytes

from harness.config.data import Decode
from harness.errors import Unreadable
from harness.images.decode import decode_bytes

HOW = Decode(size=16, channels=3)


def shown(data: bytes, suffix: str) -> NDArray[np.uint8] | None:
    """None where the file is refused."""
    try:
        return decode_bytes(data, suffix, HOW)
    except Unreadable:
        return None


def damaged(data: bytes, draw: random.Random) -> tuple[bytes, bool]:
    """(the damaged file, whether it is only cut off); half of the flips are where headers are."""
    kind = draw.choice(("cut", "flip", "flip", "both"))
    harmed = bytearray(data)
    if kind != "flip":
        harmed = harmed[: draw.randrange(len(harmed))]
    if kind != "cut" and harmed:
        for _ in range(draw.choice((1, 1, 2, 8))):
            reach = len(harmed) if draw.random() < 0.5 else min(len(harmed), 2000)
            harmed[draw.randrange(reach)] ^= 1 << draw.randrange(8)
    return bytes(harmed), kind == "cut"


def main(count: int, seed: int, most_bytes: int, folders: list[str]) -> None:
    paths = sorted(path for folder in folders for path in Path(folder).rglob("*") if path.is_file())
    paths = [path for path in paths if 0 < path.stat().st_size <= most_bytes]
    whole = {path: shown(path.read_bytes(), path.suffix) for path in paths}
    crashes: list[str] = []
    wrong: list[str] = []
    decoded = 0
    for number in range(count):
        path = paths[number % len(paths)]
        digest = hashlib.blake2b(f"{seed}/{number}".encode(), digest_size=8).digest()
        print(path.name, number, file=sys.stderr, flush=True)
        data, only_cut = damaged(path.read_bytes(), random.Random(digest))
        try:
            picture = shown(data, path.suffix)
        except Exception as error:
            frames = "".join(traceback.format_tb(error.__traceback__)[-2:])
            crashes.append(f"{path.name} {number}: {type(error).__name__}: {error} {frames}")
            continue
        decoded += picture is not None
        if only_cut and picture is not None and (whole[path] is None or not np.array_equal(picture, whole[path])):
            wrong.append(f"{path.name} {number} cut to {len(data)} of {path.stat().st_size} bytes")
    peak = peak_megabytes()
    print(
        json.dumps(
            {
                "sources": len(paths),
                "damaged": count,
                "decoded": decoded,
                "refused": count - decoded - len(crashes),
                "crashes": crashes,
                "wrong": wrong,
                "peak_mb": peak,
            }
        )
    )


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:])
