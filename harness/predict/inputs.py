"""Files, folders, lists and series, decoded a part ahead.

Which images are meant by what was typed: files, folders, lists in CSV files, names on standard input, DICOM series.

Opens no image but for the first bytes of files without a known suffix, and DICOM headers where series are asked for.

Images decoded in threads, a part ahead of the networks, so that memory is bounded and nobody waits for the other.

n: images of a part.
"""

import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from harness.config.data import Decode
from harness.data.sources import read_table
from harness.errors import RequestError, Unreadable, nearest
from harness.hardware import usable_cores
from harness.images.decode import IMAGE_SUFFIXES, decode_bytes, read_file
from harness.images.headers import Slice, in_series
from harness.images.npz import archive_of
from harness.images.pixels import Pixels, gather
from harness.types import Progress

LISTS = (".csv", ".tsv")
COLUMNS = ("file", "path", "image", "filename", "filepath", "file_path", "image_path", "file_name", "dicom")
"""names of the column that holds the images of a list, the first that is there; capitals do not matter"""
STDIN = Path("-")


def find_images(paths: Sequence[Path], lines: Iterable[str] | None = None) -> list[Path]:
    """The files meant by `paths`, each once, in their order; folders in the order of their files' paths.

    A CSV file is a list: one of its columns is called `file` (or another of COLUMNS) and holds paths from the list's
    own folder. What a list or standard input names and is not there is found out when it is read, so that one missing
    file does not stop the others. `lines`: standard input, for `-`. Raises RequestError for a path that is not there,
    a folder without images, a list without such a column.
    """
    found: dict[Path, None] = {}
    for path in paths:
        if path == STDIN:
            names = (line.strip("\r\n") for line in (sys.stdin if lines is None else lines))
            found.update(dict.fromkeys(Path(name) for name in names if name.strip()))
        elif path.is_dir():
            found.update(dict.fromkeys(_inside(path)))
        elif path.suffix.lower() in LISTS and path.is_file():
            found.update(dict.fromkeys(_listed(path)))
        elif path.is_file() or archive_of(path) is not None:
            found[path] = None
        else:
            raise RequestError(
                f"{path}: no such file or folder. Give image files, a folder that holds some, or a CSV file with a "
                "column `file`."
            )
    if not found:
        raise RequestError("no image was given: harness predict BUNDLE PATH...")
    return list(found)


def with_series(paths: Sequence[Path]) -> list[Slice]:
    """The files with the number of their DICOM series, slices in order. Raises RequestError where none has one."""
    found = in_series(paths)
    if not any(one.series for one in found):
        raise RequestError(
            f"--per series: none of the {len(paths)} files is a DICOM file that names its series. "
            "Leave --per away for one row per image."
        )
    return found


def _inside(folder: Path) -> list[Path]:
    inside = sorted(file for file in folder.rglob("*") if file.is_file() and _is_image(file))
    if not inside:
        raise RequestError(
            f"{folder}: no image in this folder or below it (looked for DICOM files and "
            f"{' '.join(sorted(IMAGE_SUFFIXES))}). Other files are tried when they are named one by one."
        )
    return inside


def _is_image(path: Path) -> bool:
    """By its name, or a DICOM file by its preamble: scanners write those without a suffix."""
    if path.suffix.lower() in IMAGE_SUFFIXES:
        return True
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


def _listed(path: Path) -> list[Path]:
    """The images of a list: paths from its own folder, or whole ones."""
    names, rows, _ = read_table(path)
    lowered = [name.lower() for name in names]
    column = next((lowered.index(name) for name in COLUMNS if name in lowered), None)
    if column is None:
        near = next((hint for name in lowered if (hint := nearest(name, COLUMNS))), "")
        raise RequestError(
            f"{path}: no column of this list says where the images are (its columns: {', '.join(names)}).{near} "
            "Call that column `file`."
        )
    found = [path.parent / row[column] for row in rows if row[column]]
    if not found:
        raise RequestError(f"{path}: the column {names[column]!r} of this list is empty.")
    return found


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
