"""What the headers of image files say: size, mode, DICOM attributes, and the order of slices.

What the headers of image files say (size, mode, format, DICOM attributes), read once and kept until a file changes.

Kept for each root in the home: one row per file with the size and time it had. Decodes nothing. Identifying attributes
leave the reading as salted hashes, so that what is kept names no patient.

Which DICOM files are slices of one series, and in which order they lie in the body.

A series is told by its SeriesInstanceUID, which leaves this file only as a number: series 1 is the one whose file came
first. Works on headers; decodes nothing, and does not import pydicom.
"""

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from harness.errors import Unreadable, cannot_open
from harness.hardware import usable_cores
from harness.images.decode import looks_like_dicom, patiently
from harness.images.dicom import IDENTIFYING, TECHNICAL, dicom_header, open_header
from harness.images.npz import archive_of, is_archive, shape_of
from harness.images.raster import raster_header
from harness.store.files import is_done, mark_used, new_folder
from harness.store.home import Home, lock
from harness.types import Progress

VERSION = 1
"""part of the key of what is kept: raise it whenever a header is read differently"""
DICOM = "dicom."
FACTS = ("width", "height", "mode", "format")
TECHNICAL_COLUMNS = tuple(DICOM + name for name in TECHNICAL)
IDENTIFYING_COLUMNS = tuple(DICOM + name for name in IDENTIFYING)
ATTRIBUTES = (*TECHNICAL_COLUMNS, *IDENTIFYING_COLUMNS)
TEXT = ("mode", "format", "problem", *ATTRIBUTES)
READ = ("width", "height", *TEXT)
CHUNK = 64
Hash = Callable[[str], str]


@dataclass(frozen=True)
class Header:
    """One file's header, or why there is none."""

    width: int = 0
    height: int = 0
    mode: str = ""
    """of DICOM: the photometric interpretation"""
    format: str = ""
    problem: str = ""
    attributes: tuple[str, ...] = ("",) * (len(TECHNICAL) + len(IDENTIFYING))
    """of DICOM: TECHNICAL as written, then IDENTIFYING as hashes; '' where there is none"""


def salted(salt: str) -> Hash:
    """The keyed hash (BLAKE2b, 64 bits, hex) of a text: equal for equal texts, not reversible without `salt`."""
    key = salt.encode()[:64]
    return lambda text: hashlib.blake2b(text.encode(), key=key, digest_size=8).hexdigest()


def read_header(path: Path, hashed: Hash) -> Header:
    """Of a picture no more is read than Pillow or pydicom needs for the header; failing storage is tried again."""
    try:
        return patiently(lambda: _read(path, hashed))
    except OSError as error:
        return Header(problem=cannot_open(error).reason)
    except Unreadable as error:
        return Header(problem=error.reason)


def _read(path: Path, hashed: Hash) -> Header:
    try:
        file = open(path, "rb")  # noqa: SIM115
    except NotADirectoryError:
        if archive_of(path) is None:
            raise
        height, width, *colours = shape_of(path)
        return Header(width, height, "RGB" if colours else "L", "NPZ")
    with file:
        start = file.read(132)
        if not start:
            raise Unreadable("an empty file")
        file.seek(0)
        if not looks_like_dicom(start, path.suffix):
            return Header(*raster_header(file))
        width, height, mode, found = dicom_header(file)
    technical = tuple(found[name] for name in TECHNICAL)
    identifying = tuple(hashed(found[name]) if found[name] else "" for name in IDENTIFYING)
    return Header(width, height, mode, "DICOM", attributes=technical + identifying)


def headers_folder(root: Path, home: Home) -> Path:
    """Where the headers of the files under a root are kept. Named with the salt: another salt makes other hashes."""
    return home.pixels / f"scan-{salted(home.salt())(f'{VERSION} {root}')}"


def headers_of(root: Path, names: list[str], home: Home, progress: Progress, force: bool = False) -> pd.DataFrame:
    """(N,) size_bytes (-1 where there is no file), mtime_ns, FACTS, problem of N files, and ATTRIBUTES where one of
    them is DICOM.

    Only files whose size or time is not what it was when they were last read are opened, and those that could not be
    read; with `force` all of them.
    """
    sizes, times = _look(root, names)
    folder = headers_folder(root, home)
    known = None if force else _kept(folder)
    found = pd.DataFrame({"id": names, "size_bytes": sizes, "mtime_ns": times})
    there = (found["size_bytes"] >= 0).to_numpy()
    if known is not None and not (there & ~_same(found, known)).any():
        mark_used(folder)
        return _table(found, known)
    with lock(folder.with_suffix(".lock"), "the scan of this data set", wait_seconds=6 * 3600):
        known = None if force else _kept(folder)  # another process may have read them meanwhile
        missing = np.flatnonzero(there & ~_same(found, known))
        new = _read_all(root, found.iloc[missing], salted(home.salt()), progress)
        if known is not None:
            old = known["id"].isin(new["id"])
            if old.sum() == len(new) and (new["problem"] != "").all() and len(known[old].merge(new)) == len(new):
                mark_used(folder)
                return _table(found, known)  # what could not be read still cannot
            new = pd.concat([known[~old], new], ignore_index=True)
        with new_folder(folder) as kept:
            new.to_parquet(kept / "headers.parquet")
    return _table(found, new)


def _look(root: Path, names: list[str]) -> tuple[list[int], list[int]]:
    if is_archive(root):  # its size and time are those of every image inside
        facts = root.stat()
        return [facts.st_size] * len(names), [facts.st_mtime_ns] * len(names)
    sizes, times = [], []
    for name in names:
        try:
            facts = os.stat(f"{root}/{name}")
            sizes.append(facts.st_size)
            times.append(facts.st_mtime_ns)
        except OSError:
            sizes.append(-1)
            times.append(0)
    return sizes, times


def _kept(folder: Path) -> pd.DataFrame | None:
    """What an earlier scan kept; None where there is none, or a crash or another process has taken it away."""
    try:
        return pd.read_parquet(folder / "headers.parquet") if is_done(folder) else None
    except (OSError, ValueError):
        return None


def _same(found: pd.DataFrame, known: pd.DataFrame | None) -> NDArray[np.bool_]:
    """(N,) whether a file is known as it is now, and was readable: why it was not may have passed."""
    if known is None or not len(known):
        return np.zeros(len(found), dtype=bool)
    place = pd.Index(known["id"]).get_indexer(found["id"])
    same: NDArray[np.bool_] = (place >= 0) & (known["problem"] == "").to_numpy()[place]
    for column in ("size_bytes", "mtime_ns"):
        same &= known[column].to_numpy()[place] == found[column].to_numpy()
    return same


def _table(found: pd.DataFrame, known: pd.DataFrame) -> pd.DataFrame:
    """What is known of each file that there is; nothing of the others."""
    place = pd.Index(known["id"]).get_indexer(found["id"]) if len(known) else np.zeros(len(found), dtype=np.intp)
    absent = found["size_bytes"].to_numpy() < 0
    columns: dict[str, NDArray[np.generic]] = {str(name): found[name].to_numpy() for name in found}
    for name in (*FACTS, "problem", *ATTRIBUTES):
        if name in known:
            blank: int | str = 0 if name in ("width", "height") else ""
            cells = known[name].fillna(blank).to_numpy(dtype=object)
            taken = cells[place] if len(cells) else np.full(len(found), blank, dtype=object)
            taken[absent] = blank
            columns[name] = taken.astype(np.int64) if blank == 0 else taken
    if "DICOM" not in columns["format"]:  # of other files of the same root
        columns = {name: cells for name, cells in columns.items() if name not in ATTRIBUTES}
    return pd.DataFrame(columns).astype({name: str for name in columns if name in TEXT})


def _read_all(root: Path, files: pd.DataFrame, hashed: Hash, progress: Progress) -> pd.DataFrame:
    names = list(files["id"])
    read: list[Header] = []
    for done in _in_parallel(root, names, hashed):
        read += done
        progress("scan", len(read), len(names))
    table = files.reset_index(drop=True)
    for column in (*FACTS, "problem"):
        table[column] = [getattr(header, column) for header in read]
    if any(header.format == "DICOM" for header in read):
        values = zip(*(header.attributes for header in read), strict=True)
        attributes = dict(zip(ATTRIBUTES, values, strict=True))
        table = pd.concat([table, pd.DataFrame(attributes, index=table.index)], axis=1)
    return table.astype({name: np.int64 if name in ("width", "height") else str for name in table if name in READ})


def _in_parallel(root: Path, names: list[str], hashed: Hash) -> Iterator[list[Header]]:
    def read(chunk: list[str]) -> list[Header]:
        return [read_header(root / name, hashed) for name in chunk]

    chunks = [names[start : start + CHUNK] for start in range(0, len(names), CHUNK)]
    with ThreadPoolExecutor(usable_cores()) as pool:
        yield from pool.map(read, chunks)


@dataclass(frozen=True)
class Slice:
    path: Path
    series: int | None
    """1, 2, ... in the order in which their first files came; None for what is no DICOM file, or has no series"""


def in_series(paths: Sequence[Path]) -> list[Slice]:
    """The same files, the slices of a series together and in order of their position, each series where its first
    file was.

    Position is that along the normal of the slices (PS3.3 C.7.6.2.1.1); without one the instance number, without that
    the order given. What cannot be read is nobody's slice: decoding will say why.
    """
    placed: dict[str, list[tuple[tuple[float, float], int, Path]]] = {}
    keys: list[str] = []
    for number, path in enumerate(paths):
        uid, position = _place(path)
        key = uid or f"\0{number}"  # no UID holds that
        keys.append(key)
        placed.setdefault(key, []).append((position, number, path))
    found: list[Slice] = []
    count = 0
    for key in dict.fromkeys(keys):
        of_series = not key.startswith("\0")
        count += of_series
        found += [Slice(path, count if of_series else None) for _, _, path in sorted(placed[key])]
    return found


def _place(path: Path) -> tuple[str, tuple[float, float]]:
    """(series UID or '', key to sort by)"""
    try:
        with path.open("rb") as file:
            if not looks_like_dicom(file.read(132), path.suffix):
                return "", (0.0, 0.0)
            file.seek(0)
            header = open_header(file)
            return str(header.get("SeriesInstanceUID") or ""), _position(header)
    except (OSError, Unreadable):
        return "", (0.0, 0.0)
    except Exception:  # a value of a header that is none: pydicom converts when asked
        return "", (0.0, 0.0)


def _position(header: Any) -> tuple[float, float]:
    """(millimetres along the normal, instance number); 0 for what is not there."""
    instance = header.get("InstanceNumber")
    number = float(instance) if instance not in (None, "") else 0.0
    where, across = header.get("ImagePositionPatient"), header.get("ImageOrientationPatient")
    if where is None or len(where) != 3:
        return 0.0, number
    directions = np.asarray(across, dtype=float) if across is not None and len(across) == 6 else np.eye(3)[:2].ravel()
    normal = np.cross(directions[:3], directions[3:])
    return float(normal @ np.asarray(where, dtype=float)), number
