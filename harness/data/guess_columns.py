"""Which column of a table is what, by its name and its values: the label, the group, the split. Part of `guess`."""

import re
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from harness.data.answers import EMPTY, NO, YES
from harness.errors import RequestError

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
