"""What a folder of images looks like: which table labels them, which column is what, how files are named.

A first draft of a study's `data` block for a person to correct, with what it rests on and what to look at.

A wrong group makes every score a lie, so a group is only taken from a column whose name says so, and never made up.
"""

from collections import Counter
from pathlib import Path

import numpy as np

from harness.config.data import Decode
from harness.data.guess_columns import (
    MOST_CLASSES,
    Guess,
    Table,
    no_group,
    take_classes,
    take_group,
    take_label,
    take_split,
)
from harness.data.guess_images import name_images
from harness.data.names import fixed_folder
from harness.data.sources import FOLDERS, images_under
from harness.data.tables import SUFFIXES, read_table
from harness.errors import RequestError, Unreadable
from harness.images.decode import decode
from harness.images.dicom import TECHNICAL
from harness.images.headers import read_header
from harness.images.npz import SPLIT, is_archive, read_rows
from harness.store.home import Home

SAMPLE = 8
"""images looked at"""


def guess(root: Path, home: Home) -> Guess:
    """Look at a folder (or one .npz file). Raises RequestError where there is nothing to make a study of."""
    if is_archive(root):
        return _of_archive(root)
    if not root.is_dir():
        raise RequestError(f"{root}: there is no such folder or .npz file. Type: harness init FOLDER")
    images = sorted(images_under(root, "", home))
    if not images:
        archives = sorted(path.name for path in root.glob("*.npz"))
        way_out = f" Type: harness init {root / archives[0]}" if archives else " Name the folder that holds the images."
        raise RequestError(f"{root}: there is no image in this folder or below it.{way_out}")
    drafts = [draft for table in _tables(root) if (draft := name_images(table, images)) is not None]
    if drafts:
        found, table = max(drafts, key=lambda draft: draft[2])[:2]
        take_label(found, table)
        if not take_group(found, table) and not _by_patient_id(found, root, images):
            no_group(found)
        take_split(found, table)
    else:
        found = _of_folders(root, images)
    _pictures(found, root, images)
    return found


def _tables(root: Path) -> list[Table]:
    """Every table in the root or one folder below it that can be read."""
    found = []
    for path in sorted([*root.glob("*"), *root.glob("*/*")]):
        if path.suffix.lower() in SUFFIXES and path.is_file() and path.name[0] != ".":
            try:
                header, records, _ = read_table(path)
            except (RequestError, OSError):
                continue
            cells = zip(*records, strict=True) if records else [()] * len(header)
            columns = {name: list(column) for name, column in zip(header, cells, strict=True)}
            if records and len(header) > 1:
                found.append(Table(path.relative_to(root).as_posix(), header, columns))
    return found


def _by_patient_id(found: Guess, root: Path, images: list[str]) -> bool:
    """Groups from DICOM headers, where all of a sample have them."""
    sample = images[:: max(1, len(images) // (4 * SAMPLE))]
    headers = [read_header(root / name, str) for name in sample]
    if not all(header.attributes[len(TECHNICAL)] for header in headers):
        return False
    found.keys["group"] = "dicom.PatientID"
    found.why["group"] = "from the files' headers; only its salted hash is kept"
    found.check.append("Does everything of one patient share one PatientID? De-identified files may have one for each.")
    return True


def _of_archive(root: Path) -> Guess:
    rows = read_rows(root)
    labels = [name for name in rows.columns if name != SPLIT]
    found = Guess({"label": labels[0] if len(labels) == 1 else labels})
    if len(labels) == 1:
        counts = Counter(rows.columns[labels[0]])
        take_classes(found, set(counts), counts)
    no_group(found)
    found.keys["split"] = SPLIT
    sizes = Counter(rows.columns[SPLIT])
    found.why["split"] = ", ".join(f"{name} {count}" for name, count in sizes.items()) + "; test is held out"
    _pictures(found, root, rows.ids)
    return found


def _of_folders(root: Path, images: list[str]) -> Guess:
    """A folder for each class, perhaps inside a folder for each split."""
    paths = [path.split("/")[:-1] for path in images]
    found = Guess({"labels": FOLDERS})
    splits = {path[0].lower() for path in paths if path}
    if "test" in splits and "train" in splits and all(len(path) > 1 for path in paths):
        found.keys |= {"pattern": "(?P<split>[^/]+)/(?P<label>[^/]+)/.*", "label": "label", "split": "split"}
        found.why["split"] = f"{', '.join(sorted(splits))} are folders; test is held out"
        counts = Counter(path[1] for path in paths)
    else:
        found.keys["label"] = "label"
        counts = Counter(path[0] if path else "" for path in paths)
    found.why["labels"] = "no table labels the images: the class is the name of the folder"
    counts.pop("", None)
    if not 2 <= len(counts) <= MOST_CLASSES:
        raise RequestError(
            f"{root}: no table names its images, and {len(counts)} folders are not classes. Put a labels.csv there "
            "with the columns file, label and patient, or one folder for each class."
        )
    take_classes(found, set(counts), counts)
    if not _by_patient_id(found, root, images):
        no_group(found)
    return found


def _pictures(found: Guess, root: Path, images: list[str]) -> None:
    """Size and channels from a few images."""
    folder = fixed_folder(found.keys.get("image", ""))
    images = [name for name in images if name.startswith(folder)] or images
    sides: list[int] = []
    coloured: list[bool] = []
    for name in images[:: max(1, len(images) // SAMPLE)][:SAMPLE]:
        header = read_header(root / name, str)
        sides.append(max(header.width, header.height))
        try:
            shown = decode(root / name, Decode(size=64, channels=3)).astype(int)
        except Unreadable:
            continue
        coloured.append(bool(np.abs(shown - shown.mean(axis=2, keepdims=True)).mean() > 2))
    median = float(np.median(sides)) if sides else 0.0
    size = next((side for side in (32, 64, 128) if median <= side), 128)
    found.keys["decode"] = {"size": size, "channels": 3 if sum(coloured) * 2 > len(coloured) else 1}
    found.why["decode"] = (
        f"{sum(coloured)} of {len(coloured)} images looked at are coloured, their longer sides about {median:.0f}"
    )
