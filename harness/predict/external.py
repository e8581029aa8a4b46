"""Another data set made ready for a bundle: labels mapped, rows, attributes.

A labelled data set that a bundle has never seen, made ready for it: rows, the bundle's classes, pixels, attributes.

Reads files as a study's `data` block says, with the same scan; makes no folds. What cannot be used is left out, and
counted by reason. Raw group ids end in the scan.

What another data set's labels are called in the bundle: `--map theirs=ours`, `--map theirs=-` to leave rows out.

Knows names only. Nothing is guessed: a label that is spelled otherwise is refused with the nearest class.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from harness.config.data import Data, Decode
from harness.config.load import check_study, load_study, parse_override
from harness.data.guess import guess
from harness.data.manifest import EMPTY_LABEL, read_attributes, scan_data, split_answers
from harness.data.sources import NO_FILE, NO_LABEL
from harness.errors import RequestError, nearest
from harness.images.npz import is_archive
from harness.images.pixels import Pixels, open_store
from harness.numbering import numbered
from harness.store.home import Home
from harness.types import Progress

UNREADABLE = "unreadable image"
MAPPED_OUT = "label left out by --map"


@dataclass(frozen=True)
class External:
    """N usable rows."""

    y: NDArray[np.int64]
    """(N,) index into the bundle's classes; (N, C) of several labels"""
    groups: NDArray[np.str_]
    images: tuple[Pixels, ...]
    """the same N images, once for each decoding of the bundle"""
    attributes: pd.DataFrame
    """(N, ...) text: every column of the table of labels and of DICOM headers, '' where nothing is known. Never print
    or store its cells as they are: some say who a person is"""
    private: tuple[str, ...]
    """columns that tell images or people apart, not kinds of them"""
    left_out: dict[str, int]
    """rows by reason"""
    mapped: list[str]
    """labels that are called otherwise here, in words"""


def data_block(place: str, sets: list[str], labels: Path | None, home: Home) -> tuple[Data, list[str]]:
    """(the `data` block, what was guessed of it) of a study file, or of a folder or .npz file.

    Of a folder, what `sets` (data.key=value) and `labels` leave open is guessed as by `harness init`. Raises
    RequestError for what is neither, and for wrong keys.
    """
    overrides = _overrides(sets, labels)
    if place.endswith((".yaml", ".yml")):
        return load_study(place, [*sets, *([f"data.labels={labels}"] if labels else [])]).spec.data, []
    root = Path(place).expanduser()
    if not root.is_dir() and not is_archive(root.absolute()):
        raise RequestError(
            f"--data {place}: there is no such folder, .npz file or study file. Give the folder that holds the images "
            "and their labels, or a study's YAML file whose data block says where they are."
        )
    guessed: dict[str, Any] = {}
    why: list[str] = []
    try:
        found = guess(root.absolute(), home)
        needless = {"decode", "split", "classes", *(["missing"] if "label" in overrides else [])}
        guessed = {key: value for key, value in found.keys.items() if key not in {*overrides, *needless}}
        why = [f"{key}: {value}" for key, value in guessed.items()]
    except RequestError:
        if "label" not in overrides:  # otherwise it may be that nothing is left to guess
            raise
    tree = {
        "name": "evaluation",
        "data": {"root": str(root.absolute()), **guessed, **overrides},
        "search": {"trials": 1},
    }
    return check_study(tree, f"--data {place}").spec.data, why


def _overrides(sets: list[str], labels: Path | None) -> dict[str, Any]:
    found: dict[str, Any] = {"labels": str(labels.expanduser().absolute())} if labels is not None else {}
    for text in sets:
        key, value = parse_override(text)
        part, _, name = key.partition(".")
        if part != "data" or not name:
            raise RequestError(f"--set {text}: an evaluation has a data block only, such as --set data.label=COLUMN")
        found[name] = value
    return found


def read_external(
    data: Data,
    classes: tuple[str, ...],
    multilabel: bool,
    decodes: tuple[Decode, ...],
    maps: list[str],
    home: Home,
    progress: Progress,
) -> External:
    """Raises RequestError where the request is wrong (see data.scan), labels fit no class, or no row is left."""
    if multilabel == isinstance(data.label, str):
        raise RequestError(_other_form(data.label, classes))
    data = data.model_copy(update={"classes": None})
    scan = scan_data(data, home, progress)
    rows = scan.manifest
    left_out = Counter({f"data.where: {name}": count for name, count in scan.filtered.items() if count})
    bad = rows["problem"] != ""
    left_out.update(_kind(reason) for reason in rows.loc[bad, "problem"])
    rows = rows[~bad].reset_index(drop=True)
    rows, y, mapped = _labelled(rows, scan.classes, classes, multilabel, maps, left_out)
    images, unreadable = _pixels(scan.root, rows, decodes, home, progress)
    if unreadable:
        left_out[UNREADABLE] += len(unreadable)
        keep = ~rows["id"].isin(list(unreadable)).to_numpy()
        rows, y = rows[keep].reset_index(drop=True), y[keep]
        images, _ = _pixels(scan.root, rows, decodes, home, progress)
    attributes, private = read_attributes(data, rows, home, progress)
    groups = numbered(rows["group"].to_numpy(dtype=np.str_))
    return External(y, groups, images, attributes, private, dict(left_out), mapped)


def _other_form(label: str | tuple[str, ...], classes: tuple[str, ...]) -> str:
    """What to say where one side names a class for each image and the other answers several questions of it."""
    if isinstance(label, str):
        return (
            f"data.label: {label} is one column that names a class, but this bundle says yes or no to each of "
            f"{', '.join(classes)}. Type --set 'data.label=[COLUMN, ...]', a column of 1 and 0 for each of them."
        )
    return (
        f"data.label: {', '.join(label)} are columns of 1 and 0, but this bundle chooses one of {', '.join(classes)}. "
        "Type --set data.label=COLUMN, the one column that names the class."
    )


def _kind(reason: str) -> str:
    return reason if reason in (NO_FILE, NO_LABEL, EMPTY_LABEL) else UNREADABLE


def _labelled(
    rows: pd.DataFrame,
    theirs: tuple[str, ...],
    ours: tuple[str, ...],
    multilabel: bool,
    maps: list[str],
    left_out: Counter[str],
) -> tuple[pd.DataFrame, NDArray[np.int64], list[str]]:
    """The rows that are left, their labels as the bundle's classes, the map in words."""
    if multilabel:
        columns = columns_mapping(theirs, ours, maps)
        answers = split_answers(list(rows["label"]))
        y = answers[:, [theirs.index(columns[name]) for name in ours]]
        return rows, y, in_words({their: our for our, their in columns.items()})
    mapping = label_mapping(theirs, ours, maps)
    named = [mapping[label] for label in rows["label"]]
    keep = np.array([name is not None for name in named])
    if not keep.all():
        left_out[MAPPED_OUT] += int((~keep).sum())
    number = {name: index for index, name in enumerate(ours)}
    y = np.array([number[name] for name in named if name is not None], dtype=np.int64)
    return rows[keep].reset_index(drop=True), y, in_words(mapping)


def _pixels(
    root: Path, rows: pd.DataFrame, decodes: tuple[Decode, ...], home: Home, progress: Progress
) -> tuple[tuple[Pixels, ...], set[str]]:
    """The images in each decoding, and the ids of those that one of them fails on: then the images are not aligned."""
    stores = [open_store(root, rows, decode, home, progress, keep_going=True) for decode in decodes]
    problems = {name for store in stores for name in store.problems}
    if len(problems) == len(rows):
        raise RequestError(f"none of the {len(rows)} labelled images under {root} can be decoded.")
    return tuple(store.pixels for store in stores), problems


LEFT_OUT = "-"


def label_mapping(theirs: Iterable[str], ours: tuple[str, ...], maps: Iterable[str]) -> dict[str, str | None]:
    """Our class for each of their labels, None where its rows are left out. Labels of one name need no map.

    Raises RequestError for what is no map, names that nobody has, labels that no class is known for, and where nothing
    would be left.
    """
    known = list(dict.fromkeys(theirs))
    asked: dict[str, str | None] = {}
    for text in maps:
        their, found, our = text.rpartition("=")
        if not found or not their:
            raise RequestError(f"--map {text}: write theirs=ours, such as --map {known[0]}={ours[-1]}.")
        if their not in known:
            raise RequestError(
                f"--map {text}: the data has no label {their!r}.{nearest(their, known)} It has {', '.join(known)}."
            )
        if our not in (*ours, LEFT_OUT):
            raise RequestError(
                f"--map {text}: the bundle has no class {our!r}.{nearest(our, ours)} It has {', '.join(ours)}, and "
                f"{LEFT_OUT} leaves the rows out."
            )
        if their in asked:
            raise RequestError(f"--map {text}: {their} is mapped twice.")
        asked[their] = None if our == LEFT_OUT else our
    unknown = [name for name in known if name not in asked and name not in ours]
    if unknown:
        near = nearest(unknown[0], ours) or nearest(unknown[0].upper(), ours) or nearest(unknown[0].lower(), ours)
        raise RequestError(
            f"the data's {_labels(unknown)} {'is' if len(unknown) == 1 else 'are'} no class of the bundle.{near} "
            f"The bundle's classes: {', '.join(ours)}. Type for each of them --map {unknown[0]}=CLASS, or "
            f"--map {unknown[0]}={LEFT_OUT} to leave its rows out."
        )
    mapping = {name: asked.get(name, name) for name in known}
    if not any(mapping.values()):
        raise RequestError("--map leaves no label over: nothing would be evaluated.")
    return mapping


def _labels(names: list[str]) -> str:
    return f"label {names[0]!r}" if len(names) == 1 else f"labels {', '.join(map(repr, names))}"


def columns_mapping(theirs: tuple[str, ...], ours: tuple[str, ...], maps: Iterable[str]) -> dict[str, str]:
    """For several labels: our class -> their column. Raises RequestError as above, and where a class has no column or
    several."""
    mapping = label_mapping(theirs, ours, maps)
    columns: dict[str, str] = {}
    for their, our in mapping.items():
        if our is None:
            continue
        if our in columns:
            raise RequestError(f"--map: {columns[our]} and {their} are both {our}. Leave one out: --map {their}=-")
        columns[our] = their
    missing = [name for name in ours if name not in columns]
    if missing:
        raise RequestError(
            f"the data has no column for {', '.join(missing)}: the bundle answers {', '.join(ours)}. Name its columns "
            "with --set data.label='[A, B]', and --map THEIRS=OURS where they are called otherwise."
        )
    return columns


def in_words(mapping: Mapping[str, str | None]) -> list[str]:
    """'1 -> PNEUMONIA', for what is not called alike."""
    return [f"{their} -> {our or 'left out'}" for their, our in mapping.items() if their != our]
