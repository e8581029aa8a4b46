"""The data room's front door: a study's `data` block in, everything that training needs out, checked and cached.

scan -> pixel store -> data set -> folds -> audit. Nothing here decides how any of it is done, and nothing is trained.
Raw group ids never leave the scan.
"""

import dataclasses
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from harness.data.audit import Finding, audit
from harness.data.folds import check_folds, make_folds
from harness.data.pixels import Store, open_store, store_folder
from harness.data.scan import EMPTY_LABEL, NO_FILE, NO_LABEL, Scan, scan_data
from harness.errors import RequestError
from harness.home import Home, is_done, lock, read_json, write_bytes, write_json
from harness.records import TEST, Dataset, Folds, Progress
from harness.study.spec import Data

VERSION = 1
"""part of the key of stored findings: raise it whenever the audit looks at something new"""
SHOWN = 5
"""problems named in a refusal"""


@dataclass(frozen=True)
class Prepared:
    """A data set, ready to train on. N rows, in manifest order, of images that can be used."""

    dataset: Dataset
    folds: Folds
    pixels: NDArray[np.uint8]
    """(N, S, S, channels) read-only memory map"""
    findings: list[Finding]


def prepare(data: Data, seed: int, home: Home, progress: Progress) -> Prepared:
    """Scan, decode, divide and audit a data set; quick when nothing changed since the last time.

    Raises RequestError where the labels or files are wrong (see data.on_error), a class has too few groups, a group
    would straddle two parts, the disk is too small, or the audit finds what blocks.
    """
    prepared = examine(data, seed, home, progress)
    blocking = [finding for finding in prepared.findings if finding.severity == "block"]
    if blocking:
        said = "\n  ".join(f"{finding.kind}: {finding.message}" for finding in blocking[:SHOWN])
        raise RequestError(
            f"the data cannot be trusted as it is ({len(blocking)} findings that block):\n  {said}\n"
            "Correct the labels file. `harness data audit` lists every finding with its images."
        )
    return prepared


def scan(data: Data, home: Home, progress: Progress) -> pd.DataFrame:
    """The manifest, problems included, whatever data.on_error says. Columns: manifest.COLUMNS; raises RequestError
    where the request itself is wrong."""
    return scan_data(data, home, progress).manifest


def examine(data: Data, seed: int, home: Home, progress: Progress) -> Prepared:
    """`prepare`, but findings that block are returned like all others: for the audit itself."""
    found = scan_data(data, home, progress)
    usable = found.manifest["problem"] == ""
    problems = dict(found.manifest.loc[~usable, ["id", "problem"]].itertuples(index=False, name=None))
    drop = data.on_error == "drop"
    if problems and not drop:
        raise _refusal(problems, found)
    rows = found.manifest[usable].reset_index(drop=True)
    _require_classes(rows, found.classes, len(problems))
    if not is_done(store_folder(found.root, rows, data.decode, home)):
        _divide(rows, found.classes, data, seed)  # too few of a class is known before anything is decoded
    store = open_store(found.root, rows, data.decode, home, progress, keep_going=drop)
    if store.problems and not drop:
        raise _refusal(store.problems, found)
    if store.problems:
        rows = rows[~rows["id"].isin(list(store.problems))].reset_index(drop=True)
        problems |= store.problems
        _require_classes(rows, found.classes, len(problems))
    dataset = _dataset(found, rows, store)
    folds = _stored_folds(dataset, rows, data, seed, home)
    findings = _dropped(problems) + _stored_findings(rows, dataset, folds, store, data, home)
    return Prepared(dataset, folds, store.pixels, findings)


def _refusal(problems: dict[str, str], found: Scan) -> RequestError:
    named = [f"{name}: {reason}" for name, reason in list(problems.items())[:SHOWN]]
    more = [f"and {len(problems) - SHOWN} more"] if len(problems) > SHOWN else []
    listed = "\n  ".join(named + more)
    return RequestError(
        f"{len(problems)} of {len(found.manifest)} images under {found.root} cannot be used:\n  {listed}\n"
        "Fix the files or the labels, or leave these images out with: --set data.on_error=drop"
    )


def _require_classes(rows: pd.DataFrame, classes: tuple[str, ...], left_out: int) -> None:
    there = set(rows["label"])
    missing = [name for name in classes if name not in there]
    if missing:
        raise RequestError(
            f"no usable image is left of class {', '.join(missing)}: {left_out} images were left out "
            "(data.on_error: drop). Fix their files; `harness data scan` lists them."
        )


def _dataset(found: Scan, rows: pd.DataFrame, store: Store) -> Dataset:
    groups = rows["group"].to_numpy(dtype=np.str_)
    return Dataset(
        ids=store.ids,
        files=tuple(str(found.root / name) for name in store.ids.tolist()),
        y=_class_numbers(rows, found.classes),
        groups=groups,
        classes=found.classes,
        data_hash=_data_hash(store, list(rows["label"]), groups),
    )


def _class_numbers(rows: pd.DataFrame, classes: tuple[str, ...]) -> NDArray[np.int64]:
    index = {name: number for number, name in enumerate(classes)}
    return np.array([index[label] for label in rows["label"]], dtype=np.int64)


def _data_hash(store: Store, labels: list[str], groups: NDArray[np.str_]) -> str:
    """Over ids, contents, labels and who belongs together; the same in every home, whatever its salt."""
    digest = hashlib.blake2b(digest_size=16)
    order: dict[str, int] = {}
    for name, content, label, group in zip(store.ids.tolist(), store.digests, labels, groups.tolist(), strict=True):
        number = order.setdefault(group, len(order))
        digest.update(f"{name}\x1f{content}\x1f{label}\x1f{number}\x1e".encode())
    return digest.hexdigest()


def _divide(rows: pd.DataFrame, classes: tuple[str, ...], data: Data, seed: int) -> Folds:
    return make_folds(
        _class_numbers(rows, classes),
        rows["group"].to_numpy(dtype=np.str_),
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
    if sorted(set(fold.tolist())) != [TEST, *range(data.folds)]:
        raise RequestError(f"{path} does not hold {data.folds} folds and a test split. Delete it and run again.")
    digest = hashlib.blake2b(digest_size=16)
    for name, part in zip(dataset.ids.tolist(), fold.tolist(), strict=True):
        digest.update(f"{name}\x1f{part}\x1e".encode())
    folds = Folds(fold=fold, k=data.folds, folds_hash=digest.hexdigest())
    check_folds(folds, dataset.groups, dataset.ids)
    return folds


def _write_table(table: pd.DataFrame, path: Path) -> None:
    write_bytes(path, table.to_parquet(index=False))


def _dropped(problems: dict[str, str]) -> list[Finding]:
    """What on_error: drop left out, by kind of fault."""
    kinds: dict[str, list[str]] = {}
    for name, reason in problems.items():
        kind = reason if reason in (NO_FILE, NO_LABEL, EMPTY_LABEL) else "unreadable image"
        kinds.setdefault(kind, []).append(name)
    findings = []
    for kind, names in kinds.items():
        listed = "; ".join(
            f"{name}: {problems[name]}" if kind == "unreadable image" else name for name in names[:SHOWN]
        )
        more = f"; and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
        findings.append(Finding("unreadable", "warn", names, f"{len(names)} left out ({kind}): {listed}{more}"))
    return findings


def _stored_findings(
    rows: pd.DataFrame, dataset: Dataset, folds: Folds, store: Store, data: Data, home: Home
) -> list[Finding]:
    """The audit's findings, looked for once per data, folds and decoding."""
    asked = [VERSION, dataset.data_hash, folds.folds_hash, data.decode.model_dump_json(), data.group, dataset.classes]
    key = hashlib.blake2b(repr(asked).encode(), digest_size=12).hexdigest()
    path = home.work_root / "audit" / f"{key}.json"
    if not path.exists():
        findings: Sequence[Finding] = audit(rows, dataset, folds, store.pixels)
        write_json(path, [dataclasses.asdict(finding) for finding in findings])
    return [Finding(**finding) for finding in read_json(path)]
