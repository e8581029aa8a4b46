"""What the headers of image files say (size, mode, format, DICOM attributes), read once and kept until a file changes.

Kept for each root in the home: one row per file with the size and time it had. Decodes nothing. Identifying attributes
leave the reading as salted hashes, so that what is kept names no patient.
"""

import hashlib
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from harness.data.decode import looks_like_dicom
from harness.data.dicom import IDENTIFYING, TECHNICAL, dicom_header
from harness.data.npz import archive_of, is_archive, shape_of
from harness.data.raster import raster_header
from harness.data.retries import patiently
from harness.data.unreadable import Unreadable, cannot_open
from harness.home import Home, is_done, lock, new_folder
from harness.records import Progress

VERSION = 1
"""part of the key of what is kept: raise it whenever a header is read differently"""
DICOM = "dicom."
FACTS = ("width", "height", "mode", "format")
TECHNICAL_COLUMNS = tuple(DICOM + name for name in TECHNICAL)
IDENTIFYING_COLUMNS = tuple(DICOM + name for name in IDENTIFYING)
TEXT = ("mode", "format", "problem", *TECHNICAL_COLUMNS, *IDENTIFYING_COLUMNS)
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
    if archive_of(path) is not None:
        height, width, *colours = shape_of(path)
        return Header(width, height, "RGB" if colours else "L", "NPZ")
    with path.open("rb") as file:
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


def headers_of(root: Path, names: list[str], home: Home, progress: Progress, force: bool = False) -> pd.DataFrame:
    """(N,) size_bytes (-1 where there is no file), mtime_ns, FACTS, problem and the DICOM columns of N files.

    Only files whose size or time is not what it was when they were last read are opened, and those that could not be
    read; with `force` all of them.
    """
    sizes, times = _look(root, names)
    hashed = salted(home.salt())
    folder = home.pixels / f"scan-{hashed(f'{VERSION} {root}')}"
    known = None if force else _kept(folder)
    found = pd.DataFrame({"id": names, "size_bytes": sizes, "mtime_ns": times})
    fresh = _same(found, known)
    there = (found["size_bytes"] >= 0).to_numpy()
    missing = np.flatnonzero(there & ~fresh)
    if known is not None and not len(missing):
        return _table(found, known)
    with lock(folder.with_suffix(".lock"), "the scan of this data set", wait_seconds=6 * 3600):
        known = None if force else _kept(folder)  # another process may have read them meanwhile
        missing = np.flatnonzero(there & ~_same(found, known))
        new = _read_all(root, found.iloc[missing], hashed, progress)
        if known is not None:
            old = known["id"].isin(new["id"])
            if old.sum() == len(new) == len(known[old].merge(new)):
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
            facts = os.stat(root / name)
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


def _same(found: pd.DataFrame, known: pd.DataFrame | None) -> "np.ndarray[tuple[int], np.dtype[np.bool_]]":
    """(N,) whether a file is known as it is now, and was readable: why it was not may have passed."""
    if known is None:
        return np.zeros(len(found), dtype=bool)
    keys = ["id", "size_bytes", "mtime_ns"]
    readable = pd.MultiIndex.from_frame(known.loc[known["problem"] == "", keys])
    return np.asarray(pd.MultiIndex.from_frame(found[keys]).isin(readable))


def _table(found: pd.DataFrame, known: pd.DataFrame) -> pd.DataFrame:
    whole = found.merge(known.drop(columns=["size_bytes", "mtime_ns"]), on="id", how="left")
    absent = found["size_bytes"].to_numpy() < 0
    for column in ("width", "height"):
        whole[column] = whole[column].where(~absent, 0).fillna(0).astype(np.int64)
    for column in TEXT:
        whole[column] = whole[column].where(~absent, "").fillna("").astype(str)
    return whole


def _read_all(root: Path, files: pd.DataFrame, hashed: Hash, progress: Progress) -> pd.DataFrame:
    names = list(files["id"])
    read: list[Header] = []
    for done in _in_parallel(root, names, hashed):
        read += done
        progress("scan", len(read), len(names))
    table = files.reset_index(drop=True)
    for column in (*FACTS, "problem"):
        table[column] = [getattr(header, column) for header in read]
    values = list(zip(*(header.attributes for header in read), strict=True)) or [()] * len(Header().attributes)
    attributes = dict(zip((*TECHNICAL_COLUMNS, *IDENTIFYING_COLUMNS), values, strict=True))
    table = pd.concat([table, pd.DataFrame(attributes, index=table.index, dtype=str)], axis=1)
    return table.astype(dict.fromkeys(TEXT, str))


def _in_parallel(root: Path, names: list[str], hashed: Hash) -> Iterable[list[Header]]:
    from joblib import Parallel, delayed

    def read(chunk: list[str]) -> list[Header]:
        return [read_header(root / name, hashed) for name in chunk]

    chunks = [names[start : start + CHUNK] for start in range(0, len(names), CHUNK)]
    results: Iterable[list[Header]] = Parallel(n_jobs=threads(), backend="threading", return_as="generator")(
        delayed(read)(chunk) for chunk in chunks
    )
    return results


def threads() -> int:
    """How many threads to read with: the processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
