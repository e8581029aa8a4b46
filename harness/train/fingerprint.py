"""What the files of a trial were when its training ended. A file that was changed or swapped later is known by that.

Knows paths and bytes only; torch stays out.
"""

import hashlib
from pathlib import Path

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
