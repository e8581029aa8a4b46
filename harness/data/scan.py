"""The manifest: every row of the labels file met with its file, by headers alone, faults listed rather than raised.

Cached by what was seen (names, sizes and times of the files, the labels): unchanged data is not opened again. Decodes
no image; what only decoding can find out (truncation) is found by `pixels`. Raw group ids end here.
"""

import hashlib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from harness.data.decode import IMAGE_SUFFIXES, Unreadable, header
from harness.data.manifest import COLUMNS, NO_GROUP, Labels, fixed_folder, hash_groups, read_labels
from harness.data.phantom import ensure_phantom
from harness.errors import RequestError
from harness.home import Home, is_done, lock, mark_used, new_folder
from harness.records import Progress
from harness.study.spec import Data

VERSION = 1
"""part of every manifest's key: raise it whenever what a manifest says changes"""
PHANTOM = "phantom"
NO_FILE = "label without image: there is no such file"
NO_LABEL = "image without label: the labels file does not name it"
EMPTY_LABEL = "image without label: the label is empty"
CHUNK = 64


@dataclass(frozen=True)
class Scan:
    """A data set as found on disk."""

    root: Path
    manifest: pd.DataFrame
    """columns as in manifest.COLUMNS; all rows, those with a problem too"""
    classes: tuple[str, ...]
    cache: str = ""
    """name of the folder that it is kept in"""


def scan_data(data: Data, home: Home, progress: Progress) -> Scan:
    """Read the labels, find the files, read their headers.

    Raises RequestError for a wrong request (see manifest.read_labels) and when no image at all is where the labels
    say; single files that are missing, unlabelled or unreadable are rows with a `problem`.
    """
    root = root_of(data, home, progress)
    labels = read_labels(data, root)
    seen = _look(root, labels, data, home)
    folder = home.pixels / f"scan-{_key(root, labels, seen, data, home)}"
    if not _is_current(folder, root):
        with lock(folder.with_suffix(".lock"), "the scan of this data set", wait_seconds=6 * 3600):
            if not _is_current(folder, root):
                manifest = _read_headers(root, labels, seen, data, home, progress)
                with new_folder(folder) as new:
                    manifest.to_parquet(new / "manifest.parquet")
    mark_used(folder)
    return Scan(root, pd.read_parquet(folder / "manifest.parquet"), labels.classes, folder.name)


def _is_current(folder: Path, root: Path) -> bool:
    """Whether a manifest is there and what it says of unreadable files still holds: a permission may have changed."""
    if not is_done(folder):
        return False
    table = pd.read_parquet(folder / "manifest.parquet")
    bad = table[~table["problem"].isin(["", NO_FILE, NO_LABEL, EMPTY_LABEL])]
    return all(
        _facts(root, name)["problem"] == problem for name, problem in zip(bad["id"], bad["problem"], strict=True)
    )


def root_of(data: Data, home: Home, progress: Progress) -> Path:
    """The absolute folder that data.root means; `phantom` is drawn where it is missing."""
    return ensure_phantom(home, progress) if data.root == PHANTOM else Path(data.root).expanduser().absolute()


@dataclass(frozen=True)
class _Seen:
    sizes: list[int]
    """(N,) bytes of each labelled file, -1 where there is none"""
    times: list[int]
    """(N,) nanoseconds"""
    unlabelled: list[str]
    """image files that the labels do not name"""


def _look(root: Path, labels: Labels, data: Data, home: Home) -> _Seen:
    sizes, times = [], []
    for name in labels.rows["id"]:
        try:
            facts = os.stat(root / name)
            sizes.append(facts.st_size)
            times.append(facts.st_mtime_ns)
        except OSError:
            sizes.append(-1)
            times.append(0)
    unlabelled = sorted(set(_images_under(root, fixed_folder(data.image), home)) - set(labels.rows["id"]))
    if max(sizes) < 0:
        first = labels.rows["id"].iloc[0]
        there = f" Images there are named like {unlabelled[0]}." if unlabelled else " No image was found there."
        raise RequestError(
            f"data.image: none of the {len(sizes)} labelled images exists under {root}; the first would be {first}."
            f"{there} Set data.image to match, e.g. images/{{file}} or images/{{id:0>3}}.png"
        )
    return _Seen(sizes, times, unlabelled)


def _images_under(root: Path, folder: str, home: Home) -> Iterable[str]:
    """Paths from the root of all image files by suffix, hidden files and this program's own home aside."""
    for place, folders, files in os.walk(root / folder):
        folders[:] = [name for name in folders if name[0] != "." and Path(place, name) != home.root]
        for name in files:
            if name[0] != "." and os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES:
                yield Path(place, name).relative_to(root).as_posix()


def _key(root: Path, labels: Labels, seen: _Seen, data: Data, home: Home) -> str:
    # Keyed with the salt: the digest covers raw group ids.
    digest = hashlib.blake2b(key=home.salt().encode()[:64], digest_size=12)
    digest.update(f"{VERSION}\n{root}\n{data.group == NO_GROUP}\n{len(seen.sizes)}\n".encode())
    for column in ("id", "label", "group", "split"):
        digest.update("\x1f".join(labels.rows[column]).encode() + b"\x1e")
    digest.update(np.array([seen.sizes, seen.times], np.int64).tobytes())
    digest.update("\x1f".join(seen.unlabelled).encode())
    return digest.hexdigest()


def _read_headers(root: Path, labels: Labels, seen: _Seen, data: Data, home: Home, progress: Progress) -> pd.DataFrame:
    ids = list(labels.rows["id"])
    facts: list[dict[str, Any]] = []
    for done in _in_parallel(root, [name if size >= 0 else None for name, size in zip(ids, seen.sizes, strict=True)]):
        facts += done
        progress("scan", len(facts), len(ids))
    table = labels.rows[["id", "label", "split"]].copy()
    table["group"] = labels.rows["id"] if data.group == NO_GROUP else hash_groups(labels.rows["group"], home.salt())
    for column in ("width", "height", "mode", "format", "problem"):
        table[column] = [fact[column] for fact in facts]
    table["size_bytes"], table["mtime_ns"] = seen.sizes, seen.times
    table.loc[(table["label"] == "") & (table["problem"] == ""), "problem"] = EMPTY_LABEL
    orphans = pd.DataFrame({"id": seen.unlabelled}, dtype=str).assign(
        label="", group="", split="", width=0, height=0, mode="", format="", size_bytes=-1, mtime_ns=0, problem=NO_LABEL
    )
    whole = pd.concat([table[list(COLUMNS)], orphans[list(COLUMNS)]], ignore_index=True) if len(orphans) else table
    return whole[list(COLUMNS)].reset_index(drop=True)


def _in_parallel(root: Path, names: list[str | None]) -> Iterable[list[dict[str, Any]]]:
    from joblib import Parallel, delayed

    def read(chunk: list[str | None]) -> list[dict[str, Any]]:
        return [_facts(root, name) for name in chunk]

    chunks = [names[start : start + CHUNK] for start in range(0, len(names), CHUNK)]
    results: Iterable[list[dict[str, Any]]] = Parallel(n_jobs=threads(), backend="threading", return_as="generator")(
        delayed(read)(chunk) for chunk in chunks
    )
    return results


def _facts(root: Path, name: str | None) -> dict[str, Any]:
    facts: dict[str, Any] = {"width": 0, "height": 0, "mode": "", "format": "", "problem": ""}
    if name is None:
        return facts | {"problem": NO_FILE}
    try:
        width, height, mode, kind = header(root / name)
    except Unreadable as error:
        return facts | {"problem": error.reason}
    return facts | {"width": width, "height": height, "mode": mode, "format": kind}


def threads() -> int:
    """How many threads to read with: the processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
