"""Data sets that are one .npz file of arrays, as MedMNIST publishes them: images, labels and the official split.

`NAME_images` (n, H, W) or (n, H, W, 3) uint8 and `NAME_labels` (n,) or (n, L), NAME being train, val, test. An image is
called NAME/00076 and its path is that name after the archive's own, as if the archive were a folder.
"""

import io
import threading
import zipfile
import zlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from harness.errors import RequestError, Unreadable

SUFFIX, IMAGES, LABELS = ".npz", "_images.npy", "_labels.npy"
SPLIT = "official"
"""the column that holds the archive's own split"""
SPLITS = ("train", "val", "test")
NPY_MARK = b"\x93NUMPY"
DIGITS = 5
DAMAGE = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError)
_one_at_a_time = threading.Lock()


@dataclass(frozen=True)
class Rows:
    """The rows of an archive, in its order."""

    ids: list[str]
    columns: pd.DataFrame
    """text: label (or label_0, label_1, ... where an image has several), and official, the split"""


def is_archive(path: Path) -> bool:
    return path.suffix.lower() == SUFFIX and path.is_file()


def archive_of(path: Path) -> Path | None:
    """The archive that an image's path leads into, if any."""
    archive = path.parent.parent
    return archive if is_archive(archive) else None


def read_rows(archive: Path) -> Rows:
    """Labels and splits; opens no image. Raises RequestError where it is no such archive."""
    try:
        with zipfile.ZipFile(archive) as file:
            names = file.namelist()
            found = [name for name in SPLITS if name + IMAGES in names and name + LABELS in names]
            if not found:
                raise RequestError(
                    f"data.root: {archive} holds {', '.join(names[:6]) or 'nothing'}; a data set holds train_images "
                    "and train_labels, and the same for val and test."
                )
            shapes = {name: _shape(file, name + IMAGES) for name in found}
            labels = {name: _whole(file, name + LABELS) for name in found}
    except DAMAGE as error:
        raise RequestError(f"data.root: {archive} cannot be read ({_said(error)}). Fetch it again.") from None
    parts, ids = [], []
    for name in found:
        y = labels[name].reshape(len(labels[name]), -1) if labels[name].ndim in (1, 2) else labels[name]
        if y.ndim != 2 or len(y) != shapes[name][0] or y.dtype.kind not in "iub":
            raise RequestError(
                f"data.root: {archive}: {name}_labels is {y.dtype} {labels[name].shape}; {name}_images asks for "
                f"whole numbers ({shapes[name][0]},) or ({shapes[name][0]}, labels)."
            )
        several = [f"label_{number}" for number in range(y.shape[1])]
        columns = pd.DataFrame(y.astype(np.int64).astype(str), columns=several if y.shape[1] > 1 else ["label"])
        parts.append(columns.assign(**{SPLIT: name}).astype(object))
        ids += [f"{name}/{row:0{DIGITS}d}" for row in range(len(y))]
    return Rows(ids, pd.concat(parts, ignore_index=True))


def shape_of(path: Path) -> tuple[int, ...]:
    """(H, W) or (H, W, 3) of an image in an archive; reads no image. Raises Unreadable."""
    archive, member, _ = _taken_apart(path)
    return _known_shape(archive, _stamp(archive), member)[1:]


def as_file(path: Path) -> bytes:
    """An image of an archive as the contents of a .npy file. Raises Unreadable."""
    archive, member, row = _taken_apart(path)
    with _one_at_a_time:  # the first thread decompresses for the others
        images = _known_images(archive, _stamp(archive), member)
    if row >= len(images):
        raise Unreadable(f"the archive has {len(images)} images of that split")
    stored = io.BytesIO()
    np.lib.format.write_array(stored, np.ascontiguousarray(images[row]), allow_pickle=False)
    return stored.getvalue()


def is_array(data: bytes) -> bool:
    """Whether this is the contents of a .npy file."""
    return data[:6] == NPY_MARK


def read_array(data: bytes) -> NDArray[np.uint8]:
    """The contents of a .npy file as a picture, (H, W) or (H, W, 3). Raises Unreadable."""
    try:
        array = np.load(io.BytesIO(data), allow_pickle=False)
    except DAMAGE as error:
        raise Unreadable(f"damaged array ({type(error).__name__})") from None
    if array.dtype != np.uint8 or not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 3)) or not array.size:
        raise Unreadable(f"an array of {array.dtype} {array.shape}; a picture is uint8, (H, W) or (H, W, 3)")
    picture: NDArray[np.uint8] = array
    return picture


def _taken_apart(path: Path) -> tuple[Path, str, int]:
    archive, split, row = path.parent.parent, path.parent.name, path.name
    if not row.isascii() or not row.isdigit():
        raise Unreadable(f"an image of an archive is called by its split and number, such as {split}/00000")
    return archive, split + IMAGES, int(row)


def _stamp(archive: Path) -> tuple[int, int]:
    """What tells that an archive has been replaced. Raises OSError."""
    facts = archive.stat()
    return facts.st_size, facts.st_mtime_ns


@lru_cache(maxsize=64)
def _known_shape(archive: Path, stamp: tuple[int, int], member: str) -> tuple[int, ...]:
    try:
        with zipfile.ZipFile(archive) as file:
            return _shape(file, member)
    except DAMAGE as error:
        raise Unreadable(f"the archive cannot be read ({_said(error)})") from None


@lru_cache(maxsize=1)
def _known_images(archive: Path, stamp: tuple[int, int], member: str) -> NDArray[np.uint8]:
    """(n, H, W) or (n, H, W, 3): one split at a time is held in memory."""
    try:
        with zipfile.ZipFile(archive) as file:
            return _whole(file, member)
    except DAMAGE as error:
        raise Unreadable(f"the archive cannot be read ({_said(error)})") from None


def _shape(file: zipfile.ZipFile, member: str) -> tuple[int, ...]:
    with file.open(member) as stream:
        version = np.lib.format.read_magic(stream)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(stream)
    if dtype != np.uint8 or not (len(shape) == 3 or (len(shape) == 4 and shape[3] == 3)):
        raise ValueError(f"{member} is {dtype} {shape}; images are uint8, (n, H, W) or (n, H, W, 3)")
    return tuple(int(side) for side in shape)


def _whole(file: zipfile.ZipFile, member: str) -> NDArray[Any]:
    with file.open(member) as stream:
        array: NDArray[Any] = np.lib.format.read_array(stream, allow_pickle=False)
    return array


def _said(error: Exception) -> str:
    return str(error).strip("'\"").split("\n")[0][:120] or type(error).__name__
