"""The data room's front door: a study's `data` block in, everything that training needs out, checked and cached.

scan -> pixel store -> data set -> folds -> audit. Nothing here decides how any of it is done, and nothing is trained.
Raw group ids never leave the scan.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from harness.config.data import Data, Decode
from harness.data.audit import Finding, acknowledge, audit, findings_from_json, findings_to_json, way_out
from harness.data.duplicates import group_copies
from harness.data.folds import check_folds, make_folds
from harness.data.manifest import EMPTY_LABEL, Scan, scan_data, split_answers
from harness.data.sources import NO_FILE, NO_LABEL
from harness.errors import RequestError
from harness.images.pixels import Pixels, Store, open_store, remove_store, store_folder
from harness.numbering import by_appearance, numbered
from harness.store.files import is_done, read_json, write_bytes, write_json
from harness.store.home import Home, lock
from harness.types import TEST, Dataset, Folds, Progress

VERSION = 5
"""part of the key of stored findings: raise it whenever the audit looks at something new"""
UNREADABLE = "unreadable image"
PICTURE = 128
"""longest side of the pictures in which copies are looked for, in pixels"""
SHOWN = 5
"""problems named in a refusal"""


@dataclass(frozen=True)
class Prepared:
    """A data set, ready to train on. N rows, in manifest order, of images that can be used."""

    dataset: Dataset
    folds: Folds
    pixels: Pixels
    """(N, S, S, channels), or N images of their own sizes; a read-only memory map"""
    findings: list[Finding]
    filtered: dict[str, int]
    """rows that data.where left out, by condition"""
    caches: tuple[str, ...] = ()
    """names of the folders under Home.pixels that this came from"""


def prepare(data: Data, seed: int, home: Home, progress: Progress) -> Prepared:
    """Scan, decode, divide and audit a data set; quick when nothing changed since the last time.

    Raises RequestError where the labels or files are wrong (see data.on_error), a class has too few groups, a group
    would straddle two parts, the disk is too small, or the audit finds what blocks.
    """
    prepared = _prepared(data, seed, home, progress, drop=data.on_error == "drop")
    blocking = [finding for finding in prepared.findings if finding.severity == "block"]
    if blocking:
        said = "\n  ".join(f"{finding.kind}: {finding.message}" for finding in blocking[:SHOWN])
        raise RequestError(
            f"the data cannot be trusted as it is ({len(blocking)} findings that block):\n  {said}\n"
            f"Correct the labels file.{way_out({finding.kind for finding in blocking})}\n"
            "`harness data audit` lists every finding with its images."
        )
    return prepared


def look(data: Data, seed: int, home: Home, progress: Progress) -> Prepared:
    """What `prepare` gives, to look at and not to train on: findings that block are listed, unusable images left out.

    Raises RequestError where there is nothing to look at.
    """
    return _prepared(data, seed, home, progress, drop=True)


def _prepared(data: Data, seed: int, home: Home, progress: Progress, drop: bool) -> Prepared:
    found = _gather(data, seed, home, progress, drop)
    folds = _stored_folds(found.dataset, found.rows, data, seed, home)
    findings = _unusable(found.problems, "warn") + _stored_findings(found, folds, data, home)
    findings = acknowledge(findings, data.acknowledge)
    return Prepared(found.dataset, folds, found.store.pixels, findings, found.scan.filtered, found.caches)


def scan(data: Data, home: Home, progress: Progress) -> pd.DataFrame:
    """The manifest, problems included, whatever data.on_error says. Columns: manifest.COLUMNS; raises RequestError
    where the request itself is wrong."""
    return scan_data(data, home, progress).manifest


def findings(data: Data, seed: int, home: Home, progress: Progress, force: bool = False) -> list[Finding]:
    """Everything that is wrong with a data set, for `harness data audit`: what blocks is listed instead of raised.

    Images that cannot be used block where data.on_error says refuse. Where a given split cuts a group, the split is
    audited as it stands. With `force` every header is read and every image decoded again.

    Raises RequestError where there is no data set to look at.
    """
    found = _gather(data, seed, home, progress, drop=True, force=force)
    unusable = _unusable(found.problems, "block" if data.on_error == "refuse" else "warn")
    try:
        folds = _stored_folds(found.dataset, found.rows, data, seed, home)
    except RequestError:
        if data.split is None:
            raise
        held_out = found.rows["split"].str.lower() == "test"
        dealt = by_appearance(found.dataset.groups) % data.folds  # never trained on
        folds = Folds(fold=np.where(held_out, TEST, dealt).astype(np.int64), k=data.folds, folds_hash="")
        looked_at = audit(found.rows, found.dataset, folds, found.pictures)
    else:
        looked_at = _stored_findings(found, folds, data, home)
    return unusable + acknowledge(looked_at, data.acknowledge)


@dataclass(frozen=True)
class _Gathered:
    scan: Scan
    rows: pd.DataFrame
    """(N,) of the manifest: those that can be used"""
    store: Store
    pictures: Pixels
    """what the files show, whatever the study decodes them to (`analysis`)"""
    dataset: Dataset
    problems: dict[str, str]
    """reason by id, of those that cannot"""
    caches: tuple[str, ...]


def _gather(data: Data, seed: int, home: Home, progress: Progress, drop: bool, force: bool = False) -> _Gathered:
    """The usable rows with their pixels. Unless `drop`, raises at the first step that finds unusable ones."""
    found = scan_data(data, home, progress, force)
    usable = found.manifest["problem"] == ""
    bad = found.manifest[~usable]
    problems: dict[str, str] = dict(zip(bad["id"], bad["problem"], strict=True))
    if problems and not drop:
        raise _refusal(problems, found)
    rows = found.manifest[usable].reset_index(drop=True)
    _require_classes(rows, found.classes, len(problems), data)
    kept = store_folder(found.root, rows, data.decode, home)
    if not drop and not is_done(kept):
        _divide(rows, found.classes, data, seed)  # too few of a class is known before anything is decoded
    if force:
        remove_store(found.root, rows, data.decode, home)
    store = open_store(found.root, rows, data.decode, home, progress, keep_going=drop)
    if store.problems and not drop:
        raise _refusal(store.problems, found)
    if store.problems:
        rows = rows[~rows["id"].isin(list(store.problems))].reset_index(drop=True)
        problems |= store.problems
        _require_classes(rows, found.classes, len(problems), data)
    identities = rows["group"].to_numpy(dtype=np.str_)
    rows = rows.assign(group=numbered(identities))
    shown = store_folder(found.root, rows, analysis(data.decode), home)
    if force:
        remove_store(found.root, rows, analysis(data.decode), home)
    pictures = open_store(found.root, rows, analysis(data.decode), home, progress)
    if pictures.problems:
        raise _refusal(pictures.problems, found)
    if data.copies == "together":
        rows = group_copies(rows, pictures.pixels, shown.name, home)
    dataset, caches = _dataset(found, rows, store, data, identities), (found.cache, kept.name, shown.name)
    return _Gathered(found, rows, store, pictures.pixels, dataset, problems, tuple(dict.fromkeys(caches)))


def analysis(how: Decode) -> Decode:
    """The decoding that copies are looked for in: the same for every size, fit and number of channels of a study, so
    that neither what is found nor the folds depend on them."""
    keys = {"size": "native", "longest": PICTURE, "window": how.window, "frame": how.frame}
    three = isinstance(how.window, tuple) and isinstance(how.window[0], tuple)
    return Decode.model_validate({**keys, "channels": 3 if three else 1})


def _refusal(problems: dict[str, str], found: Scan) -> RequestError:
    named = [f"{name}: {reason}" for name, reason in list(problems.items())[:SHOWN]]
    more = [f"and {len(problems) - SHOWN} more"] if len(problems) > SHOWN else []
    listed = "\n  ".join(named + more)
    return RequestError(
        f"{len(problems)} of {len(found.manifest)} images under {found.root} cannot be used:\n  {listed}\n"
        "Fix the files or the labels, or leave these images out with: --set data.on_error=drop\n"
        "`harness data scan` decodes every file and lists all that is wrong."
    )


def _require_classes(rows: pd.DataFrame, classes: tuple[str, ...], left_out: int, data: Data) -> None:
    y = _labels(rows, classes, data)
    there = (y == 1).any(axis=0) if y.ndim == 2 else np.isin(np.arange(len(classes)), y)
    missing = [name for name, found in zip(classes, there.tolist(), strict=True) if not found]
    if missing:
        raise RequestError(
            f"no usable image is left of class {', '.join(missing)}: {left_out} images were left out for their faults "
            "(data.on_error: drop; `harness data scan` lists them), others by data.where. "
            "Fix the files or the condition."
        )


def _dataset(found: Scan, rows: pd.DataFrame, store: Store, data: Data, identities: NDArray[np.str_]) -> Dataset:
    groups = rows["group"].to_numpy(dtype=np.str_)
    return Dataset(
        ids=store.ids,
        files=tuple(str(found.root / name) for name in store.ids.tolist()),
        y=_labels(rows, found.classes, data),
        groups=groups,
        classes=found.classes,
        data_hash=_data_hash(store, list(rows["label"]), groups),
        identities=identities,
    )


def _labels(rows: pd.DataFrame, classes: tuple[str, ...], data: Data) -> NDArray[np.int64]:
    """(N,) class numbers, or (N, C) answers where the study names several label columns."""
    if not isinstance(data.label, str):
        return split_answers(list(rows["label"]))
    index = {name: number for number, name in enumerate(classes)}
    return np.array([index[label] for label in rows["label"]], dtype=np.int64)


def _data_hash(store: Store, labels: list[str], groups: NDArray[np.str_]) -> str:
    """Over ids, contents, labels and who belongs together; the same in every home, whatever its salt."""
    digest = hashlib.blake2b(digest_size=16)
    numbers = by_appearance(groups).tolist()
    for name, content, label, number in zip(store.ids.tolist(), store.digests, labels, numbers, strict=True):
        digest.update(f"{name}\x1f{content}\x1f{label}\x1f{number}\x1e".encode())
    return digest.hexdigest()


def _divide(rows: pd.DataFrame, classes: tuple[str, ...], data: Data, seed: int) -> Folds:
    return make_folds(
        _labels(rows, classes, data),
        numbered(rows["group"].to_numpy(dtype=np.str_)),
        data.folds,
        seed,
        data.test_fraction,
        None if data.split is None else rows["split"].to_numpy(dtype=np.str_),
        classes,
        rows["id"].to_numpy(dtype=np.str_),
    )


def _stored_folds(dataset: Dataset, rows: pd.DataFrame, data: Data, seed: int, home: Home) -> Folds:
    """The folds of this data, group column, K, seed and split: made once, then read and checked."""
    asked = [dataset.data_hash, dataset.classes, data.group, data.folds, seed, data.split]
    asked += [data.test_fraction] if data.split is None else list(rows["split"])
    key = hashlib.blake2b(repr(asked).encode(), digest_size=12).hexdigest()
    path = home.work_root / "folds" / f"{key}.parquet"
    if not path.exists():
        with lock(path.with_suffix(".lock"), "the folds of this data set"):
            if not path.exists():
                made = _divide(rows, dataset.classes, data, seed)
                _write_table(pd.DataFrame({"id": dataset.ids, "fold": made.fold}), path)
    table = pd.read_parquet(path)
    if list(table["id"]) != dataset.ids.tolist():
        raise RequestError(f"{path} does not list the images of this data set. Delete it and run again.")
    fold = table["fold"].to_numpy(np.int64, copy=True)
    wanted = [*([] if data.split is None and not data.test_fraction else [TEST]), *range(data.folds)]
    if sorted(set(fold.tolist())) != wanted:
        test = " and a test split" if TEST in wanted else ""
        raise RequestError(f"{path} does not hold {data.folds} folds{test}. Delete it and run again.")
    digest = hashlib.blake2b(digest_size=16)
    for name, part in zip(dataset.ids.tolist(), fold.tolist(), strict=True):
        digest.update(f"{name}\x1f{part}\x1e".encode())
    folds = Folds(fold=fold, k=data.folds, folds_hash=digest.hexdigest())
    check_folds(folds, dataset.groups, dataset.ids)
    return folds


def _write_table(table: pd.DataFrame, path: Path) -> None:
    write_bytes(path, table.to_parquet(index=False))


def _unusable(problems: dict[str, str], severity: Literal["block", "warn"]) -> list[Finding]:
    """What cannot be used, by kind of fault."""
    kinds: dict[str, list[str]] = {}
    for name, reason in problems.items():
        kinds.setdefault(reason if reason in (NO_FILE, NO_LABEL, EMPTY_LABEL) else UNREADABLE, []).append(name)
    found = []
    for kind, names in kinds.items():
        listed = "; ".join(f"{name} ({problems[name]})" if kind == UNREADABLE else name for name in names[:SHOWN])
        more = f"; and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
        images = "1 image is" if len(names) == 1 else f"{len(names)} images are"
        done = "refused (data.on_error: refuse)" if severity == "block" else "left out (data.on_error: drop)"
        message = f"{images} {done}, {kind}: {listed}{more}"
        found.append(Finding("unreadable", severity, tuple(names), message))
    return found


def _stored_findings(found: _Gathered, folds: Folds, data: Data, home: Home) -> list[Finding]:
    """The audit's findings, looked for once per data, folds and decoding."""
    facts = hashlib.blake2b(found.rows.drop(columns=["group", "mtime_ns"]).to_csv().encode(), digest_size=8).hexdigest()
    asked = [VERSION, found.dataset.data_hash, folds.folds_hash, data.decode.model_dump_json(), facts]
    key = hashlib.blake2b(repr(asked).encode(), digest_size=12).hexdigest()
    path = home.work_root / "audit" / f"{key}.json"
    if not path.exists():
        write_json(path, findings_to_json(audit(found.rows, found.dataset, folds, found.pictures)))
    return findings_from_json(read_json(path))
