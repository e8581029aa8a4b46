"""What is kept under mlruns/pixels, who uses it, and how to be rid of it: scans and pixel stores of every study.

All of it can be made again from the images, so that throwing away costs time and never a result. Knows names, sizes
and times; opens no image.
"""

import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pandas as pd

from harness.errors import HarnessError, RequestError
from harness.store.files import is_done
from harness.store.home import Home, lock
from harness.store.records import list_studies

Kind = Literal["store", "scan", "leftover"]
"""decoded pixels; a manifest; what a killed process left of either"""
DAY = 24 * 3600.0
RECENT = 15 * 60.0
"""seconds; what was used since then may belong to a study that is just beginning"""


@dataclass(frozen=True)
class Cache:
    name: str
    kind: Kind
    holds: str
    """in words"""
    bytes: int
    last_used: float
    """seconds since the epoch"""
    studies: tuple[str, ...]
    """those of this home's ledger that read it, by name"""
    in_use: str
    """why it must not be thrown away now; '' where nothing speaks against it"""


@dataclass(frozen=True)
class Pruned:
    gone: list[Cache]
    """thrown away, or what would be in a dry run"""
    kept: list[tuple[Cache, str]]
    """with the reason"""


def list_caches(home: Home) -> list[Cache]:
    """Everything kept, what was used last first. The built-in data set is data and not listed."""
    users: dict[str, list[str]] = {}
    running: dict[str, str] = {}
    for study in list_studies(home):
        for name in study.caches:
            users.setdefault(name, []).append(study.name)
        if _is_held(home.work(study.name) / "driver.lock"):
            running |= dict.fromkeys(study.caches, f"study {study.name} is running")
    found = []
    for folder in home.pixels.iterdir() if home.pixels.is_dir() else ():
        kind = _kind(folder)
        if kind is None:
            continue
        try:
            last = (folder / "DONE" if kind != "leftover" else folder).stat().st_mtime
            size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        except FileNotFoundError:
            continue  # gone meanwhile
        studies = tuple(users.get(folder.name, ()))
        found.append(
            Cache(folder.name, kind, _holds(folder, kind), size, last, studies, _in_use(folder, kind, last, running))
        )
    return sorted(found, key=lambda cache: (-cache.last_used, cache.name))


def prune(home: Home, days: float | None, dry_run: bool) -> Pruned:
    """Throw away what no study of the ledger reads; with `days`, also what was not used for so many days.

    Never what is in use: locked, read by a running study, or used in the last quarter of an hour.
    Raises RequestError for a negative number of days.
    """
    if days is not None and not days >= 0:
        raise RequestError(f"--days {days}: write a number of days, 0 or more.")
    done = Pruned([], [])
    now = time.time()
    for cache in list_caches(home):
        old = days is not None and now - cache.last_used > days * DAY
        if cache.in_use:
            done.kept.append((cache, cache.in_use))
        elif cache.studies and not old:
            done.kept.append((cache, f"read by {', '.join(cache.studies)}"))
        elif dry_run or _remove(home.pixels / cache.name):
            done.gone.append(cache)
        else:
            done.kept.append((cache, "another process has just begun to use it"))
    return done


def _kind(folder: Path) -> Kind | None:
    if folder.name.startswith((".store-", ".scan-")):
        return "leftover"
    if not is_done(folder):
        return None
    return "store" if folder.name.startswith("store-") else "scan" if folder.name.startswith("scan-") else None


def _holds(folder: Path, kind: Kind) -> str:
    if kind == "leftover":
        return "an unfinished part"
    try:
        if kind == "scan":
            return f"headers of {len(pd.read_parquet(folder / 'headers.parquet', columns=['id']))} files"
        rows = pd.read_parquet(folder / "rows.parquet", columns=["height", "width", "problem"])
    except (OSError, ValueError):  # another layout, or damaged: still something to list and to throw away
        return "pixels" if kind == "store" else "headers"
    good = rows[rows["problem"] == ""]
    sizes = set(zip(good["width"].tolist(), good["height"].tolist(), strict=True))
    each = " x ".join(map(str, sizes.pop())) if len(sizes) == 1 else "their own sizes"
    return f"{len(good)} images, {each}"


def _lock_of(folder: Path) -> Path:
    """Where processes meet that make this folder: store-KEY.lock, also for a leftover .store-KEY.RANDOM."""
    return folder.with_name(f"{folder.name.removeprefix('.').split('.')[0]}.lock")


def _in_use(folder: Path, kind: Kind, last_used: float, running: dict[str, str]) -> str:
    if _is_held(_lock_of(folder)):
        return "another process is making it"
    if folder.name in running:
        return running[folder.name]
    if kind != "leftover" and time.time() - last_used < RECENT:
        return "used in the last quarter of an hour"
    return ""


def _is_held(path: Path) -> bool:
    if not path.exists():
        return False
    try:
        with lock(path, "this", wait_seconds=0):
            return False
    except HarnessError:
        return True


def _remove(folder: Path) -> bool:
    """Whether it is gone: not when somebody has taken its lock or used it since it was listed."""
    try:
        with lock(_lock_of(folder), "this", wait_seconds=0):
            mark = folder / "DONE"
            if mark.exists() and time.time() - mark.stat().st_mtime < RECENT:
                return False
            mark.unlink(missing_ok=True)  # from here on it is not finished, whatever interrupts the rest
            shutil.rmtree(folder)
            return True
    except HarnessError:
        return False
