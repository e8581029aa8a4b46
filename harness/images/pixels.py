"""Arrays of images of one or several sizes, and the store of decoded pixels on disk.

Images of different sizes as one flat array, so that a memory map of one file can hold them all; and some rows of a
memory map, without a copy.

N: images, H, W: an image's own sides, S: the side of images of one size.

The pixel store: each image decoded and resized once, all of them one memory-mapped file, shared by every study.

pixels.bin holds the images one after another, rows.parquet their names, digests, sizes, and what could not be decoded.

Keyed by what the files were when read (names, sizes, times) and by how they are decoded, not by labels: another label
column or fold count uses the same store. Appears whole or not at all. Knows nothing of labels, groups or folds.
"""

import hashlib
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from harness.config.data import Decode
from harness.errors import RequestError, Unreadable
from harness.hardware import usable_cores
from harness.images.decode import VERSION, decode_with_digest
from harness.store.files import is_done, mark_used, new_folder
from harness.store.home import Home, lock
from harness.types import Progress

Rows = NDArray[np.integer] | NDArray[np.bool_] | slice


@dataclass(frozen=True)
class Ragged:
    """N images (H, W, channels). Taking one copies nothing; taking several shares the flat array."""

    flat: NDArray[np.uint8]
    """all pixels, one image after another, each in rows"""
    starts: NDArray[np.int64]
    """(N,) where each image begins"""
    sizes: NDArray[np.int64]
    """(N, 2) H and W"""
    channels: int

    def __len__(self) -> int:
        return len(self.starts)

    @overload
    def __getitem__(self, rows: int | np.integer) -> NDArray[np.uint8]: ...

    @overload
    def __getitem__(self, rows: Rows) -> "Ragged": ...

    def __getitem__(self, rows: int | np.integer | Rows) -> "NDArray[np.uint8] | Ragged":
        if isinstance(rows, int | np.integer):
            (height, width), start = self.sizes[rows].tolist(), int(self.starts[rows])
            return self.flat[start : start + height * width * self.channels].reshape(height, width, self.channels)
        return Ragged(self.flat, self.starts[rows], self.sizes[rows], self.channels)


Pixels = NDArray[np.uint8] | Ragged
"""images of one size (N, H, W, channels), or of their own sizes"""


@dataclass(frozen=True)
class Subset:
    """N images (S, S, channels) among those of an array, a memory map as a rule. Taking rows of it copies no pixel."""

    pixels: NDArray[np.uint8]
    """(all, S, S, channels)"""
    rows: NDArray[np.int64]
    """(N,) which of them"""

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def nbytes(self) -> int:
        """What a copy would take."""
        return len(self.rows) * int(np.prod(self.pixels.shape[1:]))

    def __getitem__(self, rows: Rows) -> "Subset":
        return Subset(self.pixels, self.rows[rows])

    def gather(self, rows: NDArray[np.int64], out: NDArray[np.uint8] | None = None) -> NDArray[np.uint8]:
        """(n, S, S, channels) a copy of these of its images, into `out` where given. Raises IndexError."""
        taken = self.rows[rows]
        if out is None:
            out = np.empty((len(taken), *self.pixels.shape[1:]), np.uint8)
        # with mode="raise" numpy copies twice; the rows are known to be good
        return np.take(self.pixels, taken, axis=0, out=out, mode="clip")


Selection = Pixels | Subset
"""images, or some of them"""


def select(pixels: Pixels, rows: NDArray[np.int64]) -> Selection:
    """The images of these rows, no pixel copied. Raises IndexError for a row that is not there."""
    if isinstance(pixels, Ragged):
        return pixels[rows]
    if len(rows) and not (rows.min() >= 0 and rows.max() < len(pixels)):
        raise IndexError(f"rows {rows.min()} to {rows.max()} of {len(pixels)} images")
    return Subset(pixels, rows)


def lay_out(sizes: NDArray[np.int64], channels: int) -> NDArray[np.int64]:
    """(N,) where each image begins, for images (N, 2) laid one after another."""
    lengths = sizes.prod(axis=1) * channels
    return np.concatenate([[0], np.cumsum(lengths)[:-1]]).astype(np.int64) if len(sizes) else np.zeros(0, np.int64)


def gather(images: list[NDArray[np.uint8]], channels: int) -> Ragged:
    """Images (H, W, channels) as one Ragged."""
    sizes = np.array([image.shape[:2] for image in images], dtype=np.int64).reshape(-1, 2)
    flat = np.concatenate([image.ravel() for image in images]) if images else np.zeros(0, np.uint8)
    return Ragged(flat, lay_out(sizes, channels), sizes, channels)


FORMAT = 2
"""part of every store's key: raise it whenever the files are laid out in another way"""
CHUNK = 16
SPARE_BYTES = 64 * 2**20
"""left free on the disk besides the store itself"""


@dataclass(frozen=True)
class Store:
    """n: the rows that could be decoded, in the order asked for."""

    pixels: Pixels
    """(n, S, S, channels), or n images of their own sizes; a read-only memory map"""
    ids: NDArray[np.str_]
    """(n,)"""
    digests: tuple[str, ...]
    """(n,) digest of each file's contents"""
    problems: dict[str, str]
    """reason by id, for rows that could not be decoded"""


def store_folder(root: Path, rows: pd.DataFrame, how: Decode, home: Home) -> Path:
    """Where the store of these manifest rows is, or would be."""
    digest = hashlib.blake2b(digest_size=12)
    digest.update(f"{FORMAT}\n{VERSION}\n{root}\n{how.model_dump_json()}\n".encode())
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
    return _read(folder, how)


def remove_store(root: Path, rows: pd.DataFrame, how: Decode, home: Home) -> None:
    """Take the store of these rows away, so that it is built anew. Who has it open keeps what it has."""
    folder = store_folder(root, rows, how, home)
    with lock(home.pixels / f"{folder.name}.lock", "the pixel store of this data set", wait_seconds=6 * 3600):
        if folder.exists():
            away = folder.with_name(f".{folder.name}.removed")  # whole or not at all; _build clears what is left
            folder.rename(away)
            shutil.rmtree(away, ignore_errors=True)


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


def _read(folder: Path, how: Decode) -> Store:
    mark_used(folder)
    table = pd.read_parquet(folder / "rows.parquet")
    good = table[table["problem"] == ""]
    flat: NDArray[np.uint8] = np.zeros(0, np.uint8)
    if len(good):
        flat = np.memmap(folder / "pixels.bin", np.uint8, mode="r")
    sizes = good[["height", "width"]].to_numpy(np.int64, copy=True)
    varied = Ragged(flat, lay_out(sizes, how.channels), sizes, how.channels)
    return Store(
        pixels=varied if how.size == "native" else flat.reshape(len(good), how.size, how.size, how.channels),
        ids=good["id"].to_numpy(dtype=np.str_),
        digests=tuple(good["digest"]),
        problems={str(row.id): str(row.problem) for row in table[table["problem"] != ""].itertuples()},
    )


def _empty(how: Decode, problems: dict[str, str]) -> Store:
    return Store(np.zeros((0, how.side, how.side, how.channels), np.uint8), np.zeros(0, np.str_), (), problems)


class _NotKept(Exception):
    """Leaves new_folder without a folder."""


def _build(
    folder: Path, root: Path, rows: pd.DataFrame, how: Decode, progress: Progress, keep_going: bool
) -> dict[str, str]:
    """Decode every row into a new store; returns the problems found."""
    for left in folder.parent.glob(f".{folder.name}.*"):  # of a build that was killed: we hold its lock now
        shutil.rmtree(left, ignore_errors=True)
    names = [str(name) for name in rows["id"]]
    _require_space(folder.parent, _needed(rows, how))
    table: dict[str, list[Any]] = {"id": names, "digest": [], "problem": [], "height": [], "width": []}
    found: dict[str, str] = {}
    try:
        with new_folder(folder) as new:
            with (new / "pixels.bin").open("wb") as file:
                for chunk in _in_parallel([root / name for name in names], how):
                    for image, digest, problem in chunk:
                        if image is not None:
                            file.write(image.data)
                        height, width = (0, 0) if image is None else image.shape[:2]
                        for column, value in zip(list(table)[1:], (digest, problem, height, width), strict=True):
                            table[column].append(value)
                    progress("decode", len(table["digest"]), len(names))
            found = {name: problem for name, problem in zip(names, table["problem"], strict=True) if problem}
            if found and not keep_going:
                raise _NotKept
            pd.DataFrame(table).to_parquet(new / "rows.parquet")
    except _NotKept:
        pass
    return found


Decoded = tuple[NDArray[np.uint8] | None, str, str]
"""(image, digest of its file, problem): an image, or else the reason why there is none"""


def _in_parallel(files: list[Path], how: Decode) -> Iterable[list[Decoded]]:
    """The files' images in order, in lists of up to CHUNK."""
    from joblib import Parallel, delayed

    def read(chunk: list[Path]) -> list[Decoded]:
        return [_decoded(file, how) for file in chunk]

    # Threads, not processes: Pillow decodes and resizes without holding the interpreter's lock.
    chunks: Iterable[list[Decoded]] = Parallel(n_jobs=usable_cores(), backend="threading", return_as="generator")(
        delayed(read)(files[start : start + CHUNK]) for start in range(0, len(files), CHUNK)
    )
    return chunks


def _decoded(file: Path, how: Decode) -> Decoded:
    try:
        image, digest = decode_with_digest(file, how)
    except Unreadable as error:
        return None, "", error.reason
    return np.ascontiguousarray(image), digest, ""


def _needed(rows: pd.DataFrame, how: Decode) -> int:
    """Bytes of the images; where they keep their sizes, as their headers give them."""
    if how.size != "native":
        return len(rows) * how.size**2 * how.channels
    sizes = rows[["width", "height"]].to_numpy(np.float64)
    shrink = np.minimum(1.0, how.longest / np.maximum(sizes.max(axis=1, initial=1.0), 1.0))
    return int((sizes.prod(axis=1) * shrink**2).sum() * how.channels)


def _require_space(folder: Path, needed: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if free < needed + SPARE_BYTES:
        raise RequestError(
            f"the pixel store needs {needed} bytes under {folder}, and {free} are free. Free some space, set "
            "HARNESS_HOME to a larger disk, or choose a smaller data.decode.size."
        )
