"""Files and folders that appear whole: atomic writes, strict JSON and fingerprints.

JSON from somebody else: bounded, and nothing in it that two readers could understand differently.

What the files of a trial were when its training ended. A file that was changed or swapped later is known by that.

Knows paths and bytes only; torch stays out.
"""

import errno
import hashlib
import json
import math
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

from harness.errors import DiskFull, HarnessError

UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""what steers a terminal or turns the direction of writing, and halves of characters"""


def read(data: bytes, largest: int) -> Any:
    """Raises ValueError for more than `largest` bytes, what is no UTF-8 JSON, keys that come twice, NaN and infinite
    numbers, nesting that Python cannot follow, and text that would steer a terminal."""
    if len(data) > largest:
        raise ValueError(f"{len(data):,} bytes, more than {largest:,}")
    try:
        found = json.loads(
            data.decode("utf-8"), object_pairs_hook=_object, parse_constant=_not_finite, parse_float=_finite
        )
        _check_text(found)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    return found


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {twice[:80]!r} comes twice")
    return found


def _not_finite(text: str) -> NoReturn:
    raise ValueError(f"{text} is no number of JSON")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:40]} is too large for a number")
    return number


def _check_text(node: Any) -> None:
    if isinstance(node, str) and UNSAFE.search(node):
        raise ValueError(f"{node[:80]!r} holds characters that steer a terminal")
    if isinstance(node, dict):
        for key, child in node.items():
            _check_text(key)
            _check_text(child)
    elif isinstance(node, list):
        for child in node:
            _check_text(child)


FILES = ("weights.safetensors", "predictions.parquet")
"""of each fold: its network, and what that said of the rows it held out"""
_known: dict[tuple[int, ...], str] = {}
"""by device, inode, size and time of the last change"""


def trial_fingerprints(folder: Path, k: int) -> dict[str, str]:
    """SHA-256 of the files that stage 2 builds on, by their place in a trial's artifacts: fold_0/weights.safetensors,
    ..."""
    return {name: file_sha256(folder / name) for fold in range(k) for name in (f"fold_{fold}/{file}" for file in FILES)}


def file_sha256(path: Path) -> str:
    """64 hex digits. A file that has been read before, under this name or another one of its links, is read again only
    where its size or its time says that it was written since."""
    found = path.stat()
    identity = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)
    if identity not in _known:
        with path.open("rb") as file:
            _known[identity] = hashlib.file_digest(file, "sha256").hexdigest()
    return _known[identity]


def write_bytes(path: Path, data: bytes) -> None:
    """Write so that a reader sees the old file or the new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def write_text(path: Path, text: str) -> None:
    write_bytes(path, text.encode())


def without_nan(node: Any) -> Any:
    """JSON knows no NaN and no infinity: null in their place."""
    if isinstance(node, dict):
        return {key: without_nan(child) for key, child in node.items()}
    if isinstance(node, list | tuple):
        return [without_nan(child) for child in node]
    return None if isinstance(node, float) and not math.isfinite(node) else node


def write_json(path: Path, data: Any) -> None:
    write_text(path, json.dumps(without_nan(data), indent=1, sort_keys=True, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Raises HarnessError that names the file where it is no JSON: written by hand, or the disk is damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # UnicodeDecodeError is one, too
        raise HarnessError(f"{path} is damaged ({error}). Restore it from a copy, or move its folder away.") from error


def link_or_copy(source: Path, target: Path) -> None:
    """A hard link, or a copy where the file system has no links between the two places."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder that appears at `path` whole, with DONE in it, or not at all. Replaces an older one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    os.chmod(temporary, 0o755)
    try:
        yield temporary
        (temporary / "DONE").touch()
        if path.exists():
            shutil.rmtree(path)
        os.replace(temporary, path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def sweep(folder: Path) -> None:
    """Remove what writes that a crash cut off left in a folder: it was never part of it. Nobody else writes there."""
    for left in folder.glob(".*"):
        if left.is_dir():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)


NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""a full disk, a quota that is used up, a limit on the size of files"""


def is_disk_full(error: BaseException | None) -> bool:
    """Whether an error, or one that led to it, says that there is no room to write."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, DiskFull) or (isinstance(error, OSError) and error.errno in NO_ROOM):
            return True
        if "disk is full" in str(error):  # SQLite says it in words
            return True
        error = error.__cause__ or error.__context__
    return False


def is_done(folder: Path) -> bool:
    return (folder / "DONE").exists()


def mark_used(folder: Path) -> None:
    """Remember that a kept folder was used just now: the time of its DONE."""
    with suppress(OSError):  # somebody else's home may be readable and no more
        os.utime(folder / "DONE")
