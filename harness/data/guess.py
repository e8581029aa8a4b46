"""A first draft of a data block for a folder of images.

What a folder of images looks like: which table labels them, which column is what, how files are named.

A first draft of a study's `data` block for a person to correct, with what it rests on and what to look at.

A wrong group makes every score a lie, so a group is only taken from a column whose name says so, and never made up.

Which column of a table is what, by its name and its values: the label, the group, the split. Part of `guess`.

How the rows of a table name their images: by path, by name, by number, by case. Part of `guess`.
"""

import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from harness.config.data import Decode
from harness.data.manifest import EMPTY, NO, YES
from harness.data.sources import FOLDERS, SUFFIXES, fixed_folder, images_under, read_table
from harness.errors import RequestError, Unreadable
from harness.images.decode import decode
from harness.images.dicom import TECHNICAL
from harness.images.headers import read_header
from harness.images.npz import SPLIT, is_archive, read_rows
from harness.store.home import Home

LABEL_NAMES = ("label", "labels", "class", "target", "diagnosis", "dx", "category", "finding", "grade", "outcome", "y")
GROUP_NAMES = ("patient", "subject", "person", "participant", "individual", "lesion", "case", "slide", "study", "exam")
"""the first one found in a column's name wins"""
SPLIT_NAMES = ("split", "set", "subset", "partition", "part", "fold")
NEGATIVE = ("normal", "healthy", "negative", "benign", "no", "none", "control", "absent", "well", "false", "0")
"""what the class that is not the positive one is called"""
MOST_CLASSES = 50


@dataclass
class Guess:
    """A draft: values by key of `data`, and why."""

    keys: dict[str, Any]
    why: dict[str, str] = field(default_factory=dict)
    """remark by key"""
    check: list[str] = field(default_factory=list)
    """what a person should look at"""


@dataclass(frozen=True)
class Table:
    name: str
    """from the root"""
    header: list[str]
    columns: dict[str, list[str]]
    """cells by column"""

    def values(self, column: str) -> set[str]:
        return set(self.columns[column]) - {""}


def label_columns(table: Table, taken: set[str]) -> list[str]:
    """The column of classes, or several of yes and no; [] where nothing looks like a label."""
    fit = {
        name: table.values(name)
        for name in table.header
        if name not in taken
        and 2 <= len(table.values(name)) <= MOST_CLASSES
        and not _is_named(name, GROUP_NAMES)
        and not _is_named(name, SPLIT_NAMES)
    }
    for wanted in LABEL_NAMES:
        for name in fit:
            if wanted == name.lower() or (len(wanted) > 2 and wanted in re.split(r"[\W_]+", name.lower())):
                return [name]
    answers = [name for name, values in fit.items() if {value.lower() for value in values} <= YES | NO | EMPTY]
    if answers:
        return answers
    return [min(fit, key=lambda name: len(fit[name]))] if fit else []


def _is_named(column: str, names: tuple[str, ...]) -> int:
    """Which of the names a column's name holds as a word, counted from 1; 0 for none."""
    words = re.split(r"[\W_]+", re.sub(r"([a-z])([A-Z])", r"\1 \2", column).lower())
    return next(
        (number for number, name in enumerate(names, start=1) if {name, f"{name}s", f"{name}id"} & set(words)), 0
    )


def take_label(found: Guess, table: Table) -> None:
    image = found.keys.get("image", "")
    taken = {
        name
        for name in table.header
        if f"{{{name}}}" in image or f"{{{name}:" in image or name == found.keys.get("join")
    }
    columns = label_columns(table, taken)
    if not columns:
        raise RequestError(
            f"{table.name}: no column looks like a label (2 to {MOST_CLASSES} different values); its columns are "
            f"{', '.join(table.header)}. Copy a study file and set data.label by hand."
        )
    others = [name for name in table.header if name not in taken and name not in columns]
    named = f" Other columns: {', '.join(others)}." if others else ""
    asked = f"Is {columns[0]} the label?" if len(columns) == 1 else f"Are {', '.join(columns)} the labels?"
    found.check.append(asked + named)
    if len(columns) > 1:
        found.keys["label"] = columns
        found.why["label"] = "columns of yes and no: several labels an image"
        if any(value.lower() in EMPTY for name in columns for value in table.columns[name]):
            found.keys["missing"] = "ignore"
            found.why["missing"] = "there are empty cells: not known"
        return
    found.keys["label"] = columns[0]
    take_classes(found, table.values(columns[0]), Counter(table.columns[columns[0]]))


def take_classes(found: Guess, values: set[str], counts: Counter[str]) -> None:
    """In order, the positive class of two last."""

    def order(value: str) -> tuple[bool, int, str]:
        return (value.lower() not in NEGATIVE, int(value) if value.isascii() and value.isdigit() else 0, value)

    classes = sorted(values, key=order)
    found.keys["classes"] = classes
    found.why["classes"] = ", ".join(f"{value}: {counts[value]}" for value in classes[:12])
    if len(classes) == 2:
        found.check.append(f"The positive class is the last of data.classes: {classes[1]}. Is it what you look for?")


def take_group(found: Guess, table: Table) -> bool:
    """Whether a column's name says that it holds patients, lesions or cases."""
    labels = found.keys["label"] if isinstance(found.keys["label"], list) else [found.keys["label"]]
    rank = {name: number for name in table.header if (number := _is_named(name, GROUP_NAMES)) and name not in labels}
    if not rank:
        return False
    column = min(rank, key=lambda name: rank[name])
    found.keys["group"] = column
    found.why["group"] = f"{len(table.values(column))} different values in {len(table.columns[column])} rows"
    others = [name for name in rank if name != column]
    more = f" {', '.join(others)} might be meant as well." if others else ""
    found.check.append(f"Has everything of one patient the same {column}?{more}")
    return True


def no_group(found: Guess) -> None:
    found.keys["group"] = "none"
    found.why["group"] = "NOTHING HERE SAYS WHO BELONGS TOGETHER"
    found.check.append(
        "No column says which images are of one patient, so none are kept together. If any patient has several images, "
        "every score will be too good: name the column, or get it from the file names with data.pattern."
    )


def take_split(found: Guess, table: Table) -> None:
    for name in table.header:
        if _is_named(name, SPLIT_NAMES) and "test" in {value.lower() for value in table.values(name)}:
            found.keys["split"] = name
            found.why["split"] = f"its rows that say test are held out; {', '.join(sorted(table.values(name))[:6])}"
            return


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


SEPARATORS = re.compile(r"[_\-. ]")
LEAST_MATCHED = 0.5
"""share of a table's rows that must find their image"""
MOST_ROWS = 2000
"""looked at of a table"""
MOST_SHOWN = 6
"""values of a part of the file names that a remark lists"""


def name_images(table: Table, images: list[str]) -> tuple[Guess, Table, float] | None:
    """A draft with the keys labels and image (or pattern and join), and how good the match is; None without one."""
    best: tuple[float, str, str] = (0.0, "", "")
    known = set(images)
    for column in table.header:
        cells = table.columns[column][:: len(table.columns[column]) // MOST_ROWS + 1]
        for template in _templates(column, cells, images):
            matched = float(np.mean([template.format_map({column: cell}) in known for cell in cells]))
            best = max(best, (matched, column, template))
    matched, column, template = best
    if matched >= LEAST_MATCHED:
        why = f"{matched:.0%} of the rows of {table.name} name an image this way"
        found = Guess({"labels": table.name, "image": template}, {"image": why})
        # A table with labels is better than one without, whatever else it has.
        return found, table, matched + (label_columns(table, {column}) != [])
    joined = _joined(table, images)
    return None if joined is None else (joined, table, 0.5)


def _templates(column: str, cells: list[str], images: list[str]) -> list[str]:
    """Ways in which a column's cells may name the images: by path, name, name without suffix, number with zeros."""
    if "{" in column or "}" in column or set(column) & set(".[]"):
        return []
    name = f"{{{column}}}"
    folders = [folder for folder, _ in Counter(path.rpartition("/")[0] for path in images).most_common(3)]
    suffixes = [suffix for suffix, _ in Counter(Path(path).suffix for path in images).most_common(2)]
    found = [name]
    for folder in folders:
        prefix = f"{folder}/" if folder else ""
        found.append(prefix + name)
        found += [prefix + name + suffix for suffix in suffixes]
        stems = {Path(path).stem for path in images if path.rpartition("/")[0] == folder}
        widths = {len(stem) for stem in stems if stem.isdigit()}
        if len(widths) == 1 and all(cell.isdigit() for cell in cells):
            found += [f"{prefix}{{{column}:0>{widths.copy().pop()}}}{suffix}" for suffix in suffixes]
    return list(dict.fromkeys(found))


def _joined(table: Table, images: list[str]) -> Guess | None:
    """Images that say which case they belong to by a part of their names, and a table of cases."""
    folder, suffix = Counter(path.rpartition("/")[0] for path in images).most_common(1)[0][0], Path(images[0]).suffix
    prefix = f"{folder}/" if folder else ""
    here = [path[len(prefix) :].removesuffix(suffix) for path in images if path.rpartition("/")[0] == folder]
    parts = [SEPARATORS.split(stem) for stem in here]
    if len({len(one) for one in parts}) != 1 or len(parts[0]) < 2:
        return None
    for column in table.header:
        values = table.values(column)
        for place in range(len(parts[0])):
            unique = len(values) == len(table.columns[column])
            if unique and column.isidentifier() and np.mean([one[place] in values for one in parts]) >= LEAST_MATCHED:
                names = [column if number == place else f"part_{number + 1}" for number in range(len(parts[0]))]
                gaps = SEPARATORS.findall(here[0])
                inside = f"[^/{''.join(sorted(set(gaps), reverse=True))}]+"
                groups = [f"(?P<{name}>{inside})" for name in names]
                pattern = groups[0] + "".join(
                    f"{re.escape(gap)}{group}" for gap, group in zip(gaps, groups[1:], strict=True)
                )
                whole = f"{re.escape(prefix)}{pattern}{re.escape(suffix)}"
                why = f"{table.name} has one row for each {column}, which the names of the images say"
                found = Guess({"labels": table.name, "pattern": whole, "join": column}, {"join": why})
                others = [
                    _part(name, {one[number] for one in parts}) for number, name in enumerate(names) if number != place
                ]
                found.check.append(
                    f"Other parts of the names are {', '.join(others)}: name them in data.pattern, and choose by them "
                    "with data.where."
                )
                return found
    return None


def _part(name: str, values: set[str]) -> str:
    """With its values, unless they are so many that they may be names of people."""
    return f"{name} ({', '.join(sorted(values))})" if len(values) <= MOST_SHOWN else name
