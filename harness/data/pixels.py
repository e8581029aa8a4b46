"""The pixel store: each image decoded and resized once, all of them one memory-mapped array, shared by every study.

Keyed by what the files were when read (names, sizes, times) and by how they are decoded, not by labels: another label
column or fold count uses the same store. Appears whole or not at all. Knows nothing of labels, groups or folds.
"""

import hashlib
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from harness.data.decode import VERSION, Unreadable, decode_with_digest
from harness.data.scan import threads
from harness.errors import RequestError
from harness.home import Home, is_done, lock, mark_used, new_folder
from harness.records import Progress
from harness.study.spec import Decode

CHUNK = 16
SPARE_BYTES = 64 * 2**20
"""left free on the disk besides the store itself"""


@dataclass(frozen=True)
class Store:
    """n: the rows that could be decoded, in the order asked for."""

    pixels: NDArray[np.uint8]
    """(n, S, S, channels) read-only memory map"""
    ids: NDArray[np.str_]
    """(n,)"""
    digests: tuple[str, ...]
    """(n,) digest of each file's contents"""
    problems: dict[str, str]
    """reason by id, for rows that could not be decoded"""


def store_folder(root: Path, rows: pd.DataFrame, how: Decode, home: Home) -> Path:
    """Where the store of these manifest rows is, or would be."""
    digest = hashlib.blake2b(digest_size=12)
    digest.update(f"{VERSION}\n{root}\n{how.model_dump_json()}\n".encode())
    digest.update("\x1f".join(rows["id"]).encode())
    digest.update(rows[["size_bytes", "mtime_ns"]].to_numpy(np.int64).tobytes())
    return home.pixels / f"store-{digest.hexdigest()}"


def open_store(
    root: Path, rows: pd.DataFrame, how: Decode, home: Home, progress: Progress, keep_going: bool = False
) -> Store:
    """The store of the given manifest rows, built if need be, by one process while others wait.

    Files that cannot be decoded are left out and listed in `problems`; unless `keep_going`, a store with problems is
    not kept, so that repaired files are read anew. Raises RequestError when the disk is too small.
    """
    folder = store_folder(root, rows, how, home)
    if not _is_current(folder, root, how):
        with lock(home.pixels / f"{folder.name}.lock", "the pixel store of this data set", wait_seconds=6 * 3600):
            if not _is_current(folder, root, how):
                problems = _build(folder, root, rows, how, progress, keep_going)
                if problems and not keep_going:
                    return _empty(how, problems)
    return _read(folder)


def _is_current(folder: Path, root: Path, how: Decode) -> bool:
    """Whether a store is there whose undecodable files still are: a decoder may have been installed since."""
    if not is_done(folder):
        return False
    table = pd.read_parquet(folder / "rows.parquet")
    return all(_fails(root / name, how) for name in table.loc[table["problem"] != "", "id"])


def _fails(path: Path, how: Decode) -> bool:
    try:
        decode_with_digest(path, how)
    except Unreadable:
        return True
    return False


def _read(folder: Path) -> Store:
    mark_used(folder)
    table = pd.read_parquet(folder / "rows.parquet")
    good = table[table["problem"] == ""]
    return Store(
        pixels=np.load(folder / "pixels.npy", mmap_mode="r"),
        ids=good["id"].to_numpy(dtype=np.str_),
        digests=tuple(good["digest"]),
        problems={str(row.id): str(row.problem) for row in table[table["problem"] != ""].itertuples()},
    )


def _empty(how: Decode, problems: dict[str, str]) -> Store:
    nothing = np.zeros((0, how.size, how.size, how.channels), np.uint8)
    return Store(nothing, np.zeros(0, np.str_), (), problems)


class _NotKept(Exception):
    """Leaves new_folder without a folder."""


def _build(
    folder: Path, root: Path, rows: pd.DataFrame, how: Decode, progress: Progress, keep_going: bool
) -> dict[str, str]:
    """Decode every row into a new store; returns the problems found."""
    for left in folder.parent.glob(f".{folder.name}.*"):  # of a build that was killed: we hold its lock now
        shutil.rmtree(left, ignore_errors=True)
    names = [str(name) for name in rows["id"]]
    shape = (len(names), how.size, how.size, how.channels)
    _require_space(folder.parent, int(np.prod(shape)))
    digests, problems = [""] * len(names), [""] * len(names)
    found: dict[str, str] = {}
    try:
        with new_folder(folder) as new:
            pixels = np.lib.format.open_memmap(new / "pixels.npy", mode="w+", dtype=np.uint8, shape=shape)

            def read(start: int) -> int:
                chunk = range(start, min(start + CHUNK, len(names)))
                for row in chunk:
                    try:
                        pixels[row], digests[row] = decode_with_digest(root / names[row], how)
                    except Unreadable as error:
                        problems[row] = error.reason
                return len(chunk)

            done = 0
            for count in _in_parallel(read, len(names)):
                done += count
                progress("decode", done, len(names))
            good = np.array([problem == "" for problem in problems], dtype=bool)
            found = {name: problem for name, problem in zip(names, problems, strict=True) if problem}
            if found and not keep_going:
                raise _NotKept
            pixels.flush()
            if found:
                np.save(new / "good.npy", pixels[good])
                (new / "good.npy").replace(new / "pixels.npy")
            table = pd.DataFrame({"id": names, "digest": digests, "problem": problems}, dtype=str)
            table.to_parquet(new / "rows.parquet")
    except _NotKept:
        pass
    return found


def _in_parallel(read: Callable[[int], int], total: int) -> Iterable[int]:
    from joblib import Parallel, delayed

    # Threads, not processes: Pillow decodes and resizes without holding the interpreter's lock.
    counts: Iterable[int] = Parallel(n_jobs=threads(), backend="threading", return_as="generator")(
        delayed(read)(start) for start in range(0, total, CHUNK)
    )
    return counts


def _require_space(folder: Path, needed: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if free < needed + SPARE_BYTES:
        raise RequestError(
            f"the pixel store needs {needed} bytes under {folder}, and {free} are free. Free some space, set "
            "HARNESS_HOME to a larger disk, or choose a smaller data.decode.size."
        )
