"""Findings about a data set, and their acknowledgements.

What is wrong with a data set, as far as rows, sizes and pixels can say: a list of findings, each with a severity.

Severity: `block` stops a study before anything is trained, `warn` is shown and recorded.
    group_overlap       block  a group on both sides of a split makes every number of the study too good
    exact_duplicate     block  equal pixels in different groups, in two parts that are held out from each other: a copy,
                               or one patient under two names; within one part it is a warning
    near_duplicate      warn   nearly equal pixels in different groups: re-encoded, resized or brightened copies; or one
                               picture in other crops; of files with few pixels it is said to be possible only
    conflicting_labels  block  equal pixels with different labels: one label is wrong, or the label is not in the image
    prevalence_shift    warn   a class is more frequent in the test split, a fold or a named split than in the rest of
                               the data, or missing there
    shortcut            warn   file format, mode, polarity, size or scanner tell the class: a network may learn that
    unreadable          warn   made by whoever decodes, not here
What blocks makes scores wrong for certain. Published data sets contain copies and contradictions all the same: a study
that says in words why it goes on (data.acknowledge) is warned instead. A group in two parts cannot be acknowledged.
Nearly equal images may be different ones, so they warn.
Knows arrays and the manifest: reads no files, keeps nothing.

N: rows, S: side of the stored images in pixels.

What a study says of the findings about its data: one that somebody has looked at does not block, and the reason goes
wherever the finding goes. Knows findings only.
"""

import dataclasses
import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from harness.config.data import Acknowledgeable
from harness.data.duplicates import CLOSE_LOOK, clusters, same_picture, sizes_of
from harness.data.shortcuts import find_shortcuts
from harness.images.pixels import Pixels
from harness.metrics import UNKNOWN
from harness.numbering import by_appearance
from harness.types import TEST, Dataset, Folds

Ints = NDArray[np.int64]
Kind = Literal[
    "group_overlap",
    "exact_duplicate",
    "near_duplicate",
    "conflicting_labels",
    "prevalence_shift",
    "shortcut",
    "unreadable",
]

PLACES = ("test and development", "two folds", "groups of one part")
"""what copies can straddle, the worst first"""
SHIFT, SHIFT_SIGMAS = 0.05, 3.0
"""a class's share differs by five points and by three standard errors, counting groups and not images"""


@dataclass(frozen=True)
class Finding:
    kind: Kind
    severity: Literal["block", "warn"]
    images: tuple[str, ...]
    """ids of all images concerned; empty where it is about none in particular"""
    message: str


def findings_to_json(findings: list[Finding]) -> list[dict[str, Any]]:
    """Plain data for a file or for --json."""
    return [{**dataclasses.asdict(finding), "images": list(finding.images)} for finding in findings]


def findings_from_json(data: list[dict[str, Any]]) -> list[Finding]:
    return [Finding(**{**one, "images": tuple(one["images"])}) for one in data]


def audit_hash(findings: list[Finding]) -> str:
    """32 hex digits over everything that an audit found, in its order: equal for equal findings."""
    said = json.dumps(findings_to_json(findings), sort_keys=True)
    return hashlib.blake2b(said.encode(), digest_size=16).hexdigest()


def audit(manifest: pd.DataFrame, dataset: Dataset, folds: Folds, pixels: Pixels) -> list[Finding]:
    """Everything found, what blocks first.

    manifest: one row per row of `dataset`, in its order; the columns split, format, mode, width, height and dicom.* are
    looked at where they are there. pixels: (N, S, S, channels), or images of their own sizes, of what the files show.
    """
    group = by_appearance(dataset.groups)
    same = same_picture(pixels, sizes_of(manifest), group)
    equal = clusters(same.equal)
    found = [
        *_group_overlap(manifest, dataset, folds),
        *_copies("exact_duplicate", "equal pixel for pixel", equal, dataset, folds),
        *_copies("near_duplicate", "almost equal", clusters(same.near), dataset, folds),
        *_possible_copies(clusters(same.possible), dataset, folds),
        *_copies("near_duplicate", "crops of one picture", clusters(same.crops), dataset, folds),
        *_conflicting_labels(equal, dataset),
    ]
    for rows, one in _questions(dataset):
        own = Folds(folds.fold[rows], folds.k, folds.folds_hash)
        found += _prevalence_shift(manifest.iloc[rows], one, own)
        found += [
            Finding("shortcut", "warn", _ids(one, shortcut.rows), shortcut.message)
            for shortcut in find_shortcuts(manifest.iloc[rows], one, own)
        ]
    return sorted(found, key=lambda finding: finding.severity != "block")


def _questions(dataset: Dataset) -> list[tuple[Ints, Dataset]]:
    """What is to be predicted, as tasks of classes with their rows: the data set itself, or in a multi-label task each
    label as a task of two classes, on the rows whose answer is known."""
    if not dataset.multilabel:
        return [(np.arange(len(dataset.ids)), dataset)]
    questions = []
    for c, name in enumerate(dataset.classes):
        rows = np.flatnonzero(dataset.y[:, c] != UNKNOWN)
        files = tuple(dataset.files[row] for row in rows.tolist())
        classes = (f"no {name}", name)
        one = Dataset(dataset.ids[rows], files, dataset.y[rows, c], dataset.groups[rows], classes, dataset.data_hash)
        questions.append((rows, one))
    return questions


def _differ(y: Ints) -> bool:
    """Whether labels (n,), or answers (n, C) where both are known, contradict each other."""
    if y.ndim == 1:
        return len(set(y.tolist())) > 1
    return bool(((y == 1).any(axis=0) & (y == 0).any(axis=0)).any())


def _ids(dataset: Dataset, rows: Ints) -> tuple[str, ...]:
    return tuple(dataset.ids[rows].tolist())


def _named(dataset: Dataset, sets: list[Ints]) -> str:
    """Up to three sets of images, three ids of each."""
    said = [" = ".join(_ids(dataset, rows[:3])) + (" = ..." if len(rows) > 3 else "") for rows in sets[:3]]
    return "; ".join(said) + ("; ..." if len(sets) > 3 else "")


def _group_overlap(manifest: pd.DataFrame, dataset: Dataset, folds: Folds) -> list[Finding]:
    """Groups in two folds, or on both sides of the split that the labels file names."""
    parts = pd.DataFrame({"fold": folds.fold})
    if "split" in manifest and manifest["split"].notna().any():
        parts["given"] = manifest["split"].astype(str).str.strip().str.lower().eq("test").to_numpy()
    spread = parts.groupby(dataset.groups, sort=False).nunique().gt(1).any(axis=1)
    groups = spread.index[spread].tolist()
    if not groups:
        return []
    rows = np.flatnonzero(np.isin(dataset.groups, groups))
    named = "; ".join(
        f"{group} ({', '.join(_ids(dataset, rows[dataset.groups[rows] == group][:3]))})" for group in groups[:3]
    )
    message = (
        f"{len(groups)} group(s) are in more than one part of the data: {named}. Correct data.group or data.split, or "
        "draw the test split with --set data.split=null."
    )
    return [Finding("group_overlap", "block", _ids(dataset, rows), message)]


def _by_place(sets: list[Ints], dataset: Dataset, folds: Folds) -> dict[str, list[Ints]]:
    """Sets of copies by what they straddle: the test split, folds, or groups of one part."""
    by_place: dict[str, list[Ints]] = {}
    for rows in sets:
        if len(set(dataset.groups[rows].tolist())) < 2:
            continue  # one patient twice is what groups are for
        parts = set(folds.fold[rows].tolist())
        straddles = "test and development" if TEST in parts else "two folds"
        by_place.setdefault(straddles if len(parts) > 1 else "groups of one part", []).append(rows)
    return {place: by_place[place] for place in PLACES if place in by_place}


def _copies(kind: Kind, how: str, sets: list[Ints], dataset: Dataset, folds: Folds) -> list[Finding]:
    """One finding for sets of copies that straddle the test split, one for folds, one for groups of one part."""
    found = []
    for place, here in _by_place(sets, dataset, folds).items():
        images = _ids(dataset, np.concatenate(here))
        leak = "" if place == "groups of one part" else " A model is scored on images it was trained on."
        message = (
            f"{len(images)} images of different groups are {how}, across {place}: {_named(dataset, here)}.{leak} "
            "Remove the copies, give them one value of data.group, or type --set data.copies=together."
        )
        certain = kind == "exact_duplicate" and place != "groups of one part"
        found.append(Finding(kind, "block" if certain else "warn", images, message))
    return found


def _possible_copies(sets: list[Ints], dataset: Dataset, folds: Folds) -> list[Finding]:
    """Small images that are almost equal, by what they straddle: nothing is claimed that cannot be known."""
    found = []
    for place, here in _by_place(sets, dataset, folds).items():
        images = _ids(dataset, np.concatenate(here))
        message = (
            f"{len(images)} images of different groups may be copies, across {place}: {_named(dataset, here)}. With "
            f"fewer than {CLOSE_LOOK} pixels a side, copies and pictures that look alike are not distinguishable. "
            "Look at them; --set data.copies=together keeps them in one part."
        )
        found.append(Finding("near_duplicate", "warn", images, message))
    return found


def _conflicting_labels(equal: list[Ints], dataset: Dataset) -> list[Finding]:
    sets = [rows for rows in equal if _differ(dataset.y[rows])]
    if not sets:
        return []
    images = _ids(dataset, np.concatenate(sets))
    message = f"{len(images)} images are equal pixel for pixel but labelled differently: {_named(dataset, sets)}. "
    return [Finding("conflicting_labels", "block", images, message + "Correct data.label, or remove them.")]


@dataclass(frozen=True)
class _Part:
    """A part of the data and what it is held against."""

    name: str
    rows: Ints
    rest: str
    rest_rows: Ints
    way_out: str


def _parts(manifest: pd.DataFrame, folds: Folds) -> list[_Part]:
    """Test against development, each fold against the other folds, each named split against the other ones."""
    redraw = "Look at data.split, or draw the test split with --set data.split=null."
    development = folds.development_rows()
    parts = [_Part("the test split", folds.test_rows(), "development", development, redraw)]
    deal = "Fewer folds (data.folds) or another seed may deal it out more evenly."
    for fold in range(folds.k):
        parts.append(_Part(f"fold {fold}", folds.held_out_rows(fold), "the other folds", folds.train_rows(fold), deal))
    if "split" in manifest:
        named = manifest["split"].fillna("").astype(str).str.strip().str.lower().to_numpy(dtype=object)
        names = sorted(set(named[development].tolist()) - {""})
        for name in names if len(names) > 1 else []:
            inside = named[development] == name
            where = f"the rest of development (data.split other than {name!r})"
            parts.append(_Part(f"split {name!r}", development[inside], where, development[~inside], redraw))
    return [part for part in parts if len(part.rows) and len(part.rest_rows)]


def _prevalence_shift(manifest: pd.DataFrame, dataset: Dataset, folds: Folds) -> list[Finding]:
    """Classes whose share differs between two parts: a two-proportion z-test with groups as its counts.

    Of two classes one is told of, because the other one's share is the rest; and of two parts that are each other's
    rest one: where a class is missing, that class and that part.
    """
    told: dict[frozenset[bytes], tuple[bool, list[Finding]]] = {}
    for part in _parts(manifest, folds):
        shifted = _shifted_classes(part, dataset)
        missing = [c for c, (there, _) in shifted.items() if there == 0.0]
        if len(dataset.classes) == 2 and shifted:
            shifted = {c: shifted[c] for c in [*missing, *reversed(shifted)][:1]}
        both = frozenset((part.rows.tobytes(), part.rest_rows.tobytes()))
        if shifted and (both not in told or (missing and not told[both][0])):
            told[both] = bool(missing), [_shift(part, dataset.classes[c], *shares) for c, shares in shifted.items()]
    return [finding for _, findings in told.values() for finding in findings]


def _shifted_classes(part: _Part, dataset: Dataset) -> dict[int, tuple[float, float]]:
    """The shares there and in the rest of each class that is shifted, or missing there, by class number."""
    n_there, n_here = (len(np.unique(dataset.groups[rows])) for rows in (part.rows, part.rest_rows))
    both = np.concatenate([part.rows, part.rest_rows])
    found = {}
    for c in range(len(dataset.classes)):
        there, here = float(np.mean(dataset.y[part.rows] == c)), float(np.mean(dataset.y[part.rest_rows] == c))
        overall = float(np.mean(dataset.y[both] == c))
        error = np.sqrt(overall * (1 - overall) * (1 / n_there + 1 / n_here))
        shifted = abs(there - here) >= SHIFT and abs(there - here) > SHIFT_SIGMAS * error
        if shifted or there == 0.0 < here:
            found[c] = there, here
    return found


def _shift(part: _Part, name: str, there: float, here: float) -> Finding:
    so = "metrics that need every class are undefined there" if there == 0.0 else "probabilities will be off there"
    what = f"class {name!r} is {there:.1%} of {part.name} and {here:.1%} of {part.rest}"
    return Finding("prevalence_shift", "warn", (), f"{what}: {so}. {part.way_out}")


KINDS: tuple[str, ...] = get_args(Acknowledgeable)


def acknowledge(findings: list[Finding], reasons: Mapping[Acknowledgeable, str] | None) -> list[Finding]:
    """The findings, those of an acknowledged kind as warnings that end in the study's own words; what blocks first."""
    known = {str(kind): reason for kind, reason in (reasons or {}).items()}
    said = [
        replace(finding, severity="warn", message=f"{finding.message.rstrip()} Acknowledged in the study: {reason}")
        if (reason := known.get(finding.kind))
        else finding
        for finding in findings
    ]
    return sorted(said, key=lambda finding: finding.severity != "block")


def way_out(blocking: Collection[str]) -> str:
    """What to type where all the kinds of findings that block may be acknowledged; '' otherwise."""
    kinds = sorted(set(blocking))
    if not kinds or not set(kinds) <= set(KINDS):
        return ""
    said = " ".join(f"--set data.acknowledge.{kind}='why it may stay'" for kind in kinds)
    return f" If it may stay as it is, say why, here or in the study file: {said}"
